//! Dispatches of products.

use super::super::plan::{Class, Product};
use super::{Dispatch, LAST, Words, strides};
use crate::op::{CheckedOp, Matmul};
use crate::order::Span;

/// Rows and columns of a workgroup of `matmul`.
const SIDE: u64 = 32;

pub(super) fn product(op: &CheckedOp, matmul: &Matmul, class: &Class, span: Span) -> Dispatch {
    let p = Product::of(op, class);
    let [tm, tn] = class.tile;
    let k = [span.from, span.to].map(|link| (link * p.link_k).min(p.k));
    let workgroups = span.tiles * (tm / SIDE) * (tn / SIDE);
    let has = |name, flag: u32| if op.spec(name).is_some() { flag } else { 0 };
    let last = if k[1] == p.k { LAST } else { 0 };
    let flags = has("bias", 1) | has("gate", 2) | has("residual", 4) | last;
    let mut params = Words::default();
    params.put(&[p.m, p.n, k[0], k[1], tm, tn, p.tiles_n, p.tiles_m * p.tiles_n]);
    params.put(&[span.first, workgroups, flags.into(), matmul.activation as u64]);
    params.float(matmul.alpha);
    params.put(&[0; 3]);
    let batch = op.spec("out").map(|out| *out.layout.shape()).unwrap_or_default();
    let lead = batch.rank().saturating_sub(2);
    params.put(&four(&batch[..lead], 1));
    for name in ["a", "b", "bias", "gate", "residual", "out"] {
        let spec = op.spec(name);
        let steps = spec.map(strides).unwrap_or_default();
        let lead = steps.len().saturating_sub(2);
        params.view(spec, &[&four(&steps[..lead], 0), &steps[lead..]].concat());
    }
    Dispatch { entry: 0, workgroups, params, cut: true }
}

/// Up to four numbers at the right end of four.
fn four(list: &[u64], fill: u64) -> [u64; 4] {
    let mut out = [fill; 4];
    out.iter_mut().rev().zip(list.iter().rev()).for_each(|(slot, &v)| *slot = v);
    out
}
