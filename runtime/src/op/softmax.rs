//! `softmax`: `exp(scale x - max) / sum` along an axis, in f32. A row of negative infinities gives 0.
//!
//! Shapes: x and out equal.

use super::operand::Role;

/// Options of a softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Factor of the input.
    pub scale: f32,
    /// The axis.
    pub axis: u8,
}

impl Softmax {
    /// `x, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::write("out")]
    }
}
