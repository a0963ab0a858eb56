//! The geometry of attention's gradient: tiles of query rows, then tiles of keys, each cut along the other side.

use super::batch::{Batch, functions};
use super::{Class, dim};
use crate::op::{AttentionBackward, CheckedOp, KeyValue};

/// Rows of a chunk: `CHUNK` of `attention_backward.wgsl`.
pub(super) const CHUNK: u64 = 64;

/// The geometry of the gradient.
pub(in super::super) struct Backward {
    pub(in super::super) heads: u64,
    pub(in super::super) group: u64,
    pub(in super::super) batch: Batch,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    /// Rows, or keys, of a tile.
    pub(in super::super) tile: u64,
    /// Tiles of a head of queries, and of keys; chunks of the most rows and keys that an
    /// entry has.
    pub(in super::super) tiles: [u64; 2],
    pub(in super::super) chunks: [u64; 2],
    /// Tiles of all queries: those of keys follow.
    pub(in super::super) of_queries: u128,
    of_keys: u128,
    pub(in super::super) per_link: u64,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
}

impl Backward {
    pub(in super::super) fn of(checked: &CheckedOp, op: &AttentionBackward, class: &Class) -> Self {
        let [d, rows, heads, axis] = [0, 1, 2, 3].map(|i| dim(checked, "q", i));
        let (keys, kv_heads, dv) =
            (dim(checked, "k", 1), dim(checked, "k", 2), dim(checked, "v", 0));
        let group = heads.checked_div(kv_heads).unwrap_or(1).max(1);
        let batch = Batch::of(checked, &op.scores, KeyValue::Dense);
        let tile = (class.query_rows / 4).max(4);
        let tiles = [rows, keys].map(|n| batch.tiles(n, tile));
        let chunks = [batch.most_rows, batch.most_keys].map(|n| n.div_ceil(CHUNK));
        let most = chunks[1].max(chunks[0].saturating_mul(group));
        let side = rows.max(keys).min(tile).next_multiple_of(4);
        // Scores, gradients of weights, sums of two sides, and what is recomputed for each tile.
        let flops = side * CHUNK * (6 * (d + dv) + functions(&op.scores));
        let chunk_ns = flops * 1000 / class.attention;
        let rest_ns = batch.count_ns(&op.scores);
        let (links, per_link) = super::links(class, most, chunk_ns, rest_ns, chunk_loops(d, dv));
        let of_queries = u128::from(axis) * u128::from(heads) * u128::from(tiles[0]);
        let of_keys = u128::from(axis) * u128::from(kv_heads) * u128::from(tiles[1]);
        let unit_ns = chunk_ns * per_link + rest_ns;
        Self {
            heads,
            group,
            batch,
            d,
            dv,
            tile,
            tiles,
            chunks,
            of_queries,
            of_keys,
            per_link,
            links,
            unit_ns,
        }
    }

    pub(super) fn tiles(&self) -> u128 {
        self.of_queries + self.of_keys
    }

    pub(super) fn link_loops(&self) -> u64 {
        self.per_link * chunk_loops(self.d, self.dv)
    }
}

/// Iterations of an invocation's loops in a chunk, the search of its entry included.
fn chunk_loops(d: u64, dv: u64) -> u64 {
    let columns = d.div_ceil(CHUNK) + dv.div_ceil(CHUNK);
    d + 2 * dv + columns * (CHUNK + 1) + 48
}
