//! `norm_backward`: the gradient of each row, and the terms of the weight's.

use super::{Arithmetic, Inputs};
use crate::op::{NormBackward, NormKind};

/// Gradient of x, then `d_out` times the normalised rows.
pub(super) fn norm_backward(
    a: impl Arithmetic,
    op: &NormBackward,
    inputs: &Inputs,
) -> Vec<Vec<f64>> {
    let weight = inputs.get("weight");
    let (mut d_x, mut terms) = (Vec::new(), Vec::new());
    for (row, gradient) in inputs.need("x").rows().zip(inputs.need("d_out").rows()) {
        let n = row.len() as f64;
        let mean_of = |values: &[f64]| a.sum(values.iter().fold(0.0, |sum, x| a.sum(sum + x)) / n);
        let mean = if op.kind == NormKind::Layer { mean_of(row) } else { 0.0 };
        let squares: Vec<f64> = row.iter().map(|x| a.sum((x - mean).powi(2))).collect();
        let scale = a.sum(1.0 / (mean_of(&squares) + f64::from(op.epsilon)).sqrt());
        let y: Vec<f64> = row.iter().map(|x| a.value((x - mean) * scale)).collect();
        let g: Vec<f64> = gradient
            .iter()
            .enumerate()
            .map(|(i, x)| weight.map_or(*x, |w| a.value(x * w.data[i])))
            .collect();
        let along: Vec<f64> = g.iter().zip(&y).map(|(g, y)| a.sum(g * y)).collect();
        let shift = if op.kind == NormKind::Layer { mean_of(&g) } else { 0.0 };
        let along = mean_of(&along);
        d_x.extend(
            g.iter()
                .zip(&y)
                .map(|(g, y)| a.value(scale * a.value(a.value(g - shift) - a.value(y * along)))),
        );
        terms.extend(gradient.iter().zip(&y).map(|(x, y)| a.value(x * y)));
    }
    vec![d_x, terms]
}
