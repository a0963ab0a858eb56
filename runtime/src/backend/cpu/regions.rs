//! Memory from the system: blocks that lie alone, and on devices of one process small ones side by side in regions, so that
//! they lie on large pages too: a walk over weights on small pages takes longer to find them than to read them. `memory`
//! takes its blocks here.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;

/// Alignment of a block's first byte.
const ALIGN: u64 = 4096;
/// Bytes of a large page.
const LARGE_PAGE: u64 = 2 << 20;
/// Bytes of a region, and of the smallest block that always lies alone.
const REGION: u64 = 32 << 20;
const ALONE: u64 = 4 << 20;
/// Freed bytes kept for reuse, because fresh pages cost a fault each.
const SPARE_MAX: u64 = 1 << 30;

/// Pages that the system zeroed when it gave them; freed with the value.
struct Pages {
    raw: *mut u8,
    layout: Layout,
    /// Where a page begins, a large one if they are as many.
    start: *mut u8,
}

// SAFETY: pages are plain memory that nothing else owns.
unsafe impl Send for Pages {}

impl Pages {
    fn new(bytes: u64) -> Option<Self> {
        let large = bytes >= LARGE_PAGE;
        let align = if large { LARGE_PAGE } else { ALIGN };
        // Over-allocating keeps the allocator's lazily zeroed path, which an alignment request would lose.
        let len = usize::try_from(bytes.max(1).checked_add(align)?).ok()?;
        let layout = Layout::from_size_align(len, 16).ok()?;
        // SAFETY: the size is not zero.
        let raw = unsafe { alloc::alloc_zeroed(layout) };
        if raw.is_null() {
            return None;
        }
        // SAFETY: less than `align` further, by which the allocation is larger than asked.
        let start = unsafe { raw.add(raw.align_offset(align as usize)) };
        if large {
            large_pages(start, bytes);
        }
        Some(Self { raw, layout, start })
    }
}

/// Asks for large pages where they fit. Without them all is as right.
fn large_pages(start: *mut u8, bytes: u64) {
    #[cfg(target_os = "linux")]
    {
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: the range is the block's, page-aligned, and the advice changes no content.
        let _ = unsafe { rustix::mm::madvise(start.cast(), bytes as usize, advice) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: made by `alloc_zeroed` with this layout, freed once.
        unsafe { alloc::dealloc(self.raw, self.layout) };
    }
}

/// A buffer that launches reuse. It grows where it is too short, and then holds zeros again.
pub(super) struct Reused<T> {
    pages: Option<Pages>,
    len: usize,
    item: PhantomData<T>,
}

impl<T> Default for Reused<T> {
    fn default() -> Self {
        Self { pages: None, len: 0, item: PhantomData }
    }
}

impl<T: bytemuck::Zeroable + Copy> Reused<T> {
    /// As many items as these.
    pub(super) fn grown(&mut self, n: usize) -> &mut [T] {
        if self.len < n {
            *self = Self::default();
            let bytes = n.saturating_mul(size_of::<T>());
            self.pages = Pages::new(bytes as u64);
            self.len = n;
        }
        match &self.pages {
            // SAFETY: the pages have room for `len` items, zeroed or written, aligned as no item asks for more, and
            // live as long as the borrow of `self`.
            Some(pages) => unsafe { std::slice::from_raw_parts_mut(pages.start.cast(), n) },
            None if n == 0 => &mut [],
            // As a vector does.
            None => alloc::handle_alloc_error(Layout::new::<T>()),
        }
    }
}

/// A range of pages that one owner has until it gives it back. The [`Regions`] that it is from outlive it.
pub(super) struct Block {
    pub(super) start: *mut u8,
    pub(super) len: u64,
    /// Nothing was written to it since the system gave its pages: it holds zeros.
    pub(super) fresh: bool,
    /// Its own pages, unless it lies in a region.
    alone: Option<Pages>,
}

// SAFETY: a block is plain memory that nothing else owns.
unsafe impl Send for Block {}

/// Pages that small blocks share.
struct Region {
    pages: Pages,
    /// What was given back: offsets and lengths, apart from each other.
    holes: BTreeMap<u64, u64>,
    /// Where what nobody had yet begins.
    reached: u64,
}

impl Region {
    /// A range of `len` bytes, and whether nobody had it yet.
    fn take(&mut self, len: u64) -> Option<(u64, bool)> {
        if let Some((&at, &have)) = self.holes.iter().find(|(_, have)| **have >= len) {
            self.holes.remove(&at);
            if have > len {
                self.holes.insert(at + len, have - len);
            }
            return Some((at, false));
        }
        let at = self.reached;
        (len <= REGION - at).then(|| {
            self.reached += len;
            (at, true)
        })
    }

    fn give(&mut self, Range { mut start, mut end }: Range<u64>) {
        if let Some((&at, &len)) =
            self.holes.range(..start).next_back().filter(|(at, len)| **at + **len == start)
        {
            self.holes.remove(&at);
            start -= len;
        }
        if let Some(len) = self.holes.remove(&end) {
            end += len;
        }
        self.holes.insert(start, end - start);
    }

    /// Whether nobody has any of it.
    fn is_free(&self) -> bool {
        self.holes.get(&0).copied().unwrap_or(0) == self.reached
    }
}

/// All that this backend has of the system's memory, beside its blocks of their own.
#[derive(Default)]
pub(super) struct Regions {
    /// Whether small blocks share pages. What was given back between blocks in use is on nobody's account, so not where
    /// a budget is divided among strangers.
    pub(super) shares: bool,
    /// By their first address.
    shared: BTreeMap<usize, Region>,
    /// Freed blocks that lay alone.
    spare: Vec<Block>,
}

impl Regions {
    /// Freed bytes that are kept, without the holes of regions in use.
    pub(super) fn spare_bytes(&self) -> u64 {
        let free = self.shared.values().filter(|region| region.is_free());
        let alone = self.spare.iter().map(|block| block.len);
        alone.chain(free.map(|region| region.reached)).sum()
    }

    /// A block of at least `bytes` bytes; `None` when that would pass `room` or the system has no more. What is spare
    /// counts until it is needed.
    pub(super) fn take(&mut self, bytes: u64, room: u64) -> Option<Block> {
        if bytes >= ALONE || !self.shares {
            return self.take_alone(bytes, room);
        }
        if bytes > room {
            return None;
        }
        let len = rounded(bytes);
        let taken = self
            .shared
            .iter_mut()
            .find_map(|(address, region)| Some((*address, region.take(len)?)));
        let (address, (at, fresh)) = match taken {
            Some(taken) => taken,
            None => {
                self.make_room(bytes, room);
                let pages = Pages::new(REGION)?;
                let address = pages.start.addr();
                let mut region = Region { pages, holes: BTreeMap::new(), reached: 0 };
                let taken = region.take(len)?;
                self.shared.insert(address, region);
                (address, taken)
            }
        };
        let pages = &self.shared.get(&address)?.pages;
        // SAFETY: the region gave a range inside its pages.
        let start = unsafe { pages.start.add(at as usize) };
        Some(Block { start, len: bytes, fresh, alone: None })
    }

    fn take_alone(&mut self, bytes: u64, room: u64) -> Option<Block> {
        let most = bytes.saturating_mul(2).max(1 << 16).min(room);
        let good = |have: u64| have >= bytes && have <= most;
        let fit = (0..self.spare.len()).filter(|&i| good(self.spare[i].len));
        if let Some(i) = fit.min_by_key(|&i| self.spare[i].len) {
            return Some(self.spare.swap_remove(i));
        }
        if bytes > room {
            return None;
        }
        self.make_room(bytes, room);
        let pages = Pages::new(bytes)?;
        Some(Block { start: pages.start, len: bytes, fresh: true, alone: Some(pages) })
    }

    /// Returns what is spare to the system where it would pass the budget together with `bytes` more.
    fn make_room(&mut self, bytes: u64, room: u64) {
        if bytes > room.saturating_sub(self.spare_bytes()) {
            self.spare.clear();
            self.shared.retain(|_, region| !region.is_free());
        }
    }

    pub(super) fn give(&mut self, block: Block) {
        if block.alone.is_some() {
            if self.spare_bytes() + block.len <= SPARE_MAX {
                self.spare.push(block);
            }
            return;
        }
        let address = block.start.addr();
        let Some((first, region)) = self.shared.range_mut(..=address).next_back() else { return };
        let at = (address - first) as u64;
        region.give(at..at + rounded(block.len));
        let first = *first;
        if region.is_free() && self.spare_bytes() > SPARE_MAX {
            self.shared.remove(&first);
        }
    }
}

/// Bytes that a block takes in a region.
fn rounded(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(ALIGN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{ALIGN, ALONE, Block, REGION, Regions};

    fn apart(blocks: &[Block]) {
        let mut ranges: Vec<_> =
            blocks.iter().map(|b| b.start.addr()..b.start.addr() + b.len as usize).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
    }

    #[test]
    fn blocks_lie_apart_and_what_was_given_back_is_not_fresh() {
        let mut regions = Regions { shares: true, ..Regions::default() };
        let sizes = [1, ALIGN, 3 * ALIGN + 1, ALONE - 1, ALONE, 7, REGION];
        let mut blocks: Vec<Block> = Vec::new();
        for round in 0..20 {
            blocks.extend(sizes.map(|size| regions.take(size, u64::MAX).unwrap()));
            apart(&blocks);
            assert_eq!(blocks.iter().all(|block| block.fresh), round == 0);
            // A different third each time.
            let (mut i, rest) = (0, std::mem::take(&mut blocks));
            for block in rest {
                i += 1;
                if (i + round) % 3 == 0 { blocks.push(block) } else { regions.give(block) }
            }
        }
        blocks.into_iter().for_each(|block| regions.give(block));
        assert!(regions.shared.values().all(|region| region.is_free() && region.holes.len() == 1));
        assert!(regions.spare_bytes() > 0);
        regions.make_room(1, 1);
        assert_eq!((regions.spare_bytes(), regions.shared.len()), (0, 0));
    }

    #[test]
    fn holes_are_used_again_and_joined() {
        let mut regions = Regions { shares: true, ..Regions::default() };
        let mut take = |bytes| regions.take(bytes, u64::MAX).unwrap();
        let [a, b, c, d] = [ALIGN; 4].map(&mut take);
        let first = a.start;
        [a, c, b].into_iter().for_each(|block| regions.give(block));
        let again = regions.take(3 * ALIGN, u64::MAX).unwrap();
        assert_eq!((again.start, again.fresh), (first, false));
        apart(&[again, d]);
    }
}
