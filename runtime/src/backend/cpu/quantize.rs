//! `quantize` and its inverse over cells: tiles of cells with a scale each, or a chain of pieces under one scale, whose
//! first pass finds the largest magnitude and whose second writes. The largest is the same in any order, so the pieces
//! of one chain run on all threads. `compute` calls it.

use super::bytes::{Byte, largest, over};
use super::geometry::Cells;
use super::isa::Isa;
use super::memory::View;
use super::plan::Span;
use super::pool::Pool;
use super::scratch::with_rows;
use crate::op::{CheckedOp, Op, Quantize, QuantizeFormat};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Values of a word of 4-bit codes, and words of a group.
const PER_WORD: u64 = 8;
const WORDS: u64 = 4;

/// A quantisation on its operands.
pub(super) struct Quantizer<'a> {
    isa: Isa,
    op: &'a Quantize,
    cells: Cells,
    x: &'a View,
    out: &'a View,
    scale: &'a View,
    min: Option<&'a View>,
    state: Option<&'a View>,
}

/// A cell: its matrix and place there, and its first row and column and how many.
struct Cell {
    matrix: u64,
    down: u64,
    across: u64,
    row: u64,
    col: u64,
    rows: u64,
    cols: u64,
}

impl<'a> Quantizer<'a> {
    pub(super) fn new(
        isa: Isa,
        checked: &'a CheckedOp,
        views: &'a [View],
        state: Option<&'a View>,
    ) -> Option<Self> {
        let Op::Quantize(op) = checked.op() else { return None };
        let view = |name| checked.position(name).map(|i| &views[i]);
        let cells = Cells::of(checked, op);
        let (x, out, scale) = (view("x")?, view("out")?, view("scale")?);
        Some(Self { isa, op, cells, x, out, scale, min: view("min"), state })
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        let links = span.from..span.to;
        match self.cells.chain {
            // One chain: its pieces run side by side.
            Some(_) if span.tiles == 1 => {
                let piece_ns = item_ns / (span.to - span.from).max(1);
                self.chain(span.first, links, |n, piece| pool.run(n, piece_ns, piece));
            }
            Some(_) => pool.run(span.tiles, item_ns, |i| {
                self.chain(span.first + i, links.clone(), |n, piece| (0..n).for_each(piece));
            }),
            None => pool.run(span.tiles, item_ns, |i| {
                self.each_cell(span.first + i, |cell| match (self.op.format, self.op.inverse) {
                    (QuantizeFormat::Group32, false) => self.group(&cell),
                    (QuantizeFormat::Group32, true) => self.ungroup(&cell),
                    (_, false) => {
                        let scale = self.scale_of(self.most(&cell));
                        self.scale.store(self.isa, self.scale_at(&cell), 1, &[scale]);
                        self.write(&cell, scale);
                    }
                    (_, true) => self.widen(&cell),
                });
            }),
        }
    }

    /// Links of a chain: pieces of the first pass, then of the second. `each` calls a function for every number below.
    fn chain(&self, tile: u64, links: Range<u64>, each: impl Fn(u64, &(dyn Fn(u64) + Sync))) {
        let pieces = self.cells.chain.unwrap_or(1);
        let mut most = [0.0];
        if let (Some(state), 1..) = (self.state, links.start) {
            state.load(self.isa, 0, 1, &mut most);
        }
        let found = AtomicU32::new(most[0].to_bits());
        let first = links.start.min(pieces)..links.end.min(pieces);
        each(first.end - first.start, &|i| {
            self.each_cell(tile * pieces + first.start + i, |cell| {
                // Magnitudes order as their bits do.
                found.fetch_max(self.most(&cell).to_bits(), Relaxed);
            });
        });
        let most = f32::from_bits(found.into_inner());
        let scale = self.scale_of(most);
        let second = links.start.max(pieces) - pieces..links.end.max(pieces) - pieces;
        each(second.end - second.start, &|i| {
            let piece = tile * pieces + second.start + i;
            self.each_cell(piece, |cell| self.write(&cell, scale));
        });
        match self.state {
            Some(state) if links.end < 2 * pieces => state.store(self.isa, 0, 1, &[most]),
            _ => {
                let at = match self.op.format {
                    QuantizeFormat::Tensor => 0,
                    _ => self.scale.outer_offset(tile, self.scale.shape.rank()),
                };
                self.scale.store(self.isa, at, 1, &[scale]);
            }
        }
    }

    /// Calls `f` with every cell of a tile or piece.
    fn each_cell(&self, piece: u64, f: impl Fn(Cell)) {
        let c = &self.cells;
        let ([m, n], [h, w]) = (c.matrix, c.size);
        let first = u128::from(piece) * u128::from(c.per_piece);
        let last = (first + u128::from(c.per_piece)).min(c.count);
        // Cells are fewer than elements, which 64 bits count.
        for index in first as u64..last as u64 {
            let (across, rest) = (index % c.across, index / c.across);
            let (down, matrix) = (rest % c.down, rest / c.down);
            let (row, col) = (down * h, across * w);
            let (rows, cols) = (h.min(m - row), w.min(n - col));
            f(Cell { matrix, down, across, row, col, rows, cols });
        }
    }

    /// The element of a row and column of a cell's matrix, in a view with `per` of the float tensor's columns in one.
    fn at(&self, view: &View, cell: &Cell, row: u64, per: u64) -> u64 {
        let row = cell.matrix * self.cells.matrix[0] + cell.row + row;
        view.outer_offset(row, view.outer_axes()) + cell.col / per * view.row_stride()
    }

    /// The element of a cell's scale.
    fn scale_at(&self, cell: &Cell) -> u64 {
        let row = cell.matrix * self.cells.down + cell.down;
        match self.op.format {
            QuantizeFormat::Tensor => 0,
            QuantizeFormat::Row => self.scale.outer_offset(row, self.scale.shape.rank()),
            _ => Self::of_block(self.scale, row, cell),
        }
    }

    fn of_block(view: &View, row: u64, cell: &Cell) -> u64 {
        view.outer_offset(row, view.outer_axes()) + cell.across * view.row_stride()
    }

    /// Calls `f` with each row of a cell as f32, and its number.
    fn each_row(&self, cell: &Cell, mut f: impl FnMut(u64, &mut Vec<f32>)) {
        with_rows(|[line, _]| {
            for row in 0..cell.rows {
                line.resize(cell.cols as usize, 0.0);
                self.x.load(self.isa, self.at(self.x, cell, row, 1), self.x.row_stride(), line);
                f(row, line);
            }
        });
    }

    fn most(&self, cell: &Cell) -> f32 {
        let mut most = 0f32;
        self.each_row(cell, |_, line| most = most.max(largest(self.isa, line)));
        most
    }

    /// The scale of a largest magnitude; 0 for none, and where it is no number.
    fn scale_of(&self, most: f32) -> f32 {
        let scale = most / Byte::of(self.out.dtype).map_or(1.0, Byte::largest);
        if scale.is_finite() { scale } else { 0.0 }
    }

    fn write(&self, cell: &Cell, scale: f32) {
        self.each_row(cell, |row, line| {
            over(self.isa, scale, line);
            let at = self.at(self.out, cell, row, 1);
            self.out.store(self.isa, at, self.out.row_stride(), line);
        });
    }

    fn widen(&self, cell: &Cell) {
        let mut scale = [0.0];
        self.scale.load(self.isa, self.scale_at(cell), 1, &mut scale);
        self.each_row(cell, |row, line| {
            line.iter_mut().for_each(|x| *x *= scale[0]);
            let at = self.at(self.out, cell, row, 1);
            self.out.store(self.isa, at, self.out.row_stride(), line);
        });
    }

    /// 32 elements to four words, in f64: a code is the nearest to the quotient itself.
    fn group(&self, cell: &Cell) {
        let Some(min) = self.min else { return };
        self.each_row(cell, |_, line| {
            let (low, high) = line
                .iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
            let scale = (f64::from(high) - f64::from(low)) / 15.0;
            let code = |x: f32| match scale {
                0.0 => 0,
                _ => ((f64::from(x) - f64::from(low)) / scale).round_ties_even().clamp(0.0, 15.0)
                    as u32,
            };
            let at = self.at(self.out, cell, 0, PER_WORD);
            for (i, eight) in (0..).zip(line.chunks_exact(PER_WORD as usize)) {
                let shifted = eight.iter().zip(0..).map(|(&x, i)| code(x) << (4 * i));
                let word = shifted.fold(0, |word, code| word | code);
                self.out.store_word(at + i * self.out.row_stride(), word);
            }
            let row = cell.matrix * self.cells.down + cell.down;
            self.scale.store(self.isa, Self::of_block(self.scale, row, cell), 1, &[scale as f32]);
            min.store(self.isa, Self::of_block(min, row, cell), 1, &[low]);
        });
    }

    /// Four words to 32 elements.
    fn ungroup(&self, cell: &Cell) {
        let Some(min) = self.min else { return };
        let row = cell.matrix * self.cells.down + cell.down;
        let [mut scale, mut least] = [[0.0]; 2];
        self.scale.load(self.isa, Self::of_block(self.scale, row, cell), 1, &mut scale);
        min.load(self.isa, Self::of_block(min, row, cell), 1, &mut least);
        let at = self.at(self.x, cell, 0, PER_WORD);
        let mut line = [0.0; (PER_WORD * WORDS) as usize];
        for (i, eight) in (0..WORDS).zip(line.chunks_exact_mut(PER_WORD as usize)) {
            let word = self.x.word(at + i * self.x.row_stride());
            for (x, i) in eight.iter_mut().zip(0..) {
                *x = (word >> (4 * i) & 15) as f32 * scale[0] + least[0];
            }
        }
        let at = self.at(self.out, cell, 0, 1);
        self.out.store(self.isa, at, self.out.row_stride(), &line);
    }
}
