//! `top_k`: each row sorted, largest and first of equals before the others, and cut.

use super::Inputs;
use crate::op::TopK;

/// Values, then their places.
pub(super) fn top_k(op: &TopK, inputs: &Inputs) -> Vec<Vec<f64>> {
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for row in inputs.need("x").rows() {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
        order.truncate(op.k as usize);
        values.extend(order.iter().map(|&i| row[i]));
        places.extend(order.iter().map(|&i| i as f64));
    }
    vec![values, places]
}
