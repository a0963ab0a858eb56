//! Ops whose types, names and wire numbers are fixed now so that later work changes no id and no golden
//! frame. `check` answers `Unsupported` to each.

use super::operand::Role;

/// Gradients of attention: dQ, dK, dV.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionBackward {
    /// Factor of the scores.
    pub scale: f32,
    /// Hide keys after the row's own.
    pub causal: bool,
}

impl AttentionBackward {
    /// `q, k, v, out, lse, d_out, d_q, d_k, d_v`.
    pub fn roles(&self) -> Vec<Role> {
        let reads = ["q", "k", "v", "out", "lse", "d_out"].map(Role::read);
        reads.into_iter().chain(["d_q", "d_k", "d_v"].map(Role::write)).collect()
    }
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f32,
    /// Leading elements of each head that turn.
    pub dims: u32,
    /// Whether pairs are neighbours instead of halves.
    pub interleaved: bool,
}

impl Rope {
    /// `x, position, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::element("x"), Role::read("position"), Role::write("out")]
    }
}

/// What a scatter does where it lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ScatterFn {
    /// Overwrite.
    Set = 0,
    /// Add, in index order.
    Add = 1,
    /// Append keys and values into pages.
    Append = 2,
}

/// Writes by index.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// What happens where it lands.
    pub function: ScatterFn,
    /// The axis that indices select.
    pub axis: u8,
}

impl Scatter {
    /// `x, index, out`.
    pub fn roles(&self) -> Vec<Role> {
        vec![Role::read("x"), Role::read("index"), Role::write("out")]
    }
}

/// Index of the largest element along an axis.
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

/// The k largest elements along an axis and their indices.
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

/// The quantised form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QuantizeFormat {
    /// One scale for the tensor.
    Tensor = 0,
    /// One scale a row.
    Row = 1,
    /// One scale for each run of 128.
    Block1x128 = 2,
    /// One scale for each 128 by 128 block.
    Block128x128 = 3,
    /// 4-bit groups of 32 with scale and minimum.
    Group32 = 4,
}

/// To or from a quantised form.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    /// The quantised form.
    pub format: QuantizeFormat,
    /// Whether the quantised form is the input.
    pub inverse: bool,
}

impl Quantize {
    /// `x, scale, out`, or `x, out, scale` when quantising.
    pub fn roles(&self) -> Vec<Role> {
        if self.inverse {
            vec![Role::read("x"), Role::read("scale"), Role::write("out")]
        } else {
            vec![Role::read("x"), Role::write("out"), Role::write("scale")]
        }
    }
}
