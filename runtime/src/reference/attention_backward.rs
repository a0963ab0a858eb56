//! `attention_backward`: whole rows of weights and of their gradients.

use super::attention::{Line, entries, products};
use super::{Arithmetic, Inputs};
use crate::op::{AttentionBackward, KeyValue};

/// Gradients of Q, K and V.
pub(super) fn attention_backward(
    a: impl Arithmetic,
    op: &AttentionBackward,
    inputs: &Inputs,
) -> Vec<Vec<f64>> {
    let [q, k, v, out, lse, d_out] =
        ["q", "k", "v", "out", "lse", "d_out"].map(|name| inputs.need(name));
    let (heads, d, dv) = (q.dim(2), q.dim(0), v.dim(0));
    let mut d_q = vec![0.0; q.data.len()];
    let mut d_k = vec![0.0; k.data.len()];
    let mut d_v = vec![0.0; v.data.len()];
    let dot =
        |x: &[f64], y: &[f64]| x.iter().zip(y).fold(0.0, |sum, (x, y)| a.sum(sum + a.sum(x * y)));
    let add = |to: &mut [f64], factor: f64, from: &[f64]| {
        to.iter_mut().zip(from).for_each(|(y, x)| *y = a.sum(*y + a.sum(factor * x)));
    };
    let columns = |n: usize, at: usize| at * n..(at + 1) * n;
    for entry in entries(&op.scores, KeyValue::Dense, inputs) {
        for (head, row) in (0..heads).flat_map(|h| (0..entry.rows).map(move |r| (h, r))) {
            let line = Line::new(&op.scores, KeyValue::Dense, inputs, &entry, head, row);
            let index = line.index;
            let (query, gradient) = (&q.data[columns(d, index)], &d_out.data[columns(dv, index)]);
            let mean = a.value(dot(gradient, &out.data[columns(dv, index)]));
            // Nothing was seen: there are no weights, not equal ones.
            let has_seen = lse.data[index] > f64::NEG_INFINITY;
            let seen = if has_seen { line.seen() } else { Vec::new() };
            let d_weights = products(a, gradient, &v.data, &seen);
            let scores = line.scores(a, &seen);
            for ((&(_, at), d_weight), [score, growth]) in seen.iter().zip(d_weights).zip(scores) {
                let Some(at) = at else { continue };
                let weight = a.value(a.sum(score - lse.data[index]).exp());
                add(&mut d_v[columns(dv, at)], weight, gradient);
                let d_weight = a.value(d_weight);
                let d_score = a.value(a.value(weight * a.value(d_weight - mean)) * growth);
                let d_score = a.value(f64::from(op.scores.scale) * d_score);
                add(&mut d_q[columns(d, index)], d_score, &k.data[columns(d, at)]);
                add(&mut d_k[columns(d, at)], d_score, query);
            }
        }
    }
    [d_q, d_k, d_v].map(|sums| sums.into_iter().map(|x| a.value(x)).collect()).into()
}
