//! Kernels without a contraction: map, gather and copy, over runs of output elements in row-major order.

use super::isa::{Isa, Kernel};
use super::math;
use super::memory::View;
use super::plan::{ELEMENTS, Span};
use super::pool::Pool;
use super::scratch::with_rows;
use super::walk::Walk;
use super::{Fault, report};
use crate::DType;
use crate::op::{Map, MapFn};
use std::ops::Range;

/// Calls `f` with the element range of each tile of a span.
fn each_tile(span: Span, elements: u64, pool: &Pool, item_ns: u64, f: impl Fn(Range<u64>) + Sync) {
    pool.run(span.tiles, item_ns, |i| {
        let start = (span.first + i) * ELEMENTS;
        f(start..(start + ELEMENTS).min(elements));
    });
}

struct MapChunk<'a> {
    op: &'a Map,
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for MapChunk<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { op, x, y } = self;
        // One loop a function, so that each vectorises on its own.
        macro_rules! each {
            (|$v:ident| $e:expr) => {
                x.iter_mut().for_each(|slot| {
                    let $v = *slot;
                    *slot = $e;
                })
            };
            (|$v:ident, $w:ident| $e:expr) => {
                x.iter_mut().zip(y).for_each(|(slot, &$w)| {
                    let $v = *slot;
                    *slot = $e;
                })
            };
        }
        match op.function {
            MapFn::Identity => {}
            MapFn::Neg => each!(|v| -v),
            MapFn::Abs => each!(|v| v.abs()),
            MapFn::Exp => each!(|v| math::exp::<F>(v)),
            MapFn::Log => each!(|v| math::ln::<F>(v)),
            MapFn::Sqrt => each!(|v| v.sqrt()),
            MapFn::Rsqrt => each!(|v| 1.0 / v.sqrt()),
            MapFn::Recip => each!(|v| 1.0 / v),
            MapFn::Square => each!(|v| v * v),
            MapFn::Tanh => each!(|v| math::tanh::<F>(v)),
            MapFn::Sigmoid => each!(|v| math::sigmoid::<F>(v)),
            MapFn::Relu => each!(|v| math::relu(v)),
            MapFn::GeluErf => each!(|v| math::gelu_erf::<F>(v)),
            MapFn::GeluTanh => each!(|v| math::gelu_tanh::<F>(v)),
            MapFn::Silu => each!(|v| v * math::sigmoid::<F>(v)),
            MapFn::Add => each!(|v, w| v + w),
            MapFn::Sub => each!(|v, w| v - w),
            MapFn::Mul => each!(|v, w| v * w),
            MapFn::Div => each!(|v, w| v / w),
            MapFn::Max => each!(|v, w| math::max(v, w)),
            MapFn::Min => each!(|v, w| math::min(v, w)),
        }
        if op.scale != 1.0 {
            x.iter_mut().for_each(|v| *v *= op.scale);
        }
        if op.shift != 0.0 {
            x.iter_mut().for_each(|v| *v += op.shift);
        }
    }
}

fn map_word(function: MapFn, signed: bool, x: u32, y: u32) -> u32 {
    let order = if signed { (x as i32).cmp(&(y as i32)) } else { x.cmp(&y) };
    match function {
        MapFn::Add => x.wrapping_add(y),
        MapFn::Sub => x.wrapping_sub(y),
        MapFn::Mul => x.wrapping_mul(y),
        MapFn::Max => {
            if order.is_ge() {
                x
            } else {
                y
            }
        }
        MapFn::Min => {
            if order.is_le() {
                x
            } else {
                y
            }
        }
        // `check` lets no other function reach integers.
        _ => x,
    }
}

/// `map` over a span; `views` are x, [y], out.
pub(super) fn map(isa: Isa, op: &Map, views: &[View], span: Span, pool: &Pool, item_ns: u64) {
    let [x, .., out] = views else { return };
    let y = views.get(1).filter(|_| views.len() == 3);
    let walk = Walk::new(&out.shape, [&x.strides, &y.unwrap_or(x).strides, &out.strides]);
    let steps = walk.steps();
    let integer = matches!(out.dtype, DType::I32 | DType::U32);
    each_tile(span, walk.numel(), pool, item_ns, |range| {
        walk.segments(range, |at, len| {
            if integer {
                map_words(op.function, [Some(x), y], out, at, steps, len);
                return;
            }
            with_rows(|[xs, ys]| {
                xs.resize(len as usize, 0.0);
                x.load(isa, at[0], steps[0], xs);
                if let Some(y) = y {
                    ys.resize(len as usize, 0.0);
                    y.load(isa, at[1], steps[1], ys);
                }
                isa.run(MapChunk { op, x: &mut *xs, y: ys });
                out.store(isa, at[2], steps[2], xs);
            });
        });
    });
}

fn map_words(
    function: MapFn,
    inputs: [Option<&View>; 2],
    out: &View,
    at: [u64; 3],
    steps: [u64; 3],
    len: u64,
) {
    let signed = out.dtype == DType::I32;
    for i in 0..len {
        let [x, y] = [0, 1].map(|v| inputs[v].map_or(0, |view| view.word(at[v] + i * steps[v])));
        out.store_word(at[2] + i * steps[2], map_word(function, signed, x, y));
    }
}

/// `copy` over a span; `views` are x, out.
pub(super) fn copy(views: &[View], span: Span, pool: &Pool, item_ns: u64) {
    let [x, out] = views else { return };
    let walk = Walk::new(&out.shape, [&x.strides, &out.strides]);
    let [x_step, out_step] = walk.steps();
    each_tile(span, walk.numel(), pool, item_ns, |range| {
        walk.segments(range, |at, len| {
            out.copy_row(at[1], Some((x, at[0])), [out_step, x_step], len);
        });
    });
}

/// `gather` over a span; `views` are table, index, out. Each index is read once, held against the table's rows,
/// and used only if it passed: another party may be changing it.
pub(super) fn gather(views: &[View], span: Span, pool: &Pool, item_ns: u64, fault: &Fault) {
    let [table, index, out] = views else { return };
    let bound = table.shape[0];
    let axes = index.shape.rank();
    let entries = Walk::new(&index.shape, [&index.strides, &out.strides[..axes]]);
    let row = Walk::new(&table.shape[1..], [&table.strides[1..], &out.strides[axes..]]);
    let (inner, [index_step, entry_step], [table_step, out_step]) =
        (row.numel(), entries.steps(), row.steps());
    each_tile(span, entries.numel() * inner, pool, item_ns, |range| {
        let (mut at, end) = (range.start, range.end);
        entries.segments(at / inner..end.div_ceil(inner), |[index_at, out_at], len| {
            for i in 0..len {
                let word = index.word(index_at + i * index_step);
                let good = u64::from(word) < bound;
                if !good {
                    report(fault, word, bound);
                }
                let first = at % inner;
                let last = inner.min(first + end - at);
                row.segments(first..last, |[from, to], n| {
                    // Only an index that passed forms an address.
                    let source = good.then(|| (table, u64::from(word) * table.strides[0] + from));
                    let to = out_at + i * entry_step + to;
                    out.copy_row(to, source, [out_step, table_step], n);
                });
                at += last - first;
            }
        });
    });
}
