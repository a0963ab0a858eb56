//! `norm`: each row less its mean over its deviation (layer), or over its root mean square.

use super::{Arithmetic, Inputs};
use crate::op::{Norm, NormKind};

pub(super) fn norm(a: impl Arithmetic, op: &Norm, inputs: &Inputs) -> Vec<f64> {
    let (weight, bias) = (inputs.get("weight"), inputs.get("bias"));
    let mut out = Vec::new();
    for row in inputs.need("x").rows() {
        let n = row.len() as f64;
        let mean = match op.kind {
            NormKind::Layer => a.sum(row.iter().fold(0.0, |sum, x| a.sum(sum + x)) / n),
            NormKind::Rms => 0.0,
        };
        let squares = row.iter().fold(0.0, |sum, x| a.sum(sum + a.sum((x - mean).powi(2))));
        let scale = a.sum(1.0 / (squares / n + f64::from(op.epsilon)).sqrt());
        out.extend(row.iter().enumerate().map(|(i, x)| {
            let y = a.value((x - mean) * scale);
            let y = weight.map_or(y, |w| a.value(y * w.data[i]));
            bias.map_or(y, |b| a.value(y + b.data[i]))
        }));
    }
    out
}
