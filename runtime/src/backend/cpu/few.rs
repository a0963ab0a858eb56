//! Products of few rows. B is read once, where it lies, and meets every row of A while it is hot: nothing is widened or
//! packed into buffers, so that memory is what bounds it. `matmul` calls it where `geometry` finds such a product.

use super::convert::{BF16, F16};
use super::isa::{Isa, Kernel, fma};
use super::memory::View;
use crate::DType;

/// How B lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Few {
    /// Its columns are dense: a dot product for each.
    Columns,
    /// Its rows are dense: they are added, each by its factor, in their order.
    Rows,
}

/// Partial sums of a dot product: four AVX-512 registers, in every class.
const LANES: usize = 64;
/// Rows of B that are added in one sweep of the sums.
const SWEEP: usize = 8;

/// Adds the product of A, dense rows of `depth`, and a part of B to sums of `cols` a row.
pub(super) struct Add<'a> {
    pub(super) form: Few,
    pub(super) a: &'a [f32],
    pub(super) b: &'a View,
    /// First element of the part, and the distance of its dense lines.
    pub(super) start: u64,
    pub(super) step: u64,
    pub(super) depth: usize,
    pub(super) cols: usize,
    pub(super) sums: &'a mut [f32],
}

impl Add<'_> {
    pub(super) fn run(self, isa: Isa) {
        if self.depth > 0 && self.cols > 0 {
            isa.run(self);
        }
    }

    #[inline(always)]
    fn of<const F: bool, T: bytemuck::Pod>(self, wide: impl Fn(T) -> f32 + Copy) {
        match self.form {
            Few::Columns => self.columns::<F, T>(wide),
            Few::Rows => self.rows::<F, T>(wide),
        }
    }

    #[inline(always)]
    fn columns<const F: bool, T: bytemuck::Pod>(self, wide: impl Fn(T) -> f32 + Copy) {
        for col in 0..self.cols {
            let column: &[T] = self.b.line(self.start + col as u64 * self.step, self.depth);
            let rows = self.a.chunks_exact(self.depth);
            for (row, sums) in rows.zip(self.sums.chunks_exact_mut(self.cols)) {
                sums[col] += dot::<F, T>(row, column, wide);
            }
        }
    }

    #[inline(always)]
    fn rows<const F: bool, T: bytemuck::Pod>(self, wide: impl Fn(T) -> f32 + Copy) {
        let line = |k: usize| self.b.line::<T>(self.start + k as u64 * self.step, self.cols);
        let whole = self.depth / SWEEP * SWEEP;
        for k in (0..whole).step_by(SWEEP) {
            let lines: [&[T]; SWEEP] = std::array::from_fn(|i| &line(k + i)[..self.cols]);
            let rows = self.a.chunks_exact(self.depth);
            for (row, sums) in rows.zip(self.sums.chunks_exact_mut(self.cols)) {
                let factors: [f32; SWEEP] = std::array::from_fn(|i| row[k + i]);
                for (col, sum) in sums.iter_mut().enumerate() {
                    let mut s = *sum;
                    for i in 0..SWEEP {
                        s = fma::<F>(factors[i], wide(lines[i][col]), s);
                    }
                    *sum = s;
                }
            }
        }
        for k in whole..self.depth {
            let rows = self.a.chunks_exact(self.depth);
            for (row, sums) in rows.zip(self.sums.chunks_exact_mut(self.cols)) {
                let factor = row[k];
                let pairs = sums.iter_mut().zip(line(k));
                pairs.for_each(|(sum, y)| *sum = fma::<F>(factor, wide(*y), *sum));
            }
        }
    }
}

impl Kernel for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        match self.b.dtype {
            DType::BF16 => self.of::<F, u16>(|x| BF16.one(x)),
            DType::F16 => self.of::<F, u16>(|x| F16.one(x)),
            _ => self.of::<F, f32>(|x| x),
        }
    }
}

/// A dot product in lanes, halved until one is left.
#[inline(always)]
fn dot<const F: bool, T: Copy>(x: &[f32], y: &[T], wide: impl Fn(T) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((xs, x), (ys, y)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] = fma::<F>(x[i], wide(y[i]), lanes[i]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
        *lane = fma::<F>(*x, wide(*y), *lane);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
