//! Dispatches of scatters.

use super::super::plan::{Class, Entries};
use super::{Dispatch, Words, collapse, strides};
use crate::op::{CheckedOp, Scatter};
use crate::order::Span;

/// Lanes of a workgroup.
const LANES: u64 = 64;

/// The one dispatch of a span: some columns of some entries.
pub(super) fn scatter(
    op: &CheckedOp,
    scatter: &Scatter,
    class: &Class,
    span: Span,
) -> Option<Dispatch> {
    let e = Entries::of(op, class);
    let (x, out) = (op.spec("x")?, op.spec("out")?);
    let first = span.first * e.columns;
    let count = (span.tiles * e.columns).min(e.inner - first);
    let entries =
        [span.from, span.to].map(|link| u128::from(link * e.per_link).min(e.count) as u64);
    let (x_steps, out_steps) = (strides(x), strides(out));
    let (x_shape, out_shape) = (x.layout.shape(), out.layout.shape());
    let mut params = Words::default();
    // Columns, then entries: shapes, and strides of x beside those of out and of the index.
    let index = op.spec("index").or(op.spec("pages"))?;
    let append = op.spec("lens");
    let axes = index.layout.rank();
    let (inner, mut columns, mut rows) = match append {
        Some(_) => (
            vec![x_shape[1], x_shape[3]],
            [vec![x_steps[1], x_steps[3]], vec![out_steps[1], out_steps[3]]],
            [vec![x_steps[0], x_steps[2]], strides(index)],
        ),
        None => (
            out_shape[1..].to_vec(),
            [x_steps[axes..].to_vec(), out_steps[1..].to_vec()],
            [x_steps[..axes].to_vec(), strides(index)],
        ),
    };
    let inner = collapse(&inner, &mut columns);
    let outer = match append {
        Some(_) => Vec::new(),
        None => collapse(index.layout.shape(), &mut rows),
    };
    params.put(&[first, count, 0, inner.len() as u64]);
    params.shape(&inner);
    params.put(&[entries[0], entries[1], outer.len() as u64, scatter.function as u64]);
    params.shape(&outer);
    let (page, most, key_step) = match append {
        Some(_) => (out_shape[2], index.layout.shape()[1], out_steps[2]),
        None => (0, 0, 0),
    };
    params.put(&[out_shape[0], page, most, if append.is_some() { x_shape[2] } else { 0 }]);
    params.view(Some(x), &columns[0]);
    params.view(Some(out), &columns[1]);
    params.view(Some(x), &rows[0]);
    params.view(Some(index), &rows[1]);
    params.view(append, &append.map(strides).unwrap_or_default());
    params.put(&[out_steps[0], key_step, 0, 0]);
    let several = 4 / out.dtype.size();
    let workgroups = count.div_ceil(several).div_ceil(LANES);
    Some(Dispatch { entry: 0, workgroups, params, cut: false })
}
