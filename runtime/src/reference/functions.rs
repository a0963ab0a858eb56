//! Functions that `std` has no f64 form of, and the activations built from them. Inside a function a plain
//! implementation rounds to f32, whatever the tensors' type.

use super::Arithmetic;
use crate::dtype::DType;
use crate::op::Activation;
use std::sync::OnceLock;

/// The error function: its Taylor series up to 3, beyond it the continued fraction of its complement
/// (Abramowitz and Stegun 7.1.5 and 7.1.14); absolute error below 1e-12.
pub(super) fn erf(x: f64) -> f64 {
    let z = x.abs();
    let y = if z.is_nan() {
        z
    } else if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..100 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..60).rev().fold(z, |tail, n| z + f64::from(n) / 2.0 / tail);
        1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    y.copysign(x)
}

pub(super) fn sigmoid(a: impl Arithmetic, x: f64) -> f64 {
    1.0 / a.sum(1.0 + a.sum((-x).exp()))
}

pub(super) fn activation(a: impl Arithmetic, function: Activation, x: f64) -> f64 {
    match function {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::GeluErf => {
            let erf = a.sum(erf(a.sum(x * std::f64::consts::FRAC_1_SQRT_2)));
            0.5 * x * a.sum(1.0 + erf)
        }
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * a.sum(1.0 + a.sum(a.sum(inner).tanh()))
        }
        Activation::Silu => x * a.sum(sigmoid(a, x)),
    }
}

/// The largest value of an 8-bit type.
pub(super) fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F8E4M3 => 448.0,
        DType::F8E5M2 => 57344.0,
        _ => 127.0,
    }
}

/// The value of an OCP 8-bit float.
pub(super) fn f8(dtype: DType, code: u8) -> f64 {
    values(dtype)[usize::from(code)]
}

/// The values of all codes of an OCP 8-bit float.
fn values(dtype: DType) -> &'static [f64; 256] {
    static VALUES: [OnceLock<[f64; 256]>; 2] = [const { OnceLock::new() }; 2];
    let of = &VALUES[usize::from(dtype == DType::F8E4M3)];
    of.get_or_init(|| std::array::from_fn(|code| decoded(dtype, code as u8)))
}

fn decoded(dtype: DType, code: u8) -> f64 {
    let (digits, bias) = if dtype == DType::F8E4M3 { (3, 7) } else { (2, 15) };
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    let exponent = i32::from(code & 0x7f) >> digits;
    let mantissa = f64::from(code & ((1 << digits) - 1)) / f64::from(1 << digits);
    match (dtype, code & 0x7f) {
        (DType::F8E4M3, 0x7f) => f64::NAN,
        (DType::F8E5M2, 0x7c) => sign * f64::INFINITY,
        (DType::F8E5M2, 0x7d..) => f64::NAN,
        _ if exponent == 0 => sign * mantissa * 2f64.powi(1 - bias),
        _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - bias),
    }
}

/// The finite value of an 8-bit type nearest to `x`, ties to the even code: found by looking at all of them.
pub(super) fn nearest(dtype: DType, x: f64) -> f64 {
    if dtype == DType::I8 {
        return x.round_ties_even().clamp(-128.0, 127.0);
    }
    let values = values(dtype);
    let mut best = (f64::INFINITY, 0.0);
    // Even codes first, so that they win ties.
    for code in (0..256).step_by(2).chain((1..256).step_by(2)) {
        let y = values[code];
        if y.is_finite() && (y - x).abs() < best.0 {
            best = ((y - x).abs(), y);
        }
    }
    if x.is_nan() { x } else { best.1 }
}

#[cfg(test)]
mod tests {
    use super::{f8, nearest};
    use crate::DType::{F8E4M3, F8E5M2};

    #[test]
    fn eight_bit_floats_have_their_known_values() {
        // OCP 8-bit floating point specification 1.0, table 1.
        assert_eq!(
            [0x7e, 0x08, 0x01, 0xb8].map(|c| f8(F8E4M3, c)),
            [448.0, 0.015625, 1.0 / 512.0, -1.0]
        );
        assert_eq!(
            [0x7b, 0x04, 0x01].map(|c| f8(F8E5M2, c)),
            [57344.0, 2f64.powi(-14), 2f64.powi(-16)]
        );
        assert!(f8(F8E4M3, 0xff).is_nan() && f8(F8E5M2, 0x7e).is_nan());
        // 17 lies between 16 and 18, 19 between 18 and 20: ties to even.
        assert_eq!([17.0, 19.0, 1e9].map(|x| nearest(F8E4M3, x)), [16.0, 20.0, 448.0]);
        // The upper bytes of binary16.
        for code in 0..=255u8 {
            let wide = half::f16::from_bits(u16::from(code) << 8).to_f64();
            let same = f8(F8E5M2, code);
            assert!(wide == same || wide.is_nan() && same.is_nan(), "{code:#x}");
        }
    }

    #[test]
    fn erf_has_its_known_values() {
        // Abramowitz and Stegun, table 7.1.
        let table = [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)];
        for (x, y) in table.into_iter().chain([(3.5, 0.999_999_256_9)]) {
            assert!((super::erf(x) - y).abs() < 1e-10 && (super::erf(-x) + y).abs() < 1e-10);
        }
        assert!((super::erf(3.0 - 1e-12) - super::erf(3.0)).abs() < 1e-11);
    }
}
