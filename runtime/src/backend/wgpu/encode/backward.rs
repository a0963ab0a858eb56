//! Dispatches of attention's gradient.

use super::super::plan::{Backward, Class};
use super::{Dispatch, LAST, Words, strides};
use crate::op::{AttentionBackward, CheckedOp};
use crate::order::Span;

/// Rows of a workgroup.
const ROWS: u64 = 4;
const CAUSAL: u32 = 1;

/// The tiles of a span: of queries, then of keys.
pub(super) fn backward(
    op: &CheckedOp,
    attention: &AttentionBackward,
    class: &Class,
    span: Span,
) -> Vec<Dispatch> {
    let b = Backward::of(op, class);
    // The plan counted its tiles in 64 bits.
    let middle = b.of_queries as u64;
    let (first, end) = (span.first, span.first + span.tiles);
    let of_queries = [first.min(middle), end.min(middle)];
    let of_keys = [first.max(middle) - middle, end.max(middle) - middle];
    let chunks = [span.from, span.to].map(|link| link * b.per_link);
    let most = b.chunks[1].max(b.chunks[0] * b.group);
    let causal = if attention.scores.causal { CAUSAL } else { 0 };
    let flags = causal | if chunks[1] >= most { LAST } else { 0 };
    let sides = [(0, of_queries, b.tiles[0], b.chunks[1]), (1, of_keys, b.tiles[1], b.chunks[0])];
    sides
        .into_iter()
        .filter(|(_, [first, end], ..)| end > first)
        .map(|(entry, [first, end], tiles, of_head)| {
            let workgroups = (end - first) * (b.tile / ROWS);
            let mut params = Words::default();
            params.put(&[b.heads, b.group, b.rows, b.keys, b.d, b.dv]);
            params.float(attention.scores.scale);
            params.put(&[flags.into(), b.tile, tiles, first, workgroups]);
            params.put(&[chunks[0], chunks[1].min(most), of_head, 0]);
            for name in ["q", "k", "v", "out", "lse", "d_out", "d_q", "d_k", "d_v"] {
                params.view(op.spec(name), &op.spec(name).map(strides).unwrap_or_default());
            }
            Dispatch { entry, workgroups, params, cut: true }
        })
        .collect()
}
