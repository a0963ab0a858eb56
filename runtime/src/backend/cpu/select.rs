//! `arg_max` and `top_k`: each row's largest elements, kept in order while the row is read once, chunk by chunk.
//! Long rows are cut between chunks and carry the kept ones. `compute` calls it.

use super::geometry::rows_per_tile;
use super::isa::Isa;
use super::memory::View;
use super::plan::{ROW_CHUNK, Span};
use super::pool::Pool;
use super::scratch::with_rows;
use crate::op::{CheckedOp, Op};
use std::ops::Range;

/// A kept element: its key, and its place in the row.
#[derive(Clone, Copy)]
struct Kept {
    key: u32,
    place: u32,
}

/// The bits of a float as an integer that orders as IEEE 754's total order does.
fn key(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key ^ 1 << 31 } else { !key })
}

/// A selection on its operands.
pub(super) struct Select<'a> {
    isa: Isa,
    k: usize,
    x: &'a View,
    value: Option<&'a View>,
    index: &'a View,
    state: Option<&'a View>,
}

impl<'a> Select<'a> {
    pub(super) fn new(
        isa: Isa,
        op: &'a CheckedOp,
        views: &'a [View],
        state: Option<&'a View>,
    ) -> Option<Self> {
        let view = |name| op.position(name).map(|i| &views[i]);
        let k = match op.op() {
            Op::TopK(op) => op.k as usize,
            _ => 1,
        };
        Some(Self { isa, k, x: view("x")?, value: view("value"), index: view("index")?, state })
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        let rows: u64 = self.x.shape[..self.x.outer_axes()].iter().product();
        let per_tile = rows_per_tile(self.x.row_len());
        pool.run(span.tiles, item_ns, |i| {
            let first = (span.first + i) * per_tile;
            let mut kept = Vec::with_capacity(self.k);
            for row in first..(first + per_tile).min(rows) {
                self.row(row, span.from..span.to, &mut kept);
            }
        });
    }

    fn row(&self, row: u64, links: Range<u64>, kept: &mut Vec<Kept>) {
        let chunks = self.x.row_len().div_ceil(ROW_CHUNK).max(1);
        kept.clear();
        if let (Some(state), 1..) = (self.state, links.start) {
            // As many as the chunks before had to give.
            let have = (links.start * ROW_CHUNK).min(self.k as u64);
            let pair = |i| Kept { key: state.word(2 * i), place: state.word(2 * i + 1) };
            kept.extend((0..have).map(pair));
        }
        for chunk in links.start..links.end.min(chunks) {
            self.chunk(row, chunk * ROW_CHUNK, kept);
        }
        match self.state {
            Some(state) if links.end < chunks => {
                for (i, kept) in (0..).zip(&*kept) {
                    state.store_word(2 * i, kept.key);
                    state.store_word(2 * i + 1, kept.place);
                }
            }
            _ => self.write(row, kept),
        }
    }

    fn chunk(&self, row: u64, start: u64, kept: &mut Vec<Kept>) {
        let step = self.x.row_stride();
        with_rows(|[line, _]| {
            line.resize(ROW_CHUNK.min(self.x.row_len() - start) as usize, 0.0);
            let at = self.x.outer_offset(row, self.x.outer_axes()) + start * step;
            self.x.load(self.isa, at, step, line);
            for (place, &x) in (start as u32..).zip(&*line) {
                let key = key(x);
                if kept.len() == self.k {
                    if kept.last().is_some_and(|last| key <= last.key) {
                        continue;
                    }
                    kept.pop();
                }
                // Behind its equals, which came first.
                let slot = kept.partition_point(|other| other.key >= key);
                kept.insert(slot, Kept { key, place });
            }
        });
    }

    fn write(&self, row: u64, kept: &[Kept]) {
        let axes = self.x.outer_axes();
        // `arg_max` has no axis of its own for what it found.
        let index_step = if self.value.is_some() { self.index.row_stride() } else { 0 };
        let index_at = self.index.outer_offset(row, axes);
        for (i, kept) in (0..).zip(kept) {
            self.index.store_word(index_at + i * index_step, kept.place);
            if let Some(to) = self.value {
                let at = to.outer_offset(row, axes) + i * to.row_stride();
                to.store(self.isa, at, 1, &[value(kept.key)]);
            }
        }
    }
}
