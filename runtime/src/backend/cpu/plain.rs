//! The time of a plain read, beside which benchmarks put what is bound by memory.

use super::registers::{self, Code, LANES, Lanes};
use super::{Cpu, lost_block};
use crate::backend::{BlockId, Place};
use crate::error::Result;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Registers of a part that a thread reads at a time, and nanoseconds that it takes at least.
const PART: usize = 1 << 14;
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
        let floats: &[f32] = bytemuck::try_cast_slice(bytes.as_chunks::<4>().0).unwrap_or_default();
        let parts: Vec<&[[f32; LANES]]> = floats.as_chunks().0.chunks(PART).collect();
        let (isa, begin) = (self.isa, Instant::now());
        self.pool.run(parts.len() as u64, PART_NS, |i| {
            let mut sum = 0.0;
            registers::run(isa, Read { floats: parts[i as usize], sum: &mut sum });
            black_box(sum);
        });
        Ok(begin.elapsed())
    }
}

/// All floats, in registers enough that no load waits for another.
struct Read<'a> {
    floats: &'a [[f32; LANES]],
    sum: &'a mut f32,
}

impl Code for Read<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut sums = [L::zero(); 8];
        for part in self.floats.as_chunks::<8>().0 {
            for i in 0..8 {
                sums[i] = sums[i].fma(L::f32(&part[i]), L::splat(1.0));
            }
        }
        for sum in sums {
            *self.sum += sum.sum();
        }
    }
}
