//! Row kernels: norm, softmax and reduce. A row is folded chunk by chunk, left to right; a chunk in sixteen
//! lanes, then the lanes in order. Long rows are cut into links of one chunk and carry two f32 of state.

use super::geometry::rows_per_tile;
use super::isa::{Isa, Kernel, fma};
use super::math;
use super::memory::View;
use super::plan::{ROW_CHUNK, Span, passes};
use super::pool::Pool;
use super::scratch::with_rows;
use crate::op::{CheckedOp, Norm, NormKind, Op, Reduce, ReduceFn, Softmax};

/// Lanes of a chunk's partial results: one AVX-512 register, in every class.
const LANES: usize = 16;

/// A fold of a chunk to one value.
#[derive(Clone, Copy)]
pub(super) enum Fold {
    /// Sum of `x`.
    Sum,
    /// Sum of `(x - a)^2`.
    Squares(f32),
    /// Sum of `e^(x - a)`.
    Exps(f32),
    /// Largest, NaN if any is.
    Max,
    /// Smallest, NaN if any is.
    Min,
}

pub(super) struct FoldChunk<'a>(pub(super) Fold, pub(super) &'a [f32]);

impl Kernel for FoldChunk<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<const F: bool>(self) -> f32 {
        let x = self.1;
        match self.0 {
            Fold::Sum => lanes(x, 0.0, |a, v| a + v, |a, b| a + b),
            Fold::Squares(m) => lanes(x, 0.0, |a, v| fma::<F>(v - m, v - m, a), |a, b| a + b),
            Fold::Exps(m) => lanes(x, 0.0, |a, v| a + math::exp::<F>(v - m), |a, b| a + b),
            Fold::Max => lanes(x, f32::NEG_INFINITY, math::max, math::max),
            Fold::Min => lanes(x, f32::INFINITY, math::min, math::min),
        }
    }
}

#[inline(always)]
fn lanes(
    x: &[f32],
    zero: f32,
    add: impl Fn(f32, f32) -> f32,
    merge: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut acc = [zero; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for v in whole {
        for i in 0..LANES {
            acc[i] = add(acc[i], v[i]);
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *a = add(*a, *v);
    }
    acc.into_iter().fold(zero, merge)
}

/// The write of a chunk: `e^(x - a) * b` or `(x - a) * b * weight + bias`.
enum Write<'a> {
    Exp { max: f32, inverse: f32 },
    Affine { mean: f32, scale: f32, weight: Option<&'a [f32]>, bias: Option<&'a [f32]> },
}

struct WriteChunk<'a>(Write<'a>, &'a mut [f32]);

impl Kernel for WriteChunk<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let x = self.1;
        match self.0 {
            Write::Exp { max, inverse } => {
                x.iter_mut().for_each(|v| *v = math::exp::<F>(*v - max) * inverse);
            }
            Write::Affine { mean, scale, weight, bias } => {
                x.iter_mut().for_each(|v| *v = (*v - mean) * scale);
                if let Some(weight) = weight {
                    x.iter_mut().zip(weight).for_each(|(v, w)| *v *= w);
                }
                if let Some(bias) = bias {
                    x.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
                }
            }
        }
    }
}

struct Scale<'a>(f32, &'a mut [f32]);

impl Kernel for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let (scale, x) = (self.0, self.1);
        x.iter_mut().for_each(|v| *v *= scale);
    }
}

/// A row op on its operands.
pub(super) struct Rows<'a> {
    pub(super) isa: Isa,
    pub(super) op: &'a CheckedOp,
    pub(super) views: &'a [View],
    /// Two f32 that a cut row carries.
    pub(super) state: Option<View>,
}

impl Rows<'_> {
    fn view(&self, name: &str) -> Option<&View> {
        self.op.position(name).map(|i| &self.views[i])
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        let (Some(x), Some(out)) = (self.view("x"), self.view("out")) else { return };
        let n = x.row_len();
        let rows: u64 = x.shape[..x.outer_axes()].iter().product();
        let per_tile = rows_per_tile(n);
        pool.run(span.tiles, item_ns, |i| {
            let first = (span.first + i) * per_tile;
            for row in first..(first + per_tile).min(rows) {
                self.row(x, out, row, span.from, span.to);
            }
        });
    }

    /// Links `from..to` of one row; a short row has one link, which is all its passes.
    fn row(&self, x: &View, out: &View, row: u64, from: u64, to: u64) {
        let chunks = x.row_len().div_ceil(ROW_CHUNK).max(1);
        let passes = passes(self.op.op());
        let (from, to) = if chunks == 1 { (0, passes) } else { (from, to) };
        let mut carried = match (&self.state, from) {
            (Some(state), 1..) => {
                let mut pair = [0.0; 2];
                state.load(self.isa, 0, 1, &mut pair);
                pair
            }
            _ => [0.0; 2],
        };
        for link in from..to {
            let (pass, chunk) = (link / chunks, link % chunks);
            with_rows(|[buffer, extra]| {
                self.chunk(x, out, row, [pass, chunk, chunks], &mut carried, [buffer, extra]);
            });
        }
        if let (Some(state), true) = (&self.state, to < passes * chunks) {
            state.store(self.isa, 0, 1, &carried);
        }
    }

    fn chunk(
        &self,
        x: &View,
        out: &View,
        row: u64,
        [pass, chunk, chunks]: [u64; 3],
        carried: &mut [f32; 2],
        [buffer, extra]: [&mut Vec<f32>; 2],
    ) {
        let n = x.row_len();
        let start = chunk * ROW_CHUNK;
        let len = ROW_CHUNK.min(n - start.min(n));
        let at = x.outer_offset(row, x.outer_axes()) + start * x.row_stride();
        buffer.resize(len as usize, 0.0);
        x.load(self.isa, at, x.row_stride(), buffer);
        let last = chunk + 1 == chunks;
        let fold = |fold, x: &[f32]| self.isa.run(FoldChunk(fold, x));
        match self.op.op() {
            Op::Reduce(Reduce { function, .. }) => {
                let kind = match function {
                    ReduceFn::Sum | ReduceFn::Mean => Fold::Sum,
                    ReduceFn::Max => Fold::Max,
                    ReduceFn::Min => Fold::Min,
                };
                let part = fold(kind, buffer);
                carried[0] = match (chunk, function) {
                    (0, _) => part,
                    (_, ReduceFn::Max) => math::max(carried[0], part),
                    (_, ReduceFn::Min) => math::min(carried[0], part),
                    _ => carried[0] + part,
                };
                if last {
                    let mean = *function == ReduceFn::Mean && n > 0;
                    let y = if mean { carried[0] / n as f32 } else { carried[0] };
                    out.store(self.isa, out.outer_offset(row, out.shape.rank()), 1, &[y]);
                }
            }
            Op::Softmax(Softmax { scale, .. }) => {
                self.isa.run(Scale(*scale, buffer));
                if pass == 0 {
                    softmax_statistics(fold, buffer, chunk, carried);
                    return;
                }
                let [max, sum] = *carried;
                let inverse = if sum > 0.0 || sum.is_nan() { 1.0 / sum } else { 0.0 };
                self.isa.run(WriteChunk(Write::Exp { max: finite(max), inverse }, buffer));
                self.write(out, row, start, buffer);
            }
            Op::Norm(op) => {
                if pass + 1 < passes(self.op.op()) {
                    norm_statistics(fold, op, buffer, [pass, chunk], last, n, carried);
                    return;
                }
                self.norm_write(op, out, row, start, *carried, [buffer, extra]);
            }
            _ => {}
        }
    }

    fn norm_write(
        &self,
        op: &Norm,
        out: &View,
        row: u64,
        start: u64,
        [mean, squares]: [f32; 2],
        [buffer, extra]: [&mut Vec<f32>; 2],
    ) {
        let n = out.row_len() as f32;
        let scale = 1.0 / (squares / n + op.epsilon).sqrt();
        let len = buffer.len();
        extra.resize(2 * len, 0.0);
        let (weight, bias) = extra.split_at_mut(len);
        for (view, row) in [(self.view("weight"), &mut *weight), (self.view("bias"), &mut *bias)] {
            if let Some(view) = view {
                view.load(self.isa, start * view.row_stride(), view.row_stride(), row);
            }
        }
        let (weight, bias) = (op.weight.then_some(&*weight), op.bias.then_some(&*bias));
        self.isa.run(WriteChunk(Write::Affine { mean, scale, weight, bias }, buffer));
        self.write(out, row, start, buffer);
    }

    fn write(&self, out: &View, row: u64, start: u64, data: &[f32]) {
        let at = out.outer_offset(row, out.outer_axes()) + start * out.row_stride();
        out.store(self.isa, at, out.row_stride(), data);
    }
}

/// Negative infinity, a row without anything visible, becomes a shift that keeps every exponential 0.
fn finite(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// Running maximum and sum: `carried = [max, sum]`.
fn softmax_statistics(
    fold: impl Fn(Fold, &[f32]) -> f32,
    x: &[f32],
    chunk: u64,
    carried: &mut [f32; 2],
) {
    let part = fold(Fold::Max, x);
    let max = if chunk == 0 { part } else { math::max(carried[0], part) };
    let sum = fold(Fold::Exps(finite(max)), x);
    let old = if chunk == 0 {
        0.0
    } else if carried[0] == max {
        carried[1]
    } else {
        carried[1] * math::exp::<false>(carried[0] - finite(max))
    };
    *carried = [max, old + sum];
}

/// Mean, then squares about it: `carried = [mean, squares]`; RMS has mean 0.
fn norm_statistics(
    fold: impl Fn(Fold, &[f32]) -> f32,
    op: &Norm,
    x: &[f32],
    [pass, chunk]: [u64; 2],
    last: bool,
    n: u64,
    carried: &mut [f32; 2],
) {
    if pass == 0 && op.kind == NormKind::Layer {
        carried[0] += fold(Fold::Sum, x);
        if last {
            carried[0] /= n as f32;
        }
        return;
    }
    let part = fold(Fold::Squares(carried[0]), x);
    carried[1] = if chunk == 0 { part } else { carried[1] + part };
}
