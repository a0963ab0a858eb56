//! How attention is cut: a pass that lists the batch entries, where counts lie in device memory, then one over links of waves
//! of tiles. A link fills the device and is short enough to be a unit.

use super::chain::{Pass, links};
use super::waves::{ALIGN, Form, Waves};
use super::{Class, LAUNCH_NS, attention, heads::Heads};
use crate::op::{Attention, Mask};
use crate::order::UNIT_CAP_GPU_NS;
use leasehold_kernels::{
    AttentionCombine, AttentionPaged, AttentionReference, AttentionSm90, Entry, Row,
};
use std::ops::Range;

/// What the functions of a score cost, in operations of the matrix unit.
pub(super) const SCORE: u64 = 256;
/// Nanoseconds of a key of a tile where rows are multiplied without it.
pub(super) const PLAIN_KEY_NS: u64 = 1_000;
/// Nanoseconds to begin and end a tile.
pub(super) const END_NS: u64 = 2_000;
/// Entries that a link lists, and its nanoseconds.
pub(super) const LISTED: u64 = 2_048;
pub(super) const LIST_NS: u64 = 200_000;
/// Parts that splits leave at most before they are merged.
const PARTS: u64 = 4_096;

/// The cut of attention by a row.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Cut {
    pub(in super::super) tile_rows: u64,
    pub(in super::super) tiles_per_head: u64,
    /// Entries that are listed on the device.
    listed: u64,
    /// The tiles; chunks are of this many keys.
    pub(in super::super) waves: Waves,
    pub(in super::super) chunk: u64,
    /// Whether links walk the keys from right to left.
    from_right: bool,
    /// Key heads whose tiles run side by side.
    pub(in super::super) heads_at_once: u64,
    /// Keys of a split, or 0, and how many parts there is room for.
    pub(in super::super) split: u64,
    pub(in super::super) parts: u64,
    /// Bytes of the list of entries and of the parts.
    list_bytes: u64,
    parts_bytes: u64,
}

/// Rows of a tile, and keys of a chunk.
fn tile(row: &Row) -> Option<[u64; 2]> {
    let tile = match row {
        Row::AttentionSm90(row) => [AttentionSm90::ROWS, row.chunk()],
        Row::AttentionSm80(row) => [row.rows(), row.chunk()],
        Row::AttentionPaged(row) => [AttentionPaged::ROWS, attention::split(row)],
        Row::AttentionReference(_) => [AttentionReference::ROWS, 1],
        _ => return None,
    };
    Some(tile.map(u64::from))
}

/// What a row's tile and chunk take.
fn form(heads: &Heads, op: &Attention, row: &Row, [rows, chunk]: [u64; 2], class: &Class) -> Form {
    let dims = heads.d + heads.dv;
    let masked = if op.scores.mask == Mask::Additive { class.moved(4 * rows * chunk) } else { 0 };
    let rate = match row {
        Row::AttentionSm90(_) => class.attention,
        _ => class.attention.min(class.sm80[0] * 2 / 3),
    };
    let product = (rows * chunk * (2 * dims + SCORE)).div_ceil(rate);
    let product = match row {
        Row::AttentionReference(_) => PLAIN_KEY_NS,
        _ => product.max(class.moved(2 * chunk * dims)),
    };
    let carried = match row {
        Row::AttentionSm90(row) => row.state_bytes(),
        Row::AttentionSm80(row) => row.state_bytes(),
        _ => AttentionCombine::part_bytes(heads.dv as u32),
    };
    let end_ns = END_NS + class.moved(4 * rows * dims);
    Form { chunk_ns: product + masked, end_ns, carried }
}

/// Key heads whose tiles run side by side. Where the last rows see the most keys, as many as the L2 cache keeps the keys and
/// values of: the longest tiles of all of them come first then. Elsewhere tiles are alike, and one head comes after another.
fn heads_at_once(heads: &Heads, op: &Attention, all: u64, class: &Class) -> u64 {
    let bytes = heads.keys.max(1).saturating_mul(2 * (heads.d + heads.dv).max(1));
    let kept = if op.scores.causal { class.l2_bytes / bytes } else { 1 };
    kept.min(all).max(1)
}

impl Cut {
    /// The cut; `None` where there are more tiles than are counted, or no row of attention.
    pub(in super::super) fn of(
        heads: &Heads,
        op: &Attention,
        row: &Row,
        class: &Class,
    ) -> Option<Self> {
        let [tile_rows, chunk] = tile(row)?;
        let form = form(heads, op, row, [tile_rows, chunk], class);
        let tiles_per_head = heads.tiles_per_head(&op.scores.rows, tile_rows);
        u32::try_from(tiles_per_head).ok()?;
        let batch = if heads.is_packed { 1 } else { heads.entries };
        let tiles = batch.checked_mul(heads.kv_heads)?.checked_mul(tiles_per_head)?;
        // A tile without a key has one to look for all the same.
        let chunks = heads.keys.max(1).div_ceil(chunk);
        let is_split = matches!(row, Row::AttentionPaged(_));
        let (waves, parts) = match is_split {
            true => in_parts(tiles, chunks, &form, class),
            false => (Waves::of(tiles, chunks, &form, class), 0),
        };
        let listed = if heads.is_counted && tiles > 0 { heads.entries.max(1) } else { 0 };
        let list = if listed > 0 { list_bytes(heads)? } else { 0 };
        Some(Self {
            tile_rows,
            tiles_per_head,
            listed,
            waves,
            chunk,
            from_right: matches!(row, Row::AttentionSm90(_)),
            heads_at_once: heads_at_once(heads, op, batch * heads.kv_heads, class),
            split: if is_split { chunk } else { 0 },
            parts,
            list_bytes: list,
            parts_bytes: parts * form.carried,
        })
    }

    /// The passes: over entries to list, and over links of waves. `None` where they are too many.
    pub(in super::super) fn passes(&self) -> Option<[Pass; 2]> {
        Some([Pass { items: self.listed, step: LISTED }, self.waves.pass()?])
    }

    pub(super) fn links(&self) -> Option<u64> {
        Some(links(&self.passes()?))
    }

    pub(super) fn unit_ns(&self) -> u64 {
        self.waves.unit_ns.max(if self.listed > 0 { LIST_NS } else { 0 })
    }

    pub(super) fn state_bytes(&self) -> u64 {
        self.list_bytes + self.waves.carried_bytes + self.parts_bytes
    }

    /// The chunks of keys that links walk.
    pub(in super::super) fn walked(&self, chunks: Range<u64>) -> Range<u64> {
        match self.from_right {
            true => self.waves.chunks - chunks.end..self.waves.chunks - chunks.start,
            false => chunks,
        }
    }

    /// Whether links that walk these keys, up to `end` of all, are the first of their tiles, and whether the last.
    pub(in super::super) fn ends(&self, keys: &Range<u64>, end: u64) -> [bool; 2] {
        let ends = [keys.start == 0, keys.end == end];
        if self.from_right { [ends[1], ends[0]] } else { ends }
    }

    /// Where the list, what tiles carry, and the parts lie in a state.
    pub(in super::super) fn places(&self, state: u64) -> [u64; 3] {
        let carried = state + self.list_bytes;
        [state, carried, carried + self.waves.carried_bytes]
    }
}

/// Bytes of the list of entries; `None` where they are more than kernels number.
pub(super) fn list_bytes(heads: &Heads) -> Option<u64> {
    let listed = u64::from(u32::try_from(heads.entries).ok()?) + 1;
    Some((listed * size_of::<Entry>() as u64).next_multiple_of(ALIGN))
}

/// Splits of the keys of tiles, one on a multiprocessor, and what merges the parts that they leave: as many as a unit has time
/// for; and how many parts there is room for.
fn in_parts(tiles: u64, splits: u64, form: &Form, class: &Class) -> (Waves, u64) {
    // A part is written and read.
    let part_ns = form.chunk_ns + 3 * form.end_ns;
    let most = class.multiprocessors * ((UNIT_CAP_GPU_NS - 2 * LAUNCH_NS) / part_ns).max(1);
    let link_chunks = splits.min(most);
    let links = splits.div_ceil(link_chunks);
    let wave = if links > 1 { 1 } else { most / splits };
    let side_by_side = wave.min(tiles) * link_chunks;
    let waves = Waves {
        tiles,
        wave,
        links,
        link_chunks,
        chunks: splits,
        unit_ns: side_by_side.div_ceil(class.multiprocessors) * part_ns + 2 * LAUNCH_NS,
        carried_bytes: if links > 1 { form.carried.next_multiple_of(ALIGN) } else { 0 },
    };
    (waves, tiles.saturating_mul(splits).min(PARTS.max(side_by_side)))
}
