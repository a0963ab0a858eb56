//! What launches of scatters are given: passes over entries that set or append, and runs of entries that add.

use super::view::{axes, views};
use super::{Addresses, Args, GRID, Launch};
use crate::backend::cuda::plan::{Adds, Axis, Landing, OPERANDS, parts};
use crate::op::{CheckedOp, Op, ScatterFn};
use crate::order::Span;
use leasehold_kernels::{Range, Row, ScatterAddArgs, ScatterArgs, Streaming};

/// The launches of a span where entries set or append.
pub(super) fn sets(
    op: &CheckedOp,
    landing: &Landing,
    span: Span,
    at: &Addresses<'_>,
) -> Vec<Launch> {
    let Some(whole) = set(op, landing, at) else { return Vec::new() };
    let most = GRID * Range::PER_BLOCK;
    let grids = parts(&landing.passes(), span).into_iter().flat_map(|(place, items)| {
        let from = items.clone().step_by(most as usize);
        from.map(move |from| (place, from, most.min(items.end - from)))
    });
    let passes = grids.map(|(place, from, count)| {
        let (pass, first_entry) = landing.number(place);
        let first = landing.first(place) + from;
        let claims = Range { outer: axes(&landing.entries.0), inner: 1, first, count };
        let args = match pass {
            2 => ScatterArgs { range: Range { first, count, ..whole.range }, ..whole },
            _ => ScatterArgs { range: claims, per_entry: 1, ..whole },
        };
        let args = ScatterArgs { pass, first_entry, ..args };
        let blocks = args.range.blocks() as u32;
        Launch { row: Row::Streaming(landing.row), args: Args::plain(&args), blocks }
    });
    passes.collect()
}

/// All elements of all entries.
fn set(op: &CheckedOp, landing: &Landing, at: &Addresses<'_>) -> Option<ScatterArgs> {
    let Landing { names, entries, outer, inner, .. } = landing;
    let Op::Scatter(scatter) = op.op() else { return None };
    let out = op.spec("out")?;
    let (shape, strides) = (out.layout.shape(), out.layout.strides());
    let walk = entries.clone().then(outer.clone());
    let range = Range { outer: axes(&walk.0), inner: inner.size, first: 0, count: 0 };
    let args = ScatterArgs {
        range,
        views: views(op, at, names, &walk.0, inner),
        step: *strides.first()? as i64,
        per_entry: landing.per_entry(),
        claims: at.state,
        fault: at.fault,
        bound: *shape.first()? as u32,
        ..ScatterArgs::default()
    };
    if scatter.function != ScatterFn::Append {
        return Some(args);
    }
    let (x, pages) = (op.spec("x")?, op.spec("pages")?);
    let mut views = args.views;
    views[2].inner = *pages.layout.strides().get(1)? as i64;
    let (page, most) = (*shape.get(2)?, *pages.layout.shape().get(1)?);
    Some(ScatterArgs {
        views,
        key_step: *strides.get(2)? as i64,
        // Where there is no page for an entry, there is no key: nothing is divided by its size.
        page: page as u32,
        room: most.saturating_mul(page) as u32,
        rows: *x.layout.shape().get(2)? as u32,
        ..args
    })
}

/// The launches of a span where entries add: whole runs of columns, each with the entries of the span's links.
pub(super) fn adds(op: &CheckedOp, adds: &Adds, span: Span, at: &Addresses<'_>) -> Vec<Launch> {
    let tile_blocks = (adds.per_tile * 64).div_ceil(256);
    let parts = super::runs(span, (GRID / tile_blocks).max(1));
    let launch = |part: Span| {
        let first = part.first * adds.per_tile;
        let count = (part.tiles * adds.per_tile).min(adds.vectors - first);
        let args = add(op, adds, [first, count], part, at)?;
        let blocks = Streaming::add_blocks(&args.range) as u32;
        let row = Row::Streaming(Streaming::ScatterAdd);
        Some(Launch { row, args: Args::plain(&args), blocks })
    };
    parts.filter_map(launch).collect()
}

fn add(
    op: &CheckedOp,
    adds: &Adds,
    [first, count]: [u64; 2],
    span: Span,
    at: &Addresses<'_>,
) -> Option<ScatterAddArgs> {
    let Adds { entries, outer, inner, step, .. } = adds;
    let out = op.spec("out")?;
    let none = Axis { size: 1, steps: [0; OPERANDS] };
    let [x, _, index] = views::<3>(op, at, &Adds::NAMES, &entries.0, &none);
    let (from, to) = (span.from * step, (span.to * step).min(entries.elements()));
    Some(ScatterAddArgs {
        range: Range { outer: axes(&outer.0), inner: inner.size, first, count },
        columns: views(op, at, &Adds::NAMES, &outer.0, inner),
        entries: axes(&entries.0),
        along: [x, index],
        step: *out.layout.strides().first()? as i64,
        first_entry: from,
        entry_count: to - from,
        fault: at.fault,
        bound: *out.layout.shape().first()? as u32,
        padding: 0,
    })
}
