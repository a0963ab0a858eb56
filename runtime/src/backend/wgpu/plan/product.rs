//! The geometry of a product: tiles of the output, and links along k.

use super::{Class, dim, links, numel};
use crate::op::CheckedOp;

/// Elements of k in a chunk of a product: links are cut between chunks.
pub(super) const CHUNK: u64 = 64;

/// The geometry of a product.
pub(in super::super) struct Product {
    pub(in super::super) m: u64,
    pub(in super::super) n: u64,
    pub(in super::super) k: u64,
    pub(in super::super) tiles_m: u64,
    pub(in super::super) tiles_n: u64,
    /// Elements of k in a link.
    pub(in super::super) link_k: u64,
    entries: u128,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
}

impl Product {
    pub(in super::super) fn of(op: &CheckedOp, class: &Class) -> Self {
        let (m, n, k) = (dim(op, "out", 1), dim(op, "out", 0), dim(op, "a", 0));
        let [tm, tn] = class.tile;
        // Invocations at the edge work on whole blocks of 4 by 4.
        let area = m.min(tm).next_multiple_of(4) * n.min(tn).next_multiple_of(4);
        let rest_ns = area * 20_000 / class.product;
        let chunk_ns = 2 * area * k.min(CHUNK) * 1000 / class.product;
        let (links, per_link) = links(class, k.div_ceil(CHUNK), chunk_ns + rest_ns, 0, CHUNK);
        let unit_ns = (chunk_ns + rest_ns) * per_link;
        let entries = numel(op, "out").checked_div(u128::from(m) * u128::from(n)).unwrap_or(0);
        let (tiles_m, tiles_n) = (m.div_ceil(tm), n.div_ceil(tn));
        Self { m, n, k, tiles_m, tiles_n, link_k: per_link * CHUNK, entries, links, unit_ns }
    }

    pub(super) fn tiles(&self) -> u128 {
        self.entries * u128::from(self.tiles_m) * u128::from(self.tiles_n)
    }
}
