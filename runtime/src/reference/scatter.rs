//! `scatter`: entries written or added in the order of their indices; appended rows written where their key lies.

use super::{Arithmetic, Inputs, count};
use crate::op::{Scatter, ScatterFn};

pub(super) fn scatter(a: impl Arithmetic, op: &Scatter, inputs: &Inputs) -> Vec<f64> {
    if op.function == ScatterFn::Append {
        return append(inputs);
    }
    let (x, index) = (inputs.need("x"), inputs.need("index"));
    let mut out = inputs.need("out").data.clone();
    let inner: usize = inputs.need("out").shape.iter().skip(1).product::<u64>() as usize;
    let entries = inputs.need("out").shape.first().map_or(0, |&n| n as usize);
    for (i, &to) in index.data.iter().enumerate() {
        let to = count(to);
        if to >= entries {
            continue;
        }
        let from = &x.data[i * inner..(i + 1) * inner];
        for (y, x) in out[to * inner..(to + 1) * inner].iter_mut().zip(from) {
            *y = if op.function == ScatterFn::Add { a.sum(*y + x) } else { *x };
        }
    }
    out
}

fn append(inputs: &Inputs) -> Vec<f64> {
    let [x, pages, lens, cache] = ["x", "pages", "lens", "out"].map(|name| inputs.need(name));
    let (heads, rows, d) = (x.dim(2), x.dim(1), x.dim(0));
    let (entries, page, most) = (cache.dim(3), cache.dim(1), pages.dim(0));
    let mut out = cache.data.clone();
    for (batch, &len) in lens.data.iter().enumerate() {
        let len = count(len).min(most * page);
        for (head, row) in (0..heads).flat_map(|h| (0..rows).map(move |r| (h, r))) {
            let Some(key) = (len + row).checked_sub(rows) else { continue };
            let index = count(pages.data[batch * most + key / page]);
            if index < entries {
                let to = ((index * heads + head) * page + key % page) * d;
                let from = ((batch * heads + head) * rows + row) * d;
                out[to..to + d].copy_from_slice(&x.data[from..from + d]);
            }
        }
    }
    out
}
