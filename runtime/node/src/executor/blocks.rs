//! Device memory by lease: who holds which block, and when a block is zeroed. A block is zeroed when it changes
//! lease, never before. Pure bookkeeping: the caller's functions allocate and zero.

use leasehold::op::BufferId;
use leasehold::{Error, Kind, Result};
use std::collections::{BTreeMap, HashMap};

/// Blocks are multiples of this, so that freed ones fit again.
const GRANULE: u64 = 2 << 20;
/// What was written is counted in steps of this many bytes.
const WORD: u64 = 4096;

/// A block that a session may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its buffer in the executor's core.
    pub(super) id: BufferId,
    /// Bytes.
    pub(super) len: u64,
    /// Bytes from the first that its lease can have written: the others are zeros.
    wrote: u64,
}

impl Block {
    /// Something may be written up to here. Devices write whole words, and round up.
    pub(super) fn wrote(&mut self, end: u64) {
        self.wrote = self.wrote.max(end.div_ceil(WORD) * WORD).min(self.len);
    }
}

/// Every block of the executor.
#[derive(Debug)]
pub(super) struct Blocks {
    budget: u64,
    /// Bytes that exist, held or free.
    total: u64,
    next: u64,
    /// Free blocks: `None` holds zeros, a lease's number that lease's bytes.
    free: HashMap<(Option<u64>, u64), Vec<Block>>,
    /// Bytes held by each lease's sessions.
    held: BTreeMap<u64, u64>,
}

/// The device operations that bookkeeping asks for.
pub(super) trait Device {
    /// Allocates a buffer.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    fn alloc(&mut self, id: BufferId, len: u64) -> Result<()>;
    /// Frees a buffer.
    fn free(&mut self, id: BufferId);
    /// Fills the first `len` bytes of a buffer with zeros.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn zero(&mut self, id: BufferId, len: u64) -> Result<()>;
}

impl Blocks {
    /// No block yet, at most `budget` bytes in all.
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, total: 0, next: 0, free: HashMap::new(), held: BTreeMap::new() }
    }

    /// A block of at least `bytes` bytes for a lease whose sessions may hold `quota` together. It holds zeros, or
    /// what the same lease left in it.
    ///
    /// # Errors
    /// `OutOfMemory` over quota or budget; `DeviceLost`.
    pub(super) fn take(
        &mut self,
        lease: u64,
        quota: u64,
        bytes: u64,
        device: &mut dyn Device,
    ) -> Result<Block> {
        let held = self.held.get(&lease).copied().unwrap_or(0);
        let len = bytes.max(1).div_ceil(GRANULE).saturating_mul(GRANULE);
        let left = quota.saturating_sub(held);
        if len > left {
            return Err(Kind::OutOfMemory { asked: bytes, free: left, quota }.into());
        }
        let again = [Some(lease), None];
        let found = again.iter().find_map(|owner| self.free.get_mut(&(*owner, len))?.pop());
        let block = match found {
            Some(block) => block,
            None => {
                self.shed(lease, left - len, device)?;
                Block { id: self.fresh(len, device)?, len, wrote: 0 }
            }
        };
        *self.held.entry(lease).or_default() += len;
        Ok(block)
    }

    /// Gives blocks that the lease has free back to the device, zeroed, until they hold at most `allowed` bytes: what
    /// a lease holds and what it keeps count against its quota together, or sizes asked for and given back in turn
    /// would take the whole budget.
    fn shed(&mut self, lease: u64, allowed: u64, device: &mut dyn Device) -> Result<()> {
        let kept = self.free.iter().filter(|((owner, _), _)| *owner == Some(lease));
        let mut kept: u64 = kept.map(|((_, len), blocks)| len * blocks.len() as u64).sum();
        for ((owner, len), blocks) in &mut self.free {
            while *owner == Some(lease) && kept > allowed {
                let Some(&block) = blocks.last() else { break };
                device.zero(block.id, block.wrote)?;
                blocks.pop();
                device.free(block.id);
                (kept, self.total) = (kept - len, self.total - len);
            }
        }
        Ok(())
    }

    fn fresh(&mut self, len: u64, device: &mut dyn Device) -> Result<BufferId> {
        if len > self.budget.saturating_sub(self.total) {
            self.drop_zeroed(device);
        }
        let free = self.budget.saturating_sub(self.total);
        if len > free {
            return Err(Kind::OutOfMemory { asked: len, free, quota: self.budget }.into());
        }
        let id = BufferId(self.next);
        device.alloc(id, len)?;
        // The backend's memory may hold anything, another process's bytes too.
        let zeroed = device.zero(id, len);
        if let Err(error) = zeroed {
            device.free(id);
            return Err(error);
        }
        (self.next, self.total) = (self.next + 1, self.total + len);
        Ok(id)
    }

    /// Free zeroed blocks go back to the device, so that other sizes fit.
    fn drop_zeroed(&mut self, device: &mut dyn Device) {
        for ((owner, len), blocks) in &mut self.free {
            if owner.is_none() {
                self.total -= len * blocks.len() as u64;
                blocks.drain(..).for_each(|block| device.free(block.id));
            }
        }
    }

    /// A session gives a block back; it stays with the lease, unzeroed.
    pub(super) fn give(&mut self, lease: u64, block: Block) {
        if let Some(held) = self.held.get_mut(&lease) {
            *held = held.saturating_sub(block.len);
        }
        self.free.entry((Some(lease), block.len)).or_default().push(block);
    }

    /// The lease leaves: every block it gave back is zeroed as far as it can have written, and free for others. A block
    /// that cannot be zeroed is never given out again.
    ///
    /// # Errors
    /// The first failure to zero.
    pub(super) fn leave(&mut self, lease: u64, device: &mut dyn Device) -> Result<()> {
        let keys = self.free.keys().filter(|(owner, _)| *owner == Some(lease));
        let mut first: Option<Error> = None;
        for key in keys.copied().collect::<Vec<_>>() {
            for block in self.free.remove(&key).unwrap_or_default() {
                let clean = Block { wrote: 0, ..block };
                match device.zero(block.id, block.wrote) {
                    Ok(()) => self.free.entry((None, key.1)).or_default().push(clean),
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
        }
        self.held.remove(&lease);
        first.map_or(Ok(()), Err)
    }

    /// Bytes that the lease's sessions hold.
    #[cfg(test)]
    pub(super) fn held(&self, lease: u64) -> u64 {
        self.held.get(&lease).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory as bytes, whether zeroing works, and how much was zeroed last.
    #[derive(Default)]
    struct Fake {
        bytes: HashMap<BufferId, Vec<u8>>,
        zeroing: bool,
        zeroed: u64,
    }

    impl Fake {
        /// What a tenant does to its block.
        fn write(&mut self, block: &mut Block, at: usize) {
            block.wrote(at as u64 + 1);
            self.bytes.get_mut(&block.id).unwrap()[at] = 0x5e;
        }
    }

    impl Device for Fake {
        fn alloc(&mut self, id: BufferId, len: u64) -> Result<()> {
            self.bytes.insert(id, vec![0xcc; len as usize]);
            Ok(())
        }
        fn free(&mut self, id: BufferId) {
            self.bytes.remove(&id);
        }
        fn zero(&mut self, id: BufferId, len: u64) -> Result<()> {
            self.zeroed = len;
            if self.zeroing {
                self.bytes.get_mut(&id).unwrap()[..len as usize].fill(0);
            }
            Ok(())
        }
    }

    /// One lease writes at these places, giving the block back and taking it again in between, and leaves. The next
    /// takes the very same block: how many bytes of it are not zero?
    fn residue(zeroing: bool, places: &[usize]) -> (usize, u64) {
        let mut fake = Fake { zeroing: true, ..Fake::default() };
        let mut blocks = Blocks::new(GRANULE);
        let mut first = blocks.take(1, GRANULE, 100, &mut fake).unwrap();
        for at in places {
            fake.write(&mut first, *at);
            blocks.give(1, first);
            first = blocks.take(1, GRANULE, 100, &mut fake).unwrap();
        }
        fake.zeroing = zeroing;
        blocks.give(1, first);
        blocks.leave(1, &mut fake).unwrap();
        let zeroed = fake.zeroed;
        let second = blocks.take(2, GRANULE, 100, &mut fake).unwrap();
        assert_eq!(second.id, first.id, "the test needs the same block");
        (fake.bytes[&second.id].iter().filter(|byte| **byte != 0).count(), zeroed)
    }

    #[test]
    fn a_block_is_zeroed_between_leases_as_far_as_it_was_written() {
        let last = GRANULE as usize - 1;
        assert_eq!(residue(true, &[7]), (0, WORD));
        assert_eq!(residue(true, &[9000, 7]), (0, 3 * WORD), "the furthest byte counts");
        assert_eq!(residue(true, &[last, 7]), (0, GRANULE));
        assert_eq!(residue(false, &[7, last]).0, 2, "without zeroing the test would notice");
    }

    #[test]
    fn a_block_stays_as_it_is_within_its_lease() {
        let mut fake = Fake { zeroing: true, ..Fake::default() };
        let mut blocks = Blocks::new(GRANULE);
        let mut block = blocks.take(1, GRANULE, 1, &mut fake).unwrap();
        fake.write(&mut block, 0);
        blocks.give(1, block);
        let again = blocks.take(1, GRANULE, 1, &mut fake).unwrap();
        assert_eq!((again, fake.bytes[&again.id][0]), (block, 0x5e));
    }

    #[test]
    fn sizes_in_turn_take_no_more_than_the_quota() {
        let mut fake = Fake { zeroing: true, ..Fake::default() };
        let mut blocks = Blocks::new(16 * GRANULE);
        for granules in 1..=4 {
            let quota = 4 * GRANULE;
            let block = blocks.take(1, quota, granules * GRANULE, &mut fake).unwrap();
            blocks.give(1, block);
            assert!(blocks.total <= quota, "{} of {quota}", blocks.total);
        }
        blocks.take(2, u64::MAX, 12 * GRANULE, &mut fake).unwrap();
    }

    #[test]
    fn quota_and_budget_hold_in_one_go_in_many_and_by_rounding() {
        let mut fake = Fake { zeroing: true, ..Fake::default() };
        let mut blocks = Blocks::new(8 * GRANULE);
        let quota = 2 * GRANULE + 1;
        assert!(blocks.take(1, quota, quota, &mut fake).is_err(), "rounded up it is over");
        let a = blocks.take(1, quota, GRANULE, &mut fake).unwrap();
        blocks.take(1, quota, GRANULE - 5, &mut fake).unwrap();
        assert!(blocks.take(1, quota, 1, &mut fake).is_err());
        assert!(blocks.take(2, u64::MAX, 7 * GRANULE, &mut fake).is_err());
        assert!(blocks.take(2, u64::MAX, u64::MAX, &mut fake).is_err());
        blocks.take(2, u64::MAX, 6 * GRANULE, &mut fake).unwrap();
        blocks.give(1, a);
        assert_eq!(blocks.held(1), GRANULE);
        blocks.take(1, quota, 1, &mut fake).unwrap();
    }
}
