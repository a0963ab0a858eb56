//! The geometry of a scatter: a tile is a run of columns of every entry, a link a run of entries.

use super::{Class, numel};
use crate::op::CheckedOp;

/// Columns of a tile: no tile begins in the middle of a word.
const COLUMNS: u64 = 256;
/// Iterations of the loops that find an entry.
const LOOPS: u64 = 8;

/// The entries of a scatter.
pub(in super::super) struct Entries {
    /// Entries in all, and elements of each.
    pub(in super::super) count: u128,
    pub(in super::super) inner: u64,
    /// Columns of a tile.
    pub(in super::super) columns: u64,
    pub(in super::super) per_link: u64,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
}

impl Entries {
    pub(in super::super) fn of(op: &CheckedOp, class: &Class) -> Self {
        let shape = |name| op.spec(name).map(|s| *s.layout.shape()).unwrap_or_default();
        let (x, out) = (shape("x"), shape("out"));
        let (count, inner) = match op.position("lens") {
            Some(_) => (u128::from(x[0]) * u128::from(x[2]), x[1].saturating_mul(x[3])),
            None => (numel(op, "index"), out[1..].iter().fold(1u64, |n, &d| n.saturating_mul(d))),
        };
        let most = u64::try_from(count).unwrap_or(u64::MAX).max(1);
        let columns = inner.clamp(1, COLUMNS);
        let per_link = class.entries.min(class.loops / LOOPS).min(most);
        let unit_ns = per_link * (class.entry_ns + columns * 1000 / class.moved);
        let links = most.div_ceil(per_link);
        Self { count, inner, columns, per_link, links, unit_ns }
    }

    pub(super) fn tiles(&self) -> u64 {
        self.inner.div_ceil(COLUMNS)
    }

    pub(super) fn link_loops(&self) -> u64 {
        self.per_link * LOOPS
    }
}
