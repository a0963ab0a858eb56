//! The batch entries of attention and of its gradients: how many there are, the most that one has, and the tiles of all.

use super::dim;
use crate::op::{CheckedOp, KeyValue, Lens, Scores};

/// Most batch entries whose counts lie in device memory, and nanoseconds that a launch counts each: `COUNTED` of
/// `batch.wgsl`.
pub(super) const COUNTED: u64 = 1024;
const COUNT_NS: u64 = 40;

/// The batch entries of an op.
pub(in super::super) struct Batch {
    pub(in super::super) entries: u64,
    /// Rows of q, and room for the keys of an entry; for those of all where keys are packed.
    pub(in super::super) rows: u64,
    pub(in super::super) room: u64,
    /// The most rows and keys that an entry has.
    pub(in super::super) most_rows: u64,
    pub(in super::super) most_keys: u64,
    /// Whether rows lie one after another, and dense keys too.
    pub(in super::super) packed: bool,
    pub(in super::super) packed_keys: bool,
}

/// Whether a launch reads counts in device memory.
pub(in super::super) fn counts(scores: &Scores) -> bool {
    scores.rows.on_device() || scores.lens.on_device()
}

impl Batch {
    pub(in super::super) fn of(op: &CheckedOp, scores: &Scores, key_value: KeyValue) -> Self {
        let rows = dim(op, "q", 1);
        let entries = match &scores.rows {
            Lens::Full => dim(op, "q", 3),
            Lens::Host(list) => list.len() as u64,
            Lens::Device { .. } => dim(op, "rows", 0),
        };
        let room = match key_value {
            KeyValue::Dense => dim(op, "k", 1),
            KeyValue::Paged { page } => dim(op, "pages", 0).saturating_mul(page.into()),
        };
        let most = |lens: &Lens, full: u64| match lens {
            Lens::Full => full,
            Lens::Host(list) => list.iter().max().map_or(0, |&n| n.into()),
            Lens::Device { max } => full.min((*max).into()),
        };
        let packed = scores.rows != Lens::Full;
        let keys = if scores.lens == Lens::Full { &scores.rows } else { &scores.lens };
        Self {
            entries,
            rows,
            room,
            most_rows: most(&scores.rows, rows),
            most_keys: most(keys, room).min(room),
            packed,
            packed_keys: packed && key_value == KeyValue::Dense,
        }
    }

    /// Tiles of a head of `n` rows or keys in all: where entries share them each has at most one that is not full, and
    /// so have those that none owns. `tile_of` of `batch.wgsl` says where an entry's begin.
    pub(super) fn tiles(&self, n: u64, tile: u64) -> u64 {
        if self.packed { n / tile + self.entries + 1 } else { n.div_ceil(tile) }
    }

    /// Nanoseconds that a launch takes to count.
    pub(super) fn count_ns(&self, scores: &Scores) -> u64 {
        if counts(scores) { self.entries.min(COUNTED) * COUNT_NS } else { 0 }
    }
}

/// Operations of the functions of a score, those of softmax included.
pub(super) fn functions(scores: &Scores) -> u64 {
    96 + 48 * u64::from(scores.softcap > 0.0) + 8 * u64::from(scores.alibi)
}
