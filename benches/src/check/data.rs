//! Operands of the speed tables: how they lie, and what is in them. `problem` builds ops of them.

use leasehold::op::Spec;
use leasehold::{DType, Dims, Layout, bf16, f16, reference};
use std::ops::Range;
use std::sync::Arc;

/// An operand's bytes and how they are read.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Its role.
    pub(super) name: &'static str,
    /// Dtype and layout.
    pub(super) spec: Spec,
    /// From its first element on.
    pub(super) bytes: Arc<Vec<u8>>,
}

/// A row-major spec.
pub(super) fn dense(dtype: DType, shape: &[u64]) -> Spec {
    Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap_or(Dims::NONE)), 0)
}

/// The last two axes exchanged in memory.
pub(super) fn laid(dtype: DType, shape: &[u64], turned: bool) -> Spec {
    let mut stored = shape.to_vec();
    let rank = stored.len();
    if turned && rank >= 2 {
        stored.swap(rank - 2, rank - 1);
    }
    let spec = dense(dtype, &stored);
    let layout = if turned { spec.layout.transpose() } else { None };
    Spec { layout: layout.unwrap_or(spec.layout), ..spec }
}

/// Numbers of a distribution, drawn independently by a seed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Normal,
    Positive,
}

/// How operands are filled, for the report.
pub(super) const DATA: &str = "N(0, 1) rounded to the type, drawn independently from 65536 numbers by Box and Muller; scales 0.5 to 2";

/// SplitMix64.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Lengths that sum to `total`, each of at most `most`.
pub(super) fn lengths(most: u64, total: u64, seed: u64) -> Vec<u32> {
    let (mut left, mut list, mut state) = (total, Vec::new(), seed);
    while left > 0 {
        let len = (next(&mut state) % most + 1).min(left);
        list.push(len as u32);
        left -= len;
    }
    list
}

/// A permutation by Fisher and Yates.
pub(super) fn shuffled(count: u64, seed: u64) -> Vec<u32> {
    let (mut list, mut state) = ((0..count as u32).collect::<Vec<u32>>(), seed);
    for i in (1..list.len()).rev() {
        list.swap(i, (next(&mut state) % (i as u64 + 1)) as usize);
    }
    list
}

/// Elements that one state of the generator draws; every thread takes some.
const BLOCK: usize = 1 << 18;

#[cfg(test)]
thread_local! {
    /// Zeros in place of data: of sizes that are only checked, no memory is touched.
    pub(super) static BLANK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

pub(super) fn filled(fill: Fill, dtype: DType, len: u64, seed: u64) -> Vec<u8> {
    #[cfg(test)]
    if BLANK.get() {
        return vec![0; (len * dtype.size()) as usize];
    }
    let numbers: Vec<f32> = match fill {
        Fill::Normal => crate::measure::normal(1, 1 << 16),
        Fill::Positive => (0..1 << 16).map(|i| 0.5 * 4f32.powf(i as f32 / 65536.0)).collect(),
    };
    let size = dtype.size() as usize;
    let table: Vec<u8> = numbers.iter().flat_map(|&x| encoded(dtype, x)).collect();
    let mut bytes = vec![0; len as usize * size];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let blocks = bytes.len().div_ceil(BLOCK * size).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (i, part) in bytes.chunks_mut(blocks * BLOCK * size).enumerate() {
            let table = &table;
            scope.spawn(move || {
                for (block, part) in (i * blocks..).zip(part.chunks_mut(BLOCK * size)) {
                    let state = seed ^ (block as u64).wrapping_mul(0xd134_2543_de82_ef95);
                    draw(table, size, part, state);
                }
            });
        }
    });
    bytes
}

/// Fills a block from a table of 65536 elements: 16 bits of the generator choose each.
fn draw(table: &[u8], size: usize, part: &mut [u8], mut state: u64) {
    for four in part.chunks_mut(4 * size) {
        let mut word = next(&mut state);
        for to in four.chunks_exact_mut(size) {
            let at = (word & 0xffff) as usize * size;
            to.copy_from_slice(&table[at..at + size]);
            word >>= 16;
        }
    }
}

pub(super) fn encoded(dtype: DType, x: f32) -> Vec<u8> {
    match dtype {
        DType::F32 => x.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
        // Eight bits: the code whose value is nearest.
        _ => vec![nearest(dtype, x)],
    }
}

fn nearest(dtype: DType, x: f32) -> u8 {
    use std::sync::OnceLock;
    static CODES: OnceLock<Vec<(f64, u8)>> = OnceLock::new();
    let codes = CODES.get_or_init(|| {
        let all: Vec<u8> = (0..0x7f).collect();
        let values = reference::read(dtype, &dense(dtype, &[0x7f]).layout, &all);
        values.into_iter().zip(all).collect()
    });
    let wanted = f64::from(x.abs());
    let above = codes.partition_point(|(value, _)| *value < wanted).clamp(1, codes.len() - 1);
    let (below, above) = (codes[above - 1], codes[above]);
    let code = if wanted - below.0 < above.0 - wanted { below.1 } else { above.1 };
    code | if x < 0.0 { 0x80 } else { 0 }
}

impl Given {
    pub(super) fn normal(name: &'static str, spec: Spec, seed: u64) -> Self {
        Self::of(Fill::Normal, name, spec, seed)
    }

    pub(super) fn of(fill: Fill, name: &'static str, spec: Spec, seed: u64) -> Self {
        let salt = name.bytes().fold(seed, |h, byte| h.wrapping_mul(31) + u64::from(byte));
        let bytes = filled(fill, spec.dtype, spec.layout.span() as u64, salt);
        Self { name, spec, bytes: Arc::new(bytes) }
    }

    /// Counts or indices.
    pub(super) fn words(name: &'static str, shape: &[u64], words: &[u32]) -> Self {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { name, spec: dense(DType::U32, shape), bytes: Arc::new(bytes) }
    }

    /// What [`Given::words`] was made of.
    pub(super) fn as_words(&self) -> Vec<u32> {
        let words = self.bytes.chunks_exact(4);
        words.map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default())).collect()
    }

    /// The elements of a box, row-major.
    pub(super) fn cut(&self, ranges: &[Range<u64>]) -> Vec<u8> {
        let (size, strides) = (self.spec.dtype.size(), self.spec.layout.strides());
        let (Some((row, outer)), Some(step)) = (ranges.split_last(), strides.last()) else {
            return self.bytes.to_vec();
        };
        let mut at = vec![0];
        for (range, stride) in outer.iter().zip(strides.iter()) {
            at = at.iter().flat_map(|from| range.clone().map(move |i| from + i * stride)).collect();
        }
        let bytes = |from: u64, count: u64| {
            &self.bytes[(from * size) as usize..((from + count) * size) as usize]
        };
        let mut cut = Vec::new();
        for from in at {
            match step {
                1 if !row.is_empty() => {
                    cut.extend_from_slice(bytes(from + row.start, row.end - row.start));
                }
                _ => row.clone().for_each(|i| cut.extend_from_slice(bytes(from + i * step, 1))),
            }
        }
        cut
    }
}
