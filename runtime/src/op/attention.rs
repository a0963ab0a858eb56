//! `attention`: `out = softmax(scale * Q K^T + mask) V` per head, softmax in f32.
//!
//! Shapes: Q `[batch, heads, rows, d]`, K `[batch, kv_heads, keys, d]`, V `[batch, kv_heads, keys, dv]`, mask
//! `[batch, heads, rows, keys]`, out `[batch, heads, rows, dv]`, log-sum-exp `[batch, heads, rows]` in f32.
//! Query head `h` reads key/value head `h / (heads / kv_heads)`. Causal is bottom-right aligned: row `i` sees
//! key `j` when `j <= i + len - rows`, `len` being the batch entry's key length. A row that sees nothing gives
//! 0 and a log-sum-exp of negative infinity.

use super::OrderClass;
use super::operand::Role;

/// Key lengths, one per batch entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Lens {
    /// Every key of the tensor.
    #[default]
    Full,
    /// Copied into the descriptor; that copy is the one used.
    Host(Vec<u32>),
    /// Read on the device from a `lens` operand, held to the stated maximum. Not built yet.
    Device {
        /// The largest length; plans are made from it.
        max: u32,
    },
}

/// Where keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KeyValue {
    /// In one tensor each.
    #[default]
    Dense,
    /// In pages of this many keys, found by a `pages` operand. Not built yet.
    Paged {
        /// Keys a page.
        page: u32,
    },
}

/// What is added to the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Mask {
    /// Nothing.
    #[default]
    None = 0,
    /// A tensor of the scores' shape, after scaling; negative infinity hides a key.
    Additive = 1,
}

/// Options of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Factor of the scores; usually `1/sqrt(d)`.
    pub scale: f32,
    /// Hide keys after the row's own.
    pub causal: bool,
    /// Keys seen to the left and right of the row's own. Not built yet beyond `None`.
    pub window: Option<[u32; 2]>,
    /// `cap * tanh(score / cap)` before the mask; 0 is off. Not built yet beyond 0.
    pub softcap: f32,
    /// What is added to the scores.
    pub mask: Mask,
    /// Slope times distance, slopes in an operand. Not built yet.
    pub alibi: bool,
    /// One extra logit per head, in an operand. Not built yet.
    pub sinks: bool,
    /// Key lengths.
    pub lens: Lens,
    /// Where keys and values lie.
    pub key_value: KeyValue,
    /// Whether the log-sum-exp (natural log) is a second output.
    pub log_sum_exp: bool,
    /// Freedom of the order.
    pub order: OrderClass,
}

impl Default for Attention {
    fn default() -> Self {
        Self {
            scale: 1.0,
            causal: false,
            window: None,
            softcap: 0.0,
            mask: Mask::None,
            alibi: false,
            sinks: false,
            lens: Lens::Full,
            key_value: KeyValue::Dense,
            log_sum_exp: false,
            order: OrderClass::Fixed,
        }
    }
}

impl Attention {
    /// `q, k, v, [mask], [alibi], [sinks], [lens], [pages], out, [lse]`.
    pub fn roles(&self) -> Vec<Role> {
        let optional = [
            (self.mask == Mask::Additive, Role::read("mask")),
            (self.alibi, Role::read("alibi")),
            (self.sinks, Role::read("sinks")),
            (matches!(self.lens, Lens::Device { .. }), Role::read("lens")),
            (matches!(self.key_value, KeyValue::Paged { .. }), Role::read("pages")),
            (true, Role::write("out")),
            (self.log_sum_exp, Role::write("lse")),
        ];
        let mut roles = vec![Role::read("q"), Role::read("k"), Role::read("v")];
        roles.extend(optional.into_iter().filter_map(|(present, role)| present.then_some(role)));
        roles
    }
}
