//! The geometry of ops that go row by row. A row longer than a chunk is a tile of its own, cut into one link a pass and
//! chunk.

use super::{Cells, Class, dim};
use crate::op::{CheckedOp, Norm, NormBackward, NormKind, Op, TopK};

/// A short row costs a workgroup as much as one of this many elements; in `top_k` it is sorted.
const LEAST: u64 = 128;
const LEAST_SORTED: u64 = 1024;
/// Elements of a row of `top_k` in a chunk: its blocks of 64 wait for each other.
const SORTED_CHUNK: u64 = 1 << 12;
/// Kept elements that `top_k` has room for at least: the workgroup's 64 lanes may each add one to them.
const LEAST_ROOM: u64 = 128;

/// The rows of an op.
pub(in super::super) struct Rows {
    pub(in super::super) count: u64,
    pub(in super::super) n: u64,
    /// Elements of a row in a chunk, and chunks of a row.
    pub(in super::super) chunk: u64,
    pub(in super::super) chunks: u64,
    pub(in super::super) per_tile: u64,
    /// Links of the statistics, then of the write; for short rows they are one link in all.
    pub(in super::super) fold_links: u64,
    pub(in super::super) write_links: u64,
    /// Bytes that a cut row carries.
    pub(super) state_bytes: u64,
    pub(super) unit_ns: u64,
}

/// Elements that `top_k` keeps while it goes over a row.
pub(in super::super) fn room(op: &TopK) -> u64 {
    u64::from(op.k).next_power_of_two().max(LEAST_ROOM)
}

impl Rows {
    pub(in super::super) fn of(op: &CheckedOp, class: &Class) -> Self {
        let shape = op.spec("x").map(|x| *x.layout.shape()).unwrap_or_default();
        let outer = shape.iter().rev().skip(1);
        let (n, count) = match op.op() {
            Op::Quantize(quantize) => {
                let cells = Cells::of(op, quantize);
                (cells.width.saturating_mul(cells.height), cells.count)
            }
            _ => (dim(op, "x", 0), outer.fold(1u64, |rows, &d| rows.saturating_mul(d))),
        };
        // Passes over a row before the write, and whether there is a write of whole rows.
        let (folds, writes) = match op.op() {
            Op::Norm(Norm { kind: NormKind::Layer, .. }) | Op::Softmax(_) => (2, true),
            Op::NormBackward(NormBackward { kind: NormKind::Layer, .. }) => (4, true),
            Op::NormBackward(_) => (2, true),
            Op::Norm(_) | Op::Quantize(_) => (1, true),
            _ => (1, false),
        };
        // Without elements only reductions and scales are written.
        let count = match op.op() {
            Op::Norm(_) | Op::NormBackward(_) | Op::Softmax(_) if n == 0 => 0,
            _ => count,
        };
        let (chunk, least, rate, state_bytes) = match op.op() {
            Op::TopK(top_k) => {
                let rate = class.sorted / (1 + u64::from(top_k.k) / LEAST_ROOM);
                (SORTED_CHUNK, LEAST_SORTED, rate, 8 * room(top_k))
            }
            // Five passes over a short row are one unit.
            Op::NormBackward(_) => (class.row_chunk / 2, LEAST, class.moved, 16),
            _ => (class.row_chunk, LEAST, class.moved, 16),
        };
        let chunks = n.div_ceil(chunk).max(1);
        let per_tile = (chunk / n.max(least)).max(1);
        let fold_links = folds * chunks;
        let write_links = if writes { chunks } else { 0 };
        let passes = if chunks > 1 { 1 } else { fold_links + write_links };
        let work = n.clamp(least, chunk) * per_tile * passes;
        let unit_ns = work * 1000 / rate;
        Self { count, n, chunk, chunks, per_tile, fold_links, write_links, state_bytes, unit_ns }
    }

    pub(super) fn tiles(&self) -> u64 {
        self.count.div_ceil(self.per_tile)
    }

    pub(super) fn links(&self) -> u64 {
        if self.chunks > 1 { self.fold_links + self.write_links } else { 1 }
    }

    /// Iterations of all loops of an invocation in one link, at most.
    pub(super) fn link_loops(&self, op: &Op) -> u64 {
        match op {
            // Blocks of 64, and the sorts that they may come to: 45 steps and the drop, 5 iterations each.
            Op::TopK(op) => {
                let sorts = self.chunk / (room(op) - 64).min(self.chunk) + 2;
                self.chunk / 64 + 16 + sorts * 60 * (room(op) / 64 + 1)
            }
            // A chunk in 64 lanes, and the merges of them.
            _ => self.chunk / 64 + 32,
        }
    }
}
