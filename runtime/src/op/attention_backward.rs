//! `attention_backward`: gradients of dense [`super::Attention`] with respect to Q, K and V, from the output, the
//! log-sum-exp and the gradient of the output. Deterministic: every sum has one order.
//!
//! Shapes as there: q, d_q `[batch, heads, rows, d]`, k, d_k `[batch, kv_heads, keys, d]`, v, d_v
//! `[batch, kv_heads, keys, dv]`, out, d_out `[batch, heads, rows, dv]`, lse `[batch, heads, rows]` in f32; packed rows and
//! keys have a batch of 1. Rows and keys that no entry owns, or that meet nobody, get 0.
//!
//! With the scores S as there, `P = exp(S - lse)` and `D = rowsum(d_out * out)`: `d_v = P^T d_out`,
//! `dS = P * (d_out V^T - D)`, `d_q = scale (dS * C) K`, `d_k = scale (dS * C)^T Q`, summed over the heads of a group, where
//! C is what the soft cap c did, `1 - tanh(scale Q K^T / c)^2`, or 1. Sinks are in the log-sum-exp and need no operand.
//! Gradients of the mask, of slopes and of sinks are not given.

use super::operand::Role;
use super::scores::{Mask, Scores};

/// Options of the gradients of attention: those of the forward op.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AttentionBackward {
    /// How scores were made, and which keys a row saw.
    pub scores: Scores,
}

impl AttentionBackward {
    /// `q, k, v, out, lse, d_out, [mask], [alibi], [rows], [lens], d_q, d_k, d_v`.
    pub fn roles(&self) -> Vec<Role> {
        let Scores { mask, alibi, rows, lens, .. } = &self.scores;
        let optional = [
            (*mask == Mask::Additive, "mask"),
            (*alibi, "alibi"),
            (rows.on_device(), "rows"),
            (lens.on_device(), "lens"),
        ];
        let optional = optional.into_iter().filter_map(|(present, name)| present.then_some(name));
        let reads = ["q", "k", "v", "out", "lse", "d_out"].into_iter().chain(optional);
        reads.map(Role::read).chain(["d_q", "d_k", "d_v"].map(Role::write)).collect()
    }
}
