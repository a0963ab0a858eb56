//! Blocks of device memory. A large block is a range of its own, with a gap on both sides where the driver can; small ones
//! share slabs. What is freed serves the next block of its size at once: all work is in one stream, so whoever has it next
//! comes after whoever had it. `mod` calls it.

use super::driver::{Context, Stream};
use super::ranges::{Address, Memory, Source, Taken};
use crate::backend::BlockId;
use crate::error::{Kind, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Smallest block, so that all are aligned; largest that shares a slab; bytes of a slab.
const LEAST: u64 = 256;
const SMALL: u64 = 1 << 19;
const SLAB: u64 = 1 << 21;

/// Of what a device has free, the most that is left to the driver, for code and for what it makes itself; and that ops have
/// beside the blocks that callers count: for lists that go with them and the state of cut tiles.
const DRIVERS: u64 = 512 << 20;
const SCRATCH: u64 = 128 << 20;

/// Bytes that callers may have in blocks, of what a device has free when it is opened.
pub(super) fn usable(free: u64) -> u64 {
    free - DRIVERS.min(free / 16) - SCRATCH.min(free / 16)
}

enum Block {
    Large(Memory),
    /// Size of the places of its slab, number of the slab, and offset.
    Small(u64, u64, u64),
}

/// Memory that blocks of one size share.
struct Slab {
    memory: Memory,
    /// Offsets of the places that were given back, and where those begin that nobody has had yet.
    free: Vec<u64>,
    fresh: u64,
}

impl Slab {
    /// A place of `size` bytes that nobody has.
    fn place(&mut self, size: u64) -> Option<u64> {
        let has_fresh = self.fresh + size <= self.memory.bytes();
        let fresh = has_fresh.then_some(self.fresh);
        self.free.pop().or_else(|| {
            self.fresh += if has_fresh { size } else { 0 };
            fresh
        })
    }

    /// Takes a place back; whether nobody has one any more.
    fn give(&mut self, size: u64, offset: u64) -> bool {
        self.free.push(offset);
        self.free.len() as u64 * size == self.fresh
    }
}

/// The blocks of a device.
pub(super) struct Blocks {
    context: Arc<Context>,
    source: Source,
    live: HashMap<u64, Block>,
    next: u64,
    /// By the size of their places, and by their numbers.
    slabs: HashMap<u64, BTreeMap<u64, Slab>>,
    /// Ranges that nobody has, by their size.
    spare: HashMap<u64, Vec<Memory>>,
    /// Bytes of device memory held; those that callers count on, and those beside.
    held: u64,
    quota: u64,
    scratch: u64,
    dropped: Dropped,
}

/// Blocks whose holders went without a word to the backend.
type Dropped = Arc<Mutex<Vec<BlockId>>>;

/// A block that is freed when it is dropped.
pub(super) struct Owned {
    pub(super) block: BlockId,
    /// Bytes that it takes.
    pub(super) bytes: u64,
    dropped: Dropped,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(self.block);
    }
}

impl Blocks {
    /// No block yet; memory comes from the driver: `quota` bytes, and some for what callers do not count.
    pub(super) fn new(context: &Arc<Context>, quota: u64) -> Self {
        Self {
            context: Arc::clone(context),
            source: Source::Driver(Arc::clone(context)),
            live: HashMap::new(),
            next: 0,
            slabs: HashMap::new(),
            spare: HashMap::new(),
            held: 0,
            quota,
            scratch: SCRATCH.min(quota / 14),
            dropped: Dropped::default(),
        }
    }

    /// The same with the whole quota taken from the driver and zeroed before this returns.
    ///
    /// # Errors
    /// As [`Taken::new`].
    pub(super) fn taken(context: &Arc<Context>, stream: &Stream, quota: u64) -> Result<Self> {
        let mut blocks = Self::new(context, quota);
        let all = blocks.limit() / context.granularity * context.granularity;
        blocks.source = Source::Taken(Taken::new(context, all)?);
        let memory = Memory::new(&blocks.source, all)?;
        let Some(at) = memory.as_ref().and_then(|memory| memory.address(0, all)) else {
            return Err(blocks.full(all));
        };
        stream.zero(at, all)?;
        stream.wait()?;
        drop(memory);
        Ok(blocks)
    }

    fn limit(&self) -> u64 {
        self.quota.saturating_add(self.scratch).saturating_sub(self.source.lost_bytes())
    }

    /// Bytes that a block of `bytes` bytes takes.
    fn size(&self, bytes: u64) -> u64 {
        match bytes {
            ..=SMALL => bytes.max(LEAST).next_power_of_two(),
            _ => self.context.rounded(bytes.min(u64::MAX >> 1)),
        }
    }

    /// A block of at least `bytes` bytes, contents undefined.
    ///
    /// # Errors
    /// `OutOfMemory`, or `DeviceLost`.
    pub(super) fn alloc(&mut self, stream: &Stream, bytes: u64) -> Result<BlockId> {
        let dropped =
            std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        dropped.into_iter().for_each(|block| self.free(block));
        let block = match bytes {
            ..=SMALL => self.small(stream, self.size(bytes))?,
            _ => Block::Large(self.take(stream, bytes)?),
        };
        self.next += 1;
        self.live.insert(self.next, block);
        Ok(BlockId(self.next))
    }

    /// The same, freed when it is dropped.
    ///
    /// # Errors
    /// As [`Blocks::alloc`].
    pub(super) fn owned(&mut self, stream: &Stream, bytes: u64) -> Result<Owned> {
        let block = self.alloc(stream, bytes)?;
        Ok(Owned { block, bytes: self.size(bytes), dropped: Arc::clone(&self.dropped) })
    }

    fn small(&mut self, stream: &Stream, size: u64) -> Result<Block> {
        let slabs = self.slabs.entry(size).or_default();
        let has_room = slabs.iter_mut().find_map(|(n, slab)| Some((*n, slab.place(size)?)));
        if let Some((number, offset)) = has_room {
            return Ok(Block::Small(size, number, offset));
        }
        let mut slab = Slab { memory: self.take(stream, SLAB)?, free: Vec::new(), fresh: 0 };
        let Some(offset) = slab.place(size) else { return Err(self.full(size)) };
        self.next += 1;
        self.slabs.entry(size).or_default().insert(self.next, slab);
        Ok(Block::Small(size, self.next, offset))
    }

    /// A range that nobody has; spare ones of other sizes make room for it.
    fn take(&mut self, stream: &Stream, bytes: u64) -> Result<Memory> {
        let size = self.context.rounded(bytes.min(u64::MAX >> 1));
        if let Some(memory) = self.spare.get_mut(&size).and_then(Vec::pop) {
            return Ok(memory);
        }
        self.source.recover()?;
        for is_last in [false, true] {
            if self.held.saturating_add(size) <= self.limit()
                && let Some(memory) = Memory::new(&self.source, size)?
            {
                self.held += memory.bytes();
                return Ok(memory);
            }
            if is_last || self.spare.values().all(Vec::is_empty) {
                break;
            }
            // What is unmapped must no longer be in use.
            stream.wait()?;
            self.held -=
                self.spare.drain().flat_map(|(_, list)| list).map(|m| m.bytes()).sum::<u64>();
        }
        Err(self.full(bytes))
    }

    fn full(&self, asked: u64) -> crate::Error {
        let quota = self.quota.saturating_sub(self.source.lost_bytes());
        let free = quota.saturating_sub(self.held).min(self.source.free_bytes());
        Kind::OutOfMemory { asked, free, quota }.into()
    }

    /// Gives a block back; unknown ones are ignored.
    pub(super) fn free(&mut self, block: BlockId) {
        let memory = match self.live.remove(&block.0) {
            Some(Block::Large(memory)) => memory,
            Some(Block::Small(size, number, offset)) => {
                let Some(slabs) = self.slabs.get_mut(&size) else { return };
                let Some(slab) = slabs.get_mut(&number) else { return };
                if !slab.give(size, offset) {
                    return;
                }
                let Some(slab) = slabs.remove(&number) else { return };
                slab.memory
            }
            None => return,
        };
        self.spare.entry(memory.bytes()).or_default().push(memory);
    }

    /// The address of `len` bytes of a block.
    ///
    /// # Errors
    /// `Bounds`.
    pub(super) fn address(&self, block: BlockId, offset: u64, len: u64) -> Result<Address> {
        let (found, have) = match self.live.get(&block.0) {
            Some(Block::Large(memory)) => (memory.address(offset, len), memory.bytes()),
            Some(Block::Small(size, number, at)) => {
                let fits = offset.checked_add(len).is_some_and(|end| end <= *size);
                let slab = self.slabs.get(size).and_then(|slabs| slabs.get(number));
                let slab = slab.filter(|_| fits);
                (slab.and_then(|slab| slab.memory.address(at + offset, len)), *size)
            }
            None => (None, 0),
        };
        found.ok_or_else(|| {
            let asked = (u128::from(offset) + u128::from(len)).to_string();
            Kind::Bounds { asked, allowed: have.to_string() }.into()
        })
    }
}
