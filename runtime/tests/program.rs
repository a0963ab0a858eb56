//! Programs: a replay gives what the same ops run one by one give, whatever lies in its slots; scratch is shared; a
//! tensor of a recording is nothing outside it; a failed step fails what the program writes.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold::{
    ArgMax, Attention, DType, Device, Gather, Kind, Map, MapFn, Matmul, Norm, Recorder, Result,
    Scatter, Softmax, Tensor,
};

fn devices() -> Vec<Device> {
    let mut all = vec![Device::open_named("cpu").unwrap()];
    #[cfg(feature = "wgpu")]
    all.extend(Device::open_named("wgpu:0"));
    all
}

/// A block of a transformer, or nearly.
fn block(x: &Tensor, w: &Tensor, p: Option<&Recorder>) -> Result<Tensor> {
    let y = Norm::rms(x, 1e-6).run_in(p)?;
    let y = Matmul::new(&y, &w.t()).silu().residual(x).run_in(p)?;
    let q = y.reshape(&[1, 1, 8, 16])?;
    let o = Attention::new(&q, &q, &q).causal().run_in(p)?;
    let o = o.reshape(&[8, 16])?;
    Softmax::new(&o).run_in(p)
}

fn values(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37 + seed).sin() * 1.5).collect()
}

#[test]
fn a_replay_gives_the_bits_of_its_ops_run_one_by_one() {
    for dev in devices() {
        let w = dev.tensor([16, 16], &values(256, 1.0)).unwrap();
        let slot = dev.empty(DType::F32, &[8, 16]).unwrap();
        let program = dev
            .program(|p| {
                let mut y = slot.clone();
                for _ in 0..6 {
                    y = block(&y, &w, Some(p))?;
                }
                p.output(&y)
            })
            .unwrap();
        // Six blocks of five intermediates of 512 bytes share the room of a few.
        let (steps, scratch) = program.size();
        assert!(steps == 24 && scratch <= 4 * 512, "{program:?}");
        for seed in [0.5, 2.5] {
            program.write(&slot, &values(128, seed)).unwrap();
            let replayed = program.replay().unwrap().read::<f32>().unwrap();
            let mut y = dev.tensor([8, 16], &values(128, seed)).unwrap();
            for _ in 0..6 {
                y = block(&y, &w, None).unwrap();
            }
            let expected = y.read::<f32>().unwrap().wait(None).unwrap();
            let (mut got, mut bits) = (replayed, expected.iter().map(|x| x.to_bits()));
            let got = got.wait(None).unwrap();
            assert!(got.iter().all(|x| Some(x.to_bits()) == bits.next()), "{dev:?}");
        }
    }
}

#[test]
fn reads_between_replays_see_their_own_and_state_goes_on() {
    let dev = Device::open_named("cpu").unwrap();
    // A counter that each replay raises, and a table that it appends to.
    let count = dev.tensor([1], &[0i32]).unwrap();
    let one = dev.tensor([1], &[1i32]).unwrap();
    let table = dev.tensor([8, 1], &[0f32; 8]).unwrap();
    let x = dev.empty(DType::F32, &[1, 1]).unwrap();
    let program = dev
        .program(|p| {
            let stored = Scatter::set(&x, &count, &table).record(p)?;
            Map::add(&count, &one).into(&count).record(p)?;
            p.output(&Map::unary(MapFn::Square, &x).record(p)?)?;
            p.output(&stored)
        })
        .unwrap();
    let reads: Vec<_> = (0..5)
        .map(|i| {
            program.write(&x, &[i as f32]).unwrap();
            program.replay().unwrap().read::<f32>().unwrap()
        })
        .collect();
    for (i, mut read) in reads.into_iter().enumerate() {
        assert_eq!(read.wait(None).unwrap(), [(i * i) as f32]);
    }
    let stored = program.outputs()[1].read::<f32>().unwrap().wait(None).unwrap();
    assert_eq!(stored, [0., 1., 2., 3., 4., 0., 0., 0.]);
    assert_eq!(count.read::<i32>().unwrap().wait(None).unwrap(), [5]);
}

#[test]
fn a_tensor_of_a_recording_is_nothing_outside_it() {
    let dev = Device::open_named("cpu").unwrap();
    let x = dev.tensor([2], &[1f32, 2.]).unwrap();
    let mut inside = None;
    let program = dev.program(|p| {
        let y = Map::unary(MapFn::Exp, &x).record(p)?;
        let errors = [
            y.read::<f32>().unwrap_err(),
            y.write(&[0f32; 2]).unwrap_err(),
            Map::unary(MapFn::Exp, &y).run().unwrap_err(),
            Map::unary(MapFn::Exp, &x).into(&y).run().unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error.kind(), Kind::Device { .. }), "{error}");
        }
        inside = Some(y.clone());
        p.output(&y)
    });
    let inside = inside.unwrap();
    let program = program.unwrap();
    assert!(Map::unary(MapFn::Exp, &inside).run().is_err());
    assert_eq!(program.replay().unwrap().shape(), [2]);
    let other = dev.program(|p| p.output(&Map::unary(MapFn::Exp, &inside).record(p)?)).unwrap_err();
    assert!(other.to_string().contains("another program"), "{other}");
    let none = dev.program(|p| Map::unary(MapFn::Exp, &x).record(p).map(drop)).unwrap_err();
    assert!(none.to_string().contains("at least 1"), "{none}");
}

#[test]
fn a_failed_step_fails_what_the_program_writes_and_nothing_else() {
    for dev in devices() {
        let table = dev.tensor([4], &[1f32, 5., 3., 4.]).unwrap();
        let index = dev.tensor([2], &[1i32, 2]).unwrap();
        let program = dev
            .program(|p| {
                let rows = Gather::new(&table, &index).record(p)?;
                p.output(&rows)?;
                p.output(&Map::unary(MapFn::Neg, &table).record(p)?)
            })
            .unwrap();
        let rows = program.replay().unwrap().read::<f32>().unwrap().wait(None).unwrap();
        assert_eq!(rows, [5., 3.]);
        program.write(&index, &[1i32, -1]).unwrap();
        let failed = program.replay().unwrap().clone();
        for output in [failed, program.outputs()[1].clone()] {
            let error = output.read::<f32>().and_then(|mut read| read.wait(None)).unwrap_err();
            assert_eq!(*error.kind(), Kind::Index { value: u32::MAX, bound: 4 }, "{dev:?}");
        }
        let alive = Map::unary(MapFn::Neg, &table)
            .run()
            .unwrap()
            .read::<f32>()
            .unwrap()
            .wait(None)
            .unwrap();
        assert_eq!(alive, [-1., -5., -3., -4.]);
    }
}

#[test]
fn a_program_keeps_its_tensors_and_goes_quietly() {
    let dev = Device::open_named("cpu").unwrap();
    let program = {
        let x = dev.tensor([3], &[3f32, 9., 1.]).unwrap();
        dev.program(|p| p.output(&ArgMax::new(&x).record(p)?)).unwrap()
    };
    // What the dropped handle held is not given to others.
    let _other = dev.tensor([3], &[0f32; 3]).unwrap();
    let index = program.replay().unwrap().clone();
    drop(program);
    assert_eq!(index.read::<i32>().unwrap().wait(None).unwrap(), [1]);
}

#[test]
fn a_program_says_how_it_runs_and_what_that_takes() {
    let dev = Device::open_named("cpu").unwrap();
    let w = dev.tensor([16, 16], &values(256, 1.0)).unwrap();
    let slot = dev.empty(DType::F32, &[8, 16]).unwrap();
    let of = |blocks| {
        dev.program(|p| {
            let mut y = slot.clone();
            for _ in 0..blocks {
                y = block(&y, &w, Some(p))?;
            }
            p.output(&y)
        })
        .unwrap()
    };
    let (one, three) = (of(1), of(3));
    let text = one.explain().unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    assert_eq!(names, ["norm", "matmul", "attention", "softmax"]);
    assert!(
        text.lines().all(|line| line.contains(" ns a unit; ") && line.contains(" B, ")),
        "{text}"
    );
    let quote = one.quote().unwrap();
    // Four ops: x, and what each reads and writes of [8, 16], the weight once.
    assert_eq!(quote.bytes, 4 * (2 + 3 + 4 + 2) * 128 + 4 * 256);
    assert!(quote.time_ns > 0 && quote.flops >= 2 * 8 * 16 * 16, "{quote:?}");
    let told: u128 = text
        .lines()
        .filter_map(|line| line.rsplit_once(", ")?.1.strip_suffix(" ns")?.parse::<u128>().ok())
        .sum();
    assert_eq!(told, quote.time_ns);
    let thrice = three.quote().unwrap();
    assert_eq!([thrice.time_ns, thrice.bytes], [3 * quote.time_ns, 3 * quote.bytes]);
}
