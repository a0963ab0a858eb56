//! What the kernels of quantisation are told of lines and cells.

use super::super::plan::{Cells, Class};
use super::{Dispatch, Words, collapse, phase, strides, writers};
use crate::dtype::DType;
use crate::op::{CheckedOp, Quantize, QuantizeFormat};
use crate::order::Span;

/// Lanes of a workgroup.
const LANES: u64 = 64;
/// The entry point of the inverse.
const INVERSE: usize = 2;

/// The way back, element by element.
pub(super) fn inverse(
    op: &CheckedOp,
    quantize: &Quantize,
    class: &Class,
    span: Span,
) -> Option<Dispatch> {
    let out = op.spec("out")?;
    let first = span.first * class.elements;
    let count = (span.tiles * class.elements).min(out.layout.numel() as u64 - first);
    let params = params(op, quantize, [first, count, 0, 0, 0, 0, 0], [0, 0, phase(out, first)])?;
    let workgroups = writers(out, count, LANES);
    Some(Dispatch { entry: INVERSE, workgroups, params, cut: false })
}

/// The entry points of a quantisation.
pub(super) fn entries(quantize: &Quantize) -> Vec<usize> {
    if quantize.inverse { vec![INVERSE] } else { vec![0, 1] }
}

/// Workgroups that write this many elements of cells: four codes an invocation, or a word of eight.
pub(super) fn writers_of(quantize: &Quantize, elements: u64) -> u64 {
    let each = if quantize.format == QuantizeFormat::Group32 { 8 } else { 4 };
    elements.div_ceil(each).div_ceil(LANES)
}

/// The uniform words: the seven of the rows that `Rows` begins with, then columns of the write and the phase.
pub(super) fn params(
    op: &CheckedOp,
    quantize: &Quantize,
    rows: [u64; 7],
    written: [u64; 3],
) -> Option<Words> {
    let cells = Cells::of(op, quantize);
    let (x, out, scale) = (op.spec("x")?, op.spec("out")?, op.spec("scale")?);
    let mut lines = [strides(x), strides(out)];
    let steps = lines.each_mut().map(|steps| steps.pop().unwrap_or(0));
    let wide = if quantize.inverse { out } else { x };
    let shape = wide.layout.shape();
    let outer = collapse(&shape[..shape.rank() - 1], &mut lines);
    // Where cells of a line have scales of their own, the last axis is theirs.
    let min = op.spec("min");
    let mut scales = [strides(scale), min.map_or_else(|| strides(scale), strides)];
    let mut scale_shape = scale.layout.shape().to_vec();
    let scale_steps = match quantize.format {
        QuantizeFormat::Tensor => {
            scale_shape.clear();
            scales.iter_mut().for_each(Vec::clear);
            [0; 2]
        }
        QuantizeFormat::Row => [0; 2],
        _ => {
            scale_shape.pop();
            scales.each_mut().map(|steps| steps.pop().unwrap_or(0))
        }
    };
    let scale_outer = collapse(&scale_shape, &mut scales);
    let largest = match out.dtype {
        DType::F8E4M3 => 448.0,
        DType::F8E5M2 => 57344.0,
        _ => 127.0,
    };
    let mut params = Words::default();
    params.put(&rows);
    params.put(&[outer.len() as u64]);
    params.put(&written);
    params.put(&[0]);
    params.shape(&outer);
    params.put(&[cells.width, cells.height, cells.across, cells.down, cells.m, cells.n]);
    params.put(&[quantize.format as u64]);
    params.float(largest);
    params.put(&[scale_outer.len() as u64, 0, 0, 0]);
    params.shape(&scale_outer);
    let slots = |outer: &[u64], step: u64| {
        let mut slots = [0; 8];
        slots.iter_mut().zip(outer).for_each(|(slot, &s)| *slot = s);
        slots[7] = step;
        slots
    };
    params.view(Some(x), &slots(&lines[0], steps[0]));
    params.view(Some(out), &slots(&lines[1], steps[1]));
    params.view(Some(scale), &slots(&scales[0], scale_steps[0]));
    params.view(min, &slots(&scales[1], scale_steps[1]));
    Some(params)
}
