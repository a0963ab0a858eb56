//! Turns a span of a plan into dispatches: entry point, workgroups and uniform words, in the order of the structs
//! of the shaders. Pure; `mod` hands the result to the stream.

mod backward;
mod batch;
mod cells;
mod elements;
mod heads;
mod product;
mod rows;
mod scatter;

use super::plan::{ALIGN, Backward, Class, Heads, by_rows};
use crate::dtype::DType;
use crate::op::{CheckedOp, Op, Spec};
use crate::order::Span;
pub(super) use heads::has_partial;
use leasehold_shaders::variant;

/// Rows whose statistics the scratch buffer holds.
pub(super) const STATS_ROWS: u64 = 1 << 16;
/// Words of the largest parameter struct.
pub(super) const PARAM_WORDS: usize = 256;
/// Set in the flags of `matmul`, `attention` and `attention_backward` when a tile's last link runs.
const LAST: u32 = 8;

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dispatch {
    /// Index among the shader's entry points.
    pub(super) entry: usize,
    /// Workgroups in all; the grid is folded to two dimensions where one is too short.
    pub(super) workgroups: u64,
    /// The uniform parameters.
    pub(super) params: Words,
    /// Whether row statistics are those of a cut row, kept in the plan's state.
    pub(super) cut: bool,
}

/// Uniform words in the making.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Words(Vec<u32>);

impl Words {
    fn put(&mut self, words: &[u64]) {
        // The plan held every count to 32 bits.
        self.0.extend(words.iter().map(|&w| w as u32));
    }

    /// Eight sizes, those that are missing 1.
    fn shape(&mut self, shape: &[u64]) {
        self.put(&(0..8).map(|i| shape.get(i).copied().unwrap_or(1)).collect::<Vec<_>>());
    }

    fn float(&mut self, x: f32) {
        self.0.push(x.to_bits());
    }

    /// A `View`: the operand's kind, the place of its first element in its binding, and strides by slot.
    fn view(&mut self, spec: Option<&Spec>, strides: &[u64]) {
        let Some(spec) = spec else { return self.0.extend([0; 12]) };
        self.put(&[spec.dtype as u64, base(spec), 0, 0]);
        let slots = (0..8).map(|i| strides.get(i).copied().unwrap_or(0));
        self.put(&slots.collect::<Vec<_>>());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The element of its binding that an operand's first is: bindings begin at multiples of [`ALIGN`].
fn base(spec: &Spec) -> u64 {
    u64::from(spec.offset_class) % ALIGN / spec.dtype.size()
}

/// The place of an element in its word.
fn phase(spec: &Spec, element: u64) -> u64 {
    base(spec).wrapping_add(element) % (4 / spec.dtype.size())
}

/// Workgroups of this many lanes that write so many elements of an output, an invocation some neighbours.
fn writers(spec: &Spec, elements: u64, lanes: u64) -> u64 {
    let several = (4 / spec.dtype.size()).max(2);
    // The first may own but the last of its neighbours.
    (elements + several - 1).div_ceil(several).div_ceil(lanes)
}

/// Strides, with 0 for axes that never step: theirs may be any number.
fn strides(spec: &Spec) -> Vec<u64> {
    let pairs = spec.layout.shape().iter().zip(spec.layout.strides().iter());
    pairs.map(|(&n, &s)| if n > 1 { s } else { 0 }).collect()
}

/// The dispatches of a span by a kernel.
pub(super) fn dispatches(op: &CheckedOp, class: &Class, kernel: &str, span: Span) -> Vec<Dispatch> {
    match op.op() {
        Op::Matmul(matmul) => product::product(op, matmul, class, kernel, span),
        Op::Attention(attention) => heads::heads(op, attention, class, kernel, span),
        Op::AttentionBackward(attention) => backward::backward(op, attention, class, span),
        of_rows if by_rows(of_rows) => rows::rows(op, class, span),
        Op::Quantize(quantize) => cells::inverse(op, quantize, class, span).into_iter().collect(),
        Op::Scatter(scatter) => scatter::scatter(op, scatter, class, span).into_iter().collect(),
        _ => elements::elements(op, class, span).into_iter().collect(),
    }
}

/// Axes that all views step through alike are one axis; axes of one element are none.
fn collapse(shape: &[u64], views: &mut [Vec<u64>]) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    let mut kept: Vec<Vec<u64>> = vec![Vec::new(); views.len()];
    for (axis, &n) in shape.iter().enumerate().filter(|&(_, &n)| n != 1) {
        let fuses = !out.is_empty()
            && views
                .iter()
                .zip(&kept)
                .all(|(view, kept)| kept.last().copied() == view[axis].checked_mul(n));
        match out.last_mut() {
            Some(last) if fuses => *last *= n,
            _ => out.push(n),
        }
        for (kept, view) in kept.iter_mut().zip(views.iter()) {
            if fuses {
                kept.pop();
            }
            kept.push(view[axis]);
        }
    }
    views.iter_mut().zip(kept).for_each(|(view, kept)| *view = kept);
    out
}

/// The words of the binding `made`, where the host makes them: turns of a rotary embedding, entries of attention,
/// groups of products.
pub(super) fn made(op: &CheckedOp, class: &Class) -> Vec<u32> {
    match op.op() {
        Op::Rope(rope) => {
            rope.turns().iter().flat_map(|&turn| [turn as u32, (turn >> 32) as u32]).collect()
        }
        Op::Matmul(matmul) => product::made(op, matmul, class),
        Op::Attention(attention) => {
            batch::made(&attention.scores, &Heads::of(op, attention, class).batch)
        }
        Op::AttentionBackward(attention) => {
            batch::made(&attention.scores, &Backward::of(op, attention, class).batch)
        }
        _ => Vec::new(),
    }
}

/// The entry points, among those of the kernel's shader, that its dispatches take.
pub(super) fn entries(op: &CheckedOp, kernel: &str) -> Vec<usize> {
    match op.op() {
        Op::Matmul(matmul) => product::entries(op, matmul, kernel),
        Op::Attention(attention) => heads::entries(attention),
        Op::Quantize(quantize) => cells::entries(quantize),
        Op::Norm(_) | Op::NormBackward(_) | Op::Softmax(_) | Op::Reduce(_) => vec![0, 1],
        Op::AttentionBackward(attention) => backward::entries(attention),
        _ => vec![0],
    }
}

/// What the pipelines of an op are made for beside their kernel: the element type of the inputs, and what else the
/// kernel asks for.
pub(super) fn constants(op: &CheckedOp, kernel: &str) -> Vec<(&'static str, u32)> {
    let kind = op.specs().first().map_or(DType::F32, |spec| spec.dtype);
    let mut constants = vec![("KIND", kind as u32)];
    if let Op::Matmul(matmul) = op.op() {
        constants.extend(matmul.is_indexed().then_some(("INDEXED", 1)));
        if variant(kernel).is_some() {
            constants.extend(product::constants(op));
        }
    }
    constants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_step_alike_are_one() {
        let mut views = [vec![24, 4, 9, 1], vec![24, 4, 9, 1]];
        assert_eq!(collapse(&[2, 6, 1, 4], &mut views), [48]);
        assert_eq!(views, [[1], [1]]);
        let mut views = [vec![24, 4, 1], vec![0, 4, 1]];
        assert_eq!(collapse(&[2, 6, 4], &mut views), [2, 24]);
        assert_eq!(views, [[24, 1], [0, 1]]);
        assert_eq!(collapse(&[], &mut [vec![], vec![]]), [0; 0]);
    }
}
