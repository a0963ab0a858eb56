//! `gather`: `out[i.., c..] = table[index[i..], c..]`. An index outside the table gives zeros and a fault.
//!
//! Shapes: table `[rows, inner..]`, index any, out `index.shape ++ inner`. Indices are i32 or u32 in device
//! memory, compared as unsigned with `rows`.

use super::operand::Role;

/// Options of a gather.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    /// The table's axis that indices select; only 0 is built yet.
    pub axis: u8,
}

impl Gather {
    /// `table, index, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("table"), Role::read("index"), Role::write("out")]
    }
}
