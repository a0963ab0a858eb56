//! `reduce`: an axis folded to one value, in f32. An empty axis gives the function's neutral element
//! (0 for sum and mean, negative infinity for max, positive infinity for min).
//!
//! Shapes: x any, out x without the axis.

use super::operand::Role;

/// The function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReduceFn {
    /// Sum.
    Sum = 0,
    /// Sum divided by n.
    Mean = 1,
    /// Largest; NaN if any is.
    Max = 2,
    /// Smallest; NaN if any is.
    Min = 3,
}

impl ReduceFn {
    /// Every function, in wire order.
    pub const ALL: [Self; 4] = [Self::Sum, Self::Mean, Self::Max, Self::Min];
}

/// Options of a reduction.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// The function.
    pub function: ReduceFn,
    /// The axis.
    pub axis: u8,
}

impl Reduce {
    /// `x, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::write("out")]
    }
}
