//! 8-bit values to and from f32 by integer arithmetic: OCP floats (e4m3, e5m2) and i8, exact and to nearest even, in
//! loops that vectorise. `memory` loads and stores with it, `quantize` and `epilogue` ask for the largest value.

use super::isa::{Isa, Kernel};
use crate::DType;

/// An 8-bit format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Byte {
    E4M3,
    E5M2,
    I8,
}

impl Byte {
    /// The format of a dtype, if it has one.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F8E4M3 => Some(Self::E4M3),
            DType::F8E5M2 => Some(Self::E5M2),
            DType::I8 => Some(Self::I8),
            _ => None,
        }
    }

    /// The largest magnitude that values are held to.
    pub(super) fn largest(self) -> f32 {
        match self {
            Self::E4M3 => 448.0,
            Self::E5M2 => 57344.0,
            Self::I8 => 127.0,
        }
    }

    /// The exact f32.
    #[inline(always)]
    fn value(self, code: u8) -> f32 {
        match self {
            Self::E4M3 => float::<3, 7>(code, 0x7f, f32::NAN),
            Self::E5M2 => float::<2, 15>(code, 0x7c, f32::INFINITY),
            Self::I8 => f32::from(code as i8),
        }
    }

    /// The nearest value within the largest, ties to even; NaN where the format has one, else 0.
    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        match self {
            Self::E4M3 => round::<3, 7>(x, 448.0),
            Self::E5M2 => round::<2, 15>(x, 57344.0),
            // A cast of NaN gives 0.
            Self::I8 => x.clamp(-127.0, 127.0).round_ties_even() as i8 as u8,
        }
    }
}

/// A float of so many mantissa digits and such a bias; from code `special` on without sign, `first`, then NaN.
#[inline(always)]
fn float<const DIGITS: u32, const BIAS: u32>(code: u8, special: u32, first: f32) -> f32 {
    let rest = u32::from(code & 0x7f);
    let normal = f32::from_bits((rest << (23 - DIGITS)) + ((127 - BIAS) << 23));
    // Subnormals count steps of 2^(1 - bias - digits).
    let small = rest as i32 as f32 * f32::from_bits((128 - BIAS - DIGITS) << 23);
    let y = if rest < 1 << DIGITS { small } else { normal };
    let y = if rest < special { y } else { first };
    let y = if rest > special { f32::NAN } else { y };
    f32::from_bits(y.to_bits() | u32::from(code & 0x80) << 24)
}

#[inline(always)]
fn round<const DIGITS: u32, const BIAS: u32>(x: f32, largest: f32) -> u8 {
    let bits = x.to_bits();
    let sign = (bits >> 24) as u8 & 0x80;
    let abs = (bits & 0x7fff_ffff).min(largest.to_bits());
    let drop = 23 - DIGITS;
    // Normal results: rebase the exponent and round to even in integers.
    let half = (1 << (drop - 1)) - 1 + (abs >> drop & 1);
    let normal = abs.wrapping_sub((127 - BIAS) << 23).wrapping_add(half) >> drop;
    // Subnormal results: adding 2^23 of their steps leaves the rounded count in the low mantissa bits.
    let steps = f32::from_bits((151 - BIAS - DIGITS) << 23);
    let small = (f32::from_bits(abs) + steps).to_bits().wrapping_sub(steps.to_bits());
    let magnitude = if abs < (128 - BIAS) << 23 { small } else { normal };
    let magnitude = if x.is_nan() { 0x7f } else { magnitude };
    magnitude as u8 | sign
}

struct Widen<'a>(Byte, &'a [u8], &'a mut [f32]);

impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self(byte, src, dst) = self;
        let pairs = dst.iter_mut().zip(src);
        // One loop a format, so that each vectorises on its own.
        match byte {
            Byte::E4M3 => pairs.for_each(|(d, s)| *d = Byte::E4M3.value(*s)),
            Byte::E5M2 => pairs.for_each(|(d, s)| *d = Byte::E5M2.value(*s)),
            Byte::I8 => pairs.for_each(|(d, s)| *d = Byte::I8.value(*s)),
        }
    }
}

/// Every element to f32.
pub(super) fn widen(isa: Isa, byte: Byte, src: &[u8], dst: &mut [f32]) {
    isa.run(Widen(byte, src, dst));
}

struct Narrow<'a>(Byte, &'a [f32], &'a mut [u8]);

impl Kernel for Narrow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self(byte, src, dst) = self;
        let pairs = dst.iter_mut().zip(src);
        match byte {
            Byte::E4M3 => pairs.for_each(|(d, s)| *d = Byte::E4M3.code(*s)),
            Byte::E5M2 => pairs.for_each(|(d, s)| *d = Byte::E5M2.code(*s)),
            Byte::I8 => pairs.for_each(|(d, s)| *d = Byte::I8.code(*s)),
        }
    }
}

/// Every element rounded to 8 bits.
pub(super) fn narrow(isa: Isa, byte: Byte, src: &[f32], dst: &mut [u8]) {
    isa.run(Narrow(byte, src, dst));
}

/// Elements over their scale, ready to be rounded; all 0 where the scale is.
struct Over<'a>(f32, &'a mut [f32]);

impl Kernel for Over<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self(scale, x) = self;
        if scale == 0.0 {
            return x.fill(0.0);
        }
        x.iter_mut().for_each(|x| *x /= scale);
    }
}

/// Every element over `scale`; 0 where the scale is.
pub(super) fn over(isa: Isa, scale: f32, x: &mut [f32]) {
    isa.run(Over(scale, x));
}

/// The largest magnitude, 0 of none; NaN is none.
struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        // Magnitudes order as their bits do. Any order finds the same one.
        let bits = |x: &f32| x.abs().to_bits();
        let magnitude = |x: &f32| if x.is_nan() { 0 } else { bits(x) };
        f32::from_bits(self.0.iter().map(magnitude).fold(0, u32::max))
    }
}

/// The largest magnitude of some elements, 0 of none; NaN is none.
pub(super) fn largest(isa: Isa, x: &[f32]) -> f32 {
    isa.run(Largest(x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold::reference::{read, round_to};
    use leasehold::{Dims, Layout};

    #[test]
    fn every_8_bit_value_widens_exactly_and_returns() {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let layout = Layout::contiguous(Dims::new(&[256]).unwrap());
        for dtype in [DType::F8E4M3, DType::F8E5M2, DType::I8] {
            let byte = Byte::of(dtype).unwrap();
            let (mut wide, mut back) = ([0.0; 256], [0; 256]);
            widen(Isa::detect(), byte, &codes, &mut wide);
            narrow(Isa::detect(), byte, &wide, &mut back);
            for (code, exact) in codes.iter().zip(read(dtype, &layout, &codes)) {
                let (got, back) = (f64::from(wide[usize::from(*code)]), back[usize::from(*code)]);
                assert!(got == exact || got.is_nan() && exact.is_nan(), "{byte:?} {code:#x}");
                let held = exact.abs() <= f64::from(byte.largest());
                assert!(!held || back == *code, "{byte:?} {code:#x}: {back:#x}");
            }
        }
    }

    #[test]
    fn rounding_agrees_with_the_nearest_of_all_values() {
        let mut bits = 1u32;
        for dtype in [DType::F8E4M3, DType::F8E5M2, DType::I8] {
            let byte = Byte::of(dtype).unwrap();
            for i in 0..20_000u32 {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Exponents near the format's, and a mantissa that is a tie every second time.
                let exponent = 127 + bits % 40 - 20;
                let mantissa = if i % 2 == 0 { bits >> 9 } else { bits >> 9 & 0x7c_0000 };
                let x = f32::from_bits(bits & 1 << 31 | exponent << 23 | mantissa);
                let want = round_to(dtype, f64::from(x.clamp(-byte.largest(), byte.largest())));
                assert_eq!(f64::from(byte.value(byte.code(x))), want, "{byte:?} {x:e}");
            }
            let worst = [f32::INFINITY, f32::NEG_INFINITY, 1e30].map(|x| byte.value(byte.code(x)));
            assert_eq!(worst, [1.0, -1.0, 1.0].map(|sign| sign * byte.largest()));
            let nan = byte.value(byte.code(f32::NAN));
            assert!(if byte == Byte::I8 { nan == 0.0 } else { nan.is_nan() });
        }
    }

    #[test]
    fn the_largest_magnitude_skips_nan() {
        let isa = Isa::detect();
        assert_eq!(largest(isa, &[1.0, f32::NAN, -3.0, 2.0]), 3.0);
        assert_eq!(largest(isa, &[]), 0.0);
        assert_eq!(largest(isa, &[f32::NEG_INFINITY, 1.0]), f32::INFINITY);
    }
}
