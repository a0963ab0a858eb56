//! `copy`: the bits of one view to another of the same shape and dtype, whatever the strides.

use super::operand::Role;

/// A copy has no options.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Copy;

impl Copy {
    /// `x, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::write("out")]
    }
}
