//! Dispatches of the ops that go row by row.

use super::super::plan::{Class, Rows, room};
use super::{Dispatch, STATS_ROWS, Words, cells, collapse, phase, strides, writers};
use crate::layout::MAX_RANK;
use crate::op::{CheckedOp, Norm, NormBackward, NormKind, Op};
use crate::order::Span;

/// Lanes of a workgroup.
const LANES: u64 = 64;

/// Statistics, then the write, of whole rows in runs that the scratch holds, or of the links of one row.
pub(super) fn rows(op: &CheckedOp, class: &Class, span: Span) -> Vec<Dispatch> {
    let r = Rows::of(op, class);
    let end = ((span.first + span.tiles) * r.per_tile).min(r.count);
    let start = span.first * r.per_tile;
    let whole = r.chunks == 1 || (span.from == 0 && span.to == r.fold_links + r.write_links);
    if !whole {
        return row_links(op, &r, start, 1, [span.from, span.to], true);
    }
    let links = [0, r.fold_links + r.write_links];
    (start..end)
        .step_by(STATS_ROWS as usize)
        .flat_map(|first| {
            let count = STATS_ROWS.min(end - first);
            row_links(op, &r, first, count, links, false)
        })
        .collect()
}

fn row_links(
    op: &CheckedOp,
    r: &Rows,
    first: u64,
    count: u64,
    [from, to]: [u64; 2],
    cut: bool,
) -> Vec<Dispatch> {
    let fold = [from.min(r.fold_links), to.min(r.fold_links)];
    let write = [from, to].map(|link| link.saturating_sub(r.fold_links));
    let column = write[0] * r.chunk;
    let columns = match op.op() {
        // A reduction writes one element a row, after its last fold.
        Op::Reduce(_) => 1,
        _ => (write[1] * r.chunk).min(r.n).saturating_sub(column),
    };
    // Selections write what they find as they fold.
    let written = match op.op() {
        Op::Reduce(_) if to < r.fold_links => 0,
        _ => count * columns,
    };
    let Some(params) = params(op, r, [first, count], fold, [column, columns]) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    if fold[1] > fold[0] {
        out.push(Dispatch { entry: 0, workgroups: count, params: params.clone(), cut });
    }
    let workgroups = match op.op() {
        Op::Quantize(quantize) => cells::writers_of(quantize, written),
        _ => op.spec(main(op.op())).map_or(0, |spec| writers(spec, written, LANES)),
    };
    if written > 0 && workgroups > 0 {
        out.push(Dispatch { entry: 1, workgroups, params, cut });
    }
    out
}

fn params(
    op: &CheckedOp,
    r: &Rows,
    [first, count]: [u64; 2],
    fold: [u64; 2],
    [column, columns]: [u64; 2],
) -> Option<Words> {
    if let Op::Quantize(quantize) = op.op() {
        let rows = [first, count, r.n, r.chunk, r.chunks, fold[0], fold[1]];
        return cells::params(op, quantize, rows, [column, columns, 0]);
    }
    // The operands that have the rows, and whether they have the op's axis too.
    let views: &[(&str, bool)] = match op.op() {
        Op::Reduce(_) => &[("x", true), ("out", false)],
        Op::ArgMax(_) => &[("x", true), ("index", false)],
        Op::TopK(_) => &[("x", true), ("value", true), ("index", true)],
        Op::NormBackward(_) => &[("x", true), ("d_out", true), ("d_x", true), ("terms", true)],
        _ => &[("x", true), ("out", true)],
    };
    let x = op.spec("x")?;
    let mut strides: Vec<Vec<u64>> =
        views.iter().map(|(name, _)| op.spec(name).map(strides)).collect::<Option<_>>()?;
    let steps: Vec<u64> = views
        .iter()
        .zip(&mut strides)
        .map(|((_, along), list)| if *along { list.pop().unwrap_or(0) } else { 0 })
        .collect();
    let shape = x.layout.shape();
    let outer = collapse(&shape[..shape.rank() - 1], &mut strides);
    let phase = op.spec(main(op.op())).map_or(0, |out| match op.op() {
        Op::Reduce(_) => phase(out, first),
        _ => phase(out, first.wrapping_mul(r.n).wrapping_add(column)),
    });
    let mut params = Words::default();
    params.put(&[first, count, r.n, r.chunk, r.chunks, fold[0], fold[1]]);
    params.put(&[outer.len() as u64, column, columns, phase, 0]);
    params.shape(&outer);
    options(&mut params, op.op());
    // Outer axes are at most MAX_RANK - 1; the row's own step has the last slot.
    let slots = |outer: &[u64], step: u64| {
        let mut slots = [0; 8];
        slots.iter_mut().zip(outer.iter().take(MAX_RANK)).for_each(|(slot, &s)| *slot = s);
        slots[7] = step;
        slots
    };
    for (i, (name, _)) in views.iter().enumerate() {
        let beside: &[&str] = match op.op() {
            Op::Norm(_) if *name == "out" => &["weight", "bias"],
            Op::NormBackward(_) if *name == "d_x" => &["weight"],
            _ => &[],
        };
        for name in beside {
            let spec = op.spec(name);
            params.view(spec, &slots(&[], spec.map_or(0, |s| self::strides(s)[0])));
        }
        params.view(op.spec(name), &slots(&strides[i], steps[i]));
    }
    Some(params)
}

/// The output that a write of rows goes through.
fn main(op: &Op) -> &'static str {
    if matches!(op, Op::NormBackward(_)) { "d_x" } else { "out" }
}

/// The four words of an op's own, where it has any.
fn options(params: &mut Words, op: &Op) {
    match op {
        Op::Norm(Norm { kind, epsilon, weight, bias }) => {
            params.put(&[(*kind == NormKind::Layer).into()]);
            params.float(*epsilon);
            params.put(&[(*weight).into(), (*bias).into()]);
        }
        Op::NormBackward(NormBackward { kind, epsilon, weight }) => {
            params.put(&[(*kind == NormKind::Layer).into()]);
            params.float(*epsilon);
            params.put(&[(*weight).into(), 0]);
        }
        Op::Softmax(softmax) => {
            params.float(softmax.scale);
            params.put(&[0; 3]);
        }
        Op::Reduce(reduce) => params.put(&[reduce.function as u64, 0, 0, 0]),
        Op::TopK(top_k) => params.put(&[top_k.k.into(), room(top_k), 0, 0]),
        _ => {}
    }
}
