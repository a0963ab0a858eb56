//! Copies of constant B of products, packed once in the form that the kernel wants. `Cpu` keeps them for devices of this
//! process, and drops each when the block that it was made from may change.
//!
//! A product of few rows reads B where it lies as fast as memory goes, so it has no copy. A product whose copy would
//! take too much memory, or whose B is met for the first time, packs for itself, as all others do: a copy has the bits
//! that it would have made.

use super::dot::{Line, TILE};
use super::geometry::Way;
use super::matmul::Bands;
use super::memory::Memory;
use super::pool::Pool;
use crate::backend::Place;
use crate::op::{Group, Spec};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Rows of a product of floats that a copy is worth it for: fewer read B of dense rows where it lies, and more make up
/// for packing it each time. And most elements of B: a larger one comes from memory either way, and that takes as long.
const ROWS: RangeInclusive<u64> = 25..=256;
const NEAR: u64 = 1 << 22;

/// Most views of a block that are remembered.
const MET: usize = 64;

/// What a copy was made from, beside its block, and for which kernel.
#[derive(PartialEq)]
struct Source {
    offset: u64,
    spec: Spec,
    way: Way,
    tile: [u64; 2],
}

/// The copies of a device.
#[derive(Default)]
pub(super) struct Constants {
    /// Of each block: what was met there, and the block of its copy, where there is one.
    of: HashMap<u64, Vec<(Source, Option<u64>)>>,
}

impl Constants {
    /// The block of the copy of B that lies at `place`, packed now when it is met for the second time and `budget` has
    /// room; `None` where it is not worth it.
    pub(super) fn get(
        &mut self,
        bands: &Bands<'_>,
        spec: &Spec,
        place: Place,
        pool: &Pool,
        (memory, budget): (&mut Memory, u64),
    ) -> Option<u64> {
        let p = bands.product();
        let pays = ROWS.contains(&p.m) && p.k.saturating_mul(p.n) <= NEAR;
        if p.way == Way::Wide && !pays || !bands.packs_all() {
            return None;
        }
        let source =
            Source { offset: place.offset, spec: *spec, way: p.way, tile: [p.tile[1], p.chunk] };
        let met = self.of.entry(place.block.0).or_default();
        let Some(known) = met.iter_mut().find(|(known, _)| *known == source) else {
            // Views that come once each leave nothing behind but the last of them.
            if met.len() >= MET {
                met.retain(|(_, copy)| copy.is_some());
            }
            if met.len() < MET {
                met.push((source, None));
            }
            return None;
        };
        if known.1.is_none() {
            let bytes = bands.packed_lines() as u64 * size_of::<Line>() as u64;
            let block = memory.alloc(bytes, budget)?;
            let lines = memory.bytes(block, 0, bytes)?;
            bands.pack_all(pool, bytemuck::try_cast_slice_mut(lines).ok()?);
            known.1 = Some(block);
        }
        known.1
    }

    /// The block may change, or is no more.
    pub(super) fn forget(&mut self, block: u64, memory: &mut Memory) {
        let copies = self.of.remove(&block).into_iter().flatten();
        copies.filter_map(|(_, copy)| copy).for_each(|copy| memory.free(copy));
    }

    /// Gives all copies back, for what needs their memory more.
    pub(super) fn clear(&mut self, memory: &mut Memory) {
        for block in self.of.keys().copied().collect::<Vec<_>>() {
            self.forget(block, memory);
        }
    }

    /// Copies that there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.of.values().flatten().filter(|(_, copy)| copy.is_some()).count()
    }
}

impl Bands<'_> {
    /// Whether B is constant, and one matrix that a kernel packs.
    fn packs_all(&self) -> bool {
        let p = self.product();
        let packs = matches!(p.way, Way::Wide | Way::Dot) && p.one && p.tiles > 0 && p.k > 0;
        packs && self.op().constant_b && self.op().group == Group::None
    }

    fn packed_lines(&self) -> usize {
        match self.product().way {
            Way::Dot => self.tiles_of_columns() * TILE,
            _ => self.pieces(self.whole()).lines(),
        }
    }

    /// Packs all of B into as many lines as [`Self::packed_lines`] says.
    fn pack_all(&self, pool: &Pool, lines: &mut [Line]) {
        match self.product().way {
            Way::Dot => self.pack_columns(self.whole(), pool, lines.as_chunks_mut().0),
            _ => self.pack_pieces(&self.pieces(self.whole()), pool, lines),
        }
    }
}
