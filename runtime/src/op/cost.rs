//! Floating-point operations and bytes of an op, from its specs alone. Planners, bills and benchmarks count
//! with it. Causal attention and lengths in device memory are counted in full: a cost here is an upper bound.

use super::{CheckedOp, Gate, Group, KeyValue, Lens, Matmul, Op, Scores, Spec};
use crate::order::Cost;

impl CheckedOp {
    /// Operations and bytes, in 128 bits because strides of 0 let a small buffer stand for a huge shape.
    pub fn cost(&self) -> Cost {
        let bytes = self.specs().iter().zip(self.roles()).fold(0u128, |sum, (spec, role)| {
            let elements = touched(spec, 0).min(self.named(role.name, spec));
            sum.saturating_add(elements.saturating_mul(u128::from(spec.dtype.size())))
        });
        // Functions and divisions count a few operations, comparisons one.
        let flops = match self.op() {
            Op::Matmul(op) => self.sums(op).saturating_mul(2 * self.size("a", -1).max(1)),
            Op::Attention(op) => {
                let room = match op.key_value {
                    KeyValue::Dense => self.size("k", 2),
                    KeyValue::Paged { page } => self.size("pages", 1).saturating_mul(page.into()),
                };
                self.scores(&op.scores, room, [2, 2, 8])
            }
            // Five products: the scores, and the gradients of weights, Q, K and V.
            Op::AttentionBackward(op) => self.scores(&op.scores, self.size("k", 2), [6, 4, 16]),
            Op::Norm(_) => self.elements("x").saturating_mul(8),
            Op::NormBackward(_) => self.elements("x").saturating_mul(20),
            Op::Softmax(_) => self.elements("x").saturating_mul(10),
            Op::Map(_) => self.elements("out").saturating_mul(8),
            Op::Rope(_) => self.elements("out").saturating_mul(12),
            Op::Quantize(op) => {
                self.elements(if op.inverse { "out" } else { "x" }).saturating_mul(4)
            }
            Op::Reduce(_) | Op::ArgMax(_) | Op::TopK(_) | Op::Scatter(_) => self.elements("x"),
            Op::Gather(_) | Op::Copy(_) => self.elements("out"),
        };
        Cost { flops, bytes }
    }

    /// The most elements that indices name of an operand: a matrix or page of the table for each index, rows as long as those
    /// that move. Of any other, no bound.
    fn named(&self, name: &str, spec: &Spec) -> u128 {
        let index = match (self.op(), name) {
            (Op::Matmul(op), "a") if op.index_a => "a_index",
            (Op::Matmul(op), "b") if op.index_b => "b_index",
            (Op::Attention(op), "k" | "v") if op.key_value != KeyValue::Dense => "pages",
            (Op::Gather(_), "table") => return self.elements("out"),
            (Op::Scatter(_), "out") => return self.elements("x"),
            _ => return u128::MAX,
        };
        self.elements(index).saturating_mul(touched(spec, 1))
    }

    fn elements(&self, name: &str) -> u128 {
        self.spec(name).map_or(0, |spec| spec.layout.numel())
    }

    /// Size of an axis, counted from the end where negative.
    fn size(&self, name: &str, axis: isize) -> u128 {
        let size = |spec: &Spec| {
            let shape = spec.layout.shape();
            let at = if axis < 0 { shape.len().checked_add_signed(axis)? } else { axis as usize };
            shape.get(at).map(|&n| u128::from(n))
        };
        self.spec(name).and_then(size).unwrap_or(0)
    }

    /// Sums of a product that are as long as K.
    fn sums(&self, op: &Matmul) -> u128 {
        match op.group {
            // All groups together have K once.
            Group::K => self.size("a", -2).saturating_mul(self.size("b", -1)),
            _ if op.gate == Gate::Interleaved => self.elements("out").saturating_mul(2),
            _ => self.elements("out"),
        }
    }

    /// Operations of every row with the most keys that it sees of `room`: for each an element of both head dims, and what
    /// a score takes besides.
    fn scores(&self, scores: &Scores, room: u128, [d, dv, functions]: [u128; 3]) -> u128 {
        let keys = match &scores.lens {
            Lens::Full => room,
            Lens::Host(list) => room.min(list.iter().max().map_or(0, |&n| n.into())),
            Lens::Device { max } => room.min((*max).into()),
        };
        let capped = if scores.softcap > 0.0 { 16 } else { 0 };
        let rows = self.elements("q") / self.size("q", 3).max(1);
        let each = d * self.size("q", 3) + dv * self.size("v", 3) + functions + capped;
        rows.saturating_mul(keys).saturating_mul(each)
    }
}

/// Elements that lie anywhere in the axes of an operand from this one on; those of a broadcast lie there once.
fn touched(spec: &Spec, from: usize) -> u128 {
    let axes = spec.layout.shape().iter().zip(spec.layout.strides().iter()).skip(from);
    let axes = axes.map(|(&size, &stride)| (u128::from(size), u128::from(stride)));
    let (numel, span) = axes.fold((1u128, 1u128), |(numel, span), (size, stride)| {
        let reach = size.saturating_sub(1).saturating_mul(stride);
        (numel.saturating_mul(size), span.saturating_add(reach))
    });
    numel.min(span)
}
