//! The element types of a GGUF file, and how blocks of each become f32. `super` reads the blocks.

use leasehold::f16;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// f32.
    F32,
    /// IEEE half precision.
    F16,
    /// 32 four-bit values in 20 bytes: `x = d q + m`, with `d` and `m` in f16; the low halves of the 16 bytes are the
    /// first 16 values.
    Q4_1,
    /// 32 eight-bit values in 34 bytes: `x = d q`, with `d` in f16.
    Q8_0,
}

/// Elements of a quantised block.
const BLOCK: usize = 32;

impl Stored {
    /// The types that this reader knows, as the file numbers them.
    const ALL: [(u32, Self); 4] =
        [(0, Self::F32), (1, Self::F16), (3, Self::Q4_1), (8, Self::Q8_0)];

    /// The type of this number.
    pub(super) fn of(code: u32) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == code).map(|&(_, stored)| stored)
    }

    /// What [`Stored::of`] takes, for messages.
    pub(super) fn allowed() -> String {
        Self::ALL.map(|(code, stored)| format!("{code} ({stored:?})")).join(", ")
    }

    /// Elements of a block, and its bytes.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q8_0 => (BLOCK, 34),
        }
    }

    /// Whole blocks as f32, in order; `out` has room for just their elements.
    pub(super) fn dequantise(self, blocks: &[u8], out: &mut [f32]) {
        let (elements, bytes) = self.block();
        let pairs = blocks.chunks_exact(bytes).zip(out.chunks_exact_mut(elements));
        match self {
            Self::F32 => {
                pairs.for_each(|(b, x)| x[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            }
            Self::F16 => pairs.for_each(|(b, x)| x[0] = half(b)),
            Self::Q4_1 => pairs.for_each(|(block, out)| {
                let (d, m) = (half(block), half(&block[2..]));
                let (low, high) = out.split_at_mut(BLOCK / 2);
                for ((byte, low), high) in block[4..].iter().zip(low).zip(high) {
                    *low = d * f32::from(byte & 15) + m;
                    *high = d * f32::from(byte >> 4) + m;
                }
            }),
            Self::Q8_0 => pairs.for_each(|(block, out)| {
                let d = half(block);
                for (&byte, x) in block[2..].iter().zip(out) {
                    *x = d * f32::from(byte as i8);
                }
            }),
        }
    }
}

/// The f16 that `bytes` begins with.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::{Stored, half};
    use leasehold::f16;

    #[test]
    fn blocks_hold_what_the_format_says() {
        let (d, m) = (f16::from_f32(0.5).to_le_bytes(), f16::from_f32(-3.0).to_le_bytes());
        assert_eq!(half(&m), -3.0);
        let mut block = [d, m].concat();
        block.extend((0..16).map(|i| i << 4 | (15 - i)));
        let mut out = [0.0; 32];
        Stored::Q4_1.dequantise(&block, &mut out);
        for i in 0..16u8 {
            assert_eq!(out[usize::from(i)], 0.5 * f32::from(15 - i) - 3.0);
            assert_eq!(out[16 + usize::from(i)], 0.5 * f32::from(i) - 3.0);
        }
        let mut block = d.to_vec();
        block.extend((0..32).map(|i| (i * 8 - 128i32) as i8 as u8));
        Stored::Q8_0.dequantise(&block, &mut out);
        assert!((0..32).all(|i| out[i] == 4.0 * i as f32 - 64.0), "{out:?}");
        let mut two = [0.0; 2];
        Stored::F16.dequantise(&[d, m].concat(), &mut two);
        assert_eq!(two, [0.5, -3.0]);
        Stored::F32.dequantise(&[1.25f32.to_le_bytes(), (-7f32).to_le_bytes()].concat(), &mut two);
        assert_eq!(two, [1.25, -7.0]);
    }
}
