//! Dispatches of attention's gradient.

use super::super::plan::{Backward, Class, counts};
use super::{Dispatch, LAST, Words, batch, strides};
use crate::op::{AttentionBackward, CheckedOp};
use crate::order::Span;

/// Rows of a workgroup.
const ROWS: u64 = 4;
/// Entry points of `attention_backward.wgsl`.
const COUNT: usize = 0;
const QUERIES: usize = 1;
const KEYS: usize = 2;

/// Counting, where counts lie in device memory, then the tiles of a span: of queries, then of keys.
pub(super) fn backward(
    op: &CheckedOp,
    attention: &AttentionBackward,
    class: &Class,
    span: Span,
) -> Vec<Dispatch> {
    let b = Backward::of(op, attention, class);
    // The plan counted its tiles in 64 bits.
    let middle = b.of_queries as u64;
    let (first, end) = (span.first, span.first + span.tiles);
    let of_queries = [first.min(middle), end.min(middle)];
    let of_keys = [first.max(middle) - middle, end.max(middle) - middle];
    let sides = [(QUERIES, of_queries), (KEYS, of_keys)];
    let sides = sides.into_iter().filter(|(_, [first, end])| end > first);
    let sides = sides.map(|(entry, [first, end])| {
        let workgroups = (end - first) * (b.tile / ROWS);
        (entry, first, workgroups)
    });
    let count = counts(&attention.scores).then_some((COUNT, 0, 1));
    count
        .into_iter()
        .chain(sides)
        .map(|(entry, first, workgroups)| {
            let params = params(op, attention, &b, span, entry, [first, workgroups]);
            Dispatch { entry, workgroups, params, cut: true }
        })
        .collect()
}

fn params(
    op: &CheckedOp,
    attention: &AttentionBackward,
    b: &Backward,
    span: Span,
    entry: usize,
    [first, workgroups]: [u64; 2],
) -> Words {
    let scores = &attention.scores;
    let [from, to] = [span.from, span.to].map(|link| link * b.per_link);
    let most = b.chunks[1].max(b.chunks[0] * b.group);
    let last = if to >= most { LAST } else { 0 };
    let (tiles, of_head) =
        if entry == KEYS { (b.tiles[1], b.chunks[0]) } else { (b.tiles[0], b.chunks[1]) };
    let mut params = Words::default();
    params.put(&[b.heads, b.group, b.batch.rows, b.batch.room, b.d, b.dv]);
    params.float(scores.scale);
    params.put(&[(batch::flags(scores, &b.batch) | last).into(), b.tile, tiles]);
    params.put(&[first, workgroups, from, to.min(most), of_head, b.batch.entries]);
    params.float(scores.softcap);
    params.put(&batch::window(scores));
    params.put(&batch::most(scores));
    params.put(&[0]);
    batch::put_lines(&mut params, op, &["alibi", "rows", "lens"]);
    for name in ["q", "k", "v", "out", "lse", "d_out", "mask", "d_q", "d_k", "d_v"] {
        params.view(op.spec(name), &op.spec(name).map(strides).unwrap_or_default());
    }
    params
}

/// The entry points of the gradient that launches may take.
pub(super) fn entries(op: &AttentionBackward) -> Vec<usize> {
    if counts(&op.scores) { vec![COUNT, QUERIES, KEYS] } else { vec![QUERIES, KEYS] }
}
