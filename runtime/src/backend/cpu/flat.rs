//! Kernels without a contraction: map, gather and copy, over runs of output elements in row-major order.

use super::isa::{Isa, Kernel};
use super::math;
use super::memory::{View, segments};
use super::plan::{ELEMENTS, Span};
use super::pool::Pool;
use super::scratch::with_rows;
use crate::DType;
use crate::backend::IndexFault;
use crate::layout::Dims;
use crate::op::{Map, MapFn};
use std::ops::Range;
use std::sync::Mutex;

/// Calls `f` with the element range of each tile of a span.
fn each_tile(span: Span, elements: u64, pool: &Pool, item_ns: u64, f: impl Fn(Range<u64>) + Sync) {
    pool.run(span.tiles, item_ns, |i| {
        let start = (span.first + i) * ELEMENTS;
        f(start..(start + ELEMENTS).min(elements));
    });
}

fn numel(view: &View) -> u64 {
    // A bound operand lies in memory, or repeats elements of an output that does.
    view.shape.iter().product()
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
    let [inputs @ .., out] = views else { return };
    let integer = matches!(out.dtype, DType::I32 | DType::U32);
    each_tile(span, numel(out), pool, item_ns, |range| {
        segments(&out.shape, range, |row, col, len| {
            let at = |v: &View| v.outer_offset(row, v.outer_axes()) + col * v.row_stride();
            if integer {
                map_words(
                    op.function,
                    inputs,
                    out,
                    [at(&inputs[0]), inputs.get(1).map_or(0, at), at(out)],
                    len,
                );
                return;
            }
            with_rows(|[x, y]| {
                x.resize(len as usize, 0.0);
                inputs[0].load(isa, at(&inputs[0]), inputs[0].row_stride(), x);
                if let Some(second) = inputs.get(1) {
                    y.resize(len as usize, 0.0);
                    second.load(isa, at(second), second.row_stride(), y);
                }
                isa.run(MapChunk { op, x: &mut *x, y });
                out.store(isa, at(out), out.row_stride(), x);
            });
        });
    });
}

fn map_words(function: MapFn, inputs: &[View], out: &View, at: [u64; 3], len: u64) {
    let signed = out.dtype == DType::I32;
    for i in 0..len {
        let word = |view: &View, at: u64| {
            let mut w = [0];
            view.load_words(at + i * view.row_stride(), 0, &mut w);
            w[0]
        };
        let x = word(&inputs[0], at[0]);
        let y = inputs.get(1).map_or(0, |view| word(view, at[1]));
        out.store_words(at[2] + i * out.row_stride(), 0, &[map_word(function, signed, x, y)]);
    }
}

/// `copy` over a span; `views` are x, out.
pub(super) fn copy(views: &[View], span: Span, pool: &Pool, item_ns: u64) {
    let [x, out] = views else { return };
    each_tile(span, numel(out), pool, item_ns, |range| {
        segments(&out.shape, range, |row, col, len| {
            let at = |v: &View| v.outer_offset(row, v.outer_axes()) + col * v.row_stride();
            out.copy_row(at(out), Some((x, at(x))), [out.row_stride(), x.row_stride()], len);
        });
    });
}

/// `gather` over a span; `views` are table, index, out. Each index is read once, held against the table's rows,
/// and used only if it passed: another party may be changing it.
pub(super) fn gather(
    views: &[View],
    span: Span,
    pool: &Pool,
    item_ns: u64,
    fault: &Mutex<Option<IndexFault>>,
) {
    let [table, index, out] = views else { return };
    let rows = table.shape[0];
    let inner_shape = Dims::from_fn(table.shape.rank() - 1, |i| table.shape[i + 1]);
    let inner: u64 = inner_shape.iter().product();
    let inner_axes = inner_shape.rank();
    let view_inner = |element: u64| {
        let (mut offset, mut rest) = (0, element);
        for axis in (0..inner_axes).rev() {
            offset += rest % inner_shape[axis].max(1) * table.strides[axis + 1];
            rest /= inner_shape[axis].max(1);
        }
        offset
    };
    let steps = [out.row_stride(), if inner_axes == 0 { 0 } else { table.row_stride() }];
    each_tile(span, numel(out), pool, item_ns, |range| {
        let mut at = range.start;
        while at < range.end {
            let (entry, first) = (at / inner, at % inner);
            let len = (inner - first).min(range.end - at);
            let mut word = [0];
            index.load_words(index.outer_offset(entry, index.shape.rank()), 0, &mut word);
            let good = u64::from(word[0]) < rows;
            if !good {
                let seen = IndexFault { value: word[0], bound: rows as u32 };
                fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(seen);
            }
            segments(&inner_shape, first..first + len, |row, col, n| {
                let element = row * inner_shape.last().copied().unwrap_or(1) + col;
                let to = out.outer_offset(entry * inner + element, out.shape.rank());
                let from = u64::from(word[0]).wrapping_mul(table.strides[0]);
                let source = good.then(|| (table, from + view_inner(element)));
                out.copy_row(to, source, steps, n);
            });
            at += len;
        }
    });
}
