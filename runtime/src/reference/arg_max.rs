//! `arg_max`: the first largest element of each row, by the total order.

use super::Inputs;

pub(super) fn arg_max(inputs: &Inputs) -> Vec<f64> {
    let first_largest = |row: &[f64]| {
        let mut best = 0;
        for (i, x) in row.iter().enumerate() {
            if x.total_cmp(&row[best]).is_gt() {
                best = i;
            }
        }
        best as f64
    };
    inputs.need("x").rows().map(first_largest).collect()
}
