//! `softmax`: `exp(scale x - max) / sum` along the last axis, in f32. A row of negative infinities gives 0.
//!
//! Shapes: x and out `[.., n]`.

use super::operand::Role;

/// Options of a softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Factor of the input.
    pub scale: f32,
    /// The axis; only the last is built yet.
    pub axis: u8,
}

impl Softmax {
    /// `x, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::write("out")]
    }
}
