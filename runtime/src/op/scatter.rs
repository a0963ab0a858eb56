//! `scatter`: writes entries of `x` where indices say; what no index names keeps what it held.
//!
//! `Set` and `Add`: out `[n, inner..]`, index `[count..]` in i32 or u32, x `[count.., inner..]`:
//! `out[index[i]] = x[i]`, or `+= x[i]`, for `i` in order, so that the last of equal indices wins and sums have one
//! order. `Add` asks for an f32 `out`. An index outside `0..n` drops its entry and is reported.
//!
//! `Append`: keys or values into pages, as `attention` reads them: x `[batch, heads, rows, d]`, pages
//! `[batch, most pages]` and lens `[batch]` in i32 or u32, out `[pages, heads, page, d]`. `lens` counts the appended
//! rows too: row `i` of entry `b` becomes its key `lens[b] - rows + i`, in page `pages[b, key / page]`. Rows before
//! key 0 are dropped.

use super::operand::Role;

/// What a scatter does where it lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ScatterFn {
    /// Overwrite.
    Set = 0,
    /// Add, in index order.
    Add = 1,
    /// Append keys or values to pages.
    Append = 2,
}

/// Options of a scatter.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// What happens where it lands.
    pub function: ScatterFn,
    /// The axis of `out` that indices select; 0 for `Append`.
    pub axis: u8,
}

impl Scatter {
    /// `x, index, out`, or `x, pages, lens, out`.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::read("x")];
        match self.function {
            ScatterFn::Append => roles.extend([Role::read("pages"), Role::read("lens")]),
            _ => roles.push(Role::read("index")),
        }
        roles.push(Role::update("out"));
        roles
    }
}
