//! What launches of ops that go along rows are given: all of some rows at once, or a pass over some pieces of some rows.

use super::view::{axes, beside, views};
use super::{Addresses, Args, GRID, Launch, runs};
use crate::backend::cuda::plan::{Groups, Over, parts};
use crate::op::{CheckedOp, NormKind, Op, QuantizeFormat};
use crate::order::{Span, spans};
use leasehold_kernels::{
    ArgMaxArgs, NormArgs, NormBackwardArgs, QuantizeRowsArgs, ReduceArgs, Row, Rows, SoftmaxArgs,
    TopKArgs,
};

/// As [`super::launches`].
pub(super) fn launches(
    op: &CheckedOp,
    groups: &Groups,
    span: Span,
    at: &Addresses<'_>,
) -> Vec<Launch> {
    let one = |rows: Rows| launch(op, groups, rows, at);
    if !groups.is_chain() {
        let most = (GRID / groups.per_tile).max(1);
        let part = |part: Span| {
            let (first, count) = of_tiles(groups, part.first, part.tiles);
            one(rows(groups, first, count, 0))
        };
        return runs(span, most).filter_map(part).collect();
    }
    let tiles = span.first..span.first + span.tiles;
    let of_tile = |tile| {
        let (first, count) = of_tiles(groups, tile, 1);
        passes(groups, rows(groups, first, count, at.state), span)
    };
    tiles.flat_map(of_tile).filter_map(one).collect()
}

/// First row of some tiles, and how many rows they have.
fn of_tiles(groups: &Groups, first: u64, tiles: u64) -> (u64, u64) {
    let from = first * groups.per_tile;
    (from, (tiles * groups.per_tile).min(groups.rows - from))
}

/// All pieces of some rows.
fn rows(groups: &Groups, first: u64, count: u64, state: u64) -> Rows {
    let (outer, n, pieces) = (axes(&groups.outer.0), groups.inner.size, groups.pieces);
    Rows { outer, n, first, count, state, pieces, first_piece: 0, piece_count: pieces, pass: 0 }
}

/// What the links of a span do of a tile's rows.
fn passes(groups: &Groups, tile: Rows, span: Span) -> Vec<Rows> {
    let mut launches = Vec::new();
    for (place, items) in parts(&groups.passes(tile.count), span) {
        let stage = groups.stages[place];
        let mut push = |part: Span| {
            launches.push(Rows {
                first: tile.first + part.first,
                count: part.tiles,
                // What is left behind begins with the launch's first row, or is the whole tensor's.
                state: tile.state + left_before(groups, part.first),
                first_piece: part.from as u32,
                piece_count: (part.to - part.from) as u32,
                pass: stage.number,
                ..tile
            });
        };
        match stage.over {
            Over::Pieces => spans(items, tile.pieces.into()).into_iter().for_each(push),
            Over::First | Over::Rows => {
                let tiles = items.end - items.start;
                push(Span { first: items.start, tiles, from: 0, to: 1 });
            }
            Over::Turns => {
                let turn = |piece| Span { first: 0, tiles: tile.count, from: piece, to: piece + 1 };
                items.map(turn).for_each(push);
            }
        }
    }
    launches
}

/// Bytes that so many rows before a launch's first have left.
fn left_before(groups: &Groups, rows: u64) -> u64 {
    if groups.is_whole() { 0 } else { groups.state_bytes(rows) }
}

fn launch(op: &CheckedOp, groups: &Groups, rows: Rows, at: &Addresses<'_>) -> Option<Launch> {
    let Groups { row, names, outer, inner, .. } = groups;
    let views = views::<4>(op, at, names, &outer.0, inner);
    let [x, y, z, _] = views;
    let is_layer = |kind: NormKind| u32::from(kind == NormKind::Layer);
    let args = match op.op() {
        Op::Norm(norm) => Args::plain(&NormArgs {
            rows,
            views: [x, y],
            weight: beside(op, at, "weight"),
            bias: beside(op, at, "bias"),
            epsilon: norm.epsilon,
            layer: is_layer(norm.kind),
        }),
        Op::NormBackward(norm) => Args::plain(&NormBackwardArgs {
            rows,
            views,
            weight: beside(op, at, "weight"),
            epsilon: norm.epsilon,
            layer: is_layer(norm.kind),
        }),
        Op::Softmax(softmax) => {
            let scale = softmax.scale;
            Args::plain(&SoftmaxArgs { rows, views: [x, y], scale, padding: 0 })
        }
        Op::Reduce(reduce) => {
            let function = reduce.function as u32;
            Args::plain(&ReduceArgs { rows, views: [x, y], function, padding: 0 })
        }
        Op::ArgMax(_) => Args::plain(&ArgMaxArgs { rows, views: [x, y] }),
        Op::TopK(top) => Args::plain(&TopKArgs { rows, views: [x, y, z], k: top.k, padding: 0 }),
        Op::Quantize(quantize) => {
            let tensor = u32::from(quantize.format == QuantizeFormat::Tensor);
            Args::plain(&QuantizeRowsArgs { rows, views: [x, y, z], tensor, padding: 0 })
        }
        _ => return None,
    };
    // A launch has as many as fit: its rows and pieces are those of one step.
    let blocks = row.row_blocks(&rows) as u32;
    Some(Launch { row: Row::Streaming(*row), args, blocks })
}
