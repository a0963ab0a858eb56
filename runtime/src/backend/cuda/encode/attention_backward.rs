//! What launches of the gradients of attention are given.

use super::{Addresses, Args, GRID, Launch, operand, runs, walked};
use crate::backend::cuda::plan::{self, Class, Gradients};
use crate::op::{AttentionBackward, CheckedOp};
use crate::order::Span;
use leasehold_kernels::{
    AttentionBackwardArgs, AttentionBackwardRows, AttentionBackwardSm90, AttentionBackwardSm90Args,
    Heads, Row,
};
use std::ops::Range;

/// The rows of the three passes; none for an op that lacks an operand, which no checked one does.
pub(super) fn rows(op: &CheckedOp, class: &Class) -> Vec<Row> {
    let sides = plan::gradient_rows(op, class).into_iter().flatten();
    [Row::AttentionBackwardRows(AttentionBackwardRows)].into_iter().chain(sides).collect()
}

/// As [`super::launches`].
pub(super) fn launches(
    op: &CheckedOp,
    backward: &AttentionBackward,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
    multiprocessors: u32,
) -> Vec<Launch> {
    let (rows, Some(cut)) = (rows(op, class), Gradients::of(op, class)) else { return Vec::new() };
    let mut launches = Vec::new();
    for (pass, items) in plan::parts(&cut.passes().unwrap_or_default(), span) {
        for (tiles, chunks) in cut.waves[pass].parts(items) {
            let is_last = tiles.to == cut.waves[pass].links;
            for tiles in runs(tiles, GRID) {
                let args = args(op, backward, &cut, (tiles, &chunks, is_last), at);
                launches.push(launch(op, rows[pass], args, multiprocessors));
            }
        }
    }
    launches
}

/// A launch of a row: of a block for each tile, or of blocks that deal them out.
fn launch(op: &CheckedOp, row: Row, args: AttentionBackwardArgs, multiprocessors: u32) -> Launch {
    if !matches!(row, Row::AttentionBackwardSm90(_)) {
        return Launch { row, args: Args::plain(&args), blocks: args.tiles as u32 };
    }
    let at = [args.q.at, args.k.at, args.v.at, args.d_out.at];
    // The row was chosen because there are all of them.
    let [q, k, v, d_out] = plan::gradient_maps(op, at).unwrap_or_default();
    let [batch, heads] = [3, 2].map(|i| op.spec("q").map_or(0, |q| plan::axis(q, i)[0]));
    let room = args.room.into();
    let statistics = AttentionBackwardSm90::statistics(args.statistics, batch * heads, room);
    let blocks = walked(args.tiles, multiprocessors);
    let all =
        AttentionBackwardSm90Args { q, k, v, d_out, statistics, backward: args, padding: [0; 8] };
    Launch { row, args: Args::AttentionBackwardSm90(Box::new(all)), blocks }
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
        mask: Heads::default(),
        out: heads("out"),
        lse: heads("lse"),
        d_out: heads("d_out"),
        d_q: heads("d_q"),
        d_k: heads("d_k"),
        d_v: heads("d_v"),
        alibi: 0,
        alibi_step: 0,
        entries: 0,
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
        most_rows: cut.rows as u32,
        entry_count: 0,
        room: AttentionBackwardRows::room(cut.rows, 0) as u32,
        last: u32::from(is_last),
        scale: backward.scores.scale,
        softcap: 0.0,
        left: i32::MAX as u32,
        right: if backward.scores.causal { 0 } else { i32::MAX as u32 },
        d: cut.d as u32,
        dv: cut.dv as u32,
    }
}
