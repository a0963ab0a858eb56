//! Functions that `std` has no f64 form of, and the activations built from them. Inside a function a plain
//! implementation rounds to f32, whatever the tensors' type.

use super::Arithmetic;
use crate::op::Activation;

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

#[cfg(test)]
mod tests {
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
