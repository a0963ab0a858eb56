//! The geometry of attention: tiles of query rows, and links along the keys.

use super::{Class, dim};
use crate::op::{Attention, CheckedOp, KeyValue, Lens};

/// Keys of a chunk in attention: `CHUNK` of `attention.wgsl`.
pub(super) const CHUNK: u64 = 64;
/// Most batch entries whose counts lie in device memory, and nanoseconds that a launch counts each: `COUNTED` of
/// `attention.wgsl`.
pub(super) const COUNTED: u64 = 1024;
const COUNT_NS: u64 = 40;

/// The geometry of attention.
pub(in super::super) struct Heads {
    pub(in super::super) heads: u64,
    pub(in super::super) group: u64,
    pub(in super::super) rows: u64,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    /// Batch entries, and room for the keys of one, or of all where they are packed.
    pub(in super::super) entries: u64,
    pub(in super::super) room: u64,
    /// Chunks of the most keys that an entry has.
    pub(in super::super) chunks: u64,
    /// Tiles of one head.
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
        let group = heads.checked_div(dim(checked, "k", 2)).unwrap_or(1);
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
        let chunks = most.min(room).div_ceil(CHUNK);
        let tiles = |rows: u64| rows.div_ceil(class.query_rows);
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
        let tile = rows.min(class.query_rows).next_multiple_of(4);
        // Scores, values by whole columns of lanes, and what softmax and other functions of a score do.
        let functions = 96 + 48 * u64::from(op.softcap > 0.0) + 8 * u64::from(op.alibi);
        let flops = tile * CHUNK * (2 * (d + dv) + functions);
        let chunk_ns = flops * 1000 / class.attention;
        let rest_ns = if counts(op) { entries.min(COUNTED) * COUNT_NS } else { 0 };
        let chunk_loops = chunk_loops(d, dv);
        let (links, per_link) = super::links(class, chunks, chunk_ns, rest_ns, chunk_loops);
        let unit_ns = chunk_ns * per_link + rest_ns;
        Self {
            heads,
            group,
            rows,
            d,
            dv,
            entries,
            room,
            chunks,
            tiles,
            per_link,
            batch,
            links,
            unit_ns,
        }
    }

    /// Iterations of all loops of an invocation in one link, the search of its entry included.
    pub(super) fn link_loops(&self) -> u64 {
        self.per_link * chunk_loops(self.d, self.dv) + 32
    }

    pub(super) fn tiles(&self) -> u128 {
        u128::from(self.batch) * u128::from(self.heads) * u128::from(self.tiles)
    }
}

/// Iterations of an invocation's loops in a chunk: a score, two passes over scores, each column of values.
fn chunk_loops(d: u64, dv: u64) -> u64 {
    let columns = dv.div_ceil(CHUNK);
    d + 2 * CHUNK + columns * (CHUNK + 1) + 8
}
