//! The time of a plain read, beside which benchmarks put what is bound by memory.

use super::isa::{Isa, Kernel};
use super::{Cpu, lost_block};
use crate::backend::{BlockId, Place};
use crate::error::Result;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Words of a part that a thread reads at a time, and nanoseconds that it takes at least.
const PART: usize = 1 << 17;
const PART_NS: u64 = 10_000;

impl Cpu {
    /// How long this backend's threads take to read a block once by loads alone: the least that an op which reads as many
    /// bytes can take here. Pages that were never written are not there to be read: write them first.
    ///
    /// # Errors
    /// `Bounds` when there is no such block.
    pub fn plain_read(&self, block: BlockId) -> Result<Duration> {
        let bytes =
            self.memory.all(block.0).ok_or_else(|| lost_block(Place { block, offset: 0 }))?;
        let words = bytes.as_chunks().0;
        let parts: Vec<&[[u8; 8]]> = words.chunks(PART).collect();
        let (isa, begin) = (self.isa, Instant::now());
        self.pool.run(parts.len() as u64, PART_NS, |i| {
            black_box(read(isa, parts[i as usize]));
        });
        Ok(begin.elapsed())
    }
}

fn read(isa: Isa, words: &[[u8; 8]]) -> u64 {
    isa.run(Read(words))
}

/// All words, each in one of many lanes, so that no load waits for another.
struct Read<'a>(&'a [[u8; 8]]);

impl Kernel for Read<'_> {
    type Output = u64;
    #[inline(always)]
    fn run<const F: bool>(self) -> u64 {
        let mut lanes = [0u64; 32];
        for part in self.0.as_chunks::<32>().0 {
            for i in 0..32 {
                lanes[i] ^= u64::from_ne_bytes(part[i]);
            }
        }
        lanes.into_iter().fold(0, |all, lane| all ^ lane)
    }
}
