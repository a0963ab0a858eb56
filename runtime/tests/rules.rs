//! Every rule of `check` and of binding is reached: one rejection each, which names rule, op, operand and values.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::case::{Fill, Operand, Style};
use leasehold::DType::{self, BF16, F32, I8, I32};
use leasehold::op::{
    ArgMax, Attention, AttentionBackward, Binding, BufferId, Copy, Gate, Gather, Group, KeyValue,
    Lens, Map, MapFn, Matmul, Norm, NormKind, Op, OrderClass, Precision, Quantize, QuantizeFormat,
    Reduce, ReduceFn, Rope, Scale, Scatter, ScatterFn, Softmax, Spec, TopK, check,
};
use leasehold::{Dims, Error, Kind, Layout, Rule};
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

/// Ops and options whose types stand, and which are not built.
fn reserved() -> Vec<Op> {
    let (matmul, attention) = (Matmul::default, Attention::default);
    let ops: [Op; 6] = [
        AttentionBackward { scale: 1.0, causal: true }.into(),
        Rope { base: 1e4, dims: 8, interleaved: false }.into(),
        Scatter { function: ScatterFn::Add, axis: 0 }.into(),
        ArgMax { axis: 0 }.into(),
        TopK { k: 1, axis: 0 }.into(),
        Quantize { format: QuantizeFormat::Group32, inverse: true }.into(),
    ];
    let products = [
        Matmul { beta: 1.0, ..matmul() },
        Matmul { gate: Gate::Interleaved, ..matmul() },
        Matmul { preactivation: true, ..matmul() },
        Matmul { precision: Precision::Tf32, ..matmul() },
        Matmul { scales: [Scale::Tensor, Scale::None], ..matmul() },
        Matmul { scales: [Scale::None, Scale::Block128x128], ..matmul() },
        Matmul { group: Group::Contiguous, ..matmul() },
        Matmul { group: Group::Masked, ..matmul() },
        Matmul { group: Group::K, ..matmul() },
        Matmul { order: OrderClass::BatchInvariant, ..matmul() },
        Matmul { order: OrderClass::Any, ..matmul() },
    ];
    let attentions = [
        Attention { window: Some([0, 0]), ..attention() },
        Attention { softcap: 15.0, ..attention() },
        Attention { alibi: true, ..attention() },
        Attention { sinks: true, ..attention() },
        Attention { lens: Lens::Device { max: 1 }, ..attention() },
        Attention { key_value: KeyValue::Paged { page: 1 }, ..attention() },
        Attention { order: OrderClass::Any, ..attention() },
    ];
    let rest: [Op; 3] = [
        Gather { axis: 1 }.into(),
        Softmax { scale: 1.0, axis: 0 }.into(),
        Reduce { function: ReduceFn::Max, axis: 0 }.into(),
    ];
    let options = products.map(Op::from).into_iter().chain(attentions.map(Op::from));
    ops.into_iter().chain(options).chain(rest).collect()
}

#[test]
fn what_is_not_built_answers_unsupported() {
    let ops = reserved();
    for op in &ops {
        let dtype = |name| if name == "index" { I32 } else { F32 };
        let specs: Vec<Spec> =
            op.roles().iter().map(|role| spec(dtype(role.name), &[1, 1])).collect();
        let error = check(op.clone(), &specs).unwrap_err();
        assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{op:?}: {error}");
        assert_eq!((error.op(), error.rule()), (Some(op.name()), Some(Rule::Capability)));
    }
    // Every op is built or here.
    let named: BTreeSet<&str> = ops.iter().map(Op::name).collect();
    let built = ["norm", "map", "copy"];
    let missed: Vec<_> =
        Op::NAMES.iter().filter(|name| !named.contains(*name) && !built.contains(name)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// Rules that one op breaks in several ways: each shape and dtype is judged, not only the first operand's.
#[test]
fn every_operand_is_judged() {
    let f = |shape: &[u64]| spec(F32, shape);
    let attention = |change: &dyn Fn(&mut [Spec; 5])| {
        let mut specs = attention([2, 4, 3, 8], [2, 2, 5, 8], F32);
        change(&mut specs);
        reject(heads(Lens::Full), &specs)
    };
    let product =
        |op: Matmul, extra: Spec| reject(op, &[f(&[3, 4]), f(&[4, 6]), extra, f(&[3, 6])]);
    let bias = || Matmul { bias: true, ..Matmul::default() };
    let gate = || Matmul { gate: Gate::Tensor, ..Matmul::default() };
    let residual = || Matmul { residual: true, ..Matmul::default() };
    let weight = || Norm { weight: true, ..norm(0.0) };
    let cases = [
        ("k", Rule::Batch, attention(&|s| s[1] = f(&[3, 2, 5, 8]))),
        ("k", Rule::Rank, attention(&|s| s[1] = f(&[2, 5, 8]))),
        ("v", Rule::SameShape, attention(&|s| s[2] = f(&[2, 2, 6, 8]))),
        ("v", Rule::SameShape, attention(&|s| s[2] = f(&[2, 4, 5, 8]))),
        ("v", Rule::SameDType, attention(&|s| s[2] = spec(BF16, &[2, 2, 5, 8]))),
        ("v", Rule::Limit, attention(&|s| s[2] = f(&[2, 2, 5, 257]))),
        ("out", Rule::OutDims, attention(&|s| s[3] = f(&[2, 4, 3, 9]))),
        ("out", Rule::Float, attention(&|s| s[3] = spec(I32, &[2, 4, 3, 8]))),
        ("lse", Rule::OutDims, attention(&|s| s[4] = f(&[2, 4, 4]))),
        ("bias", Rule::SameShape, product(bias(), f(&[6]))),
        ("bias", Rule::Float, product(bias(), spec(I32, &[3, 6]))),
        ("gate", Rule::SameShape, product(gate(), f(&[3, 5]))),
        ("residual", Rule::Float, product(residual(), spec(I32, &[3, 6]))),
        ("weight", Rule::InnerDim, reject(weight(), &[f(&[2, 3]), f(&[2]), f(&[2, 3])])),
        ("weight", Rule::Float, reject(weight(), &[f(&[2, 3]), spec(I32, &[3]), f(&[2, 3])])),
        ("out", Rule::OutDims, {
            let specs = [f(&[3, 2]), spec(I32, &[5]), f(&[5, 3])];
            reject(Gather { axis: 0 }, &specs)
        }),
        ("table", Rule::Limit, {
            let repeated = Operand::new(F32, &[(1 << 31) + 1], Style::Repeat, 0, Fill::Poison);
            reject(Gather { axis: 0 }, &[repeated.spec(), spec(I32, &[5]), f(&[5])])
        }),
        ("out", Rule::Rank, {
            let index = spec(I32, &[1; 6]);
            reject(Gather { axis: 0 }, &[f(&[3, 2]), index, f(&[1; 6])])
        }),
    ];
    for (operand, rule, error) in cases {
        assert_eq!(error.rule(), Some(rule), "{error}");
        assert!(error.to_string().contains(&format!(": {operand}: ")), "{operand}: {error}");
    }
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
