//! Plans of ops that stream: whatever the cut, every element is some launch's once, and what passes hand on is in sequence.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::groups::Over;
use super::streaming::Stream;
use super::*;
use crate::DType;
use crate::backend::common::case::Random;
use crate::backend::common::tables;
use crate::backend::cuda::encode::{Addresses, Args, Launch, launches};
use crate::layout::{Dims, Layout};
use crate::op::{
    Copy, Norm, NormBackward, NormKind, Reduce, ReduceFn, Scatter, ScatterFn, Softmax, TopK, check,
};
use crate::order::spans;
use leasehold_kernels::{Range, Rows, ScatterAddArgs, ScatterArgs, Streaming, View};
use std::collections::HashMap;

/// Memory so slow that small tensors have many units.
const SLOW: Class = Class {
    arch: "sm_90a",
    multiprocessors: 1,
    sm90: [1; 3],
    sm90_fp8: [1; 3],
    sm80: [1; 2],
    gathered: 1,
    fma: 1,
    plain: 1,
    attention: 1,
    bytes: 2,
    l2_bytes: 1,
};

fn contiguous(dtype: DType, shape: &[u64]) -> Spec {
    Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap()), 0)
}

/// What the launches of a plan are given, range by range.
fn launched(op: &CheckedOp, class: &Class, plan: &Plan, cuts: &[u64]) -> Vec<Launch> {
    let row = row(plan.kernel).unwrap();
    let operands = vec![1 << 20; op.specs().len()];
    let at = Addresses { operands: &operands, state: 1 << 40, made: 256, fault: 256 };
    let mut from = 0;
    let mut all = Vec::new();
    for &to in cuts {
        for span in spans(from..to, plan.links) {
            all.extend(launches(op, row, class, span, &at, 4));
        }
        from = to;
    }
    all
}

fn cuts(units: u64, random: &mut Random) -> [Vec<u64>; 3] {
    let mut ends: Vec<u64> = (0..5).map(|_| random.below(units + 1)).collect();
    ends.push(units);
    ends.sort();
    [vec![units], ends, (1..=units.min(400)).chain([units]).collect()]
}

fn bytes(launch: &Launch) -> &[u8] {
    let Args::Plain(bytes) = &launch.args else { panic!("arguments with maps") };
    bytes
}

/// The struct that arguments begin with.
fn head<T: bytemuck::AnyBitPattern>(launch: &Launch) -> T {
    bytemuck::pod_read_unaligned(&bytes(launch)[..size_of::<T>()])
}

fn view(launch: &Launch, after: usize, place: usize) -> View {
    let at = after + place * size_of::<View>();
    bytemuck::pod_read_unaligned(&bytes(launch)[at..at + size_of::<View>()])
}

/// Counts the elements of an operand that vectors of a range reach.
fn reach(range: &Range, view: &View, vector: u64, reached: &mut HashMap<u64, u32>) {
    let of_row = range.inner.div_ceil(vector);
    for item in range.first..range.first + range.count {
        let (mut row, column) = (item / of_row, item % of_row * vector);
        let mut at = 0;
        for axis in (0..range.outer.rank as usize).rev() {
            at += row % range.outer.sizes[axis] * view.outer[axis] as u64;
            row /= range.outer.sizes[axis];
        }
        assert_eq!(row, 0, "a row that is none");
        for column in column..range.inner.min(column + vector) {
            *reached.entry(at + column * view.inner as u64).or_insert(0) += 1;
        }
    }
}

#[test]
fn every_element_is_of_one_launch_whatever_the_cut() {
    let mut random = Random(7);
    let mut cut = 0;
    let all = [tables::copy(), tables::map(), tables::gather(), tables::quantize()].concat();
    for case in all.iter().filter(|case| case.flops() < 300_000) {
        let op = case.checked();
        let place = match op.op() {
            Op::Copy(_) => 1,
            Op::Map(_) | Op::Gather(_) => 2,
            Op::Quantize(quantize) if quantize.inverse => 3,
            _ => continue,
        };
        let out = &case.operands[op.position("out").unwrap()].layout;
        for plan in candidates(&op, &SLOW).unwrap() {
            let row = row(plan.kernel).unwrap();
            if matches!(row, Row::Streaming(Streaming::CopyTurned(_))) {
                continue;
            }
            let Row::Streaming(streaming) = row else { panic!("{plan}") };
            cut += u64::from(plan.units() > 1);
            for cuts in cuts(plan.units() as u64, &mut random) {
                let mut reached = HashMap::new();
                for launch in launched(&op, &SLOW, &plan, &cuts) {
                    let range: Range = head(&launch);
                    assert_eq!(u64::from(launch.blocks), range.blocks());
                    let out = view(&launch, size_of::<Range>(), place);
                    reach(&range, &out, streaming.vector().into(), &mut reached);
                }
                let wanted: HashMap<u64, u32> =
                    leasehold::reference::offsets(out).map(|at| (at, 1)).collect();
                assert!(reached == wanted, "{}: {plan} cut at {cuts:?}", case.name);
            }
        }
    }
    assert!(cut > 15, "{cut} plans had several units");
}

#[test]
fn every_tile_and_column_of_pairs_is_of_one_launch() {
    let mut random = Random(11);
    let mut several = 0;
    let all = [tables::copy(), tables::rope(), tables::quantize()].concat();
    for case in all.iter().filter(|case| case.flops() < 4_000_000) {
        let op = case.checked();
        for plan in candidates(&op, &SLOW).unwrap() {
            let row = row(plan.kernel).unwrap();
            let Some(Stream::Elements(elements)) = Stream::of(&op, row, &SLOW) else { continue };
            several += u64::from(plan.tiles > 1);
            for cuts in cuts(plan.units() as u64, &mut random) {
                let mut next = 0;
                for launch in launched(&op, &SLOW, &plan, &cuts) {
                    // The last two words of a square's arguments, but for the format of cells.
                    let [first, count] = match row {
                        Row::Streaming(Streaming::CopyTurned(_)) => tail(&launch, 0),
                        Row::Streaming(Streaming::QuantizeCells) => tail(&launch, 8),
                        _ => {
                            let range: Range = head(&launch);
                            [range.first, range.count]
                        }
                    };
                    assert_eq!(first, next, "{plan}");
                    assert!(count > 0 && launch.blocks > 0);
                    next += count;
                }
                assert_eq!(next, elements.items, "{}: {plan}", case.name);
            }
        }
    }
    assert!(several > 20, "{several} plans had several tiles");
}

/// Two words before so many bytes at the end.
fn tail(launch: &Launch, after: usize) -> [u64; 2] {
    let bytes = bytes(launch);
    bytemuck::pod_read_unaligned(&bytes[bytes.len() - after - 16..bytes.len() - after])
}

fn norm(kind: NormKind, shape: &[u64]) -> CheckedOp {
    let norm = Norm { kind, epsilon: 1e-5, weight: false, bias: false };
    check(norm.into(), &[contiguous(DType::F32, shape); 2]).unwrap()
}

/// Rows of one piece and of several, few and many of them.
fn rows_of_all_kinds() -> Vec<CheckedOp> {
    let mut ops = Vec::new();
    for shape in [&[1, 40_000][..], &[7, 20_000], &[3, 100_000], &[2, 5, 700], &[999, 5]] {
        let whole = contiguous(DType::F32, shape);
        let outer = contiguous(DType::F32, &shape[..shape.len() - 1]);
        let axis = shape.len() as u8 - 1;
        ops.extend([NormKind::Layer, NormKind::Rms].map(|kind| norm(kind, shape)));
        ops.push(check(Softmax { scale: 1.0, axis }.into(), &[whole; 2]).unwrap());
        let reduce = Reduce { function: ReduceFn::Sum, axis };
        ops.push(check(reduce.clone().into(), &[whole, outer]).unwrap());
        let first = Reduce { axis: 0, ..reduce };
        let rest = contiguous(DType::F32, &shape[1..]);
        ops.push(check(first.into(), &[whole, rest]).unwrap());
        let mut found = shape.to_vec();
        found[axis as usize] = 3;
        let [value, index] = [DType::F32, DType::I32].map(|dtype| contiguous(dtype, &found));
        ops.push(check(TopK { k: 3, axis }.into(), &[whole, value, index]).unwrap());
    }
    let back = NormBackward { kind: NormKind::Layer, epsilon: 1e-5, weight: false };
    let long = contiguous(DType::F32, &[3, 20_000]);
    ops.push(check(back.into(), &[long; 4]).unwrap());
    let quantize = tables::quantize().into_iter();
    let quantize = quantize.filter(|case| case.flops() < 4_000_000).map(|case| case.checked());
    ops.extend(quantize);
    ops
}

#[test]
fn every_piece_of_a_row_is_in_every_pass_once_and_passes_follow_each_other() {
    let mut random = Random(13);
    let mut kinds: HashMap<Vec<Over>, u32> = HashMap::new();
    for op in rows_of_all_kinds() {
        let plan = candidates(&op, &SLOW).unwrap()[0];
        let table = row(plan.kernel).unwrap();
        let Some(Stream::Groups(groups)) = Stream::of(&op, table, &SLOW) else { continue };
        let kind = groups.stages.iter().map(|stage| stage.over).collect();
        *kinds.entry(kind).or_insert(0) += u32::from(plan.units() > 1);
        for cuts in cuts(plan.units() as u64, &mut random) {
            // How often each piece of each row was in each pass, and the last pass of each tile.
            let mut done: HashMap<(u64, u32, u32), u32> = HashMap::new();
            let mut last: HashMap<u64, (u32, u32)> = HashMap::new();
            for launch in launched(&op, &SLOW, &plan, &cuts) {
                let rows: Rows = head(&launch);
                let blocks = match table {
                    Row::Streaming(row) => row.row_blocks(&rows),
                    _ => 0,
                };
                assert!(blocks > 0 && blocks == u64::from(launch.blocks), "{plan}");
                assert!(rows.first + rows.count <= groups.rows && rows.piece_count > 0);
                let tile = rows.first / groups.per_tile;
                if groups.is_chain() {
                    assert!(rows.first + rows.count <= (tile + 1) * groups.per_tile);
                    let before = if groups.is_whole() { 0 } else { rows.first % groups.per_tile };
                    assert_eq!(rows.state, (1 << 40) + groups.state_bytes(before));
                    let end = before + rows.count;
                    assert!(groups.is_whole() || groups.state_bytes(end) <= plan.state_bytes);
                }
                let turns = groups.stages.first().is_some_and(|stage| stage.over == Over::Turns);
                let at = if turns { rows.first_piece } else { rows.pass };
                let before = last.insert(tile, (at, rows.pass)).map_or(0, |(at, _)| at);
                assert!(before <= at, "{plan}: pass {at} after {before}");
                for row in rows.first..rows.first + rows.count {
                    for piece in rows.first_piece..rows.first_piece + rows.piece_count {
                        *done.entry((row, piece, rows.pass)).or_insert(0) += 1;
                    }
                }
            }
            assert!(done.values().all(|n| *n == 1), "{plan} cut at {cuts:?}");
            let pieces = u64::from(groups.pieces);
            let of_stage = |over: &Over| match over {
                Over::First => 1,
                Over::Rows => groups.rows,
                Over::Pieces | Over::Turns => groups.rows * pieces,
            };
            let wanted: u64 = match &groups.stages[..] {
                [] => groups.rows,
                stages => stages.iter().map(|stage| of_stage(&stage.over)).sum(),
            };
            assert_eq!(done.len() as u64, wanted, "{plan} cut at {cuts:?}");
        }
    }
    assert!(kinds.len() == 7 && kinds.values().all(|units| *units > 0), "{kinds:?}");
}

fn scatter(function: ScatterFn, entries: &[u64], columns: &[u64]) -> CheckedOp {
    let x = contiguous(DType::F32, &[entries, columns].concat());
    let out = contiguous(DType::F32, &[&[9], columns].concat());
    let index = contiguous(DType::I32, entries);
    check(Scatter { function, axis: 0 }.into(), &[x, index, out]).unwrap()
}

const ENTRIES: [&[u64]; 4] = [&[], &[3, 700], &[5000], &[0]];
const COLUMNS: [&[u64]; 4] = [&[], &[7], &[3, 200], &[0]];

#[test]
fn entries_claim_before_they_set() {
    let mut random = Random(17);
    for (entries, columns) in ENTRIES.iter().flat_map(|e| COLUMNS.map(|c| (*e, c))) {
        let op = scatter(ScatterFn::Set, entries, columns);
        let plan = candidates(&op, &SLOW).unwrap()[0];
        let count: u64 = entries.iter().product();
        let is_none = count == 0 || columns.contains(&0);
        assert_eq!(plan.units() == 0, is_none);
        assert_eq!(plan.state_bytes, if is_none { 0 } else { 9 * 4 });
        for cuts in cuts(plan.units() as u64, &mut random) {
            let (mut next, mut pass) = ([0; 3], 0);
            for launch in launched(&op, &SLOW, &plan, &cuts) {
                let args: ScatterArgs = head(&launch);
                assert!(args.pass >= pass, "passes in order");
                pass = args.pass;
                assert_eq!(args.range.first, next[pass as usize]);
                next[pass as usize] += args.range.count;
                let whole = Range { first: 0, count: 0, ..args.range };
                assert!(next[pass as usize] <= whole.vectors(if pass == 2 { 4 } else { 1 }));
                // Columns of no gap are one row of an entry.
                assert_eq!(args.per_entry, 1);
            }
            let vectors = if is_none { 0 } else { next[2] / count };
            let inner: u64 = columns.iter().product();
            assert_eq!(next, if is_none { [0; 3] } else { [count, count, count * vectors] });
            assert!(is_none || vectors == inner.div_ceil(4), "{vectors} vectors of an entry");
        }
    }
}

#[test]
fn columns_add_all_entries_in_order() {
    let mut random = Random(19);
    let mut several = [0; 2];
    for (entries, columns) in ENTRIES.iter().flat_map(|e| COLUMNS.map(|c| (*e, c))) {
        let op = scatter(ScatterFn::Add, entries, columns);
        let plan = candidates(&op, &SLOW).unwrap()[0];
        let [count, columns] = [entries, columns].map(|sizes| sizes.iter().product::<u64>());
        several[0] += u32::from(plan.tiles > 1);
        several[1] += u32::from(plan.links > 1);
        assert_eq!(plan.state_bytes, 0);
        for cuts in cuts(plan.units() as u64, &mut random) {
            let mut added = vec![0; columns.div_ceil(4) as usize];
            for launch in launched(&op, &SLOW, &plan, &cuts) {
                let args: ScatterAddArgs = head(&launch);
                assert_eq!(u64::from(launch.blocks), Streaming::add_blocks(&args.range));
                let Range { first, count, .. } = args.range;
                for vector in &mut added[first as usize..(first + count) as usize] {
                    assert_eq!(*vector, args.first_entry, "entries in order");
                    *vector += args.entry_count;
                }
            }
            assert!(added.iter().all(|n| *n == count), "{plan} cut at {cuts:?}");
        }
    }
    assert!(several.iter().all(|n| *n > 2), "{several:?}");
}

/// Of every case of every table there is a plan, on every architecture; and none of a unit over the cap.
#[test]
fn every_op_that_streams_has_a_plan() {
    let all = [
        tables::copy(),
        tables::map(),
        tables::gather(),
        tables::rope(),
        tables::scatter(),
        tables::quantize(),
        tables::norm(),
        tables::softmax(),
        tables::reduce(),
        tables::arg_max(),
        tables::top_k(),
        tables::norm_backward(),
    ]
    .concat();
    for class in &CLASSES {
        for case in &all {
            let plans = candidates(&case.checked(), class);
            let plans = plans.unwrap_or_else(|error| panic!("{}: {error}", case.name));
            for plan in &plans {
                assert_eq!(plan.order, plans[0].order, "{plan}");
                assert!(plan.unit_ns <= UNIT_CAP_GPU_NS, "{plan}");
                assert!(plan.links > 1 || plan.state_bytes == 0, "{plan}");
            }
        }
    }
    let turned = all.iter().filter(|case| {
        candidates(&case.checked(), &CLASSES[0]).unwrap()[0].kernel.starts_with("copy_turned")
    });
    assert!(turned.count() > 3);
}

/// A tensor of more than 2^31 elements, and an axis of them, in few units.
#[test]
fn large_tensors_have_few_units() {
    for class in &CLASSES {
        for shape in [&[1 << 33][..], &[1 << 20, 1 << 13], &[1 << 13, 1 << 20], &[8, 1 << 30]] {
            let spec = contiguous(DType::BF16, shape);
            let axis = shape.len() as u8 - 1;
            let copy = check(Copy.into(), &[spec; 2]).unwrap();
            let plan = candidates(&copy, class).unwrap()[0];
            let bytes = copy.cost().bytes as u64;
            assert!(plan.tiles <= 2 * bytes / (class.bytes * 100_000), "{plan}");
            let softmax = check(Softmax { scale: 1.0, axis }.into(), &[spec; 2]).unwrap();
            match candidates(&softmax, class) {
                Ok(plans) => {
                    assert!(plans[0].units() < 400_000, "{}", plans[0]);
                    assert!(plans[0].state_bytes < bytes / 100);
                }
                // What pieces of a row leave is found by every other, one after another.
                Err(error) => {
                    assert!(shape[axis as usize] > 1 << 29);
                    assert!(matches!(error.kind(), Kind::Time { .. }), "{error}");
                }
            }
        }
    }
}

/// How a row is added depends on its length alone.
#[test]
fn orders_of_rows_follow_their_length() {
    let order =
        |shape: &[u64]| candidates(&norm(NormKind::Rms, shape), &CLASSES[3]).unwrap()[0].order;
    for n in [1, 512, 513, 4096, 5000, 16_384, 16_385, 100_000] {
        let one = order(&[1, n]);
        assert_eq!(one, order(&[300, n]));
        assert_eq!(one, order(&[2, 3, 2, n]));
        let lanes = Streaming::lanes(n);
        assert_eq!((one.tile[1], one.chunk), (lanes, lanes * 16));
    }
}
