//! `attention`: `out = softmax(score + mask) V` per head, softmax in f32, with
//! `score = cap(scale * Q K^T) - slope * |distance|` and `cap(x) = c tanh(x / c)` where a soft cap `c` is set.
//!
//! Dense: Q `[batch, heads, rows, d]`, K `[batch, kv_heads, keys, d]`, V `[batch, kv_heads, keys, dv]`, mask
//! `[batch, heads, rows, keys]`, out `[batch, heads, rows, dv]`, log-sum-exp `[batch, heads, rows]` in f32.
//! Query head `h` reads key/value head `h / (heads / kv_heads)`.
//!
//! With `len` keys in a batch entry, its row `i` stands at position `i + len - rows`: causal, windows and
//! distances count from there (aligned at the bottom right). A row that sees nothing gives 0 and a log-sum-exp of
//! negative infinity, or its sink where there is one.
//!
//! Packed (`rows` is not `Full`): Q is `[1, heads, total, d]`, the rows of the batch entries one after another; out
//! and log-sum-exp likewise. Dense keys are then packed too, `[1, kv_heads, total keys, d]` by `lens`, or by `rows`
//! where `lens` is `Full`. Rows that no entry owns give 0. There is no mask.
//!
//! Paged: K is `[pages, kv_heads, page, d]`, V `[pages, kv_heads, page, dv]`; key `j` of entry `b` lies in page
//! `pages[b, j / page]`, with `pages` `[batch, most pages of an entry]` in i32 or u32. `lens` is then `Host` or
//! `Device`.
//!
//! ALiBi slopes and sinks are f32, `[heads]`.

use super::OrderClass;
use super::operand::Role;
use super::scores::{Mask, Scores};

/// Where keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KeyValue {
    /// In one tensor each.
    #[default]
    Dense,
    /// In pages of this many keys, found by a `pages` operand.
    Paged {
        /// Keys a page.
        page: u32,
    },
}

/// Options of attention.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Attention {
    /// How scores are made, and which keys a row sees.
    pub scores: Scores,
    /// Whether one more logit per head, from a `sinks` operand, takes part in the softmax with value 0.
    pub sinks: bool,
    /// Where keys and values lie.
    pub key_value: KeyValue,
    /// Whether the log-sum-exp (natural log) is a second output.
    pub log_sum_exp: bool,
    /// Freedom of the order.
    pub order: OrderClass,
}

impl Attention {
    /// `q, k, v, [mask], [alibi], [sinks], [rows], [lens], [pages], out, [lse]`.
    pub fn roles(&self) -> Vec<Role> {
        let scores = &self.scores;
        let optional = [
            (scores.mask == Mask::Additive, Role::read("mask")),
            (scores.alibi, Role::read("alibi")),
            (self.sinks, Role::read("sinks")),
            (scores.rows.on_device(), Role::read("rows")),
            (scores.lens.on_device(), Role::read("lens")),
            (matches!(self.key_value, KeyValue::Paged { .. }), Role::read("pages")),
            (true, Role::write("out")),
            (self.log_sum_exp, Role::write("lse")),
        ];
        let mut roles = vec![Role::read("q"), Role::read("k"), Role::read("v")];
        roles.extend(optional.into_iter().filter_map(|(present, role)| present.then_some(role)));
        roles
    }
}
