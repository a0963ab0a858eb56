//! Dispatches of products, and the table of their groups.

use super::super::plan::{Class, Product};
use super::{Dispatch, LAST, Words, base, strides};
use crate::dtype::DType;
use crate::op::{CheckedOp, Gate, Group, Lens, Matmul, Scale, Spec};
use crate::order::Span;
use leasehold_shaders::variant;

/// Outputs of a workgroup of the kernel that any device runs.
const PLAIN: u64 = 32 * 32;
/// Entry points of `matmul.wgsl`.
const COUNT: usize = 0;
const FLOATS: usize = 1;
const BYTES: usize = 2;
/// Flags of it.
const HAS_BIAS: u32 = 1;
const HAS_GATE: u32 = 2;
const HAS_RESIDUAL: u32 = 4;
const HAS_C: u32 = 16;
const HAS_PREACTIVATION: u32 = 32;
const INTERLEAVED: u32 = 64;
const HAS_SCALE_A: u32 = 128;
const HAS_SCALE_B: u32 = 256;
const A_BY_K: u32 = 512;
const B_BY_K: u32 = 1024;
const SCALE_GIVEN: u32 = 2048;
const SCALE_FOUND: u32 = 4096;
const WIDE_A: u32 = 8192;
const WIDE_B: u32 = 16384;
const INDEX_A: u32 = 32768;
const INDEX_B: u32 = 65536;

/// Counting, where sizes lie in device memory, then the tiles of a span.
pub(super) fn product(
    op: &CheckedOp,
    matmul: &Matmul,
    class: &Class,
    kernel: &str,
    span: Span,
) -> Vec<Dispatch> {
    let p = Product::of(op, matmul, class);
    let [tm, tn] = p.tile;
    let k = [span.from, span.to].map(|link| (link * p.link_k).min(p.k));
    let area = variant(kernel).map_or(PLAIN, |v| u64::from(v.tile[0]) * u64::from(v.tile[1]));
    let workgroups = span.tiles * (tm * tn) / area;
    let last = if k[1] == p.k { LAST } else { 0 };
    let (out, a) = (op.spec("out"), op.spec("a"));
    let shift = |scale| if scale == Scale::Block128x128 { 7 } else { 0 };
    let room = match matmul.group {
        Group::K => a.map_or(0, |a| a.layout.shape()[1]),
        _ => p.m,
    };
    let max = match matmul.sizes {
        Lens::Device { max } => u64::from(max),
        _ => 0,
    };
    let largest = match out.map(|out| out.dtype) {
        Some(DType::F8E4M3) => 448.0,
        Some(DType::F8E5M2) => 57344.0,
        _ => 127.0,
    };
    let mut params = Words::default();
    params.put(&[p.m, p.n, k[0], k[1], tm, tn, p.tiles_n, p.tiles_m * p.tiles_n]);
    params.put(&[span.first, workgroups, (flags(matmul) | wide(op) | last).into()]);
    params.put(&[matmul.activation as u64]);
    params.float(matmul.alpha);
    params.float(matmul.beta);
    params.put(&[p.across, matmul.group as u64, p.groups, max, room]);
    params.put(&[shift(matmul.scales[0]), shift(matmul.scales[1])]);
    params.put(&[op.spec("scale_out").map_or(0, base)]);
    params.float(largest);
    params.put(&[0]);
    params.put(&op.spec("sizes").map_or([0; 2], |sizes| [base(sizes), strides(sizes)[0]]));
    let matrices = |side, named| match op.spec(side) {
        Some(spec) if named => spec.layout.shape()[0],
        _ => 0,
    };
    params.put(&[matrices("a", matmul.index_a), matrices("b", matmul.index_b)]);
    let batch = out.map(|out| *out.layout.shape()).unwrap_or_default();
    params.put(&four(&batch[..batch.rank().saturating_sub(2)], 1));
    for name in ["a", "b", "bias", "c", "gate", "residual"] {
        matrix(&mut params, op.spec(name));
    }
    scales(&mut params, op.spec("scale_a"), matmul.scales[0], true);
    scales(&mut params, op.spec("scale_b"), matmul.scales[1], false);
    for index in ["a_index", "b_index"] {
        let steps = op.spec(index).map(strides).unwrap_or_default();
        params.view(op.spec(index), &four(&steps, 0));
    }
    for name in ["out", "preactivation", "out_scale"] {
        matrix(&mut params, op.spec(name));
    }
    let dispatch = |entry| {
        let counts = variant(kernel).is_none() && entry == COUNT;
        let workgroups = if counts { 1 } else { workgroups };
        Dispatch { entry, workgroups, params: params.clone(), cut: true }
    };
    entries(op, matmul, kernel).into_iter().map(dispatch).collect()
}

/// The entry points of a product, in their order.
pub(super) fn entries(op: &CheckedOp, matmul: &Matmul, kernel: &str) -> Vec<usize> {
    if variant(kernel).is_some() {
        return vec![0];
    }
    let tiles = if op.spec("a").is_some_and(|a| a.dtype.size() == 1) { BYTES } else { FLOATS };
    if matmul.sizes.on_device() { vec![COUNT, tiles] } else { vec![tiles] }
}

/// What the pipeline of a staged kernel is made for: which way the elements of A and B lie side by side.
pub(super) fn constants(op: &CheckedOp) -> [(&'static str, u32); 2] {
    let along = |name, axis: usize| op.spec(name).is_some_and(|spec| lies(spec) == axis);
    [("ALONG_A", along("a", 1).into()), ("ALONG_B", along("b", 0).into())]
}

/// The axis of the matrix, 0 of its rows or 1, along which elements lie side by side, or as near as they do.
fn lies(spec: &Spec) -> usize {
    let steps = strides(spec);
    match steps[steps.len().saturating_sub(2)..] {
        [down, across] if down == 1 && across != 1 => 0,
        _ => 1,
    }
}

/// Of A and B: whether sixteen bytes that lie side by side begin at a multiple of sixteen.
fn wide(op: &CheckedOp) -> u32 {
    let whole = |name| {
        op.spec(name).is_some_and(|spec| {
            let (steps, per) = (strides(spec), 16 / spec.dtype.size());
            let near = steps.len().saturating_sub(2) + lies(spec);
            let others = steps.iter().enumerate().filter(|&(axis, _)| axis != near);
            steps.get(near) == Some(&1)
                && base(spec).is_multiple_of(per)
                && others.map(|(_, step)| step).all(|step| step.is_multiple_of(per))
        })
    };
    [("a", WIDE_A), ("b", WIDE_B)].iter().filter(|(name, _)| whole(*name)).map(|(_, f)| f).sum()
}

fn flags(op: &Matmul) -> u32 {
    let by_k = |scale| matches!(scale, Scale::Block1x128 | Scale::Block128x128);
    let [of_a, of_b] = op.scales;
    let flags = [
        (op.bias, HAS_BIAS),
        (op.gate == Gate::Tensor, HAS_GATE),
        (op.residual, HAS_RESIDUAL),
        (op.beta != 0.0, HAS_C),
        (op.preactivation, HAS_PREACTIVATION),
        (op.gate == Gate::Interleaved, INTERLEAVED),
        (of_a != Scale::None, HAS_SCALE_A),
        (of_b != Scale::None, HAS_SCALE_B),
        (by_k(of_a), A_BY_K),
        (by_k(of_b), B_BY_K),
        (op.quantize == Scale::Tensor, SCALE_GIVEN),
        (op.quantize == Scale::Block1x128, SCALE_FOUND),
        (op.index_a, INDEX_A),
        (op.index_b, INDEX_B),
    ];
    flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum()
}

/// A view of matrices: strides of up to four axes of the batch, then of rows and columns.
fn matrix(params: &mut Words, spec: Option<&Spec>) {
    let steps = spec.map(strides).unwrap_or_default();
    let lead = steps.len().saturating_sub(2);
    params.view(spec, &[&four(&steps[..lead], 0), &steps[lead..]].concat());
}

/// A view of scales: as of matrices, where a scale steps by rows, columns, or runs of k.
fn scales(params: &mut Words, spec: Option<&Spec>, scale: Scale, of_a: bool) {
    match (spec, scale) {
        (Some(spec), Scale::Tensor) => params.view(Some(spec), &[]),
        (Some(of_row), Scale::Row) => {
            let steps = strides(of_row);
            let (last, lead) =
                steps.split_last().map_or((0, &[][..]), |(&last, lead)| (last, lead));
            let own = if of_a { [last, 0] } else { [0, last] };
            params.view(spec, &[&four(lead, 0)[..], &own].concat());
        }
        _ => matrix(params, spec),
    }
}

/// Up to four numbers at the right end of four.
fn four(list: &[u64], fill: u64) -> [u64; 4] {
    let mut out = [fill; 4];
    out.iter_mut().rev().zip(list.iter().rev()).for_each(|(slot, &v)| *slot = v);
    out
}

/// The table of groups; room for it where sizes lie in device memory.
pub(super) fn made(op: &CheckedOp, matmul: &Matmul, class: &Class) -> Vec<u32> {
    let p = Product::of(op, matmul, class);
    let Lens::Host(sizes) = &matmul.sizes else {
        let room = if p.groups == 0 { 0 } else { p.groups as usize + 1 };
        return vec![0; 3 * room];
    };
    let rows = p.m as u32;
    let (mut words, mut first, mut tile) = (Vec::new(), 0, 0);
    for &size in sizes {
        words.extend([first, size, tile]);
        first += if matmul.group == Group::Masked { 0 } else { size };
        tile += size.div_ceil(p.tile[0] as u32);
    }
    if matmul.group == Group::Contiguous {
        words.extend([first, rows - first, tile]);
    }
    words
}
