//! What follows a product's sums, a row at a time while they are hot: scales, alpha, C, bias, the pre-activation,
//! activation, gate and residual, then the cast or the quantisation. `matmul` calls it.

use super::bytes::{Byte, largest, over};
use super::isa::{Isa, Kernel, fma};
use super::math;
use super::matmul::Band;
use super::memory::View;
use super::scratch::with_rows;
use crate::op::{Activation, CheckedOp, Gate, Matmul, Scale};

/// Rows between one that is written and one that is fetched.
const AHEAD: u64 = 4;
/// Columns of an output that share a scale which the op finds.
const BLOCK: usize = 128;

/// The operands of an epilogue.
pub(super) struct Epilogue<'a> {
    isa: Isa,
    op: &'a Matmul,
    bias: Option<&'a View>,
    c: Option<&'a View>,
    gate: Option<&'a View>,
    residual: Option<&'a View>,
    /// Scales of A and B that do not change along K.
    scales: [Option<&'a View>; 2],
    scale_out: Option<&'a View>,
    out: &'a View,
    preactivation: Option<&'a View>,
    out_scale: Option<&'a View>,
    /// Whether the sums are i32.
    whole: bool,
    /// Columns of B to one of the output.
    per: u64,
}

impl<'a> Epilogue<'a> {
    pub(super) fn new(
        isa: Isa,
        checked: &CheckedOp,
        op: &'a Matmul,
        views: &'a [View],
        whole: bool,
    ) -> Option<Self> {
        let view = |name| checked.position(name).map(|i| &views[i]);
        let fixed = |name, scale| match scale {
            Scale::Tensor | Scale::Row => view(name),
            _ => None,
        };
        Some(Self {
            isa,
            op,
            bias: view("bias"),
            c: view("c"),
            gate: view("gate"),
            residual: view("residual"),
            scales: [fixed("scale_a", op.scales[0]), fixed("scale_b", op.scales[1])],
            scale_out: view("scale_out"),
            out: view("out")?,
            preactivation: view("preactivation"),
            out_scale: view("out_scale"),
            whole,
            per: if op.gate == Gate::Interleaved { 2 } else { 1 },
        })
    }

    /// Whether the sums are the result.
    pub(super) fn is_plain(&self) -> bool {
        let operands = [self.bias, self.c, self.gate, self.residual, self.preactivation];
        self.op.alpha == 1.0
            && self.op.activation == Activation::None
            && self.op.gate == Gate::None
            && self.op.quantize == Scale::None
            && operands.iter().chain(&self.scales).all(Option::is_none)
            && !self.whole
    }

    /// The element of a band's row `row` and first column, in a view with `per` of B's columns in one.
    fn at(view: &View, band: &Band, row: u64, per: u64) -> u64 {
        let axes = view.shape.rank() - 2;
        let (rows, cols) = (view.strides[axes], view.strides[axes + 1]);
        let row = band.block.row + row;
        view.outer_offset(band.block.entry, axes) + row * rows + band.col / per * cols
    }

    /// Writes the outputs of a band from its sums, rows `ld` apart, which it uses up.
    pub(super) fn write(&self, band: &Band, sums: &mut [f32], ld: usize) {
        let cols = band.cols as usize;
        let plain = self.is_plain();
        with_rows(|[operands, columns]| {
            columns.resize(cols, 0.0);
            // Rows of no group have no scale either: an empty operand may claim to lie anywhere.
            if band.block.owned > 0 {
                self.column_scales(band, columns);
            }
            operands.resize(4 * cols, 0.0);
            let (bias, operands) = operands.split_at_mut(cols);
            for (row, line) in (0..band.block.rows).zip(sums.chunks_exact_mut(ld)) {
                let line = &mut line[..cols];
                self.fetch(band, row + AHEAD);
                if row >= band.block.owned {
                    line.fill(0.0);
                    self.store(self.preactivation, band, row, line);
                } else if !plain {
                    // Along N, a bias is the same for every row.
                    if let Some(view) = self.bias.filter(|view| row == 0 || row_step(view) != 0) {
                        view.load(self.isa, Self::at(view, band, row, 1), view.row_stride(), bias);
                    }
                    self.finish(band, row, line, [columns, bias], operands);
                }
                self.put(band, row, &mut line[..cols / self.per as usize]);
            }
        });
    }

    /// Has what a later row reads and writes in memory fetched: the processor foresees no rows this short.
    fn fetch(&self, band: &Band, row: u64) {
        let cols = band.cols;
        if row < band.block.owned {
            for (view, per) in [(self.c, 1), (self.residual, self.per), (Some(self.out), self.per)]
            {
                if let Some(view) = view {
                    view.fetch(Self::at(view, band, row, per), cols / per);
                }
            }
        }
    }

    /// The factor of every column of a band.
    fn column_scales(&self, band: &Band, columns: &mut [f32]) {
        columns.fill(1.0);
        let Some(scale) = self.scales[1] else { return };
        match self.op.scales[1] {
            Scale::Row => {
                let at = scale.outer_offset(band.block.group, scale.outer_axes());
                let at = at + band.col * scale.row_stride();
                scale.load(self.isa, at, scale.row_stride(), columns);
            }
            _ => columns.fill(self.one(scale, 0)),
        }
    }

    fn one(&self, view: &View, at: u64) -> f32 {
        let mut value = [0.0];
        view.load(self.isa, at, 1, &mut value);
        value[0]
    }

    /// The factor of a row.
    fn row_scale(&self, band: &Band, row: u64) -> f32 {
        let Some(scale) = self.scales[0] else { return 1.0 };
        match self.op.scales[0] {
            Scale::Row => {
                let at = scale.outer_offset(band.block.entry, scale.outer_axes());
                self.one(scale, at + (band.block.row + row) * scale.row_stride())
            }
            _ => self.one(scale, 0),
        }
    }

    /// All steps of a row but the cast. Its operands are read before anything is written: an output may lie where they
    /// do.
    fn finish(
        &self,
        band: &Band,
        row: u64,
        line: &mut [f32],
        [columns, bias]: [&[f32]; 2],
        operands: &mut [f32],
    ) {
        let (cols, per) = (line.len(), self.per as usize);
        let (operands, beside) = operands.split_at_mut(2 * cols);
        let mut parts = operands.chunks_exact_mut(cols);
        let mut load = |view: Option<&View>, per: u64| {
            let (view, part) = (view?, parts.next()?);
            let part = &mut part[..cols / per as usize];
            view.load(self.isa, Self::at(view, band, row, per), view.row_stride(), part);
            Some(&*part)
        };
        let bias = self.bias.map(|_| bias);
        let c = load(self.c, 1);
        let residual = load(self.residual, self.per);
        if let Some(gate) = self.gate {
            gate.load(
                self.isa,
                Self::at(gate, band, row, 1),
                gate.row_stride(),
                &mut beside[..cols],
            );
        }
        if self.whole {
            self.isa.run(Whole(bytemuck::cast_slice_mut(line)));
        }
        let scale = self.row_scale(band, row);
        let scaled = self.scales.iter().any(Option::is_some);
        let scales = scaled.then_some((scale, columns));
        self.isa.run(Before { op: self.op, line: &mut *line, scales, c, bias });
        self.store(self.preactivation, band, row, line);
        if per == 2 {
            split_pairs(line, beside);
        }
        let line = &mut line[..cols / per];
        let gate = (self.op.gate != Gate::None).then_some(&*beside);
        self.isa.run(After { op: self.op, line, gate, residual });
    }

    fn store(&self, view: Option<&View>, band: &Band, row: u64, line: &[f32]) {
        if let Some(view) = view {
            view.store(self.isa, Self::at(view, band, row, 1), view.row_stride(), line);
        }
    }

    /// The row to the output, cast or quantised.
    fn put(&self, band: &Band, row: u64, line: &mut [f32]) {
        match (self.scale_out, self.out_scale) {
            (Some(scale), _) => over(self.isa, self.one(scale, 0), line),
            (_, Some(scales)) => {
                let top = Byte::of(self.out.dtype).map_or(1.0, Byte::largest);
                let at = Self::at(scales, band, row, self.per * BLOCK as u64);
                for (i, block) in (0..).zip(line.chunks_mut(BLOCK)) {
                    let scale = largest(self.isa, block) / top;
                    over(self.isa, scale, block);
                    scales.store(self.isa, at + i * scales.row_stride(), 1, &[scale]);
                }
            }
            _ => {}
        }
        let at = Self::at(self.out, band, row, self.per);
        self.out.store(self.isa, at, self.out.row_stride(), line);
    }
}

/// Elements from a row to the next.
fn row_step(view: &View) -> u64 {
    view.strides[view.shape.rank() - 2]
}

/// Even elements to the front of `line`, odd ones to `odd`.
fn split_pairs(line: &mut [f32], odd: &mut [f32]) {
    for i in 0..line.len() / 2 {
        odd[i] = line[2 * i + 1];
        line[i] = line[2 * i];
    }
}

/// i32 sums to the bits of f32, in place.
struct Whole<'a>(&'a mut [i32]);

impl Kernel for Whole<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        self.0.iter_mut().for_each(|v| *v = (*v as f32).to_bits() as i32);
    }
}

/// Up to the pre-activation: `scale * alpha * sum + beta * c + bias`.
struct Before<'a> {
    op: &'a Matmul,
    line: &'a mut [f32],
    /// Of the row, and of each column.
    scales: Option<(f32, &'a [f32])>,
    c: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
}

impl Kernel for Before<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { op, line, scales, c, bias } = self;
        let (alpha, beta) = (op.alpha, op.beta);
        if let Some((row, columns)) = scales {
            line.iter_mut().zip(columns).for_each(|(v, column)| *v = *v * row * column);
        }
        match (c, bias) {
            (Some(c), bias) => {
                line.iter_mut().zip(c).for_each(|(v, c)| *v = fma::<F>(*v, alpha, beta * c));
                if let Some(bias) = bias {
                    line.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
                }
            }
            (None, Some(bias)) => {
                line.iter_mut().zip(bias).for_each(|(v, b)| *v = fma::<F>(*v, alpha, *b));
            }
            (None, None) => line.iter_mut().for_each(|v| *v *= alpha),
        }
    }
}

/// From the pre-activation on: `residual + gate * act(v)`.
struct After<'a> {
    op: &'a Matmul,
    line: &'a mut [f32],
    gate: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

impl Kernel for After<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { op, line, gate, residual } = self;
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
