//! The geometry of attention: tiles of query rows, and links along the keys.

use super::{Class, dim};
use crate::op::CheckedOp;

/// Keys of a chunk in attention: `CHUNK` of `attention.wgsl`.
pub(super) const CHUNK: u64 = 64;

/// The geometry of attention.
pub(in super::super) struct Heads {
    pub(in super::super) heads: u64,
    pub(in super::super) group: u64,
    pub(in super::super) rows: u64,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    pub(in super::super) chunks: u64,
    /// Tiles of one head.
    pub(in super::super) tiles: u64,
    /// Chunks in a link.
    pub(in super::super) per_link: u64,
    batch: u64,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
}

impl Heads {
    pub(in super::super) fn of(op: &CheckedOp, class: &Class) -> Self {
        let [d, rows, heads, batch] = [0, 1, 2, 3].map(|i| dim(op, "q", i));
        let dv = dim(op, "v", 0);
        let group = heads.checked_div(dim(op, "k", 2)).unwrap_or(1);
        let chunks = dim(op, "k", 1).div_ceil(CHUNK);
        let tile = rows.min(class.query_rows).next_multiple_of(4);
        // Scores, values by whole columns of lanes, and what softmax does.
        let flops = tile * CHUNK * (2 * (d + dv) + 96);
        let chunk_ns = flops * 1000 / class.attention;
        let tiles = rows.div_ceil(class.query_rows);
        let (links, unit_ns) = (1, 0);
        let uncut =
            Self { heads, group, rows, d, dv, chunks, tiles, per_link: 1, batch, links, unit_ns };
        let (links, per_link) = super::links(class, chunks, chunk_ns, uncut.chunk_loops());
        Self { per_link, links, unit_ns: chunk_ns * per_link, ..uncut }
    }

    /// Iterations of an invocation's loops in a chunk: a score, two passes over scores, each column of values.
    pub(super) fn chunk_loops(&self) -> u64 {
        let columns = self.dv.div_ceil(CHUNK);
        self.d + 2 * CHUNK + columns * (CHUNK + 1) + 8
    }

    pub(super) fn tiles(&self) -> u128 {
        u128::from(self.batch) * u128::from(self.heads) * u128::from(self.tiles)
    }
}
