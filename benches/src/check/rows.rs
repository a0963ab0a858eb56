//! Ops that memory bounds, on rows: what each reads and writes, and windows of single rows. `problem` builds them.

use super::data::{Given, dense, laid, shuffled};
use super::problem::{BYTES, Built, GIGA, blocks_of, spots, window};
use leasehold::op::{
    ArgMax, Copy, Gather, Map, MapFn, Norm, NormKind, Op, Quantize, QuantizeFormat, Reduce,
    ReduceFn, Rope, Scatter, ScatterFn, Softmax, Spec, TopK,
};
use leasehold::{DType, Result};
use std::ops::Range;

/// Elements of a head that is turned.
const HEAD: u64 = 128;
/// How many of a row's largest are asked for.
const LARGEST: u64 = 64;
/// Rows that are checked at places drawn by the seed.
const DRAWN: usize = 3;

/// An operand, and how one row's share of it is taken.
enum Share {
    /// All of it: a weight.
    Whole,
    /// A row of this axis.
    Row(usize),
    /// The row that the row's index names.
    Named,
    /// The index itself, which names the only row of its window.
    Index,
}

/// An op on so many rows.
struct Shape {
    op: Op,
    given: Vec<(Given, Share)>,
    /// Outputs of so many rows.
    outs: Box<dyn Fn(u64) -> Vec<Spec>>,
}

/// Heads of a token next to one another, as projections write them.
fn heads(rows: u64, columns: u64) -> Spec {
    let dim = HEAD.min(columns);
    let spec = dense(DType::BF16, &[1, rows, columns / dim, dim]);
    Spec { layout: spec.layout.permute(&[0, 2, 1, 3]).unwrap_or(spec.layout), ..spec }
}

fn shape(function: &str, [rows, columns]: [u64; 2], seed: u64) -> Shape {
    let (dtype, f32) = (DType::BF16, DType::F32);
    let x = || (Given::normal("x", dense(dtype, &[rows, columns]), seed), Share::Row(0));
    let more = |name, shape: &[u64]| Given::normal(name, dense(dtype, shape), seed);
    let index = || (Given::words("index", &[rows], &shuffled(rows, seed)), Share::Index);
    let same = move |rows| vec![dense(dtype, &[rows, columns])];
    let plain = |op: Op, given| Shape { op, given, outs: Box::new(same) };
    let of = |op: Op, outs: Box<dyn Fn(u64) -> Vec<Spec>>| Shape { op, given: vec![x()], outs };
    let map = |function| Map { function, scale: 1.0, shift: 0.0 }.into();
    match function {
        "silu" => plain(map(MapFn::Silu), vec![x()]),
        "add" => plain(map(MapFn::Add), vec![x(), (more("y", &[rows, columns]), Share::Row(0))]),
        "softmax" => plain(Softmax { scale: 1.0, axis: 1 }.into(), vec![x()]),
        "rms_norm" => {
            let op = Norm { kind: NormKind::Rms, epsilon: 1e-5, weight: true, bias: false };
            plain(op.into(), vec![x(), (more("weight", &[columns]), Share::Whole)])
        }
        "sum" => {
            let op = Reduce { function: ReduceFn::Sum, axis: 1 };
            of(op.into(), Box::new(move |rows| vec![dense(f32, &[rows])]))
        }
        "arg_max" => {
            let outs = move |rows| vec![dense(DType::U32, &[rows])];
            of(ArgMax { axis: 1 }.into(), Box::new(outs))
        }
        "top_k" => {
            let k = LARGEST.min(columns);
            let outs = move |rows| [dtype, DType::U32].map(|of| dense(of, &[rows, k])).into();
            of(TopK { k: k as u32, axis: 1 }.into(), Box::new(outs))
        }
        "quantize" => {
            let op = Quantize { format: QuantizeFormat::Block1x128, inverse: false };
            let outs = move |rows| {
                let scale = dense(f32, &[rows, blocks_of(columns)]);
                vec![dense(DType::F8E4M3, &[rows, columns]), scale]
            };
            of(op.into(), Box::new(outs))
        }
        "rope" => {
            let dims = HEAD.min(columns) as u32;
            let positions: Vec<u32> = (0..rows as u32).collect();
            let given = vec![
                (Given::normal("x", heads(rows, columns), seed), Share::Row(2)),
                (Given::words("position", &[1, rows], &positions), Share::Row(1)),
            ];
            let op = Rope { base: 10_000.0, dims, interleaved: false }.into();
            Shape { op, given, outs: Box::new(move |rows| vec![heads(rows, columns)]) }
        }
        "gather" => {
            let table = (more("table", &[rows, columns]), Share::Named);
            plain(Gather { axis: 0 }.into(), vec![table, index()])
        }
        "scatter" => {
            plain(Scatter { function: ScatterFn::Set, axis: 0 }.into(), vec![x(), index()])
        }
        "turn" => {
            // Scales as one library lays them, as another wants them.
            let x = Given::normal("x", laid(f32, &[rows, columns], true), seed);
            let outs = move |rows| vec![dense(f32, &[rows, columns])];
            Shape { op: Copy.into(), given: vec![(x, Share::Row(0))], outs: Box::new(outs) }
        }
        _ => plain(Copy.into(), vec![x()]),
    }
}

/// The op of a name on rows of so many columns.
pub(super) fn rows(function: &str, size: [u64; 2], seed: u64) -> Result<Built> {
    let Shape { op, given, outs } = shape(function, size, seed);
    let (given, shares): (Vec<Given>, Vec<Share>) = given.into_iter().unzip();
    let mut built = Built::new(op.clone(), given, &outs(size[0]), (0.0, BYTES))?;
    let moved: u128 = built.op.specs().iter().map(Spec::span_bytes).sum();
    built.work = moved as f64 / GIGA;
    let index = built.given.iter().find(|given| given.name == "index");
    let index: Option<Vec<u32>> = index.map(Given::as_words);
    for [row] in spots([(size[0], 1)], DRAWN, seed) {
        let named = index.as_ref().map_or(row.start, |index| index[row.start as usize].into());
        let parts = built.given.iter().zip(&shares).map(|(given, share)| {
            let mut ranges: Vec<Range<u64>> =
                given.spec.layout.shape().iter().map(|&len| 0..len).collect();
            match share {
                Share::Whole => {}
                Share::Row(axis) => ranges[*axis] = row.clone(),
                Share::Named => ranges[0] = named..named + 1,
                Share::Index => return (DType::U32, vec![1], 0u32.to_le_bytes().into()),
            }
            let shape = ranges.iter().map(|range| range.end - range.start).collect();
            (given.spec.dtype, shape, given.cut(&ranges))
        });
        let parts: Vec<_> = parts.collect();
        // What a scatter writes lies where its index says, all else in the row itself.
        let to = if function == "scatter" { named } else { row.start };
        let outs = outs(1);
        let whole = window(op.clone(), &parts, &outs, Vec::new())?;
        for (output, spec) in outs.iter().enumerate() {
            let width = spec.layout.numel() as u64;
            let at = (to * width..(to + 1) * width).collect();
            built.windows.push(whole.clone().of(output, at));
        }
    }
    Ok(built)
}
