//! `matmul`: every sum of products from left to right, then the epilogue, step by step.

use super::functions::activation;
use super::{Arithmetic, Inputs};
use crate::op::Matmul;

pub(super) fn matmul(a: impl Arithmetic, op: &Matmul, inputs: &Inputs) -> Vec<f64> {
    let (lhs, rhs) = (inputs.need("a"), inputs.need("b"));
    let (m, k, n) = (lhs.dim(1), lhs.dim(0), rhs.dim(0));
    let entries = lhs.shape.iter().rev().skip(2).product::<u64>() as usize;
    let mut out = vec![0.0; entries * m * n];
    for (i, sums) in out.chunks_exact_mut(n.max(1)).enumerate() {
        for p in 0..k {
            let x = lhs.data[i * k + p];
            let row = (i / m * k + p) * n;
            for (sum, y) in sums.iter_mut().zip(&rhs.data[row..row + n]) {
                *sum = a.sum(*sum + a.sum(x * y));
            }
        }
    }
    let [bias, gate, residual] = ["bias", "gate", "residual"].map(|name| inputs.get(name));
    for (i, y) in out.iter_mut().enumerate() {
        let mut v = a.value(f64::from(op.alpha) * a.value(*y));
        v = bias.map_or(v, |bias| a.value(v + bias.data[i]));
        v = a.value(activation(a, op.activation, v));
        v = gate.map_or(v, |gate| a.value(v * gate.data[i]));
        *y = residual.map_or(v, |residual| a.value(v + residual.data[i]));
    }
    out
}
