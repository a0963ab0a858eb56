//! The geometry of attention: tiles of rows, which are the query heads of a key head for each query, and links along
//! the keys.

use super::{Class, dim};
use crate::op::{Attention, CheckedOp, KeyValue, Lens};

/// Keys of a chunk, whose partial results are merged left to right: `CHUNK` of `heads.wgsl`.
pub(super) const CHUNK: u64 = 256;
/// Most batch entries whose counts lie in device memory, and nanoseconds that a launch counts each: `COUNTED` of
/// `heads.wgsl`.
pub(super) const COUNTED: u64 = 1024;
const COUNT_NS: u64 = 40;
/// Rows of a tile that are few for a workgroup of 32.
const FEW: u64 = 8;
/// Lanes of a workgroup that merges.
const LANES: u64 = 64;

/// The geometry of attention.
pub(in super::super) struct Heads {
    pub(in super::super) kv_heads: u64,
    /// Query heads of a key head.
    pub(in super::super) group: u64,
    pub(in super::super) rows: u64,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    /// Batch entries, and room for the keys of one, or of all where they are packed.
    pub(in super::super) entries: u64,
    pub(in super::super) room: u64,
    /// Chunks of the most keys that an entry has, at least one.
    pub(in super::super) chunks: u64,
    /// Rows of a tile, and tiles of one key head.
    pub(in super::super) tile: u64,
    pub(in super::super) tiles: u64,
    /// Chunks in a link.
    pub(in super::super) per_link: u64,
    /// Batch entries that q has an axis for.
    batch: u64,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
}

/// Whether a launch reads counts in device memory.
pub(in super::super) fn counts(op: &Attention) -> bool {
    op.rows.on_device() || op.lens.on_device()
}

impl Heads {
    pub(in super::super) fn of(checked: &CheckedOp, op: &Attention, class: &Class) -> Self {
        let [d, rows, heads, batch] = [0, 1, 2, 3].map(|i| dim(checked, "q", i));
        let dv = dim(checked, "v", 0);
        let kv_heads = dim(checked, "k", 2);
        let group = heads.checked_div(kv_heads).unwrap_or(1);
        let entries = match &op.rows {
            Lens::Full => batch,
            Lens::Host(list) => list.len() as u64,
            Lens::Device { .. } => dim(checked, "rows", 0),
        };
        let room = match op.key_value {
            KeyValue::Dense => dim(checked, "k", 1),
            KeyValue::Paged { page } => dim(checked, "pages", 0).saturating_mul(page.into()),
        };
        let most = match if op.lens == Lens::Full { &op.rows } else { &op.lens } {
            Lens::Full => room,
            Lens::Host(list) => list.iter().max().map_or(0, |&n| n.into()),
            Lens::Device { max } => (*max).into(),
        };
        let chunks = most.min(room).div_ceil(CHUNK).max(1);
        // Scores, values, and what softmax and other functions of a score do; then the merge of the chunk.
        let functions = 96 + 48 * u64::from(op.softcap > 0.0) + 8 * u64::from(op.alibi);
        let row_flops = CHUNK * (2 * (d + dv) + functions) + 4 * dv + 96;
        let chunk_ns = |tile: u64| tile * row_flops * 1000 / class.attention;
        let rest_ns = if counts(op) { entries.min(COUNTED) * COUNT_NS } else { 0 };
        let room_ns = class.unit_cap_ns - class.dispatch_ns - rest_ns;
        let packed = |rows: u64| rows.saturating_mul(group);
        let mut tile = packed(rows).clamp(4, class.query_rows).next_multiple_of(4);
        while tile > 4 && chunk_ns(tile) > room_ns {
            tile = (tile / 2).next_multiple_of(4);
        }
        let tiles = |rows: u64| packed(rows).div_ceil(tile);
        let tiles = match &op.rows {
            Lens::Full => tiles(rows),
            Lens::Host(list) => {
                let owned: u64 = list.iter().map(|&n| u64::from(n)).sum();
                let whole: u64 = list.iter().map(|&n| tiles(n.into())).sum();
                whole + tiles(rows - owned)
            }
            // At most one partial tile an entry, and one of the rows that none owns.
            Lens::Device { .. } => tiles(rows) + entries + 1,
        };
        let chunk_ns = chunk_ns(tile);
        let (links, per_link) = super::links(class, chunks, chunk_ns, rest_ns, chunk_loops(dv));
        let unit_ns = chunk_ns * per_link + rest_ns;
        Self {
            kv_heads,
            group,
            rows,
            d,
            dv,
            entries,
            room,
            chunks,
            tile,
            tiles,
            per_link,
            batch,
            links,
            unit_ns,
        }
    }

    /// Iterations of all loops of an invocation in one link: of the merge, the search of its entry included. A chunk
    /// has an invocation of its own, of a few thousand.
    pub(super) fn link_loops(&self) -> u64 {
        self.per_link * chunk_loops(self.dv) + 32
    }

    pub(super) fn tiles(&self) -> u128 {
        u128::from(self.batch) * u128::from(self.kv_heads) * u128::from(self.tiles)
    }

    /// Kernels in this class, best first: for few rows the one of few.
    pub(super) fn kernels(&self, class: &Class, plain: &'static str) -> Vec<&'static str> {
        match (class.tiled, self.tile > FEW) {
            (false, _) => vec![plain],
            (true, false) => vec!["attention_tiled_8", plain],
            (true, true) => vec!["attention_tiled_32", "attention_tiled_8", plain],
        }
    }

    /// Rows of a key head.
    pub(super) fn packed_rows(&self) -> u64 {
        self.rows.saturating_mul(self.group)
    }

    /// Words of a row of a tile: maximum, sum and values.
    pub(in super::super) fn width(&self) -> u64 {
        self.dv + 2
    }
}

/// Iterations of an invocation that merges a chunk: its columns.
fn chunk_loops(dv: u64) -> u64 {
    dv.div_ceil(LANES) + 1
}
