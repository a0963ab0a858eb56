//! `softmax`: `exp(scale x - max) / sum` of each row; zeros where all is hidden.

use super::{Arithmetic, Inputs};
use crate::op::Softmax;

pub(super) fn softmax(a: impl Arithmetic, op: &Softmax, inputs: &Inputs) -> Vec<f64> {
    let mut out = Vec::new();
    for row in inputs.need("x").rows() {
        let scaled: Vec<f64> = row.iter().map(|x| a.value(f64::from(op.scale) * x)).collect();
        out.extend(weights(a, &scaled).0);
    }
    out
}

/// Weights of a row of scores, with its maximum and sum; all zero where every score is negative infinity.
pub(super) fn weights(a: impl Arithmetic, scores: &[f64]) -> (Vec<f64>, f64, f64) {
    let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
    if max == f64::NEG_INFINITY {
        return (vec![0.0; scores.len()], max, 0.0);
    }
    let exps: Vec<f64> = scores.iter().map(|s| a.sum((s - max).exp())).collect();
    let sum = exps.iter().fold(0.0, |sum, e| a.sum(sum + e));
    (exps.into_iter().map(|e| a.value(e / sum)).collect(), max, sum)
}
