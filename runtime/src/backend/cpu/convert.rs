//! 16-bit floats to and from f32 by integer arithmetic, exact and to nearest even, in loops that vectorise.

use super::isa::{Isa, Kernel};

/// A 16-bit float format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// bfloat16.
    B,
    /// binary16.
    F,
}

/// bfloat16.
pub(super) const BF16: Half = Half::B;
/// binary16.
pub(super) const F16: Half = Half::F;

impl Half {
    /// The exact f32.
    #[inline(always)]
    pub(super) fn one(self, bits: u16) -> f32 {
        match self {
            Self::B => f32::from_bits(u32::from(bits) << 16),
            Self::F => f16_to_f32(bits),
        }
    }

    /// The nearest value, ties to even.
    #[inline(always)]
    pub(super) fn round(self, x: f32) -> u16 {
        match self {
            Self::B => f32_to_bf16(x),
            Self::F => f32_to_f16(x),
        }
    }
}

#[inline(always)]
fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let rest = u32::from(h & 0x7fff);
    // The exponent is rebased by a multiplication, which also normalises subnormals: exact.
    let scaled = f32::from_bits(rest << 13) * f32::from_bits(0x7780_0000); // 2^112
    let special = if rest >= 0x7c00 { (rest << 13) | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(special | sign)
}

#[inline(always)]
fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

#[inline(always)]
fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let abs = bits & 0x7fff_ffff;
    // Normal results: rebase the exponent and round to even in integers.
    let normal = abs.wrapping_sub(112 << 23).wrapping_add(0xfff + ((abs >> 13) & 1)) >> 13;
    // Subnormal results: adding 2^-1 leaves the rounded value in the low mantissa bits.
    let small = (f32::from_bits(abs) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let infinite = 0x7c00 | if abs > 0x7f80_0000 { 0x200 } else { 0 };
    let magnitude = if abs >= 0x4780_0000 {
        infinite // 65536 and above, infinity, NaN
    } else if abs < 0x3880_0000 {
        small // below 2^-14
    } else {
        normal
    };
    (sign | magnitude) as u16
}

struct Widen<'a>(Half, &'a [u16], &'a mut [f32]);

impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self(half, src, dst) = self;
        match half {
            Half::B => dst.iter_mut().zip(src).for_each(|(d, s)| *d = Half::B.one(*s)),
            Half::F => dst.iter_mut().zip(src).for_each(|(d, s)| *d = Half::F.one(*s)),
        }
    }
}

/// Every element to f32.
pub(super) fn widen(isa: Isa, half: Half, src: &[u16], dst: &mut [f32]) {
    isa.run(Widen(half, src, dst));
}

struct Narrow<'a>(Half, &'a [f32], &'a mut [u16]);

impl Kernel for Narrow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self(half, src, dst) = self;
        match half {
            Half::B => dst.iter_mut().zip(src).for_each(|(d, s)| *d = Half::B.round(*s)),
            Half::F => dst.iter_mut().zip(src).for_each(|(d, s)| *d = Half::F.round(*s)),
        }
    }
}

/// Every element rounded to 16 bits.
pub(super) fn narrow(isa: Isa, half: Half, src: &[f32], dst: &mut [u16]) {
    isa.run(Narrow(half, src, dst));
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_16_bit_value_widens_exactly_and_returns() {
        for bits in 0..=u16::MAX {
            let (f, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(F16.one(bits) == f.to_f32() || f.is_nan() && F16.one(bits).is_nan());
            assert!(BF16.one(bits) == b.to_f32() || b.is_nan() && BF16.one(bits).is_nan());
            assert!(f.is_nan() || F16.round(F16.one(bits)) == bits, "{bits:04x}");
            assert!(b.is_nan() || BF16.round(BF16.one(bits)) == bits, "{bits:04x}");
        }
    }

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        let mut bits = 1u32;
        for _ in 0..2_000_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(bits);
            if x.is_nan() {
                assert!(
                    f16::from_bits(F16.round(x)).is_nan()
                        && bf16::from_bits(BF16.round(x)).is_nan()
                );
                continue;
            }
            assert_eq!(F16.round(x), f16::from_f32(x).to_bits(), "{x:e}");
            assert_eq!(BF16.round(x), bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }
}
