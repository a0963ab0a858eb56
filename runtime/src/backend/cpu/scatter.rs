//! `scatter`: entries written or added where their indices say, in their order. A tile is a run of columns and sees
//! every entry, so that equal indices never meet on two threads. `compute` calls it.

use super::geometry::Entries;
use super::isa::Isa;
use super::memory::View;
use super::plan::Span;
use super::pool::Pool;
use super::scratch::with_rows;
use super::walk::Walk;
use super::{Fault, report};
use crate::op::{CheckedOp, Op, Scatter, ScatterFn};

/// `scatter` over a span.
pub(super) fn scatter(
    isa: Isa,
    checked: &CheckedOp,
    views: &[View],
    span: Span,
    pool: &Pool,
    item_ns: u64,
    fault: &Fault,
) {
    let Op::Scatter(op) = checked.op() else { return };
    let entries = Entries::of(checked);
    pool.run(span.tiles, item_ns, |i| {
        let first = span.from * entries.per_link;
        let last = (span.to * entries.per_link).min(entries.count);
        let tile = span.first + i;
        match (op.function, views) {
            (ScatterFn::Append, [x, pages, lens, out]) => {
                append([x, pages, lens, out], tile, first..last, fault);
            }
            (_, [x, index, out]) => {
                let columns = tile * entries.columns..(tile + 1) * entries.columns;
                let columns = columns.start..columns.end.min(entries.inner);
                place(isa, op, [x, index, out], columns, first..last, fault);
            }
            _ => {}
        }
    });
}

fn place(
    isa: Isa,
    op: &Scatter,
    [x, index, out]: [&View; 3],
    columns: std::ops::Range<u64>,
    entries: std::ops::Range<u64>,
    fault: &Fault,
) {
    let axes = index.shape.rank();
    let inner = Walk::new(&out.shape[1..], [&x.strides[axes..], &out.strides[1..]]);
    let [x_step, out_step] = inner.steps();
    for entry in entries {
        let word = index.word(index.outer_offset(entry, axes));
        if u64::from(word) >= out.shape[0] {
            report(fault, word, out.shape[0]);
            continue;
        }
        // Only an index that passed forms an address.
        let (from, to) = (x.outer_offset(entry, axes), u64::from(word) * out.strides[0]);
        inner.segments(columns.clone(), |[x_at, out_at], n| {
            let (from, to) = (from + x_at, to + out_at);
            if op.function == ScatterFn::Set {
                out.copy_row(to, Some((x, from)), [out_step, x_step], n);
                return;
            }
            with_rows(|[add, sum]| {
                add.resize(n as usize, 0.0);
                sum.resize(n as usize, 0.0);
                x.load(isa, from, x_step, add);
                out.load(isa, to, out_step, sum);
                sum.iter_mut().zip(&*add).for_each(|(sum, x)| *sum += x);
                out.store(isa, to, out_step, sum);
            });
        });
    }
}

/// One head's rows of a run of (batch entry, row), each to the page and slot of its key.
fn append(
    [x, pages, lens, out]: [&View; 4],
    head: u64,
    entries: std::ops::Range<u64>,
    fault: &Fault,
) {
    let (rows, d, page) = (x.shape[2], x.shape[3], out.shape[2]);
    let room = pages.shape[1] * page;
    for entry in entries {
        let (batch, row) = (entry / rows, entry % rows);
        let word = lens.word(batch * lens.strides[0]);
        if u64::from(word) > room {
            report(fault, word, room + 1);
        }
        let len = u64::from(word).min(room);
        let Some(key) = (len + row).checked_sub(rows) else { continue };
        let index = pages.word(batch * pages.strides[0] + key / page * pages.strides[1]);
        if u64::from(index) >= out.shape[0] {
            report(fault, index, out.shape[0]);
            continue;
        }
        let from = batch * x.strides[0] + head * x.strides[1] + row * x.strides[2];
        let to =
            u64::from(index) * out.strides[0] + head * out.strides[1] + key % page * out.strides[2];
        out.copy_row(to, Some((x, from)), [out.strides[3], x.strides[3]], d);
    }
}
