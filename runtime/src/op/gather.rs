//! `gather`: `out[.., i.., c..] = table[.., index[i..], c..]`. An index outside the table gives zeros and a fault.
//!
//! Shapes: table any, index any, out the table's with the index's in place of the axis. Indices are i32 or u32 in
//! device memory, compared as unsigned with the axis.

use super::operand::Role;

/// Options of a gather.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    /// The table's axis that indices select.
    pub axis: u8,
}

impl Gather {
    /// `table, index, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("table"), Role::read("index"), Role::write("out")]
    }
}
