//! Keys and values of running sequences, in pages that sequences of any length share. The pages' table and the
//! sequences' lengths lie on the device, so that a recorded step never changes.

use leasehold::{DType, Device, Result, Tensor};

/// Keys of a page.
pub const PAGE: usize = 16;

/// A paged cache of every layer of a model, for a fixed number of sequences at a time: its slots.
pub struct Cache {
    /// Keys and values: `[pages, kv_heads, PAGE, dim]` each.
    layers: Vec<[Tensor; 2]>,
    /// `[slots, pages of the longest]`.
    table: Tensor,
    free: Vec<u32>,
    held: Vec<Vec<u32>>,
}

/// Where the rows of a batch stand, on the device.
pub struct Context {
    /// `[entries, rows]`: the place of each row in its sequence.
    pub position: Tensor,
    /// `[entries]`: keys of each entry, its rows among them. An entry with none is idle: it stores nothing.
    pub lens: Tensor,
    /// `[entries, most pages]`.
    pub pages: Tensor,
    /// Base of the rotary embedding's frequencies.
    pub rope_base: f32,
}

impl Context {
    /// Keys that the longest entry has room for.
    pub fn most_keys(&self) -> u32 {
        self.pages.shape()[1] as u32 * PAGE as u32
    }
}

impl Cache {
    /// Room for `slots` sequences, each of at most `most` keys, all of at most `pages` pages; `layers` layers of
    /// `kv_heads` heads of `dim` elements.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(
        device: &Device,
        dtype: DType,
        [layers, kv_heads, dim]: [usize; 3],
        slots: usize,
        most: usize,
        pages: usize,
    ) -> Result<Self> {
        let empty = || device.empty(dtype, &[pages, kv_heads, PAGE, dim]);
        let width = most.div_ceil(PAGE);
        Ok(Self {
            layers: (0..layers).map(|_| Ok([empty()?, empty()?])).collect::<Result<_>>()?,
            table: device.tensor([slots, width], &vec![0u32; slots * width])?,
            // The first are given out first.
            free: (0..pages as u32).rev().collect(),
            held: vec![Vec::new(); slots],
        })
    }

    /// The table of every slot's pages, `[slots, most pages]`.
    pub fn table(&self) -> &Tensor {
        &self.table
    }

    pub(super) fn layer(&self, layer: usize) -> &[Tensor; 2] {
        &self.layers[layer]
    }

    /// Gives a free slot the pages for `keys` keys; `false`, and nothing, where too few are free.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn take(&mut self, slot: usize, keys: usize) -> Result<bool> {
        let count = keys.div_ceil(PAGE);
        let width = self.table.shape()[1] as usize;
        if count > self.free.len() || count > width || !self.held[slot].is_empty() {
            return Ok(false);
        }
        self.held[slot] = (0..count).filter_map(|_| self.free.pop()).collect();
        // What follows are no pages: a sequence that outgrows its own is an error, and touches no other's.
        let none = std::iter::repeat_n(&u32::MAX, width - count);
        let row: Vec<u32> = self.held[slot].iter().chain(none).copied().collect();
        self.table.narrow(0, slot, 1)?.write(&row)?;
        Ok(true)
    }

    /// Takes a slot's pages back.
    pub fn give(&mut self, slot: usize) {
        self.free.append(&mut self.held[slot]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Cache, PAGE};
    use leasehold::{DType, Device};

    #[test]
    fn pages_are_never_shared_and_come_back() {
        let device = Device::open_named("cpu").unwrap();
        let mut cache = Cache::new(&device, DType::F32, [1, 1, 1], 3, 4 * PAGE, 5).unwrap();
        let table = |cache: &Cache| cache.table().read::<u32>().unwrap().wait(None).unwrap();
        assert!(cache.take(0, PAGE + 1).unwrap() && cache.take(1, 3 * PAGE).unwrap());
        let none = u32::MAX;
        assert_eq!(table(&cache), [0, 1, none, none, 2, 3, 4, none, 0, 0, 0, 0]);
        assert!(!cache.take(2, 1).unwrap(), "no page is free");
        assert!(!cache.take(0, 1).unwrap(), "the slot is taken");
        cache.give(0);
        assert!(!cache.take(2, 3 * PAGE).unwrap() && cache.take(2, 2 * PAGE).unwrap());
        let mut rows: Vec<u32> = [&table(&cache)[4..7], &table(&cache)[8..10]].concat();
        rows.sort_unstable();
        assert_eq!(rows, [0, 1, 2, 3, 4]);
        cache.give(1);
        cache.give(2);
        assert!(!cache.take(1, 4 * PAGE + 1).unwrap(), "over the longest");
    }
}
