//! `arg_max`: index of the largest element along an axis, the first of equal ones. Elements compare by IEEE 754's
//! total order, so -0 is below +0 and a positive NaN is largest.
//!
//! Shapes: x any, index x without the axis, in i32 or u32.

use super::operand::Role;

/// Options of an arg-max.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgMax {
    /// The axis.
    pub axis: u8,
}

impl ArgMax {
    /// `x, index`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::write("index")]
    }
}
