//! `reduce`: each row of the last axis to one value; an empty row to the function's neutral element.

use super::{Arithmetic, Inputs};
use crate::op::{Reduce, ReduceFn};

pub(super) fn reduce(a: impl Arithmetic, op: &Reduce, inputs: &Inputs, rows: usize) -> Vec<f64> {
    let x = inputs.need("x");
    let n = x.dim(0);
    let fold = |row: &[f64]| match op.function {
        ReduceFn::Sum => row.iter().fold(0.0, |sum, &v| a.sum(sum + v)),
        ReduceFn::Mean => row.iter().fold(0.0, |sum, &v| a.sum(sum + v)) / row.len().max(1) as f64,
        ReduceFn::Max => row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v)),
        ReduceFn::Min => row.iter().fold(f64::INFINITY, |m, &v| m.min(v)),
    };
    (0..rows).map(|r| a.value(fold(&x.data[r * n..(r + 1) * n]))).collect()
}
