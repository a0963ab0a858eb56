//! What launches of the gradients of attention are given.

use super::{Addresses, Args, GRID, Launch, operand, runs};
use crate::backend::cuda::plan::{self, Class, Gradients};
use crate::op::{AttentionBackward, CheckedOp};
use crate::order::Span;
use leasehold_kernels::{AttentionBackwardArgs, AttentionBackwardRows, Heads, Row};
use std::ops::Range;

/// The rows of the three passes; none for an op that lacks an operand, which no checked one does.
pub(super) fn rows(op: &CheckedOp) -> Vec<Row> {
    let sides = plan::gradient_rows(op).into_iter().flatten();
    [Row::AttentionBackwardRows(AttentionBackwardRows)].into_iter().chain(sides).collect()
}

/// As [`super::launches`].
pub(super) fn launches(
    op: &CheckedOp,
    backward: &AttentionBackward,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
) -> Vec<Launch> {
    let (rows, Some(cut)) = (rows(op), Gradients::of(op, class)) else { return Vec::new() };
    let mut launches = Vec::new();
    for (pass, items) in plan::parts(&cut.passes().unwrap_or_default(), span) {
        for (tiles, chunks) in cut.waves[pass].parts(items) {
            let is_last = tiles.to == cut.waves[pass].links;
            for tiles in runs(tiles, GRID) {
                let args = args(op, backward, &cut, (tiles, &chunks, is_last), at);
                let (row, blocks) = (rows[pass], tiles.tiles as u32);
                launches.push(Launch { row, args: Args::plain(&args), blocks });
            }
        }
    }
    launches
}

fn args(
    op: &CheckedOp,
    backward: &AttentionBackward,
    cut: &Gradients,
    (tiles, chunks, is_last): (Span, &Range<u64>, bool),
    at: &Addresses<'_>,
) -> AttentionBackwardArgs {
    let heads = |name| {
        let Some((spec, at)) = operand(op, at, name) else { return Heads::default() };
        let step = |axis: usize| spec.layout.strides().get(axis).map_or(0, |&n| n as i64);
        let [batch, head, row, column] = [0, 1, 2, 3].map(step);
        Heads { at, batch, head, row, column, dtype: spec.dtype as u32, present: 1 }
    };
    let [statistics, state] = cut.places(at.state);
    AttentionBackwardArgs {
        q: heads("q"),
        k: heads("k"),
        v: heads("v"),
        out: heads("out"),
        lse: heads("lse"),
        d_out: heads("d_out"),
        d_q: heads("d_q"),
        d_k: heads("d_k"),
        d_v: heads("d_v"),
        statistics,
        state,
        first_tile: tiles.first,
        tiles: tiles.tiles,
        from: chunks.start,
        to: chunks.end,
        kv_heads: cut.kv_heads as u32,
        group: cut.group as u32,
        rows: cut.rows as u32,
        keys: cut.keys as u32,
        room: AttentionBackwardRows::room(cut.rows as u32),
        last: u32::from(is_last),
        scale: backward.scale,
        causal: u32::from(backward.causal),
        d: cut.d as u32,
        dv: cut.dv as u32,
    }
}
