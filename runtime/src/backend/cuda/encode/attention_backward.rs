//! What launches of the gradients of attention are given.

use super::attention_entries as entries;
use super::{Addresses, Args, GRID, Launch, operand, runs, walked};
use crate::backend::cuda::plan::{self, Class, Gradients, Heads};
use crate::op::{AttentionBackward, CheckedOp, KeyValue, Lens};
use crate::order::Span;
use leasehold_kernels::{
    AttentionBackwardArgs, AttentionBackwardRows, AttentionBackwardSm90, AttentionBackwardSm90Args,
    AttentionEntries, Row,
};
use std::ops::Range;

/// Kernels of gradients read no number of a tile in the list of entries: it is for tiles of any size.
const LISTED_TILE: u64 = AttentionBackwardRows::ROWS as u64;

/// Whether counts are operands, the first of which out of range is told.
pub(super) fn is_counted(backward: &AttentionBackward) -> bool {
    backward.scores.rows.on_device() || backward.scores.lens.on_device()
}

/// Whether all entries have all rows and keys, and need no list.
fn is_alike(backward: &AttentionBackward) -> bool {
    backward.scores.rows == Lens::Full && backward.scores.lens == Lens::Full
}

/// The geometry that the list of entries is made of: that of one head of each.
fn listed(heads: &Heads) -> Heads {
    Heads { group: 1, ..*heads }
}

/// As [`super::made`].
pub(super) fn made(op: &CheckedOp, backward: &AttentionBackward) -> Vec<u8> {
    let heads = Heads::of(op, &backward.scores, KeyValue::Dense);
    let heads = heads.filter(|_| !is_alike(backward));
    heads.map_or_else(Vec::new, |heads| {
        entries::made(&backward.scores, &listed(&heads), LISTED_TILE)
    })
}

/// The rows of the passes; none for an op that lacks an operand, which no checked one does.
pub(super) fn rows(op: &CheckedOp, backward: &AttentionBackward, class: &Class) -> Vec<Row> {
    let entries = is_counted(backward).then_some(Row::AttentionEntries(AttentionEntries));
    entries.into_iter().chain(waves(op, backward, class)).collect()
}

/// Those of the waves.
fn waves(op: &CheckedOp, backward: &AttentionBackward, class: &Class) -> Vec<Row> {
    let sides = plan::gradient_rows(op, backward, class).into_iter().flatten();
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
    let rows = waves(op, backward, class);
    let Some(cut) = Gradients::of(op, backward, class) else { return Vec::new() };
    let mut launches = Vec::new();
    for (pass, items) in plan::parts(&cut.passes().unwrap_or_default(), span) {
        let Some(wave) = pass.checked_sub(1) else {
            let list = (cut.places(at.state)[0], LISTED_TILE);
            let heads = listed(&cut.heads);
            launches.push(entries::launch(op, &backward.scores, &heads, list, items, at));
            continue;
        };
        for (tiles, chunks) in cut.waves[wave].parts(items) {
            let is_last = tiles.to == cut.waves[wave].links;
            for tiles in runs(tiles, GRID) {
                let args = args(op, backward, &cut, (tiles, &chunks, is_last), at);
                launches.push(launch(op, rows[wave], args, &cut, multiprocessors));
            }
        }
    }
    launches
}

/// A launch of a row: of a block for each tile, or of blocks that deal them out.
fn launch(
    op: &CheckedOp,
    row: Row,
    args: AttentionBackwardArgs,
    cut: &Gradients,
    multiprocessors: u32,
) -> Launch {
    if !matches!(row, Row::AttentionBackwardSm90(_)) {
        return Launch { row, args: Args::plain(&args), blocks: args.tiles as u32 };
    }
    let at = [args.q.at, args.k.at, args.v.at, args.d_out.at];
    // The row was chosen because there are all of them.
    let [q, k, v, d_out] = plan::gradient_maps(op, at).unwrap_or_default();
    let [batch, heads] = [3, 2].map(|i| op.spec("q").map_or(0, |q| plan::axis(q, i)[0]));
    let statistics = AttentionBackwardSm90::statistics(args.statistics, batch * heads, cut.room);
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
    let tensor = |name| {
        let Some((spec, at)) = operand(op, at, name) else { return Default::default() };
        let step = |axis: usize| spec.layout.strides().get(axis).map_or(0, |&n| n as i64);
        let [batch, head, row, column] = [0, 1, 2, 3].map(step);
        let dtype = spec.dtype as u32;
        leasehold_kernels::Heads { at, batch, head, row, column, dtype, present: 1 }
    };
    let (alibi, alibi_step) =
        operand(op, at, "alibi").map_or((0, 0), |(spec, at)| (at, plan::axis(spec, 0)[1] as i64));
    let [list, statistics, state] = cut.places(at.state);
    let listed = if cut.heads.is_counted { list } else { at.made };
    let scores = &backward.scores;
    // Rows and keys together are fewer than any more would be.
    let [left, right] = scores.window.unwrap_or([u32::MAX; 2]).map(|n| n.min(i32::MAX as u32));
    let heads = &cut.heads;
    AttentionBackwardArgs {
        q: tensor("q"),
        k: tensor("k"),
        v: tensor("v"),
        mask: tensor("mask"),
        out: tensor("out"),
        lse: tensor("lse"),
        d_out: tensor("d_out"),
        d_q: tensor("d_q"),
        d_k: tensor("d_k"),
        d_v: tensor("d_v"),
        alibi,
        alibi_step,
        entries: if is_alike(backward) { 0 } else { listed },
        statistics,
        state,
        first_tile: tiles.first,
        tiles: tiles.tiles,
        from: chunks.start,
        to: chunks.end,
        kv_heads: heads.kv_heads as u32,
        group: heads.group as u32,
        rows: heads.rows as u32,
        keys: heads.room as u32,
        most_rows: heads.most_rows as u32,
        entry_count: cut.packed as u32,
        room: cut.room as u32,
        last: u32::from(is_last),
        scale: scores.scale,
        softcap: scores.softcap,
        left,
        right: if scores.causal { 0 } else { right },
        d: heads.d as u32,
        dv: heads.dv as u32,
    }
}
