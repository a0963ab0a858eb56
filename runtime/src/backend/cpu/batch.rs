//! Batch entries of attention and of its gradients: where their rows and keys lie, which keys a row sees, and what is added
//! to its scores. `attention` and `attention_backward` walk their tiles by it.

use super::isa::Isa;
use super::memory::View;
use super::{Fault, report};
use crate::op::{Lens, Scores};
use std::ops::Range;

/// A batch entry: where its rows and keys begin, where packed, and how many there are.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) batch: u64,
    pub(super) first_row: u64,
    pub(super) first_key: u64,
    pub(super) rows: u64,
    pub(super) keys: u64,
    /// Keys that lie in its place, those that nobody sees too.
    pub(super) places: u64,
    /// Whether it is an entry of the caller's, not the rows and keys that none owns.
    pub(super) owned: bool,
}

/// The entries of an op. Counts in device memory are read once for all tiles of a span, so that these agree on them.
pub(super) enum Batch {
    /// Nothing is counted: all are as this one.
    Alike(Entry),
    /// One for each batch entry.
    Counted(Vec<Entry>),
    /// Their rows lie one after another; the last is of those that none owns.
    Packed(Vec<Entry>),
}

/// What counts are held to.
pub(super) struct Room {
    /// Rows of an entry of Q's batch axis.
    pub(super) rows: u64,
    /// Keys: of all entries together where they are packed, else of each.
    pub(super) keys: u64,
    pub(super) packed_keys: bool,
}

impl Batch {
    /// Of an op.
    pub(super) fn of(
        scores: &Scores,
        room: &Room,
        [rows, lens]: [Option<&View>; 2],
        fault: &Fault,
    ) -> Self {
        let places = room.keys;
        let one = Entry {
            batch: 0,
            first_row: 0,
            first_key: 0,
            rows: room.rows,
            keys: places,
            places,
            owned: true,
        };
        if scores.rows == Lens::Full {
            let Some(keys) = counts(&scores.lens, lens, fault) else { return Self::Alike(one) };
            let keys = (0..).zip(keys);
            return Self::Counted(
                keys.map(|(batch, keys)| Entry { batch, keys: keys.min(room.keys), ..one })
                    .collect(),
            );
        }
        let rows = counts(&scores.rows, rows, fault).unwrap_or_default();
        let keys = counts(&scores.lens, lens, fault).unwrap_or_else(|| rows.clone());
        let (mut first_row, mut first_key) = (0, 0);
        let mut entries = Vec::with_capacity(rows.len() + 1);
        for (batch, (rows, keys)) in (0..).zip(rows.into_iter().zip(keys)) {
            let (rows, keys) = (rows.min(room.rows - first_row), keys.min(room.keys - first_key));
            entries.push(Entry {
                batch,
                first_row,
                first_key,
                rows,
                keys,
                places: keys,
                owned: true,
            });
            first_row += rows;
            first_key += if room.packed_keys { keys } else { 0 };
        }
        let (rows, places) = (room.rows - first_row, room.keys - first_key);
        entries.push(Entry { batch: 0, first_row, first_key, rows, keys: 0, places, owned: false });
        Self::Packed(entries)
    }

    /// Where tiles of this many rows, or of what else `count` counts of an entry, begin.
    pub(super) fn tiles(&self, size: u64, count: fn(&Entry) -> u64) -> Tiling {
        let mut firsts = Vec::new();
        if let Self::Packed(entries) = self {
            let mut first = 0;
            firsts.extend(entries.iter().map(|entry| {
                let this = first;
                first += count(entry).div_ceil(size);
                this
            }));
        }
        Tiling { size, count, firsts }
    }

    /// The entry that a tile of a head of the batch axis's entry `batch` is of, and which of its rows; none where fewer came
    /// than the plan has room for.
    pub(super) fn tile(
        &self,
        tiling: &Tiling,
        batch: u64,
        tile: u64,
    ) -> Option<(Entry, Range<u64>)> {
        let (entry, first) = match self {
            Self::Alike(entry) => (Entry { batch, ..*entry }, 0),
            Self::Counted(entries) => (*entries.get(batch as usize)?, 0),
            Self::Packed(entries) => {
                // Empty entries begin where the next does: the last that begins here or before.
                let next = tiling.firsts.partition_point(|&first| first <= tile);
                let at = next.checked_sub(1)?;
                (entries[at], tiling.firsts[at])
            }
        };
        let (first, count) = ((tile - first) * tiling.size, (tiling.count)(&entry));
        (first < count).then(|| (entry, first..count.min(first + tiling.size)))
    }
}

/// How rows or keys of the entries are cut into tiles.
pub(super) struct Tiling {
    size: u64,
    count: fn(&Entry) -> u64,
    /// The first tile of each entry where they are packed.
    firsts: Vec<u64>,
}

/// The counts of an op, one for each entry; none where nothing is counted.
fn counts(lens: &Lens, operand: Option<&View>, fault: &Fault) -> Option<Vec<u64>> {
    match (lens, operand) {
        (Lens::Full, _) => None,
        (Lens::Host(list), _) => Some(list.iter().map(|&n| n.into()).collect()),
        (Lens::Device { max }, view) => view.map(|view| {
            let held = |i| {
                let word = view.word(i * view.strides[0]);
                if word > *max {
                    report(fault, word, u64::from(*max) + 1);
                }
                word.min(*max).into()
            };
            (0..view.shape[0]).map(held).collect()
        }),
    }
}

/// The most that counts come to.
pub(super) fn most(lens: &Lens, room: u64) -> u64 {
    match lens {
        Lens::Full => room,
        Lens::Host(list) => room.min(list.iter().max().map_or(0, |&n| n.into())),
        Lens::Device { max } => room.min((*max).into()),
    }
}

/// Tiles of `room` rows or keys that lie packed by these counts, of `entries`, and of those that none owns.
pub(super) fn packed_tiles(lens: &Lens, room: u64, entries: u64, tile: u64) -> u64 {
    match lens {
        Lens::Host(list) => {
            let owned: u64 = list.iter().map(|&n| u64::from(n)).sum();
            let tiles = list.iter().map(|&n| u64::from(n).div_ceil(tile)).sum::<u64>();
            tiles + room.saturating_sub(owned).div_ceil(tile)
        }
        // At most one partial tile an entry, and one of those that none owns.
        _ => room.div_ceil(tile) + entries + 1,
    }
}

impl Entry {
    /// Place of a row among the keys.
    pub(super) fn position(&self, row: u64) -> i64 {
        // Counts are below 2^32.
        (row + self.keys) as i64 - self.rows as i64
    }

    /// The keys that a row sees. Both ends grow with the row.
    pub(super) fn seen(&self, scores: &Scores, row: u64) -> Range<u64> {
        let here = self.position(row);
        let (mut start, mut end) = (0, self.keys as i64);
        if scores.causal {
            end = end.min(here + 1);
        }
        if let Some([left, right]) = scores.window {
            start = here - i64::from(left);
            end = end.min(here + i64::from(right) + 1);
        }
        let end = end.max(0);
        start.clamp(0, end) as u64..end as u64
    }
}

/// What is added to the scores of a row.
pub(super) struct Bias<'a> {
    /// Slope of the head, where it has one, and the row's place among the keys.
    pub(super) slope: Option<f32>,
    pub(super) position: i64,
    /// The mask, where there is one, and where the row's first key is in it.
    pub(super) mask: Option<(&'a View, u64)>,
}

impl Bias<'_> {
    /// Adds it to the scores of keys from `first` on; as much of `line` is written over.
    pub(super) fn add(&self, isa: Isa, first: u64, scores: &mut [f32], line: &mut [f32]) {
        if let Some(slope) = self.slope {
            let ahead = self.position - first as i64;
            let distances = (0..).map(|i| (ahead - i).unsigned_abs() as f32);
            scores.iter_mut().zip(distances).for_each(|(s, far)| *s -= slope * far);
        }
        if let Some((mask, at)) = self.mask {
            let line = &mut line[..scores.len()];
            mask.load(isa, at + first * mask.row_stride(), mask.row_stride(), line);
            scores.iter_mut().zip(&*line).for_each(|(s, m)| *s += m);
        }
    }
}
