//! Blocks of device memory. A large block is a range of its own, with a gap on both sides where the driver can; small ones
//! share slabs. What is freed serves the next block of its size at once: all work is in one stream, so whoever has it next
//! comes after whoever had it. `mod` calls it.

use super::driver::{Context, Stream};
use super::ranges::{Address, Memory};
use crate::backend::BlockId;
use crate::error::{Kind, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Smallest block, so that all are aligned; largest that shares a slab; bytes of a slab.
const LEAST: u64 = 256;
const SMALL: u64 = 1 << 19;
const SLAB: u64 = 1 << 21;

enum Block {
    Large(Memory),
    /// Number of a slab, offset and size.
    Small(usize, u64, u64),
}

/// The blocks of a device.
pub(super) struct Blocks {
    context: Arc<Context>,
    live: HashMap<u64, Block>,
    next: u64,
    slabs: Vec<Memory>,
    /// What was freed: large blocks by their size, places in slabs by theirs.
    large: HashMap<u64, Vec<Memory>>,
    small: HashMap<u64, Vec<(usize, u64)>>,
    /// Bytes of device memory held, and at most.
    held: u64,
    quota: u64,
    dropped: Dropped,
}

/// Blocks whose holders went without a word to the backend.
type Dropped = Arc<Mutex<Vec<BlockId>>>;

/// A block that is freed when it is dropped.
pub(super) struct Owned {
    pub(super) block: BlockId,
    dropped: Dropped,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(self.block);
    }
}

impl Blocks {
    pub(super) fn new(context: &Arc<Context>, quota: u64) -> Self {
        Self {
            context: Arc::clone(context),
            live: HashMap::new(),
            next: 0,
            slabs: Vec::new(),
            large: HashMap::new(),
            small: HashMap::new(),
            held: 0,
            quota,
            dropped: Dropped::default(),
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
            ..=SMALL => self.small(stream, bytes.max(LEAST).next_power_of_two())?,
            _ => self.large(stream, bytes)?,
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
        Ok(Owned { block, dropped: Arc::clone(&self.dropped) })
    }

    fn large(&mut self, stream: &Stream, bytes: u64) -> Result<Block> {
        let size = self.context.rounded(bytes.min(u64::MAX >> 1));
        match self.large.get_mut(&size).and_then(Vec::pop) {
            Some(memory) => Ok(Block::Large(memory)),
            None => Ok(Block::Large(self.take(stream, bytes)?)),
        }
    }

    fn small(&mut self, stream: &Stream, size: u64) -> Result<Block> {
        if self.small.get(&size).is_none_or(Vec::is_empty) {
            let slab = self.take(stream, SLAB)?;
            let number = self.slabs.len();
            let places = (0..slab.bytes() / size).rev().map(|i| (number, i * size));
            self.small.entry(size).or_default().extend(places);
            self.slabs.push(slab);
        }
        match self.small.get_mut(&size).and_then(Vec::pop) {
            Some((slab, offset)) => Ok(Block::Small(slab, offset, size)),
            None => Err(self.full(size)),
        }
    }

    /// Memory of the device; free blocks of other sizes make room for it.
    fn take(&mut self, stream: &Stream, bytes: u64) -> Result<Memory> {
        let size = self.context.rounded(bytes.min(u64::MAX >> 1));
        for is_last in [false, true] {
            if self.held.saturating_add(size) <= self.quota
                && let Some(memory) = Memory::new(&self.context, bytes)?
            {
                self.held += memory.bytes();
                return Ok(memory);
            }
            if is_last || self.large.values().all(Vec::is_empty) {
                break;
            }
            // What is unmapped must no longer be in use.
            stream.wait()?;
            self.held -=
                self.large.drain().flat_map(|(_, list)| list).map(|m| m.bytes()).sum::<u64>();
        }
        Err(self.full(bytes))
    }

    fn full(&self, asked: u64) -> crate::Error {
        let free = self.quota.saturating_sub(self.held).min(self.context.free_bytes());
        Kind::OutOfMemory { asked, free, quota: self.quota }.into()
    }

    /// Gives a block back; unknown ones are ignored.
    pub(super) fn free(&mut self, block: BlockId) {
        match self.live.remove(&block.0) {
            Some(Block::Large(memory)) => {
                self.large.entry(memory.bytes()).or_default().push(memory);
            }
            Some(Block::Small(slab, offset, size)) => {
                self.small.entry(size).or_default().push((slab, offset));
            }
            None => {}
        }
    }

    /// The address of `len` bytes of a block.
    ///
    /// # Errors
    /// `Bounds`.
    pub(super) fn address(&self, block: BlockId, offset: u64, len: u64) -> Result<Address> {
        let (found, have) = match self.live.get(&block.0) {
            Some(Block::Large(memory)) => (memory.address(offset, len), memory.bytes()),
            Some(Block::Small(slab, at, size)) => {
                let fits = offset.checked_add(len).is_some_and(|end| end <= *size);
                let slab = self.slabs.get(*slab).filter(|_| fits);
                (slab.and_then(|slab| slab.address(at + offset, len)), *size)
            }
            None => (None, 0),
        };
        found.ok_or_else(|| {
            let asked = (u128::from(offset) + u128::from(len)).to_string();
            Kind::Bounds { asked, allowed: have.to_string() }.into()
        })
    }
}
