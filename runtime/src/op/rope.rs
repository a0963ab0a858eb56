//! `rope`: rotary position embedding. Pair `i` of the first `dims` elements of each head turns by
//! `position * base^(-2i / dims)` (Su et al. 2021): `(a, b)` becomes `(a cos - b sin, a sin + b cos)`. The elements
//! beyond `dims` are copied.
//!
//! Shapes: x, out `[batch, heads, rows, d]`, position `[batch, rows]` in i32 or u32. Pair `i` is elements `i` and
//! `i + dims/2`, or `2i` and `2i + 1` when interleaved. `dims` is even and at most `d`.

use super::operand::Role;

/// Options of a rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies, above 1.
    pub base: f32,
    /// Leading elements of each head that turn.
    pub dims: u32,
    /// Whether pairs are neighbours instead of halves.
    pub interleaved: bool,
}

impl Rope {
    /// The frequency of each pair in turns a position, as fractions of 2^64: a position times one of them, modulo
    /// 2^64, is the exact angle, however far the position. Backends share it; it calls no C library.
    pub fn turns(&self) -> Vec<u64> {
        let log = log2(f64::from(self.base));
        let dims = f64::from(self.dims.max(1));
        let turn = |i: u32| {
            let frequency = exp2(-2.0 * f64::from(i) / dims * log);
            (frequency / std::f64::consts::TAU * 2f64.powi(64)) as u64
        };
        (0..self.dims / 2).map(turn).collect()
    }

    /// `x, position, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::read("position"), Role::write("out")]
    }
}

/// Base-2 logarithm of a normal number above 1: exponent apart, `2 atanh((m - 1) / (m + 1))` of the mantissa `m` in
/// 1 to 2 by its series.
fn log2(x: f64) -> f64 {
    let exponent = (x.to_bits() >> 52) as i32 - 1023;
    let m = f64::from_bits(x.to_bits() & ((1 << 52) - 1) | 1023 << 52);
    let t = (m - 1.0) / (m + 1.0);
    let sum = (0..24).rev().fold(0.0, |sum, i| sum * t * t + 1.0 / f64::from(2 * i + 1));
    f64::from(exponent) + 2.0 * t * sum * std::f64::consts::LOG2_E
}

/// `2^x` for `x` from -1000 to 0: its whole part as exponent, the rest by its series.
fn exp2(x: f64) -> f64 {
    let whole = x as i32 - 1;
    let y = (x - f64::from(whole)) * std::f64::consts::LN_2;
    let power = (1..24).rev().fold(1.0, |sum, i| sum * y / f64::from(i) + 1.0);
    f64::from_bits(((whole + 1023) as u64) << 52) * power
}

#[cfg(test)]
mod tests {
    use super::{exp2, log2};

    #[test]
    fn powers_and_logarithms_are_exact_to_fourteen_digits() {
        for x in [1.0, 1.5, 2.0, 10_000.0, 100_000.0, 5e5, 3.4e38] {
            assert!((log2(x) - x.log2()).abs() <= 1e-14 * x.log2().max(1.0), "{x}");
        }
        for x in [0.0, -0.25, -1.0, -13.287, -16.6, -127.5] {
            assert!((exp2(x) / x.exp2() - 1.0).abs() < 1e-14, "{x}");
        }
    }
}
