//! Every rule of `check` and of binding is reached: one rejection each, which names rule, op, operand and values.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::case::{Fill, Operand, Style};
use leasehold::DType::{self, BF16, F32, I8, I32};
use leasehold::op::{
    Attention, Binding, BufferId, Copy, Gather, Lens, Map, MapFn, Matmul, Norm, NormKind, Op,
    Reduce, ReduceFn, Rope, Softmax, Spec, check,
};
use leasehold::{Dims, Error, Layout, Rule};
use std::collections::BTreeSet;
use std::sync::Arc;

fn spec(dtype: DType, shape: &[u64]) -> Spec {
    Operand::new(dtype, shape, Style::Tight, 0, Fill::Poison).spec()
}

fn reject(op: impl Into<Op>, specs: &[Spec]) -> Error {
    check(op.into(), specs).unwrap_err()
}

fn norm(epsilon: f32) -> Norm {
    Norm { kind: NormKind::Rms, epsilon, weight: false, bias: false }
}

fn heads(lens: Lens) -> Attention {
    Attention { lens, log_sum_exp: true, ..Attention::default() }
}

/// Q, K, V, output and log-sum-exp of attention.
fn attention(q: [u64; 4], k: [u64; 4], lse: DType) -> [Spec; 5] {
    let out = spec(F32, &q);
    [spec(F32, &q), spec(F32, &k), spec(F32, &k), out, spec(lse, &q[..3])]
}

fn rejections() -> Vec<(Rule, Error)> {
    let f = |shape: &[u64]| spec(F32, shape);
    let product = Matmul::default;
    let softmax = |axis| Softmax { scale: 1.0, axis };
    let add = Map { function: MapFn::Neg, scale: 1.0, shift: 0.0 };
    let repeated = Operand::new(F32, &[3, 4], Style::Repeat, 0, Fill::Poison).spec();
    let q = [2, 4, 3, 8];
    let lens = |n| Lens::Host(vec![6; n]);
    vec![
        (Rule::OperandCount, reject(Copy, &[f(&[2])])),
        (Rule::Rank, reject(product(), &[f(&[4]), f(&[4, 4]), f(&[4])])),
        (Rule::SameShape, reject(Copy, &[f(&[2]), f(&[3])])),
        (Rule::Batch, reject(product(), &[f(&[2, 3, 4]), f(&[3, 4, 5]), f(&[2, 3, 5])])),
        (Rule::InnerDim, reject(product(), &[f(&[3, 4]), f(&[5, 6]), f(&[3, 6])])),
        (Rule::OutDims, reject(product(), &[f(&[3, 4]), f(&[4, 6]), f(&[3, 7])])),
        (Rule::HeadDim, reject(heads(Lens::Full), &attention(q, [2, 2, 5, 7], F32))),
        (Rule::HeadGroups, reject(heads(Lens::Full), &attention(q, [2, 3, 5, 8], F32))),
        (Rule::Length, reject(heads(lens(2)), &attention(q, [2, 2, 5, 8], F32))),
        (Rule::Length, reject(heads(lens(3)), &attention(q, [2, 2, 9, 8], F32))),
        (Rule::Elements, reject(Copy, &[f(&[1 << 62]), f(&[1 << 62])])),
        (Rule::Float, reject(norm(0.0), &[spec(I32, &[3]), f(&[3])])),
        (Rule::SameDType, reject(Copy, &[f(&[3]), spec(BF16, &[3])])),
        (Rule::IndexDType, reject(Gather { axis: 0 }, &[f(&[3, 2]), f(&[5]), f(&[5, 2])])),
        (Rule::StatDType, reject(heads(Lens::Full), &attention(q, [2, 2, 5, 8], BF16))),
        (Rule::Arithmetic, reject(add, &[spec(I32, &[3]), spec(I32, &[3])])),
        (Rule::OutInjective, reject(Copy, &[f(&[3, 4]), repeated])),
        (Rule::Aligned, {
            let odd = Spec { offset_class: 2, ..f(&[3]) };
            reject(Copy, &[odd, f(&[3])])
        }),
        (Rule::Finite, reject(Matmul { alpha: f32::NAN, ..product() }, &[f(&[1, 1]); 3])),
        (Rule::Finite, reject(Matmul { alpha: -0.0, ..product() }, &[f(&[1, 1]); 3])),
        (Rule::Epsilon, reject(norm(-1.0), &[f(&[3]), f(&[3])])),
        (Rule::Axis, reject(softmax(2), &[f(&[3, 4]), f(&[3, 4])])),
        (Rule::Capability, reject(softmax(0), &[f(&[3, 4]), f(&[3, 4])])),
        (Rule::Capability, reject(Copy, &[spec(I8, &[3]), spec(I8, &[3])])),
        (Rule::Capability, {
            let rope = Rope { base: 1e4, dims: 8, interleaved: false };
            reject(rope, &[f(&[3, 8]), spec(I32, &[3]), f(&[3, 8])])
        }),
        (Rule::Capability, {
            let reduce = Reduce { function: ReduceFn::Sum, axis: 0 };
            reject(reduce, &[f(&[3, 4]), f(&[4])])
        }),
        (Rule::Limit, {
            let q = [2, 4, 3, 257];
            reject(heads(Lens::Full), &attention(q, q, F32))
        }),
    ]
}

/// Rejections of where operands lie, of a copy of 12 bytes checked for an offset of 4.
fn unbound() -> Vec<(Rule, Error)> {
    let shifted = Operand::new(F32, &[3], Style::Tight, 1, Fill::Poison).spec();
    let op = Arc::new(check(Copy.into(), &[shifted, spec(F32, &[3])]).unwrap());
    let to = Binding { buffer: BufferId(2), offset: 0, len: 64 };
    let bind =
        |buffer, offset, len| op.bind(&[Binding { buffer: BufferId(buffer), offset, len }, to]);
    bind(1, 4, 16).unwrap();
    bind(1, 260, 272).unwrap();
    vec![
        (Rule::OperandCount, op.bind(&[to]).unwrap_err()),
        (Rule::Aligned, bind(1, 5, 64).unwrap_err()),
        (Rule::OffsetClass, bind(1, 8, 64).unwrap_err()),
        (Rule::InBounds, bind(1, 4, 15).unwrap_err()),
        (Rule::InBounds, bind(1, 256 * (u64::MAX / 256) + 4, 272).unwrap_err()),
        (Rule::Overlap, bind(2, 4, 64).unwrap_err()),
    ]
}

#[test]
fn every_rule_is_reached_and_named() {
    let mut reached = BTreeSet::new();
    for (rule, error) in rejections().into_iter().chain(unbound()) {
        assert_eq!(error.rule(), Some(rule), "{error}");
        let text = error.to_string();
        assert!(text.starts_with(error.op().unwrap()) && text.contains(rule.text()), "{text}");
        reached.insert(rule);
    }
    let missed: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !reached.contains(rule)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn a_view_of_nothing_touches_no_byte() {
    let empty = Layout::contiguous(Dims::new(&[0, 7]).unwrap());
    let spec = Spec::new(F32, empty, 0);
    let op = Arc::new(check(Copy.into(), &[spec, spec]).unwrap());
    // Both at the end of one empty allocation.
    let nowhere = Binding { buffer: BufferId(1), offset: 0, len: 0 };
    op.bind(&[nowhere, nowhere]).unwrap();
}
