//! Dispatches of the ops that go element by element.

use super::super::plan::Class;
use super::{Dispatch, Words, collapse, phase, strides, writers};
use crate::op::{CheckedOp, Map, Op, Rope, Spec};
use crate::order::Span;

/// Lanes of a workgroup.
const LANES: u64 = 256;

/// The one dispatch of a span.
pub(super) fn elements(op: &CheckedOp, class: &Class, span: Span) -> Option<Dispatch> {
    let out = op.spec("out")?;
    let total = out.layout.numel() as u64;
    let first = span.first * class.elements;
    let count = (span.tiles * class.elements).min(total - first);
    let mut params = Words::default();
    let range = |params: &mut Words, shape: &[u64]| {
        params.put(&[first, count, phase(out, first), shape.len() as u64]);
        params.shape(shape);
    };
    match op.op() {
        Op::Gather(_) => {
            let (table, index) = (op.spec("table")?, op.spec("index")?);
            let (table_strides, index_strides) = (strides(table), strides(index));
            let inner = table_strides.get(1..).unwrap_or_default();
            let mut views = [
                [&vec![0; index_strides.len()], inner].concat(),
                [&index_strides[..], &vec![0; inner.len()]].concat(),
                strides(out),
            ];
            let shape = collapse(out.layout.shape(), &mut views);
            range(&mut params, &shape);
            params.put(&[table.layout.shape()[0], table_strides[0], 0, 0]);
            each(&mut params, &[table, index, out], &views);
        }
        Op::Rope(Rope { dims, interleaved, .. }) => {
            let (x, position) = (op.spec("x")?, op.spec("position")?);
            range(&mut params, out.layout.shape());
            params.put(&[(*dims).into(), (*interleaved).into(), 0, 0]);
            let steps = strides(position);
            let steps = vec![steps[0], 0, steps[1], 0];
            each(&mut params, &[x, position, out], &[strides(x), steps, strides(out)]);
        }
        Op::Map(Map { function, scale, shift }) => {
            let x = op.spec("x")?;
            let y = op.spec("y").unwrap_or(x);
            let mut views = [strides(x), strides(y), strides(out)];
            let shape = collapse(out.layout.shape(), &mut views);
            range(&mut params, &shape);
            params.put(&[*function as u64]);
            params.float(*scale);
            params.float(*shift);
            params.put(&[0]);
            each(&mut params, &[x, y, out], &views);
        }
        _ => {
            let x = op.spec("x")?;
            let mut views = [strides(x), strides(out)];
            let shape = collapse(out.layout.shape(), &mut views);
            range(&mut params, &shape);
            each(&mut params, &[x, out], &views);
        }
    }
    Some(Dispatch { entry: 0, workgroups: writers(out, count, LANES), params, cut: false })
}

/// A view of each operand with these strides.
fn each(params: &mut Words, specs: &[&Spec], strides: &[Vec<u64>]) {
    specs.iter().zip(strides).for_each(|(spec, strides)| params.view(Some(spec), strides));
}
