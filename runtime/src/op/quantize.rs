//! `quantize`: a float tensor to 8-bit values and their scales, or to 4-bit groups; or back (`inverse`).
//!
//! 8-bit values (f8e4m3, f8e5m2, i8) stand for `value * scale`, with `scale` the largest magnitude of what it covers over
//! the type's largest (448, 57344, 127), 0 where all are 0, in f32: `[1]` for `Tensor`; x without the last axis for
//! `Row`; `[.., n/128]` for `Block1x128`; `[.., m/128, n/128]` for `Block128x128`, rounded up. Values are rounded to nearest,
//! ties to even, and held to the type's range.
//!
//! `Group32`: the last axis, a multiple of 32, in groups that stand for `value * scale + min` with values 0 to 15:
//! eight a word of u32, the first lowest: out `[.., n/8]`; scale and min `[.., n/32]`, any float type, and
//! `scale = (largest - smallest) / 15`, `min` the smallest.

use super::operand::Role;

/// The quantised form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QuantizeFormat {
    /// One scale for the tensor.
    Tensor = 0,
    /// One scale a row.
    Row = 1,
    /// One scale for each run of 128.
    Block1x128 = 2,
    /// One scale for each 128 by 128 block.
    Block128x128 = 3,
    /// 4-bit groups of 32 with scale and minimum.
    Group32 = 4,
}

/// Options of a quantisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    /// The quantised form.
    pub format: QuantizeFormat,
    /// Whether the quantised form is the input.
    pub inverse: bool,
}

impl Quantize {
    /// `x, out, scale, [min]`, or `x, scale, [min], out` when `inverse`.
    pub fn roles(&self) -> Vec<Role> {
        let mut scales = vec!["scale"];
        scales.extend((self.format == QuantizeFormat::Group32).then_some("min"));
        let mut roles = vec![Role::read("x")];
        if self.inverse {
            roles.extend(scales.into_iter().map(Role::read));
            roles.push(Role::write("out"));
        } else {
            roles.push(Role::write("out"));
            roles.extend(scales.into_iter().map(Role::write));
        }
        roles
    }
}
