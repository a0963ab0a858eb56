//! Floating-point operations and bytes of an op, from its specs alone. Planners, bills and benchmarks count
//! with it. Causal attention and lengths are counted in full: a cost here is an upper bound.

use super::{CheckedOp, Op};
use crate::order::Cost;

impl CheckedOp {
    /// Operations and bytes, in 128 bits because strides of 0 let a small buffer stand for a huge shape.
    pub fn cost(&self) -> Cost {
        let bytes = self.specs().iter().fold(0u128, |sum, spec| {
            let elements = spec.layout.numel().min(spec.layout.span());
            sum.saturating_add(elements.saturating_mul(u128::from(spec.dtype.size())))
        });
        let elements = |name: &str| self.spec(name).map_or(0, |spec| spec.layout.numel());
        let last = |name: &str| {
            let shape = self.spec(name).map(|spec| *spec.layout.shape());
            u128::from(shape.and_then(|s| s.last().copied()).unwrap_or(0))
        };
        let flops = match self.op() {
            Op::Matmul(_) => elements("out").saturating_mul(2 * last("a").max(1)),
            Op::Attention(_) => {
                let keys = u128::from(self.spec("k").map_or(0, |k| k.layout.shape()[2]));
                let rows = elements("q") / last("q").max(1);
                rows.saturating_mul(keys).saturating_mul(2 * (last("q") + last("v")) + 8)
            }
            Op::Norm(_) => elements("x").saturating_mul(8),
            Op::Softmax(_) => elements("x").saturating_mul(10),
            Op::Map(_) => elements("out").saturating_mul(8),
            Op::Reduce(_) => elements("x"),
            _ => elements("out"),
        };
        Cost { flops, bytes }
    }
}
