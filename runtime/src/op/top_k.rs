//! `top_k`: the k largest elements along an axis, largest first, the first of equal ones first, and their indices.
//! Elements compare as in `arg_max`.
//!
//! Shapes: x any, value and index x with k on the axis; value of x's dtype, index in i32 or u32. k is 1 to 256 and
//! at most the axis.

use super::operand::Role;

/// Options of a top-k.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// How many.
    pub k: u32,
    /// The axis.
    pub axis: u8,
}

impl TopK {
    /// `x, value, index`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::write("value"), Role::write("index")]
    }
}
