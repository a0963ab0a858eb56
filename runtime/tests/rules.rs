//! Every rule of `check` and of binding is reached: one rejection each, which names rule, op, operand and values.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::case::{Fill, Operand, Style};
use leasehold::DType::{self, BF16, F32, I8, I32};
use leasehold::op::{
    Attention, AttentionBackward, Binding, BufferId, Copy, Gate, Gather, Group, KeyValue, Lens,
    Map, MapFn, Matmul, Norm, NormKind, Op, OrderClass, Precision, Quantize, QuantizeFormat, Rope,
    Scale, Scores, Softmax, Spec, TopK, check,
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
    Attention {
        scores: Scores { lens, ..Scores::default() },
        log_sum_exp: true,
        ..Attention::default()
    }
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
        (Rule::Limit, {
            let q = [2, 4, 3, 257];
            reject(heads(Lens::Full), &attention(q, q, F32))
        }),
        (Rule::Count, {
            let top = TopK { k: 5, axis: 1 };
            reject(top, &[f(&[3, 4]), f(&[3, 5]), spec(I32, &[3, 5])])
        }),
        (Rule::Scaled, {
            let quantize = Quantize { format: QuantizeFormat::Row, inverse: false };
            reject(quantize, &[f(&[3, 4]), f(&[3, 4]), f(&[3])])
        }),
        (Rule::Scaled, {
            let scaled = Matmul { scales: [Scale::Tensor, Scale::None], ..product() };
            reject(scaled, &[f(&[3, 4]), f(&[4, 5]), f(&[1]), f(&[3, 5])])
        }),
        (Rule::ScaleDims, {
            let quantize = Quantize { format: QuantizeFormat::Block1x128, inverse: false };
            reject(quantize, &[f(&[3, 200]), spec(I8, &[3, 200]), f(&[3, 1])])
        }),
        (Rule::Groups, {
            let (group, sizes) = (Group::Contiguous, Lens::Host(vec![1, 2]));
            let op = Matmul { group, sizes, index_b: true, ..product() };
            reject(op, &[f(&[3, 4]), f(&[2, 4, 5]), spec(I32, &[2]), f(&[3, 5])])
        }),
        (Rule::Batch, {
            let op = Matmul { index_b: true, ..product() };
            reject(op, &[f(&[2, 3, 4]), f(&[9, 4, 5]), spec(I32, &[3]), f(&[2, 3, 5])])
        }),
        (Rule::Rank, {
            let op = Matmul { index_a: true, ..product() };
            reject(op, &[f(&[3, 4]), f(&[2, 4, 5]), spec(I32, &[2]), f(&[2, 3, 5])])
        }),
        (Rule::IndexDType, {
            let op = Matmul { index_a: true, ..product() };
            reject(op, &[f(&[9, 3, 4]), f(&[2, 4, 5]), f(&[2]), f(&[2, 3, 5])])
        }),
        (Rule::Scaled, {
            let op = Matmul { index_a: true, scales: [Scale::Tensor, Scale::None], ..product() };
            let [a, b] = [spec(I8, &[9, 3, 4]), spec(I8, &[2, 4, 5])];
            reject(op, &[a, b, f(&[1]), spec(I32, &[2]), f(&[2, 3, 5])])
        }),
        (Rule::Groups, {
            let grouped = Matmul { group: Group::Contiguous, ..product() };
            reject(grouped, &[f(&[3, 4]), f(&[2, 4, 5]), f(&[3, 5])])
        }),
        (Rule::Length, {
            let sizes = Lens::Host(vec![2, 2]);
            let grouped = Matmul { group: Group::Contiguous, sizes, ..product() };
            reject(grouped, &[f(&[3, 4]), f(&[2, 4, 5]), f(&[3, 5])])
        }),
        (Rule::Packed, {
            let packed = Attention {
                scores: Scores { rows: lens(2), ..Scores::default() },
                ..heads(Lens::Full)
            };
            reject(packed, &attention(q, [1, 2, 5, 8], F32))
        }),
        (Rule::Pages, {
            let key_value = KeyValue::Paged { page: 4 };
            let paged = Attention { key_value, log_sum_exp: false, ..heads(lens(2)) };
            let [q, k, v, out, _] = attention(q, [2, 2, 5, 8], F32);
            reject(paged, &[q, k, v, spec(I32, &[2, 3]), out])
        }),
        (Rule::Base, {
            let rope = Rope { base: 1.0, dims: 8, interleaved: false };
            reject(rope, &[f(&[1, 1, 3, 8]), spec(I32, &[1, 3]), f(&[1, 1, 3, 8])])
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

/// Legal ops that the CPU does not run, on their operands, and what is named.
#[cfg(feature = "cpu")]
fn refused() -> Vec<(Op, Vec<Spec>, &'static str)> {
    let f = |shape: &[u64]| spec(F32, shape);
    let groups = 65_537;
    let sizes = Operand::new(I32, &[groups], Style::Repeat, 0, Fill::Poison).spec();
    let weights = Operand::new(F32, &[groups, 2, 2], Style::Repeat, 0, Fill::Poison).spec();
    let grouped =
        Matmul { group: Group::Contiguous, sizes: Lens::Device { max: 1 }, ..Matmul::default() };
    // Packed entries without end cost a walk of their counts for every slice.
    let scores = Scores { rows: Lens::Device { max: 1 }, ..Scores::default() };
    let attention = Attention { scores: scores.clone(), ..Attention::default() };
    let (row, line) = (f(&[1, 1, 3, 2]), f(&[1, 1, 3]));
    let gradients = [row, row, row, row, line, row, sizes, row, row, row];
    vec![
        (grouped.into(), vec![f(&[3, 2]), weights, sizes, f(&[3, 2])], "65537 groups"),
        (attention.into(), vec![row, row, row, sizes, row], "65537 counts"),
        (AttentionBackward { scores }.into(), gradients.into(), "65537 counts"),
    ]
}

#[cfg(feature = "cpu")]
#[test]
fn what_the_cpu_does_not_run_is_unsupported() {
    use leasehold::backend::{Backend, cpu::Cpu};
    let cpu = Cpu::with_threads(1).unwrap();
    for (op, specs, named) in refused() {
        let text = format!("{op:?}");
        let checked = check(op, &specs).unwrap_or_else(|e| panic!("{text}: {e}"));
        let error = cpu.candidates(&checked).unwrap_err();
        assert!(matches!(error.kind(), leasehold::Kind::Unsupported { .. }), "{text}: {error}");
        assert!(error.to_string().contains(named), "{text}: {error}");
    }
}

/// Freedoms that a backend need not take change nothing where it takes none.
#[cfg(feature = "cpu")]
#[test]
fn a_freedom_not_taken_changes_no_plan() {
    use leasehold::backend::{Backend, cpu::Cpu};
    let cpu = Cpu::with_threads(1).unwrap();
    let plans = |op: Op, specs: &[Spec]| cpu.candidates(&check(op, specs).unwrap()).unwrap();
    let matmul = [spec(F32, &[300, 20]), spec(F32, &[20, 40]), spec(F32, &[300, 40])];
    let plain = plans(Matmul::default().into(), &matmul);
    for op in [
        Matmul { precision: Precision::Tf32, ..Matmul::default() },
        Matmul { order: OrderClass::Any, ..Matmul::default() },
        Matmul { constant_b: true, ..Matmul::default() },
    ] {
        assert_eq!(plans(op.into(), &matmul), plain);
    }
    let heads = vec![spec(F32, &[1, 2, 3, 4]); 4];
    let any = Attention { order: OrderClass::Any, ..Attention::default() };
    assert_eq!(plans(any.into(), &heads), plans(Attention::default().into(), &heads));
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

/// Operations are those of the shapes that kernels run over, not of the tensors' names alone.
#[test]
fn a_cost_counts_what_is_summed() {
    let f = |shape: &[u64]| spec(F32, shape);
    let flops = |op: Op, specs: &[Spec]| check(op, specs).unwrap().cost().flops;
    let gate = Matmul { gate: Gate::Interleaved, ..Matmul::default() };
    let plain = flops(Matmul::default().into(), &[f(&[3, 5]), f(&[5, 8]), f(&[3, 8])]);
    assert_eq!(plain, 2 * 3 * 5 * 8);
    assert_eq!(flops(gate.into(), &[f(&[3, 5]), f(&[5, 8]), f(&[3, 4])]), plain);
    // Groups along K have it once in all.
    let sizes = Lens::Host(vec![2, 3, 0]);
    let runs = Matmul { group: Group::K, sizes, ..Matmul::default() };
    assert_eq!(flops(runs.into(), &[f(&[3, 5]), f(&[5, 8]), f(&[3, 3, 8])]), plain);
    // Keys lie in as many pages as an entry has, held to the most that are asked for.
    let paged = |max| Attention {
        scores: Scores { lens: Lens::Device { max }, ..Scores::default() },
        key_value: KeyValue::Paged { page: 4 },
        ..Attention::default()
    };
    let keys = || f(&[9, 1, 4, 8]);
    let one = f(&[1, 1, 1, 8]);
    let specs = [one, keys(), keys(), spec(I32, &[1]), spec(I32, &[1, 6]), one];
    let [most, less] = [24, 10].map(|max| flops(paged(max).into(), &specs));
    assert_eq!(most, 24 * (2 * (8 + 8) + 8));
    assert_eq!(less, most / 24 * 10);
}

/// Of a table of matrices as many are read as an index has entries, and no more than there are.
#[test]
fn a_cost_counts_the_matrices_that_indices_name() {
    let bytes = |[index_a, index_b]: [bool; 2], matrices: u64, entries: u64| {
        let side = |is_indexed: bool, tail: [u64; 2]| {
            let lead = if is_indexed { matrices } else { entries };
            spec(F32, &[&[lead], &tail[..]].concat())
        };
        let mut specs = vec![side(index_a, [3, 5]), side(index_b, [5, 8])];
        specs.extend([index_a, index_b].iter().filter(|is| **is).map(|_| spec(I32, &[entries])));
        specs.push(side(false, [3, 8]));
        let op = Matmul { index_a, index_b, ..Matmul::default() };
        check(op.into(), &specs).unwrap().cost().bytes
    };
    let (a, b, out) = (4 * 15, 4 * 40, 4 * 24);
    assert_eq!(bytes([true, false], 1 << 20, 2), 2 * (a + b + out + 4));
    assert_eq!(bytes([false, true], 1 << 20, 2), 2 * (a + b + out + 4));
    assert_eq!(bytes([true, true], 1 << 20, 2), 2 * (a + b + out + 8));
    assert_eq!(bytes([false, true], 3, 7), 3 * b + 7 * (a + out + 4));
    assert_eq!(bytes([true, false], 3, 0), 0);
    // Rows of a table, and pages, likewise.
    let gather = [spec(F32, &[1 << 20, 3]), spec(I32, &[5]), spec(F32, &[5, 3])];
    let cost = check(Gather { axis: 0 }.into(), &gather).unwrap().cost();
    assert_eq!(cost.bytes, 4 * (15 + 5 + 15));
    let paged = Attention {
        scores: Scores { lens: Lens::Device { max: 8 }, ..Scores::default() },
        key_value: KeyValue::Paged { page: 4 },
        ..Attention::default()
    };
    let (one, pool) = (spec(F32, &[1, 1, 1, 8]), spec(F32, &[1 << 20, 1, 4, 8]));
    let specs = [one, pool, pool, spec(I32, &[1]), spec(I32, &[1, 2]), one];
    let cost = check(paged.into(), &specs).unwrap().cost();
    assert_eq!(cost.bytes, 4 * (8 + 2 * 2 * 32 + 1 + 2 + 8));
    // Windows of one row of elements, one element apart: they lie in few bytes however many there are.
    let layout = Layout::new(Dims::new(&[100, 3, 5]).unwrap(), Dims::new(&[1, 0, 1]).unwrap());
    let a = Spec::new(F32, layout.unwrap(), 0);
    let all = [a, spec(F32, &[60, 5, 8]), spec(I32, &[60]), spec(F32, &[60, 3, 8])];
    let op = Matmul { index_a: true, ..Matmul::default() };
    assert_eq!(check(op.into(), &all).unwrap().cost().bytes, 4 * (104 + 60 * (40 + 1 + 24)));
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
