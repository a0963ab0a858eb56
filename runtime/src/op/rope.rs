//! `rope`: rotary position embedding. Pair `i` of the first `dims` elements of each head turns by
//! `position * base^(-2i / dims)` (Su et al. 2021): `(a, b)` becomes `(a cos - b sin, a sin + b cos)`. The elements
//! beyond `dims` are copied.
//!
//! Shapes: x, out `[batch, heads, rows, d]`, position `[batch, rows]` in i32 or u32. Pair `i` is elements `i` and
//! `i + dims/2`, or `2i` and `2i + 1` when interleaved. `dims` is even and at most `d`.

use super::operand::Role;

/// Options of a rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies, above 1.
    pub base: f32,
    /// Leading elements of each head that turn.
    pub dims: u32,
    /// Whether pairs are neighbours instead of halves.
    pub interleaved: bool,
}

impl Rope {
    /// `x, position, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::read("position"), Role::write("out")]
    }
}
