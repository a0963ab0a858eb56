//! `attention_backward`: gradients of dense [`super::Attention`] with respect to Q, K and V, from the output, the
//! log-sum-exp and the gradient of the output. Deterministic: every sum has one order.
//!
//! Shapes as there: q, d_q `[batch, heads, rows, d]`, k, d_k `[batch, kv_heads, keys, d]`, v, d_v
//! `[batch, kv_heads, keys, dv]`, out, d_out `[batch, heads, rows, dv]`, lse `[batch, heads, rows]` in f32.
//! With `P = exp(scale Q K^T - lse)` and `D = rowsum(d_out * out)`: `d_v = P^T d_out`,
//! `dS = P * (d_out V^T - D)`, `d_q = scale dS K`, `d_k = scale dS^T Q`, summed over the heads of a group.

use super::operand::Role;

/// Options of the gradients of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionBackward {
    /// Factor of the scores, as in the forward op.
    pub scale: f32,
    /// Keys after the row's own were hidden, aligned at the bottom right.
    pub causal: bool,
}

impl AttentionBackward {
    /// `q, k, v, out, lse, d_out, d_q, d_k, d_v`.
    pub fn roles(&self) -> Vec<Role> {
        let reads = ["q", "k", "v", "out", "lse", "d_out"].map(Role::read);
        reads.into_iter().chain(["d_q", "d_k", "d_v"].map(Role::write)).collect()
    }
}
