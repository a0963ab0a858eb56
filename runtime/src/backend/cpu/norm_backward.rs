//! The gradient of a norm: statistics of x, then sums of the gradient, then the write, chunk by chunk. Long rows are
//! cut into links of one chunk of one pass and carry four f32. `compute` calls it.

use super::geometry::backward_rows;
use super::isa::{Isa, Kernel, fma};
use super::memory::View;
use super::plan::{BACKWARD_CHUNK, Span, passes};
use super::pool::Pool;
use super::rows::{Fold, FoldChunk};
use super::scratch::with_rows;
use crate::op::{CheckedOp, NormBackward, NormKind, Op};

/// What a row has come to: mean and squares of x, then sums of `g` and of `g y`.
#[derive(Clone, Copy, Default)]
struct Sums {
    mean: f32,
    squares: f32,
    g: f32,
    gy: f32,
}

/// The gradient on its operands.
pub(super) struct Gradient<'a> {
    isa: Isa,
    op: &'a NormBackward,
    passes: u64,
    x: &'a View,
    weight: Option<&'a View>,
    d_out: &'a View,
    d_x: &'a View,
    terms: &'a View,
    state: Option<&'a View>,
}

impl<'a> Gradient<'a> {
    pub(super) fn new(
        isa: Isa,
        checked: &'a CheckedOp,
        views: &'a [View],
        state: Option<&'a View>,
    ) -> Option<Self> {
        let Op::NormBackward(op) = checked.op() else { return None };
        let view = |name| checked.position(name).map(|i| &views[i]);
        Some(Self {
            isa,
            op,
            passes: passes(checked.op()),
            x: view("x")?,
            weight: view("weight"),
            d_out: view("d_out")?,
            d_x: view("d_x")?,
            terms: view("terms")?,
            state,
        })
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        let rows: u64 = self.x.shape[..self.x.outer_axes()].iter().product();
        let per_tile = backward_rows(self.x.row_len());
        pool.run(span.tiles, item_ns, |i| {
            let first = (span.first + i) * per_tile;
            for row in first..(first + per_tile).min(rows) {
                self.row(row, span.from, span.to);
            }
        });
    }

    /// Links `from..to` of one row; a short row has one link, which is all its passes.
    fn row(&self, row: u64, from: u64, to: u64) {
        let chunks = self.x.row_len().div_ceil(BACKWARD_CHUNK).max(1);
        let links = self.passes * chunks;
        let (from, to) = if chunks == 1 { (0, links) } else { (from, to) };
        let mut sums = Sums::default();
        if let (Some(state), 1..) = (self.state, from) {
            let mut all = [0.0; 4];
            state.load(self.isa, 0, 1, &mut all);
            let [mean, squares, g, gy] = all;
            sums = Sums { mean, squares, g, gy };
        }
        for link in from..to {
            with_rows(|[x, rest]| self.chunk(row, link, chunks, &mut sums, [x, rest]));
        }
        if let (Some(state), true) = (self.state, to < links) {
            state.store(self.isa, 0, 1, &[sums.mean, sums.squares, sums.g, sums.gy]);
        }
    }

    fn chunk(
        &self,
        row: u64,
        link: u64,
        chunks: u64,
        sums: &mut Sums,
        [x, rest]: [&mut Vec<f32>; 2],
    ) {
        let (pass, chunk) = (link / chunks, link % chunks);
        let n = self.x.row_len();
        let start = chunk * BACKWARD_CHUNK;
        let len = BACKWARD_CHUNK.min(n - start) as usize;
        let at =
            |view: &View| view.outer_offset(row, view.outer_axes()) + start * view.row_stride();
        x.resize(len, 0.0);
        self.x.load(self.isa, at(self.x), self.x.row_stride(), x);
        let fold = |fold, x: &[f32]| self.isa.run(FoldChunk(fold, x));
        // The mean is a pass of its own, which RMS has not.
        let layer = u64::from(self.op.kind == NormKind::Layer);
        if pass < layer {
            sums.mean += fold(Fold::Sum, x);
            if chunk + 1 == chunks {
                sums.mean /= n as f32;
            }
            return;
        }
        if pass == layer {
            sums.squares += fold(Fold::Squares(sums.mean), x);
            return;
        }
        rest.resize(2 * len, 0.0);
        let (d_out, weight) = rest.split_at_mut(len);
        self.d_out.load(self.isa, at(self.d_out), self.d_out.row_stride(), d_out);
        match self.weight {
            Some(view) => view.load(self.isa, start * view.row_stride(), view.row_stride(), weight),
            None => weight.fill(1.0),
        }
        let scale = 1.0 / (sums.squares / n as f32 + self.op.epsilon).sqrt();
        if pass == layer + 1 {
            self.isa.run(Along { mean: sums.mean, scale, x: &mut *x, d_out: &mut *d_out, weight });
            sums.g += fold(Fold::Sum, d_out);
            sums.gy += fold(Fold::Sum, x);
            return;
        }
        let shift = if layer == 1 { sums.g / n as f32 } else { 0.0 };
        let along = sums.gy / n as f32;
        let factors = [sums.mean, scale, shift, along];
        self.isa.run(Write { factors, x: &mut *x, d_out: &mut *d_out, weight });
        self.d_x.store(self.isa, at(self.d_x), self.d_x.row_stride(), x);
        self.terms.store(self.isa, at(self.terms), self.terms.row_stride(), d_out);
    }
}

/// `d_out` becomes `g`, `x` becomes `g y`.
struct Along<'a> {
    mean: f32,
    scale: f32,
    x: &'a mut [f32],
    d_out: &'a mut [f32],
    weight: &'a [f32],
}

impl Kernel for Along<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { mean, scale, x, d_out, weight } = self;
        for ((x, d), w) in x.iter_mut().zip(d_out).zip(weight) {
            *d *= w;
            *x = (*x - mean) * scale * *d;
        }
    }
}

/// `x` becomes the gradient, `d_out` the terms of the weight's.
struct Write<'a> {
    /// Mean, scale, mean of `g`, mean of `g y`.
    factors: [f32; 4],
    x: &'a mut [f32],
    d_out: &'a mut [f32],
    weight: &'a [f32],
}

impl Kernel for Write<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { factors: [mean, scale, shift, along], x, d_out, weight } = self;
        for ((x, d), w) in x.iter_mut().zip(d_out).zip(weight) {
            let y = (*x - mean) * scale;
            *x = scale * fma::<F>(-y, along, *d * w - shift);
            *d *= y;
        }
    }
}
