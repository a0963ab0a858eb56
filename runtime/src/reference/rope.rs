//! `rope`: each pair turned by its angle, in f64.

use super::{Arithmetic, Inputs};
use crate::op::Rope;

pub(super) fn rope(a: impl Arithmetic, op: &Rope, inputs: &Inputs) -> Vec<f64> {
    let (x, position) = (inputs.need("x"), inputs.need("position"));
    let (heads, rows, d) = (x.dim(2), x.dim(1), x.dim(0));
    let dims = op.dims as usize;
    let mut out = x.data.clone();
    for (index, row) in out.chunks_exact_mut(d.max(1)).enumerate() {
        let at = position.data[index / rows / heads * rows + index % rows];
        for i in 0..dims / 2 {
            let pair = if op.interleaved { [2 * i, 2 * i + 1] } else { [i, i + dims / 2] };
            let frequency = a.sum(f64::from(op.base).powf(-2.0 * i as f64 / dims as f64));
            let (sin, cos) = a.sum(at * frequency).sin_cos();
            let ([u, v], [sin, cos]) = (pair.map(|i| row[i]), [a.value(sin), a.value(cos)]);
            row[pair[0]] = a.value(a.value(u * cos) - a.value(v * sin));
            row[pair[1]] = a.value(a.value(u * sin) + a.value(v * cos));
        }
    }
    out
}
