//! `attention_backward`: whole matrices of weights and of their gradients.

use super::{Arithmetic, Inputs};
use crate::op::AttentionBackward;

/// Gradients of Q, K and V.
pub(super) fn attention_backward(
    a: impl Arithmetic,
    op: &AttentionBackward,
    inputs: &Inputs,
) -> Vec<Vec<f64>> {
    let [q, k, v, out, lse, d_out] =
        ["q", "k", "v", "out", "lse", "d_out"].map(|name| inputs.need(name));
    let (heads, rows, d) = (q.dim(2), q.dim(1), q.dim(0));
    let (kv_heads, keys, dv) = (k.dim(2), k.dim(1), v.dim(0));
    let mut d_q = vec![0.0; q.data.len()];
    let mut d_k = vec![0.0; k.data.len()];
    let mut d_v = vec![0.0; v.data.len()];
    let dot =
        |x: &[f64], y: &[f64]| x.iter().zip(y).fold(0.0, |sum, (x, y)| a.sum(sum + a.sum(x * y)));
    let add = |to: &mut [f64], factor: f64, from: &[f64]| {
        to.iter_mut().zip(from).for_each(|(y, x)| *y = a.sum(*y + a.sum(factor * x)));
    };
    let line = |n: usize, at: usize| at * n..(at + 1) * n;
    for index in 0..q.dim(3) * heads * rows {
        let (entry, row) = (index / rows, index % rows);
        let (batch, head) = (entry / heads, entry % heads);
        let first = (batch * kv_heads + head / (heads / kv_heads)) * keys;
        let seen = if op.causal { (row + 1 + keys).saturating_sub(rows).min(keys) } else { keys };
        let (query, gradient) = (&q.data[line(d, index)], &d_out.data[line(dv, index)]);
        let mean = a.value(dot(gradient, &out.data[line(dv, index)]));
        for key in first..first + seen {
            let score = a.value(f64::from(op.scale) * a.value(dot(query, &k.data[line(d, key)])));
            let weight = a.value(a.sum(score - lse.data[index]).exp());
            add(&mut d_v[line(dv, key)], weight, gradient);
            let d_weight = a.value(dot(gradient, &v.data[line(dv, key)]));
            let d_score = a.value(f64::from(op.scale) * a.value(weight * a.value(d_weight - mean)));
            add(&mut d_q[line(d, index)], d_score, &k.data[line(d, key)]);
            add(&mut d_k[line(d, key)], d_score, query);
        }
    }
    [d_q, d_k, d_v].map(|sums| sums.into_iter().map(|x| a.value(x)).collect()).into()
}
