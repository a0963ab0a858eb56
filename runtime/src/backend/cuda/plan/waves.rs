//! Tiles that each walk a chain of chunks, one tile on a multiprocessor: waves of as many as fill the device, and links along
//! their chunks, so that a link of a wave is short enough to be a unit. Attention and its gradients are cut so.

use super::chain::Pass;
use super::{Class, LAUNCH_NS};
use crate::order::{Span, UNIT_CAP_GPU_NS, spans};
use std::ops::Range;

/// Parts of a state begin at multiples of this.
pub(super) const ALIGN: u64 = 256;

/// What a tile and its chunks take.
pub(super) struct Form {
    pub(super) chunk_ns: u64,
    /// To begin and end a tile.
    pub(super) end_ns: u64,
    /// Bytes that a cut tile carries.
    pub(super) carried: u64,
}

/// Tiles, and how they are cut.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Waves {
    pub(in super::super) tiles: u64,
    /// Tiles of a wave, links of each, and chunks of a link.
    pub(in super::super) wave: u64,
    pub(in super::super) links: u64,
    pub(in super::super) link_chunks: u64,
    /// Chunks of a tile.
    pub(in super::super) chunks: u64,
    pub(super) unit_ns: u64,
    pub(super) carried_bytes: u64,
}

impl Waves {
    /// As many rounds of whole tiles as a unit has time for, or a part of the chunks of one.
    pub(super) fn of(tiles: u64, chunks: u64, form: &Form, class: &Class) -> Self {
        let room = (UNIT_CAP_GPU_NS - LAUNCH_NS).saturating_sub(form.end_ns);
        let link_chunks = (room / form.chunk_ns.max(1)).clamp(1, chunks.max(1));
        let tile_ns = link_chunks * form.chunk_ns + form.end_ns;
        let links = chunks.max(1).div_ceil(link_chunks);
        let rounds = if links > 1 { 1 } else { (UNIT_CAP_GPU_NS - LAUNCH_NS) / tile_ns };
        let wave = class.multiprocessors * rounds.max(1);
        let side_by_side = wave.min(tiles);
        let carried = if links > 1 { side_by_side * form.carried } else { 0 };
        Self {
            tiles,
            wave,
            links,
            link_chunks,
            chunks,
            unit_ns: side_by_side.div_ceil(class.multiprocessors) * tile_ns + LAUNCH_NS,
            carried_bytes: carried.next_multiple_of(ALIGN),
        }
    }

    /// The pass over links of waves, wave after wave; `None` where they are too many.
    pub(super) fn pass(&self) -> Option<Pass> {
        let items = self.tiles.div_ceil(self.wave).checked_mul(self.links)?;
        Some(Pass { items, step: 1 })
    }

    /// The tiles of some items of the pass, and which of their chunks.
    pub(in super::super) fn parts(
        &self,
        items: Range<u64>,
    ) -> impl Iterator<Item = (Span, Range<u64>)> {
        spans(items, self.links).into_iter().map(|span| {
            let first = span.first * self.wave;
            let tiles = (span.tiles * self.wave).min(self.tiles - first);
            let chunk = |link: u64| self.chunks.min(link * self.link_chunks);
            (Span { first, tiles, ..span }, chunk(span.from)..chunk(span.to))
        })
    }
}
