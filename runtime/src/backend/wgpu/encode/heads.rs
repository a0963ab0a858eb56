//! Dispatches of attention.

use super::super::plan::{Class, Heads};
use super::{Dispatch, LAST, Words, strides};
use crate::op::{Attention, CheckedOp, Lens, Mask};
use crate::order::Span;

/// Query rows of a workgroup of `attention`.
const QUERIES: u64 = 4;

pub(super) fn heads(op: &CheckedOp, attention: &Attention, class: &Class, span: Span) -> Dispatch {
    let a = Heads::of(op, class);
    let chunks = [span.from, span.to].map(|link| (link * a.per_link).min(a.chunks));
    let workgroups = span.tiles * (class.query_rows / QUERIES);
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let flags = flag(attention.causal, 1)
        | flag(attention.mask == Mask::Additive, 2)
        | flag(attention.log_sum_exp, 4)
        | flag(chunks[1] == a.chunks, LAST);
    let mut params = Words::default();
    params.put(&[a.heads, a.group, a.rows, a.d, a.dv]);
    params.float(attention.scale);
    params.put(&[flags.into(), class.query_rows, a.tiles, span.first, workgroups]);
    params.put(&[chunks[0], chunks[1], 0, 0, 0]);
    for name in ["q", "k", "v", "mask", "out", "lse"] {
        let spec = op.spec(name);
        params.view(spec, &spec.map(strides).unwrap_or_default());
    }
    Dispatch { entry: 0, workgroups, params, cut: true }
}

pub(super) fn made(op: &CheckedOp, attention: &Attention) -> Vec<u32> {
    let (q, k) = (op.specs()[0].layout, op.specs()[1].layout);
    match &attention.lens {
        Lens::Host(lens) => lens.clone(),
        // The plan held both sizes to 31 bits.
        _ => vec![k.shape()[2] as u32; q.shape()[0] as usize],
    }
}
