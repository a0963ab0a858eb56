//! The axes and operands of ops that stream, as kernels take them.

use super::{Addresses, operand};
use crate::backend::cuda::plan::Axis;
use crate::op::CheckedOp;
use leasehold_kernels::{Axes, View};

/// Axes, which are at most six.
pub(super) fn axes(walk: &[Axis]) -> Axes {
    let mut axes = Axes { rank: walk.len() as u32, ..Axes::default() };
    axes.sizes.iter_mut().zip(walk).for_each(|(size, axis)| *size = axis.size);
    axes
}

/// The first operands of those that are walked; one that the op lacks is absent.
pub(super) fn views<const N: usize>(
    op: &CheckedOp,
    at: &Addresses<'_>,
    names: &[&str],
    outer: &[Axis],
    inner: &Axis,
) -> [View; N] {
    let view = |i: usize| {
        let found = names.get(i).and_then(|name| operand(op, at, name));
        let Some((spec, at)) = found else { return View::default() };
        let (inner, dtype) = (inner.steps[i] as i64, spec.dtype as u32);
        let mut view = View { at, outer: [0; 6], inner, dtype, present: 1 };
        let steps = view.outer.iter_mut().zip(outer);
        steps.for_each(|(step, axis)| *step = axis.steps[i] as i64);
        view
    };
    std::array::from_fn(view)
}

/// A vector along a row, which all rows share.
pub(super) fn beside(op: &CheckedOp, at: &Addresses<'_>, name: &str) -> View {
    let Some((spec, at)) = operand(op, at, name) else { return View::default() };
    let inner = spec.layout.strides().first().map_or(0, |&step| step as i64);
    View { at, inner, dtype: spec.dtype as u32, present: 1, ..View::default() }
}
