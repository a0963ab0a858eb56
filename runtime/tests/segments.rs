//! Programs in segments: ops in a row that a device takes as one. They give what the ops one by one give, are no longer than
//! a slice, and go with the buffers that they name. On the null device, which counts, and on CUDA's model, whose graphs are
//! what a card's are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use leasehold::backend::Backend;
use leasehold::backend::null::Null;
use leasehold::exec::{Core, Part, Segment};
use leasehold::op::{self, Binding, BoundOp, BufferId, MapFn, Spec, check};
use leasehold::{DType, Device, Dims, Kind, Layout, Map, Matmul, Recorder};
use std::sync::Arc;

/// A chain of ops on buffers of 4 KiB, by their numbers.
fn chain<B: Backend>(core: &mut Core<B>, buffers: std::ops::Range<u64>) -> Vec<BoundOp> {
    let layout = Layout::contiguous(Dims::new(&[1024]).unwrap());
    let map = op::Map { function: MapFn::Exp, scale: 1.0, shift: 0.0 };
    let op = Arc::new(check(map.into(), &[Spec::new(DType::F32, layout, 0); 2]).unwrap());
    let at = |i| Binding { buffer: BufferId(i), offset: 0, len: 4096 };
    buffers.clone().for_each(|i| core.alloc(BufferId(i), 4096).unwrap());
    let ops = buffers.clone().zip(buffers.skip(1)).map(|(x, y)| op.bind(&[at(x), at(y)]).unwrap());
    ops.collect()
}

/// As many of these ops as may go together, and the segment of them if there is room.
fn kept(core: &mut Core<Null>, ops: &[BoundOp], most_ns: u64) -> (usize, Option<Segment>) {
    let mut part = core.part(ops.iter().map(BoundOp::op), most_ns, u64::MAX);
    core.keep(&mut part, ops).unwrap();
    (part.len, part.segment)
}

#[test]
fn a_segment_takes_at_most_what_it_may_and_goes_with_its_buffers() {
    let (null, log) = Null::new(1 << 20);
    let mut core = Core::new(null);
    let ops = chain(&mut core, 0..9);
    let one = core.plan(ops[0].op()).unwrap().total_ns() as u64;
    let lens = [(0, 1), (one, 1), (2 * one - 1, 1), (2 * one, 2), (5 * one, 5), (1 << 40, 8)];
    for (most_ns, len) in lens {
        let (got, segment) = kept(&mut core, &ops, most_ns);
        assert_eq!((got, segment.is_some()), (len, len > 1), "{most_ns}");
        segment.iter().for_each(|segment| core.drop_segment(segment));
    }
    assert_eq!(core.part([], 1 << 40, u64::MAX).len, 0);
    let mut whole = |i| kept(&mut core, &ops[i..i + 4], 1 << 40).1.unwrap();
    let (first, second) = (whole(0), whole(4));
    let mut run = core.begin_segment(&first).unwrap();
    assert_eq!((run.remaining(), run.least_ns()), (4, 4 * one));
    // It is launched whole, whatever is asked for.
    assert_eq!(core.step(&mut run, 1).unwrap(), 0..4);
    assert_eq!((log.launches().len(), log.now_ns()), (1, 4 * one));
    let mut begun = core.begin_segment(&second).unwrap();
    core.free(BufferId(8));
    assert!(core.has(&first) && !core.has(&second) && core.begin_segment(&second).is_none());
    // What was begun before is its ops, of which the last has lost a buffer.
    let error = core.step(&mut begun, 4).unwrap_err();
    assert!(matches!(error.kind(), Kind::Bounds { .. }), "{error}");
    assert_eq!(log.launches()[1..].iter().map(|launch| launch.op).collect::<Vec<_>>(), ["map"; 3]);
    // A buffer of the same number is another.
    core.alloc(BufferId(8), 4096).unwrap();
    assert!(!core.has(&second));
}

/// An op of so many elements that no other is.
fn another(elements: u64, scale: f32) -> Arc<op::CheckedOp> {
    let layout = Layout::contiguous(Dims::new(&[elements]).unwrap());
    let map = op::Map { function: MapFn::Neg, scale, shift: 0.0 };
    Arc::new(check(map.into(), &[Spec::new(DType::F32, layout, 0); 2]).unwrap())
}

#[test]
fn ops_that_launch_nothing_go_along_and_are_looked_at_once() {
    let mut core = Core::new(Null::new(1 << 20).0);
    let [none, some] = [0, 64].map(|elements| another(elements, 1.0));
    let one = core.plan(&some).unwrap().total_ns() as u64;
    assert_eq!(core.plan(&none).unwrap().units(), 0);
    let mut part = |ops: &[(&Arc<op::CheckedOp>, usize)], most_ns| {
        let ops = ops.iter().flat_map(|(op, times)| std::iter::repeat_n(*op, *times));
        let part = core.part(ops, most_ns, u64::MAX);
        (part.len, core.may_keep(&part))
    };
    assert_eq!(part(&[(&none, 1000)], one), (256, false));
    assert_eq!(part(&[(&none, 9), (&some, 2), (&none, 9)], one), (10, true));
    assert_eq!(part(&[(&none, 9), (&some, 2)], one - 1), (9, false));
    assert_eq!(part(&[(&some, 2), (&none, 9)], one - 1), (1, false));
}

#[test]
fn segments_are_kept_up_to_a_bound() {
    let (null, log) = Null::new(1 << 30);
    let mut core = Core::new(null);
    let ops = chain(&mut core, 0..257);
    let all: Vec<_> = (0..100).map_while(|_| kept(&mut core, &ops, 1 << 40).1).collect();
    assert_eq!(all.len(), (1 << 14) / 256);
    // Without one a program runs all the same, and one that goes makes room.
    let mut part = core.part(ops.iter().map(BoundOp::op), 1 << 40, u64::MAX);
    let keeps = |core: &mut Core<Null>, part: &mut Part| {
        let may_keep = core.may_keep(part);
        let before = log.segments();
        core.keep(part, &ops).unwrap();
        assert_eq!(log.segments() - before, u64::from(may_keep));
        may_keep
    };
    assert!(part.len == 256 && !keeps(&mut core, &mut part) && part.segment.is_none());
    core.drop_segment(&all[0]);
    assert!(keeps(&mut core, &mut part) && part.segment.is_some());
    // It has one now, until that goes.
    assert!(!keeps(&mut core, &mut part));
    core.free(BufferId(0));
    assert!(core.may_keep(&part) && !core.may_keep(&Part::single(2)));
}

#[test]
fn a_segment_says_of_how_many_launches_it_is() {
    let mut core = Core::new(Null::new(1 << 20).0);
    core.alloc(BufferId(0), 256).unwrap();
    let at = Binding { buffer: BufferId(0), offset: 0, len: 256 };
    let ops = [64, 0, 64, 0].map(|elements| another(elements, 1.0).bind(&[at; 2]).unwrap());
    assert_eq!(kept(&mut core, &ops, 1 << 40).1.unwrap().launches(), 2);
}

/// Where there was no room for one, nothing is tried until something was given back.
#[test]
fn a_segment_is_not_tried_again_before_there_may_be_room() {
    const STATE: u64 = 60 << 10;
    let mut core = Core::new(Null::new(1 << 20).0.handing_on(STATE));
    let ops = chain(&mut core, 0..3);
    core.alloc(BufferId(8), 4096).unwrap();
    core.alloc(BufferId(9), (1 << 20) - 4 * 4096 - STATE + 1).unwrap();
    let mut part = core.part(ops.iter().map(BoundOp::op), 1 << 40, u64::MAX);
    assert_eq!((part.len, part.bytes()), (2, STATE));
    let mut keep = |core: &mut Core<Null>| {
        let may_keep = core.may_keep(&part);
        core.keep(&mut part, &ops).unwrap();
        (may_keep, part.segment.is_some())
    };
    assert_eq!([(); 3].map(|()| keep(&mut core)), [(true, false), (false, false), (false, false)]);
    core.free(BufferId(8));
    assert_eq!(keep(&mut core), (true, true));
}

/// Plans that are kept, and the segments of a device of one's own, make room for buffers.
#[test]
fn buffers_have_the_room_that_plans_and_segments_hold() {
    const HELD: u64 = 30 << 10;
    let mut core = Core::new(Null::new(1 << 20).0.preparing(HELD));
    let ops = chain(&mut core, 0..2);
    let twice = [ops[0].clone(), ops[0].clone()];
    let segment = kept(&mut core, &twice, 1 << 40).1.unwrap();
    assert_eq!(segment.bytes(), HELD);
    core.plan(&another(64, 1.0)).unwrap();
    core.alloc(BufferId(8), (1 << 20) - 2 * 4096 - HELD).unwrap();
    assert!(!core.has(&segment));
    core.free(BufferId(8));
    core.plan(&another(64, 2.0)).unwrap();
    let error = core.alloc(BufferId(9), 1 << 20).unwrap_err();
    assert!(matches!(error.kind(), Kind::OutOfMemory { .. }), "{error}");
}

/// Of a device that several share, what plans hold that no segment names makes room, if it is enough, and no tenant's segment
/// goes.
#[test]
fn buffers_of_a_shared_device_do_not_cost_segments() {
    const HELD: u64 = 30 << 10;
    let (null, log) = Null::new(1 << 20);
    let mut core = Core::new(null.preparing(HELD));
    core.lend(None);
    let ops = chain(&mut core, 0..2);
    let segment = kept(&mut core, &[ops[0].clone(), ops[0].clone()], 1 << 40).1.unwrap();
    core.plan(&another(64, 1.0)).unwrap();
    // There is not enough of it for this, so it stays.
    assert!(core.alloc(BufferId(8), (1 << 20) - 2 * 4096).is_err());
    core.plan(&another(64, 1.0)).unwrap();
    assert!(core.has(&segment) && log.prepared() == 2);
    core.alloc(BufferId(8), (1 << 20) - 2 * 4096 - HELD).unwrap();
    assert!(core.has(&segment));
    core.free(BufferId(8));
    core.plan(&another(64, 1.0)).unwrap();
    assert_eq!(log.prepared(), 3);
}

/// What a part is counted with is what its segment holds, whatever the cache of plans did meanwhile; and it is cut where that
/// is more than it may be.
#[test]
fn a_part_counts_the_plans_of_all_its_ops() {
    // 64 KiB are for plans.
    const HELD: u64 = 16 << 10;
    let len = |planned: u64, most_bytes| {
        let mut core = Core::new(Null::new(1 << 20).0.preparing(HELD));
        for i in 0..planned {
            core.plan(&another(64, -1.0 - i as f32)).unwrap();
        }
        let ops: Vec<_> = (0..6).map(|i| another(64, i as f32)).collect();
        let part = core.part(&ops, 1 << 40, most_bytes);
        let counted = if part.len > 1 { HELD * part.len as u64 } else { 0 };
        assert_eq!(part.bytes(), counted, "{planned} were planned, {most_bytes} allowed");
        part.len
    };
    let lens = |most_bytes| [0, 1, 2, 3, 4].map(|planned| len(planned, most_bytes));
    assert_eq!(lens(u64::MAX), [4, 3, 2, 1, 4]);
    assert_eq!(lens(3 * HELD - 1), [2, 2, 2, 1, 2]);
    assert_eq!(lens(0), [1; 5]);
}

/// Programs that a device has no room for as one go op by op until there is room again.
#[test]
fn a_local_program_has_its_segment_when_there_is_room_again() {
    let (null, log) = Null::new(1 << 30);
    let dev = Device::from_backend(null).unwrap();
    let x = dev.empty(DType::F32, &[64]).unwrap();
    let of = |ops: usize| {
        let map = || Map::unary(MapFn::Exp, &x).into(&x);
        dev.program(|p| (0..ops).try_for_each(|_| p.output(&map().record(p)?))).unwrap()
    };
    let names = |program: &leasehold::Program| {
        let before = log.launches().len();
        program.replay().unwrap();
        dev.wait(None).unwrap();
        log.launches()[before..].iter().map(|launch| launch.op).collect::<Vec<_>>()
    };
    let mut full: Vec<_> = (0..64).map(|_| of(256)).collect();
    let small = of(3);
    for i in 0..3 {
        for program in &full {
            assert_eq!(names(program).len(), if i == 0 { 256 } else { 1 });
        }
        assert_eq!(names(&small), ["map"; 3]);
    }
    drop(full.pop());
    assert_eq!(names(&small), ["segment"]);
    assert_eq!(log.segments(), 65);
}

#[test]
fn plans_that_segments_name_stay_when_the_cache_is_emptied() {
    let (null, log) = Null::new(1 << 30);
    let mut core = Core::new(null);
    let fill = |core: &mut Core<Null>, round: u32| {
        for i in 0..4200 {
            core.plan(&another(64, (round * 4200 + i) as f32)).unwrap();
        }
    };
    // The segments' plans are not the first of the cache.
    core.plan(&another(64, -1.0)).unwrap();
    let ops = chain(&mut core, 0..3);
    let (_, first) = kept(&mut core, &ops, 1 << 40);
    let (_, second) = kept(&mut core, &ops, 1 << 40);
    for round in 0..3 {
        fill(&mut core, round);
        assert!(core.has(first.as_ref().unwrap()) && core.has(second.as_ref().unwrap()));
    }
    let prepares = |core: &mut Core<Null>, op: &Arc<op::CheckedOp>| {
        let before = log.prepared();
        core.plan(op).unwrap();
        log.prepared() - before
    };
    assert_eq!([ops[0].op(), &another(64, -1.0)].map(|op| prepares(&mut core, op)), [0, 1]);
    core.drop_segment(&first.unwrap());
    fill(&mut core, 3);
    assert_eq!(prepares(&mut core, ops[0].op()), 0);
    // The last that names a plan lets it go.
    core.drop_segment(&second.unwrap());
    fill(&mut core, 4);
    assert_eq!(prepares(&mut core, ops[0].op()), 1);
}

/// What segments hand on from op to op is memory, but no plan is forgotten for it.
#[test]
fn states_of_segments_do_not_empty_the_cache_of_plans() {
    let (null, log) = Null::new(1 << 30);
    let dev = Device::from_backend(null.handing_on(32 << 20)).unwrap();
    // 0.4 ms each: two fit a slice.
    let x = dev.empty(DType::F32, &[500_000]).unwrap();
    let map = |i: usize| Map::unary(MapFn::Exp, &x).scale(1.0 + i as f32).into(&x);
    let all = |p: &Recorder| (0..6).try_for_each(|i| p.output(&map(i).record(p)?));
    let program = dev.program(all).unwrap();
    for i in 0..4 {
        let before = log.launches().len();
        program.replay().unwrap();
        dev.wait(None).unwrap();
        let names = log.launches()[before..].iter().map(|launch| launch.op).collect::<Vec<_>>();
        // 64 MiB are for segments; the third goes op by op.
        let expected = ["segment", "segment", "map", "map"];
        assert!(if i == 0 { names == ["map"; 6] } else { names == expected }, "{names:?}");
        assert_eq!(log.prepared(), 6 + i as u64);
        // A plan that is not there yet takes no room of those that are.
        map(10 + i).run().unwrap();
        dev.wait(None).unwrap();
    }
    assert_eq!(log.segments(), 2);
}

#[test]
fn a_replay_is_of_segments_and_of_the_longer_ops_between() {
    let (null, log) = Null::new(1 << 30);
    let dev = Device::from_backend(null).unwrap();
    let x = dev.empty(DType::F32, &[64]).unwrap();
    let wide = dev.empty(DType::F32, &[512, 512]).unwrap();
    let program = dev
        .program(|p| {
            let mut y = x.clone();
            for i in 0..8 {
                y = Map::unary(MapFn::Exp, &y).record(p)?;
                if i == 4 {
                    // 2.7 ms.
                    p.output(&Matmul::new(&wide, &wide).record(p)?)?;
                }
            }
            p.output(&y)
        })
        .unwrap();
    for i in 0..3 {
        let before = log.launches().len();
        program.replay().unwrap();
        dev.wait(None).unwrap();
        let mut names: Vec<&str> =
            log.launches()[before..].iter().map(|launch| launch.op).collect();
        assert_eq!(names.len(), if i == 0 { 9 } else { 3 });
        names.dedup();
        // One that is replayed once is worth no segment.
        let maps = if i == 0 { "map" } else { "segment" };
        assert_eq!(names, [maps, "matmul", maps]);
    }
}

#[cfg(feature = "cuda")]
#[path = "../../kernels/tests/cuda/mod.rs"]
mod driver_api;
#[cfg(feature = "cuda")]
mod model;

#[cfg(feature = "cuda")]
mod on_cuda {
    use super::chain;
    use super::driver_api::Cuda;
    use super::model::{FAIL, ORDER, in_child, open};
    use leasehold::exec::Core;
    use leasehold::op::{BoundOp, BufferId};
    use leasehold::{
        ArgMax, Attention, DType, Device, Error, Gather, Kind, Map, MapFn, Matmul, Norm, Program,
        Recorder, Result, Scatter, Softmax, Tensor, bf16,
    };
    use std::path::Path;

    /// How often the driver was asked for kernels and for graphs.
    fn asked() -> [u64; 2] {
        let cuda = Cuda::open(Path::new("libcuda.so.1")).unwrap();
        ["cuLaunchKernel", "cuGraphLaunch"].map(|name| cuda.calls(name).unwrap())
    }

    fn values(n: usize, seed: f32) -> Vec<bf16> {
        (0..n).map(|i| bf16::from_f32((i as f32 * 0.37 + seed).sin() * 1.5)).collect()
    }

    /// What a step of a decoder is made of, or nearly: products with maps, attention, a table that is appended to at a
    /// place that lies on the device, and the largest of all.
    struct Decoder {
        dev: Device,
        w: Tensor,
        table: Tensor,
        at: Tensor,
        one: Tensor,
    }

    impl Decoder {
        fn new(dev: &Device) -> Self {
            Self {
                dev: dev.clone(),
                w: dev.tensor([64, 64], &values(64 * 64, 1.0)).unwrap(),
                table: dev.tensor([32, 64], &values(32 * 64, 0.0)).unwrap(),
                at: dev.tensor([4], &[0i32, 1, 2, 3]).unwrap(),
                one: dev.tensor([4], &[4i32; 4]).unwrap(),
            }
        }

        fn step(&self, x: &Tensor, p: Option<&Recorder>) -> Result<[Tensor; 2]> {
            let y = Norm::rms(x, 1e-6).run_in(p)?;
            let y = Matmul::new(&y, &self.w.t()).silu().residual(x).run_in(p)?;
            let stored = Scatter::set(&y, &self.at, &self.table).run_in(p)?;
            let rows = Gather::new(&stored, &self.at).run_in(p)?;
            let [q, k] = [(&rows, 4), (&stored, 32)].map(|(x, n)| x.reshape(&[1, 1, n, 64]));
            let (q, k) = (q?, k?);
            let o = Attention::new(&q, &k, &k).run_in(p)?.reshape(&[4, 64])?;
            let best = ArgMax::new(&o).run_in(p)?;
            Map::add(&self.at, &self.one).into(&self.at).run_in(p)?;
            Ok([Softmax::new(&o).run_in(p)?, best])
        }

        fn program(&self) -> (Tensor, Program) {
            let slot = self.dev.empty(DType::BF16, &[4, 64]).unwrap();
            let program = self
                .dev
                .program(|p| {
                    let [o, best] = self.step(&slot, Some(p))?;
                    p.output(&o)?;
                    p.output(&best)
                })
                .unwrap();
            (slot, program)
        }
    }

    fn bits([o, best]: [&Tensor; 2]) -> (Vec<u16>, Vec<i32>) {
        let o = o.read::<bf16>().unwrap().wait(None).unwrap();
        let best = best.read::<i32>().unwrap().wait(None).unwrap();
        (o.iter().map(|x| x.to_bits()).collect(), best)
    }

    /// Replays and the same ops one by one, step after step; how often kernels and graphs were asked for at each replay.
    fn compare() -> Vec<[u64; 2]> {
        let dev = Device::from_backend(open()).unwrap();
        let (program, single) = (Decoder::new(&dev), Decoder::new(&dev));
        let (slot, program) = program.program();
        let mut counts = Vec::new();
        for seed in 0..4 {
            let x = values(4 * 64, seed as f32);
            program.write(&slot, &x).unwrap();
            let before = asked();
            program.replay().unwrap();
            dev.wait(None).unwrap();
            let after = asked();
            counts.push([after[0] - before[0], after[1] - before[1]]);
            let x = dev.tensor([4, 64], &x).unwrap();
            let [o, best] = single.step(&x, None).unwrap();
            let outputs = program.outputs();
            assert_eq!(bits([&outputs[0], &outputs[1]]), bits([&o, &best]), "step {seed}");
        }
        counts
    }

    #[test]
    fn a_replay_is_of_graphs_alone_and_gives_the_bits_of_its_ops() {
        for order in ["late", "early"] {
            if in_child(
                "on_cuda::a_replay_is_of_graphs_alone_and_gives_the_bits_of_its_ops",
                &[(ORDER, order)],
            ) {
                let counts = compare();
                // Kernels are asked for at the first replay, which is none of graphs, and when they are captured; a
                // replay is a graph or, as the model has few multiprocessors and is predicted to be as slow, two.
                assert!(counts[..2].iter().all(|count| count[0] >= 9), "{counts:?}");
                assert!(counts[2..].iter().all(|count| count[0] == 0), "{counts:?}");
                let graphs = counts[1..].iter().all(|count| (1..=2).contains(&count[1]));
                assert!(counts[0][1] == 0 && graphs, "{counts:?}");
                return;
            }
        }
    }

    #[test]
    fn without_graphs_a_replay_is_a_loop() {
        let fails = [
            "cuStreamBeginCapture_v2:801:0:100",
            "cuGraphInstantiateWithFlags:2:0:100",
            "cuStreamEndCapture:801:100:0",
        ];
        for (i, fail) in fails.into_iter().enumerate() {
            if in_child("on_cuda::without_graphs_a_replay_is_a_loop", &[(FAIL, fail)]) {
                let counts = compare();
                let has_graphs = std::env::var(FAIL).unwrap() == fails[2];
                let all = counts[1..].iter().all(|count| (count[1] > 0) == has_graphs);
                assert!(counts[0][1] == 0 && all, "{i}: {counts:?}");
                let launched = counts[2..].iter().all(|count| (count[0] >= 9) != has_graphs);
                assert!(launched, "{counts:?}");
                return;
            }
        }
    }

    /// What the driver has no room for now, it may have later; what it refuses is not asked again; and what is lost is lost.
    #[test]
    fn a_graph_that_fails_is_tried_as_its_failure_says() {
        const NAME: &str = "on_cuda::a_graph_that_fails_is_tried_as_its_failure_says";
        let fails = [2, 801, 719].map(|status| format!("cuGraphInstantiateWithFlags:{status}:0:1"));
        for fail in &fails {
            if !in_child(NAME, &[(FAIL, fail)]) {
                continue;
            }
            let which = fails.iter().position(|fail| std::env::var(FAIL).as_ref() == Ok(fail));
            let mut core = Core::new(open());
            let ops = chain(&mut core, 0..4);
            let mut part = core.part(ops.iter().map(BoundOp::op), 1 << 40, u64::MAX);
            assert_eq!(part.len, 3);
            let first = core.keep(&mut part, &ops);
            assert!(part.segment.is_none());
            if which == Some(2) {
                let error = first.unwrap_err();
                assert!(matches!(error.kind(), Kind::DeviceLost { .. }), "{error}");
                return;
            }
            first.unwrap();
            assert!(!core.may_keep(&part));
            core.alloc(BufferId(9), 256).unwrap();
            core.free(BufferId(9));
            assert_eq!(core.may_keep(&part), which == Some(0));
            let before = asked();
            core.keep(&mut part, &ops).unwrap();
            let launched = asked()[0] - before[0];
            assert_eq!(
                part.segment.map(|it| it.launches()),
                (which == Some(0)).then_some(launched)
            );
            return;
        }
    }

    #[test]
    fn a_bad_index_in_a_graph_is_told_with_its_op() {
        if !in_child("on_cuda::a_bad_index_in_a_graph_is_told_with_its_op", &[]) {
            return;
        }
        let dev = Device::from_backend(open()).unwrap();
        let table = dev.tensor([4, 1], &[1f32, 5., 3., 4.]).unwrap();
        let [from, to] = [[1i32, 2], [0, 1]].map(|index| dev.tensor([2], &index).unwrap());
        let replayed = |index: [[i32; 2]; 2]| -> Result<Vec<f32>, Error> {
            let target = dev.tensor([3, 1], &[0f32; 3])?;
            let program = dev
                .program(|p| {
                    let rows = Gather::new(&table, &from).record(p)?;
                    let rows = Map::unary(MapFn::Neg, &rows).record(p)?;
                    Scatter::set(&rows, &to, &target).record(p)?;
                    p.output(&rows)
                })
                .unwrap();
            // The first replay, of good ones, is of no graph.
            program.write(&from, &[1i32, 2]).unwrap();
            program.write(&to, &[0i32, 1]).unwrap();
            program.replay().unwrap().read::<f32>()?.wait(None)?;
            program.write(&from, &index[0]).unwrap();
            program.write(&to, &index[1]).unwrap();
            let before = asked();
            let rows = program.replay().unwrap().read::<f32>()?.wait(None)?;
            assert_eq!(asked()[1] - before[1], 1);
            Ok(rows)
        };
        assert_eq!(replayed([[1, 2], [0, 1]]).unwrap(), [-5., -3.]);
        for (index, op, value, bound) in
            [([[1, 4], [0, 1]], "gather", 4, 4), ([[1, 2], [0, -1]], "scatter", u32::MAX, 3)]
        {
            let error = replayed(index).unwrap_err();
            assert_eq!((error.kind(), error.op()), (&Kind::Index { value, bound }, Some(op)));
            // The device, and other programs, live on.
            assert_eq!(replayed([[1, 2], [0, 1]]).unwrap(), [-5., -3.]);
        }
    }
}
