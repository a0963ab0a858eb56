//! Sub-allocation inside a session's blocks, so that a tensor costs no message. Pure: offsets and lengths only.

use std::collections::BTreeMap;

/// Every allocation starts at a multiple of this.
pub(super) const ALIGN: u64 = 256;

/// Free ranges of one block, by offset. Neighbours are always merged.
#[derive(Debug)]
pub(super) struct Heap {
    len: u64,
    free: BTreeMap<u64, u64>,
}

impl Heap {
    /// A block of `len` bytes, all free.
    pub(super) fn new(len: u64) -> Self {
        Self { len, free: BTreeMap::from([(0, len)]) }
    }

    /// The offset of `bytes` bytes (rounded up to the alignment), from the smallest range that holds them.
    pub(super) fn take(&mut self, bytes: u64) -> Option<u64> {
        let need = rounded(bytes);
        let fit = self.free.iter().filter(|&(_, &len)| len >= need);
        let (&offset, &len) = fit.min_by_key(|&(_, &len)| len)?;
        self.free.remove(&offset);
        if len > need {
            self.free.insert(offset + need, len - need);
        }
        Some(offset)
    }

    /// Gives back what `take` gave for the same number of bytes.
    pub(super) fn give(&mut self, offset: u64, bytes: u64) {
        let (mut start, mut len) = (offset, rounded(bytes));
        if let Some(next) = self.free.remove(&(start + len)) {
            len += next;
        }
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            (start, len) = (before, before_len + len);
        }
        self.free.insert(start, len);
    }

    /// Whether nothing is taken.
    pub(super) fn is_whole(&self) -> bool {
        self.free.get(&0) == Some(&self.len)
    }
}

/// Bytes that an allocation occupies: at least one unit, so that no two share an offset.
pub(super) fn rounded(bytes: u64) -> u64 {
    bytes.max(1).div_ceil(ALIGN).saturating_mul(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_history_never_overlaps_and_ends_whole() {
        let mut heap = Heap::new(1 << 16);
        let mut taken: Vec<(u64, u64)> = Vec::new();
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = (seed >> 33) % 3000;
            if (seed >> 60) < 9 {
                if let Some(at) = heap.take(bytes) {
                    assert!(at.is_multiple_of(ALIGN) && at + rounded(bytes) <= 1 << 16);
                    let apart =
                        |&(o, n): &(u64, u64)| at + rounded(bytes) <= o || o + rounded(n) <= at;
                    assert!(taken.iter().all(apart));
                    taken.push((at, bytes));
                }
            } else if !taken.is_empty() {
                let (at, bytes) = taken.swap_remove((seed >> 20) as usize % taken.len());
                heap.give(at, bytes);
            }
        }
        taken.into_iter().for_each(|(at, bytes)| heap.give(at, bytes));
        assert!(heap.is_whole());
    }
}
