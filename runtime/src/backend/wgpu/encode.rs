//! Turns a span of a plan into dispatches: entry point, workgroups and uniform words, in the order of the structs
//! of the shaders. Pure; `mod` hands the result to the stream.

use super::plan::{ALIGN, Class, Heads, Product, Rows};
use crate::dtype::DType;
use crate::layout::MAX_RANK;
use crate::op::{Attention, CheckedOp, Gather, Map, Mask, Matmul, Norm, NormKind, Op, Spec};
use crate::order::Span;

/// Rows whose statistics the scratch buffer holds.
pub(super) const STATS_ROWS: u64 = 1 << 16;
/// Words of the largest parameter struct.
pub(super) const PARAM_WORDS: usize = 128;
/// Pairs of elements that a workgroup of an elementwise kernel takes, and of a row kernel's write.
const PAIRS: u64 = 256;
const ROW_PAIRS: u64 = 64;
/// Rows and columns of a workgroup of `matmul`; query rows of one of `attention`.
const SIDE: u64 = 32;
const QUERIES: u64 = 4;
/// Set in the flags of `matmul` and `attention` when a tile's last link runs.
const LAST: u32 = 8;

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dispatch {
    /// Index among the shader's entry points.
    pub(super) entry: usize,
    /// Workgroups in all; the grid is folded to two dimensions where one is too short.
    pub(super) workgroups: u64,
    /// The uniform parameters.
    pub(super) params: Words,
    /// Whether row statistics are those of a cut row, kept in the plan's state.
    pub(super) cut: bool,
}

/// Uniform words in the making.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Words(Vec<u32>);

impl Words {
    fn put(&mut self, words: &[u64]) {
        // The plan held every count to 32 bits.
        self.0.extend(words.iter().map(|&w| w as u32));
    }

    fn float(&mut self, x: f32) {
        self.0.push(x.to_bits());
    }

    /// A `View`: the operand's kind, the place of its first element in its binding, and strides by slot.
    fn view(&mut self, spec: Option<&Spec>, strides: &[u64]) {
        let Some(spec) = spec else { return self.0.extend([0; 12]) };
        self.put(&[spec.dtype as u64, base(spec), 0, 0]);
        let slots = (0..8).map(|i| strides.get(i).copied().unwrap_or(0));
        self.put(&slots.collect::<Vec<_>>());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The element of its binding that an operand's first is: bindings begin at multiples of [`ALIGN`].
fn base(spec: &Spec) -> u64 {
    u64::from(spec.offset_class) % ALIGN / spec.dtype.size()
}

/// Whether the first element is the upper half of a word.
fn phase(spec: &Spec, element: u64) -> u64 {
    if spec.dtype.size() == 2 { (base(spec) + element) % 2 } else { 0 }
}

/// Strides, with 0 for axes that never step: theirs may be any number.
fn strides(spec: &Spec) -> Vec<u64> {
    let pairs = spec.layout.shape().iter().zip(spec.layout.strides().iter());
    pairs.map(|(&n, &s)| if n > 1 { s } else { 0 }).collect()
}

/// The dispatches of a span.
pub(super) fn dispatches(op: &CheckedOp, class: &Class, span: Span) -> Vec<Dispatch> {
    match op.op() {
        Op::Matmul(matmul) => vec![product(op, matmul, class, span)],
        Op::Attention(attention) => vec![heads(op, attention, class, span)],
        Op::Norm(_) | Op::Softmax(_) | Op::Reduce(_) => rows(op, class, span),
        _ => elements(op, class, span).into_iter().collect(),
    }
}

/// Axes that all views step through alike are one axis; axes of one element are none.
fn collapse(shape: &[u64], views: &mut [Vec<u64>]) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    let mut kept: Vec<Vec<u64>> = vec![Vec::new(); views.len()];
    for (axis, &n) in shape.iter().enumerate().filter(|&(_, &n)| n != 1) {
        let fuses = !out.is_empty()
            && views
                .iter()
                .zip(&kept)
                .all(|(view, kept)| kept.last().copied() == view[axis].checked_mul(n));
        match out.last_mut() {
            Some(last) if fuses => *last *= n,
            _ => out.push(n),
        }
        for (kept, view) in kept.iter_mut().zip(views.iter()) {
            if fuses {
                kept.pop();
            }
            kept.push(view[axis]);
        }
    }
    views.iter_mut().zip(kept).for_each(|(view, kept)| *view = kept);
    out
}

fn elements(op: &CheckedOp, class: &Class, span: Span) -> Option<Dispatch> {
    let out = op.spec("out")?;
    let total = out.layout.numel() as u64;
    let first = span.first * class.elements;
    let count = (span.tiles * class.elements).min(total - first);
    let mut params = Words::default();
    let range = |params: &mut Words, shape: &[u64]| {
        params.put(&[first, count, phase(out, 0), shape.len() as u64]);
        let sizes = (0..8).map(|i| shape.get(i).copied().unwrap_or(1));
        params.put(&sizes.collect::<Vec<_>>());
    };
    let shape = out.layout.shape();
    match op.op() {
        Op::Gather(Gather { .. }) => {
            let (table, index) = (op.spec("table")?, op.spec("index")?);
            let (table_strides, index_strides) = (strides(table), strides(index));
            let inner = table_strides.get(1..).unwrap_or_default();
            let mut views = [
                [&vec![0; index_strides.len()], inner].concat(),
                [&index_strides[..], &vec![0; inner.len()]].concat(),
                strides(out),
            ];
            let shape = collapse(shape, &mut views);
            range(&mut params, &shape);
            params.put(&[table.layout.shape()[0], table_strides[0], 0, 0]);
            params.view(Some(table), &views[0]);
            params.view(Some(index), &views[1]);
            params.view(Some(out), &views[2]);
        }
        Op::Map(Map { function, scale, shift }) => {
            let x = op.spec("x")?;
            let y = op.spec("y").unwrap_or(x);
            let mut views = [strides(x), strides(y), strides(out)];
            let shape = collapse(shape, &mut views);
            range(&mut params, &shape);
            params.put(&[*function as u64]);
            params.float(*scale);
            params.float(*shift);
            params.put(&[0]);
            params.view(Some(x), &views[0]);
            params.view(Some(y), &views[1]);
            params.view(Some(out), &views[2]);
        }
        _ => {
            let x = op.spec("x")?;
            let mut views = [strides(x), strides(out)];
            let shape = collapse(shape, &mut views);
            range(&mut params, &shape);
            params.view(Some(x), &views[0]);
            params.view(Some(out), &views[1]);
        }
    }
    let workgroups = (count / 2 + 1).div_ceil(PAIRS);
    Some(Dispatch { entry: 0, workgroups, params, cut: false })
}

/// Statistics, then the write, of whole rows in runs that the scratch holds, or of the links of one row.
fn rows(op: &CheckedOp, class: &Class, span: Span) -> Vec<Dispatch> {
    let r = Rows::of(op, class);
    let end = ((span.first + span.tiles) * r.per_tile).min(r.count);
    let start = span.first * r.per_tile;
    let whole = r.chunks == 1 || (span.from == 0 && span.to == r.fold_links + r.write_links);
    if !whole {
        return row_links(op, class, &r, start, 1, [span.from, span.to], true);
    }
    let links = [0, r.fold_links + r.write_links];
    (start..end)
        .step_by(STATS_ROWS as usize)
        .flat_map(|first| {
            let count = STATS_ROWS.min(end - first);
            row_links(op, class, &r, first, count, links, false)
        })
        .collect()
}

fn row_links(
    op: &CheckedOp,
    class: &Class,
    r: &Rows,
    first: u64,
    count: u64,
    [from, to]: [u64; 2],
    cut: bool,
) -> Vec<Dispatch> {
    let fold = [from.min(r.fold_links), to.min(r.fold_links)];
    let write = [from, to].map(|link| link.saturating_sub(r.fold_links));
    let column = write[0] * class.row_chunk;
    let columns = (write[1] * class.row_chunk).min(r.n).saturating_sub(column);
    // A reduction writes one element a row, after its last fold.
    let written = match r.write_links {
        0 if to == r.fold_links => count,
        0 => 0,
        _ => count * columns,
    };
    let params = row_params(op, class, r, [first, count], fold, [column, columns]);
    let mut out = Vec::new();
    if fold[1] > fold[0] {
        out.push(Dispatch { entry: 0, workgroups: count, params: params.clone(), cut });
    }
    if written > 0 {
        let workgroups = (written / 2 + 1).div_ceil(ROW_PAIRS);
        out.push(Dispatch { entry: 1, workgroups, params, cut });
    }
    out
}

fn row_params(
    op: &CheckedOp,
    class: &Class,
    r: &Rows,
    [first, count]: [u64; 2],
    fold: [u64; 2],
    [column, columns]: [u64; 2],
) -> Words {
    let mut params = Words::default();
    let (Some(x), Some(out)) = (op.spec("x"), op.spec("out")) else { return params };
    let reduces = r.write_links == 0;
    let mut views = [strides(x), strides(out)];
    let x_step = views[0].pop().unwrap_or(0);
    let out_step = if reduces { 0 } else { views[1].pop().unwrap_or(0) };
    let shape = x.layout.shape();
    let outer = collapse(&shape[..shape.rank() - 1], &mut views);
    let element = if reduces { first } else { first.wrapping_mul(r.n).wrapping_add(column) };
    params.put(&[first, count, r.n, class.row_chunk, r.chunks, fold[0], fold[1]]);
    params.put(&[outer.len() as u64, column, columns, phase(out, element), 0]);
    params.put(&(0..8).map(|i| outer.get(i).copied().unwrap_or(1)).collect::<Vec<_>>());
    match op.op() {
        Op::Norm(Norm { kind, epsilon, weight, bias }) => {
            params.put(&[(*kind == NormKind::Layer).into()]);
            params.float(*epsilon);
            params.put(&[(*weight).into(), (*bias).into()]);
        }
        Op::Softmax(softmax) => {
            params.float(softmax.scale);
            params.put(&[0; 3]);
        }
        Op::Reduce(reduce) => params.put(&[reduce.function as u64, 0, 0, 0]),
        _ => {}
    }
    // Outer axes are at most MAX_RANK - 1; the row's own step has the last slot.
    let slots = |outer: &[u64], step: u64| {
        let mut slots = [0; 8];
        slots.iter_mut().zip(outer.iter().take(MAX_RANK)).for_each(|(slot, &s)| *slot = s);
        slots[7] = step;
        slots
    };
    params.view(Some(x), &slots(&views[0], x_step));
    if matches!(op.op(), Op::Norm(_)) {
        for name in ["weight", "bias"] {
            let spec = op.spec(name);
            params.view(spec, &slots(&[], spec.map_or(0, |s| strides(s)[0])));
        }
    }
    params.view(Some(out), &slots(&views[1], out_step));
    params
}

fn product(op: &CheckedOp, matmul: &Matmul, class: &Class, span: Span) -> Dispatch {
    let p = Product::of(op, class);
    let [tm, tn] = class.tile;
    let k = [span.from, span.to].map(|link| (link * p.link_k).min(p.k));
    let workgroups = span.tiles * (tm / SIDE) * (tn / SIDE);
    let has = |name, flag: u32| if op.spec(name).is_some() { flag } else { 0 };
    let last = if k[1] == p.k { LAST } else { 0 };
    let flags = has("bias", 1) | has("gate", 2) | has("residual", 4) | last;
    let mut params = Words::default();
    params.put(&[p.m, p.n, k[0], k[1], tm, tn, p.tiles_n, p.tiles_m * p.tiles_n]);
    params.put(&[span.first, workgroups, flags.into(), matmul.activation as u64]);
    params.float(matmul.alpha);
    params.put(&[0; 3]);
    let batch = op.spec("out").map(|out| *out.layout.shape()).unwrap_or_default();
    let lead = batch.rank().saturating_sub(2);
    params.put(&four(&batch[..lead], 1));
    for name in ["a", "b", "bias", "gate", "residual", "out"] {
        let spec = op.spec(name);
        let steps = spec.map(strides).unwrap_or_default();
        let lead = steps.len().saturating_sub(2);
        params.view(spec, &[&four(&steps[..lead], 0), &steps[lead..]].concat());
    }
    Dispatch { entry: 0, workgroups, params, cut: true }
}

/// Up to four numbers at the right end of four.
fn four(list: &[u64], fill: u64) -> [u64; 4] {
    let mut out = [fill; 4];
    out.iter_mut().rev().zip(list.iter().rev()).for_each(|(slot, &v)| *slot = v);
    out
}

fn heads(op: &CheckedOp, attention: &Attention, class: &Class, span: Span) -> Dispatch {
    let a = Heads::of(op, class);
    let chunks = [span.from, span.to].map(|link| (link * a.per_link).min(a.chunks));
    let workgroups = span.tiles * (class.query_rows / QUERIES);
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let flags = flag(attention.causal, 1)
        | flag(attention.mask == Mask::Additive, 2)
        | flag(attention.log_sum_exp, 4)
        | flag(chunks[1] == a.chunks, LAST);
    let mut params = Words::default();
    params.put(&[a.heads, a.group, a.rows, a.d, a.dv]);
    params.float(attention.scale);
    params.put(&[flags.into(), class.query_rows, a.tiles, span.first, workgroups]);
    params.put(&[chunks[0], chunks[1], 0, 0, 0]);
    for name in ["q", "k", "v", "mask", "out", "lse"] {
        let spec = op.spec(name);
        params.view(spec, &spec.map(strides).unwrap_or_default());
    }
    Dispatch { entry: 0, workgroups, params, cut: true }
}

/// The element type that a shader's `KIND` is set to.
pub(super) fn kind(op: &CheckedOp) -> DType {
    op.specs().first().map_or(DType::F32, |spec| spec.dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_step_alike_are_one() {
        let mut views = [vec![24, 4, 9, 1], vec![24, 4, 9, 1]];
        assert_eq!(collapse(&[2, 6, 1, 4], &mut views), [48]);
        assert_eq!(views, [[1], [1]]);
        let mut views = [vec![24, 4, 1], vec![0, 4, 1]];
        assert_eq!(collapse(&[2, 6, 4], &mut views), [2, 24]);
        assert_eq!(views, [[24, 1], [0, 1]]);
        assert_eq!(collapse(&[], &mut [vec![], vec![]]), [0; 0]);
    }
}
