//! The product kernel: bands of an output tile, each computed by one thread with the `gemm` crate over fixed
//! chunks of K into an f32 accumulator, then the epilogue while the band is hot.

use super::isa::{Isa, Kernel, fma};
use super::math;
use super::memory::View;
use super::plan::{Product, Span, order};
use super::pool::Pool;
use super::product::{Panel, Target, multiply};
use super::scratch::{with_rows, with_tiles};
use crate::op::{Activation, CheckedOp, Matmul, Op};
use std::ops::Range;

/// A product on its operands.
pub(super) struct Bands<'a> {
    isa: Isa,
    op: &'a Matmul,
    product: Product,
    tile: [u64; 2],
    chunk: u64,
    a: &'a View,
    b: &'a View,
    out: &'a View,
    /// bias, gate, residual
    extra: [Option<&'a View>; 3],
    state: Option<&'a View>,
    batch_axes: usize,
}

/// A band: rows and columns of the output, and the batch entry they belong to.
#[derive(Clone, Copy)]
struct Band {
    entry: u64,
    row: u64,
    rows: u64,
    col: u64,
    cols: u64,
    /// First element of the band in the carried state of its tile.
    state_at: u64,
}

impl<'a> Bands<'a> {
    pub(super) fn new(
        isa: Isa,
        checked: &'a CheckedOp,
        views: &'a [View],
        state: Option<&'a View>,
    ) -> Option<Self> {
        let Op::Matmul(op) = checked.op() else { return None };
        let view = |name| checked.position(name).map(|i| &views[i]);
        let order = order(checked.op(), isa);
        let (a, b, out) = (view("a")?, view("b")?, view("out")?);
        Some(Self {
            isa,
            op,
            product: Product::of(checked, isa),
            tile: order.tile.map(u64::from),
            chunk: order.chunk.into(),
            a,
            b,
            out,
            extra: ["bias", "gate", "residual"].map(view),
            state,
            batch_axes: out.shape.rank() - 2,
        })
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        let bands = self.tile[0].min(self.product.m).div_ceil(self.product.band_rows).max(1);
        pool.run(span.tiles * bands, item_ns / bands, |i| {
            let (tile, band) = (span.first + i / bands, i % bands);
            if let Some(band) = self.band(tile, band) {
                self.links(band, span.from, span.to);
            }
        });
    }

    fn band(&self, tile: u64, band: u64) -> Option<Band> {
        let p = &self.product;
        let band_rows = p.band_rows;
        let per_entry = p.tiles_m * p.tiles_n;
        let (entry, t) = (tile / per_entry, tile % per_entry);
        let (ti, tj) = (t / p.tiles_n, t % p.tiles_n);
        let row = ti * self.tile[0] + band * band_rows;
        let end = (ti * self.tile[0] + self.tile[0]).min(row + band_rows).min(p.m);
        let col = tj * self.tile[1];
        let cols = self.tile[1].min(p.n - col);
        let state_at = band * band_rows * self.tile[1];
        (row < end).then(|| Band { entry, row, rows: end - row, col, cols, state_at })
    }

    /// Links `from..to` of a band: its accumulator from the state or from zero, back to the state or through the
    /// epilogue. Without an epilogue it is summed where the output lies, however the chain is cut.
    fn links(&self, band: Band, from: u64, to: u64) {
        let chunks = self.product.k.div_ceil(self.chunk).max(1);
        let per_link = self.product.per_link;
        let [first, last] = [from, to].map(|link| (link * per_link).min(chunks));
        let ends = to == self.product.links;
        with_tiles(|[acc, a, b, _]| {
            if self.plain() {
                let axes = self.batch_axes;
                let steps = [self.out.strides[axes], self.out.strides[axes + 1]];
                let start = self.start(self.out, band, 0);
                if let Some(mut out) = Target::of(self.out, start, steps, [band.rows, band.cols]) {
                    return self.multiply(band, first..last, &mut out, [a, b]);
                }
            }
            acc.resize((band.rows * band.cols) as usize, 0.0);
            if let (Some(state), 1..) = (self.state, from) {
                state.load(self.isa, band.state_at, 1, acc);
            }
            let cols = band.cols as usize;
            self.multiply(band, first..last, &mut Target::dense(acc, cols, cols), [a, b]);
            match self.state {
                Some(state) if !ends => state.store(self.isa, band.state_at, 1, acc),
                _ => self.epilogue(band, acc),
            }
        });
    }

    /// Whether the sum is the result.
    fn plain(&self) -> bool {
        self.op.alpha == 1.0
            && self.op.activation == Activation::None
            && self.extra.iter().all(Option::is_none)
    }

    /// Element offset of the band's row `row` in a view of the output's shape.
    fn start(&self, view: &View, band: Band, row: u64) -> u64 {
        let axes = self.batch_axes;
        let (rows, cols) = (view.strides[axes], view.strides[axes + 1]);
        view.outer_offset(band.entry, axes) + (band.row + row) * rows + band.col * cols
    }

    /// `target (+)= A[rows, chunks] B[chunks, cols]`, one chunk after the other.
    fn multiply(
        &self,
        band: Band,
        chunks: Range<u64>,
        target: &mut Target<'_>,
        [pa, pb]: [&mut Vec<f32>; 2],
    ) {
        for chunk in chunks {
            let k0 = chunk * self.chunk;
            let depth = self.chunk.min(self.product.k - k0.min(self.product.k));
            let a = self.panel(self.a, band.entry, [band.row, k0], [band.rows, depth], pa);
            let b = self.panel(self.b, band.entry, [k0, band.col], [depth, band.cols], pb);
            multiply(a, b, target, chunk > 0, 1.0);
        }
    }

    fn panel<'b>(
        &self,
        view: &'b View,
        entry: u64,
        at: [u64; 2],
        size: [u64; 2],
        buffer: &'b mut Vec<f32>,
    ) -> Panel<'b> {
        let axes = self.batch_axes;
        let strides = [view.strides[axes], view.strides[axes + 1]];
        let start = view.outer_offset(entry, axes) + at[0] * strides[0] + at[1] * strides[1];
        Panel::of(self.isa, view, start, strides, size, buffer)
    }

    fn epilogue(&self, band: Band, acc: &mut [f32]) {
        let cols = band.cols as usize;
        let plain = self.plain();
        with_rows(|[extra, _]| {
            extra.resize(3 * cols, 0.0);
            for (row, line) in (0..band.rows).zip(acc.chunks_exact_mut(cols)) {
                if !plain {
                    let mut parts = extra.chunks_exact_mut(cols);
                    let rows = self.extra.map(|view| {
                        let (view, part) = (view?, parts.next()?);
                        let at = self.start(view, band, row);
                        view.load(self.isa, at, view.row_stride(), part);
                        Some(&*part)
                    });
                    self.isa.run(Epilogue { op: self.op, line: &mut *line, rows });
                }
                let at = self.start(self.out, band, row);
                self.out.store(self.isa, at, self.out.row_stride(), line);
            }
        });
    }
}

/// One output row: `residual + gate * act(alpha * acc + bias)`.
struct Epilogue<'a> {
    op: &'a Matmul,
    line: &'a mut [f32],
    /// bias, gate, residual
    rows: [Option<&'a [f32]>; 3],
}

impl Kernel for Epilogue<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { op, line, rows: [bias, gate, residual] } = self;
        match bias {
            Some(bias) => {
                line.iter_mut().zip(bias).for_each(|(v, b)| *v = fma::<F>(*v, op.alpha, *b));
            }
            None => line.iter_mut().for_each(|v| *v *= op.alpha),
        }
        match op.activation {
            Activation::None => {}
            Activation::Relu => line.iter_mut().for_each(|v| *v = math::relu(*v)),
            Activation::GeluErf => line.iter_mut().for_each(|v| *v = math::gelu_erf::<F>(*v)),
            Activation::GeluTanh => line.iter_mut().for_each(|v| *v = math::gelu_tanh::<F>(*v)),
            Activation::Silu => line.iter_mut().for_each(|v| *v *= math::sigmoid::<F>(*v)),
        }
        if let Some(gate) = gate {
            line.iter_mut().zip(gate).for_each(|(v, g)| *v *= g);
        }
        if let Some(residual) = residual {
            line.iter_mut().zip(residual).for_each(|(v, r)| *v += r);
        }
    }
}
