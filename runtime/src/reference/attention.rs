//! `attention`: whole rows of scores, softmax, weighted sum of values.

use super::softmax::weights;
use super::{Arithmetic, Inputs};
use crate::op::{Attention, Lens};

/// The output and, where asked for, the log-sum-exp.
pub(super) fn attention(a: impl Arithmetic, op: &Attention, inputs: &Inputs) -> Vec<Vec<f64>> {
    let (q, k, v) = (inputs.need("q"), inputs.need("k"), inputs.need("v"));
    let (heads, rows, d) = (q.dim(2), q.dim(1), q.dim(0));
    let (kv_heads, keys, dv) = (k.dim(2), k.dim(1), v.dim(0));
    let queries = q.dim(3) * heads * rows;
    let mut out = vec![0.0; queries * dv];
    let mut lse = vec![f64::NEG_INFINITY; queries];
    for index in 0..queries {
        let (head, row) = (index / rows, index % rows);
        let (batch, head) = (head / heads, head % heads);
        let len = match &op.lens {
            Lens::Host(lens) => lens[batch] as usize,
            _ => keys,
        };
        let seen = if op.causal { (row + 1 + len).saturating_sub(rows).min(len) } else { len };
        let first = (batch * kv_heads + head / (heads / kv_heads)) * keys;
        let query = &q.data[index * d..(index + 1) * d];
        let scores: Vec<f64> = (0..seen)
            .map(|key| {
                let key_row = &k.data[(first + key) * d..(first + key + 1) * d];
                let products = query.iter().zip(key_row);
                let dot = products.fold(0.0, |sum, (x, y)| a.sum(sum + a.sum(x * y)));
                let score = a.value(f64::from(op.scale) * a.value(dot));
                let mask = inputs.get("mask");
                mask.map_or(score, |mask| a.value(score + mask.data[index * keys + key]))
            })
            .collect();
        let (weights, max, sum) = weights(a, &scores);
        let output = &mut out[index * dv..(index + 1) * dv];
        for (key, weight) in weights.iter().enumerate() {
            let values = &v.data[(first + key) * dv..(first + key + 1) * dv];
            for (y, value) in output.iter_mut().zip(values) {
                *y = a.sum(*y + a.sum(weight * value));
            }
        }
        output.iter_mut().for_each(|y| *y = a.value(*y));
        if sum > 0.0 {
            lse[index] = a.value(max + sum.ln());
        }
    }
    if op.log_sum_exp { vec![out, lse] } else { vec![out] }
}
