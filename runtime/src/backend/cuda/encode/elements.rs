//! What launches of ops that go element by element are given: any run of vectors, or of square tiles.

use super::view::{axes, views};
use super::{Addresses, Args, GRID, Launch, runs};
use crate::backend::cuda::plan::{Elements, side};
use crate::op::{CheckedOp, Map, Op, Quantize, QuantizeFormat, Rope};
use crate::order::Span;
use leasehold_kernels::{
    CopyArgs, DequantizeArgs, GatherArgs, MapArgs, QuantizeCellsArgs, Range, RopeArgs, Row,
    TurnArgs, View,
};

/// The turns of a rotary embedding.
pub(super) fn turns(rope: &Rope) -> Vec<u8> {
    rope.turns().into_iter().flat_map(u64::to_le_bytes).collect()
}

/// As [`super::launches`].
pub(super) fn launches(
    op: &CheckedOp,
    elements: &Elements,
    span: Span,
    at: &Addresses<'_>,
) -> Vec<Launch> {
    let is_square = side(&elements.row).is_some();
    let of_block = if is_square { 1 } else { Range::PER_BLOCK };
    let most = GRID / elements.step.div_ceil(of_block).max(1);
    let launch = |part: Span| {
        let first = part.first * elements.step;
        let count = (part.tiles * elements.step).min(elements.items - first);
        let blocks = count.div_ceil(of_block) as u32;
        let args = if is_square {
            square(op, elements, [first, count], at)
        } else {
            run(op, elements, [first, count], at)
        };
        Some(Launch { row: Row::Streaming(elements.row), args: args?, blocks })
    };
    runs(span, most.max(1)).filter_map(launch).collect()
}

/// A run of vectors.
fn run(
    op: &CheckedOp,
    elements: &Elements,
    [first, count]: [u64; 2],
    at: &Addresses<'_>,
) -> Option<Args> {
    let Elements { names, outer, inner, .. } = elements;
    let range = Range { outer: axes(&outer.0), inner: inner.size, first, count };
    let views = views::<4>(op, at, names, &outer.0, inner);
    let [x, y, z, _] = views;
    Some(match op.op() {
        Op::Copy(_) => Args::plain(&CopyArgs { range, views: [x, y] }),
        Op::Map(map) => Args::plain(&self::map(map, range, [x, y, z])),
        Op::Gather(_) => {
            let table = op.spec("table")?;
            Args::plain(&GatherArgs {
                range,
                views: [x, y, z],
                step: *table.layout.strides().first()? as i64,
                bound: *table.layout.shape().first()? as u32,
                padding: 0,
                fault: at.fault,
            })
        }
        Op::Rope(rope) => Args::plain(&RopeArgs {
            range,
            views: [x, y, z],
            turns: at.made,
            dims: rope.dims,
            interleaved: u32::from(rope.interleaved),
        }),
        Op::Quantize(quantize) => Args::plain(&dequantize(op, quantize, range, views)?),
        _ => return None,
    })
}

fn map(map: &Map, range: Range, [x, y, out]: [View; 3]) -> MapArgs {
    // Without a second input the first is named again, and not read.
    let views = [x, if y.present == 1 { y } else { x }, out];
    let (function, scale, shift) = (map.function as u32, map.scale, map.shift);
    MapArgs { range, views, function, scale, shift, padding: 0 }
}

fn dequantize(
    op: &CheckedOp,
    quantize: &Quantize,
    range: Range,
    views: [View; 4],
) -> Option<DequantizeArgs> {
    let (m, [height, width], down) = match quantize.format {
        QuantizeFormat::Tensor | QuantizeFormat::Row => (1, [1, 1 << 31], 0),
        QuantizeFormat::Block1x128 => (1, [1, 128], 0),
        QuantizeFormat::Group32 => (1, [1, 32], 0),
        QuantizeFormat::Block128x128 => {
            let (shape, scale) = (op.spec("out")?.layout.shape(), op.spec("scale")?.layout);
            let rows = shape.len().checked_sub(2)?;
            (shape[rows], [128; 2], scale.strides()[rows] as i64)
        }
    };
    Some(DequantizeArgs { range, views, m, height, width, down })
}

/// A run of square tiles: across, then down, then by the axes outside.
fn square(
    op: &CheckedOp,
    elements: &Elements,
    [first, count]: [u64; 2],
    at: &Addresses<'_>,
) -> Option<Args> {
    let Elements { row, names, outer, inner, .. } = elements;
    let (rows, outside) = outer.0.split_last()?;
    let (side, outside) = (side(row)?, axes(outside));
    let [down, across] = [rows.size, inner.size].map(|n| n.div_ceil(side));
    let views = views::<4>(op, at, names, &outer.0, inner);
    Some(match op.op() {
        Op::Quantize(quantize) => Args::plain(&QuantizeCellsArgs {
            outer: outside,
            views,
            m: rows.size,
            n: inner.size,
            down,
            across,
            first,
            count,
            format: quantize.format as u32,
            padding: 0,
        }),
        _ => Args::plain(&TurnArgs {
            outer: outside,
            views: [views[0], views[1]],
            rows: rows.size,
            columns: inner.size,
            down,
            across,
            first,
            count,
        }),
    })
}
