//! A session's device memory as the tenant sees it: blocks that the executor gave, buffers inside them, and
//! regions of staging. Bookkeeping only; `client` sends the records.

use super::heap::{Heap, rounded};
use crate::error::{Kind, Result};
use crate::op::BufferId;
use crate::wire::{BlockRef, STAGING_BYTES};
use std::collections::HashMap;

/// Blocks are asked for in multiples of this.
const GRANULE: u64 = 2 << 20;
/// A buffer this large has a block of its own.
const LARGE: u64 = 16 << 20;
/// Bytes of a block that small buffers share.
const SHARED: u64 = 32 << 20;

/// A block and what is free in it.
#[derive(Debug)]
struct Block {
    block: u32,
    generation: u32,
    len: u64,
    heap: Heap,
}

#[derive(Clone, Copy, Debug)]
struct Buffer {
    block: u32,
    offset: u64,
    len: u64,
}

/// Blocks, buffers and staging.
#[derive(Debug)]
pub(super) struct Memory {
    blocks: HashMap<u32, Block>,
    buffers: HashMap<BufferId, Buffer>,
    next: u64,
    quota: u64,
    staging: Heap,
}

impl Memory {
    pub(super) fn new(quota: u64) -> Self {
        let staging = Heap::new(STAGING_BYTES);
        Self { blocks: HashMap::new(), buffers: HashMap::new(), next: 0, quota, staging }
    }

    /// A buffer inside a block that is there, if one has room.
    pub(super) fn alloc(&mut self, bytes: u64) -> Option<BufferId> {
        let (block, offset) = self
            .blocks
            .values_mut()
            .filter(|b| (b.len == SHARED) == (bytes < LARGE) || b.heap.is_whole())
            .find_map(|b| Some((b.block, b.heap.take(bytes)?)))?;
        self.next += 1;
        let id = BufferId(self.next);
        self.buffers.insert(id, Buffer { block, offset, len: bytes });
        Some(id)
    }

    /// Bytes of the block to ask for so that a buffer of `bytes` fits: a shared one while the quota has room for
    /// it, else just enough.
    pub(super) fn block_for(&self, bytes: u64) -> u64 {
        let held: u64 = self.blocks.values().map(|b| b.len).sum();
        if bytes < LARGE && held + SHARED <= self.quota {
            return SHARED;
        }
        rounded(bytes).div_ceil(GRANULE).saturating_mul(GRANULE)
    }

    pub(super) fn add_block(&mut self, [block, generation, len]: [u64; 3]) {
        let (number, generation) = (block as u32, generation as u32);
        let heap = Heap::new(len);
        self.blocks.insert(number, Block { block: number, generation, len, heap });
    }

    /// Takes a block out that holds no buffer, to give it back.
    pub(super) fn take_empty_block(&mut self) -> Option<BlockRef> {
        let empty = self.blocks.values().find(|b| b.heap.is_whole())?.block;
        let b = self.blocks.remove(&empty)?;
        Some(BlockRef { block: b.block, generation: b.generation, offset: 0 })
    }

    pub(super) fn free(&mut self, id: BufferId) {
        let Some(buffer) = self.buffers.remove(&id) else { return };
        if let Some(block) = self.blocks.get_mut(&buffer.block) {
            block.heap.give(buffer.offset, buffer.len);
        }
    }

    /// Where byte `offset` of a buffer lies, if `len` bytes from there are inside it.
    ///
    /// # Errors
    /// `Bounds`.
    pub(super) fn at(&self, id: BufferId, offset: u64, len: u64) -> Result<BlockRef> {
        let end = u128::from(offset) + u128::from(len);
        let buffer = self.buffers.get(&id);
        let inside = buffer.filter(|b| end <= u128::from(b.len));
        if let Some(b) = inside
            && let Some(block) = self.blocks.get(&b.block)
        {
            let offset = b.offset + offset;
            return Ok(BlockRef { block: b.block, generation: block.generation, offset });
        }
        let allowed = buffer.map_or(0, |b| b.len).to_string();
        Err(Kind::Bounds { asked: end.to_string(), allowed }.into())
    }

    /// A region of staging, if there is room now.
    pub(super) fn stage(&mut self, bytes: u64) -> Option<u64> {
        self.staging.take(bytes)
    }

    pub(super) fn unstage(&mut self, offset: u64, bytes: u64) {
        self.staging.give(offset, bytes);
    }
}
