//! The parity suite on the CUDA backend, whose driver is the host model: our kernels on the CPU, launched as on a card. Each
//! test runs again in a child that finds the model's `libcuda.so.1` first. Small cases only; the kernels' own tests and a
//! card do the rest.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
mod model;

use common::case::{Case, Fill, Operand, Style};
use common::hostile::{changed, changing, changing_those, is_told, lied_to, told};
use common::run::{Outcome, contents, execute, run_on};
use leasehold::backend::cuda::{Cuda, Pack};
use leasehold::backend::{Backend, Place, Progress};
use leasehold::op::{
    Activation, ArgMax, Attention, Gate, Group, KeyValue, Lens, Matmul, Norm, NormBackward,
    NormKind, Op, OrderClass, Precision, Quantize, QuantizeFormat, Reduce, ReduceFn, Scale, Scores,
    Softmax, TopK,
};
use leasehold::{DType, Device, Kind};
use model::{open, pack};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Floating-point operations of a case of the tables: the model does about a million a second.
const CASE_FLOPS: u128 = 400_000;

/// Runs this test in a child on the model of an architecture, unless this is that child; then it says so.
fn in_child(test: &str, arch: &str, order: &str) -> bool {
    model::in_child(test, &[(model::ARCH, arch), (model::ORDER, order)])
}

/// Runs cases under every plan and cut, none of which is refused.
fn run_each(cases: &[Case]) {
    let mut cuda = open();
    let failed = cases.iter().filter_map(|case| match run_on(&mut cuda, case) {
        Ok(Outcome::Passed) => None,
        Ok(Outcome::Unsupported(why)) => Some(format!("{}: {why}", case.name)),
        Err(why) => Some(format!("{}: {why}", case.name)),
    });
    let failed: Vec<String> = failed.collect();
    println!("{} cases run", cases.len());
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Whether every plan of every case is of kernels whose names begin so.
fn all_on(kernels: &str, cases: &[Case]) {
    let cuda = open();
    for case in cases {
        for plan in cuda.candidates(&case.checked()).unwrap() {
            assert!(plan.kernel.starts_with(kernels), "{}: {plan}", case.name);
        }
    }
}

/// The small cases of a table.
fn small(mut cases: Vec<Case>) -> Vec<Case> {
    cases.retain(|case| case.flops() <= CASE_FLOPS);
    cases
}

/// A product of 16-bit values, dense but for what `styles` say of A and B.
fn product(dtype: DType, batch: &[u64], [m, n, k]: [u64; 3], styles: [Style; 2]) -> Case {
    let with = |tail: [u64; 2]| [batch, &tail].concat();
    let normal = Fill::Normal(1.0);
    let operands = vec![
        Operand::new(dtype, &with([m, k]), styles[0], 0, normal),
        Operand::new(dtype, &with([k, n]), styles[1], 0, normal),
        Operand::out(DType::F32, &with([m, n]), Style::Tight, 0),
    ];
    Case::new(Matmul::default(), operands)
}

/// Products whose rows copies of 16 bytes bring, which few of the tables' are.
fn aligned() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F16, DType::BF16] {
        let of = |batch: &[u64], size, styles| product(dtype, batch, size, styles);
        // Three more elements make rows of 13 and 21 whole.
        cases.push(of(&[], [9, 24, 40], [Style::Tight; 2]));
        cases.push(of(&[3], [130, 72, 16], [Style::Tight; 2]));
        cases.push(of(&[2, 2], [13, 16, 72], [Style::Turned, Style::Tight]));
        cases.push(of(&[], [16, 9, 21], [Style::Odd, Style::Turned]));
        cases.push(of(&[2], [21, 16, 13], [Style::Turned; 2]));
    }
    for order in [OrderClass::BatchInvariant, OrderClass::Any] {
        let mut case = product(DType::BF16, &[2], [16, 24, 40], [Style::Tight; 2]);
        case.op = Matmul { order, alpha: 0.5, ..Matmul::default() }.into();
        cases.push(case);
    }
    // Rows of groups that begin where no 16 bytes do, dense along them.
    let mut case = product(DType::BF16, &[], [45, 48, 24], [Style::Turned, Style::Tight]);
    case.op = Matmul {
        group: Group::Contiguous,
        sizes: Lens::Host(vec![3, 20, 17]),
        order: OrderClass::BatchInvariant,
        ..Matmul::default()
    }
    .into();
    case.operands[1] = Operand::new(DType::BF16, &[3, 24, 48], Style::Tight, 0, Fill::Normal(1.0));
    cases.push(case);
    cases
}

/// Products of f32 that may be rounded to tf32, in every way that operands lie, with and without groups.
fn rounded() -> Vec<Case> {
    let of = |batch: &[u64], size, styles, op: Matmul| {
        let case = product(DType::F32, batch, size, styles);
        Case::new(Matmul { precision: Precision::Tf32, ..op }, case.operands)
    };
    let (tight, turned) = (Style::Tight, Style::Turned);
    let free = || Matmul { order: OrderClass::BatchInvariant, ..Matmul::default() };
    let mut cases = vec![
        of(&[], [9, 24, 40], [tight, tight], free()),
        of(&[2], [66, 9, 21], [Style::Odd, turned], Matmul { alpha: 0.5, ..Matmul::default() }),
        of(&[2, 2], [13, 16, 36], [turned, tight], Matmul::default()),
        of(&[], [21, 16, 13], [turned, turned], Matmul::default()),
        of(&[], [19, 17, 33], [tight, Style::Gapped], Matmul::default()),
    ];
    for group in [Group::Contiguous, Group::K] {
        let sizes = Lens::Host(vec![3, 0, 17]);
        let (of_b, of_out): (&[u64], &[u64]) =
            if group == Group::K { (&[], &[3]) } else { (&[3], &[]) };
        let mut case =
            of(&[], [24, 20, 24], [turned, tight], Matmul { group, sizes, ..Matmul::default() });
        case.operands[1] =
            Operand::new(DType::F32, &[of_b, &[24, 20]].concat(), tight, 0, Fill::Normal(1.0));
        case.operands[2] = Operand::out(DType::F32, &[of_out, &[24, 20]].concat(), tight, 0);
        cases.push(case);
    }
    cases
}

/// Products with groups and options whose rows copies of 16 bytes bring: what the rows of wgmma run.
fn of_hopper() -> Vec<Case> {
    let mut cases = Vec::new();
    let tight =
        |dtype, shape: &[u64]| Operand::new(dtype, shape, Style::Tight, 0, Fill::Normal(1.0));
    let [m, n, k] = [150, 48, 64];
    for (i, group) in [Group::Contiguous, Group::Masked].into_iter().enumerate() {
        let counts = [70, 0, 64];
        let (of_a, of_out): (&[u64], &[u64]) =
            if group == Group::Masked { (&[3], &[3]) } else { (&[], &[]) };
        let with = |batch: &[u64], rows, columns| [batch, &[rows, columns]].concat();
        let mut operands = vec![
            tight(DType::BF16, &with(of_a, m, k)),
            tight(DType::BF16, &with(&[3], k, n)),
            tight(DType::F32, &with(of_out, m, n / 2)),
        ];
        let sizes = if i == 0 {
            Lens::Host(counts.to_vec())
        } else {
            let list = Fill::List(counts);
            operands.push(Operand::new(DType::U32, &[3], Style::Tight, 0, list));
            Lens::Device { max: 70 }
        };
        operands.push(Operand::out(DType::BF16, &with(of_out, m, n / 2), Style::Tight, 0));
        let op = Matmul {
            group,
            sizes,
            gate: Gate::Interleaved,
            activation: Activation::Silu,
            residual: true,
            ..Matmul::default()
        };
        cases.push(Case::new(op, operands));
    }
    // Of fp8, with the scales that weights and activations have.
    let scale = |shape: &[u64]| Operand::new(DType::F32, shape, Style::Tight, 0, Fill::Positive);
    for by_columns in [false, true] {
        let b = if by_columns { Scale::Block1x128 } else { Scale::Block128x128 };
        let of_b: &[u64] = if by_columns { &[2, 40] } else { &[2, 1] };
        let op = Matmul { scales: [Scale::Block1x128, b], ..Matmul::default() };
        let operands = vec![
            // Three more elements make rows of 141 whole.
            Operand::new(DType::F8E4M3, &[33, 141], Style::Odd, 0, Fill::Normal(1.0)),
            Operand::new(DType::F8E4M3, &[141, 40], Style::Turned, 0, Fill::Normal(0.1)),
            scale(&[33, 2]),
            scale(of_b),
            Operand::out(DType::BF16, &[33, 40], Style::Tight, 0),
        ];
        cases.push(Case::new(op, operands));
        let group = if by_columns { Group::Masked } else { Group::Contiguous };
        cases.push(grouped_fp8(group, [Scale::Block1x128, b]));
    }
    cases
}

/// A product of fp8 of groups, to an output of i8 whose scales are found.
fn grouped_fp8(group: Group, scales: [Scale; 2]) -> Case {
    let tight = |dtype, shape: &[u64], fill| Operand::new(dtype, shape, Style::Tight, 0, fill);
    let [m, n, k] = [70, 40, 141];
    let counts = [40, 0, 21];
    let of: &[u64] = if group == Group::Masked { &[3] } else { &[] };
    let with = |batch: &[u64], rows, columns| [batch, &[rows, columns]].concat();
    let columns = if scales[1] == Scale::Block1x128 { n } else { 1 };
    let op = Matmul {
        group,
        sizes: Lens::Device { max: 40 },
        scales,
        quantize: Scale::Block1x128,
        ..Matmul::default()
    };
    let operands = vec![
        Operand::new(DType::F8E4M3, &with(of, m, k), Style::Odd, 0, Fill::Normal(1.0)),
        Operand::new(DType::F8E4M3, &[3, k, n], Style::Turned, 0, Fill::Normal(0.1)),
        tight(DType::F32, &with(of, m, 2), Fill::Positive),
        tight(DType::F32, &with(&[3], 2, columns), Fill::Positive),
        tight(DType::I32, &[3], Fill::List(counts)),
        Operand::out(DType::I8, &with(of, m, n), Style::Tight, 0),
        Operand::out(DType::F32, &with(of, m, 1), Style::Tight, 0),
    ];
    Case::new(op, operands)
}

#[test]
fn matmul() {
    if in_child("matmul", "sm_90a", "late") {
        let cases = small(common::tables::matmul());
        assert!(cases.len() > 100, "{} cases", cases.len());
        run_each(&cases);
        run_each(&aligned());
        run_each(&rounded());
        all_on("matmul_sm80_tf32", &rounded());
        all_on("matmul_sm90", &of_hopper());
        run_each(&of_hopper());
    }
}

/// Few outputs of many terms: K in splits, the last of them short, merged into an epilogue in a unit of its own.
#[test]
fn matmul_in_splits() {
    if in_child("matmul_in_splits", "sm_90a", "early") {
        let (cases, cuda) = (common::products::splits(), open());
        for case in &cases {
            for plan in cuda.candidates(&case.checked()).unwrap() {
                let is_split = plan.order.entry == "matmul_sm90_split" && plan.units() > 1;
                assert!(is_split, "{}: {plan}", case.name);
            }
        }
        drop(cuda);
        run_each(&cases);
    }
}

/// The same by the rows that every architecture has.
#[test]
fn matmul_on_ampere() {
    if in_child("matmul_on_ampere", "sm_80", "early") {
        let mut cases = aligned();
        cases.extend(of_hopper());
        cases.extend(rounded());
        cases.extend(small(common::tables::matmul()).into_iter().step_by(4));
        run_each(&cases);
    }
}

/// Sizes of groups in device memory that lie; not few tell a fault, others have none to tell.
#[test]
fn sizes_of_groups_that_lie() {
    if in_child("sizes_of_groups_that_lie", "sm_90a", "early") {
        let mut cuda = open();
        let mut cases: Vec<Case> = of_hopper();
        cases.extend(small(common::tables::matmul()));
        cases.retain(is_told);
        let mut faults = 0;
        for case in &cases {
            let plan = cuda.candidates(&case.checked()).unwrap()[0];
            faults += usize::from(lied_to(&mut cuda, case, &plan));
        }
        assert!(cases.len() > 10 && faults * 3 > cases.len(), "{faults} faults of {}", cases.len());
    }
}

/// A product of matrices that indices name: three of an indexed side, B dense along K or along N.
fn named(
    dtype: DType,
    batch: &[u64],
    sides: [bool; 2],
    [m, n, k]: [u64; 3],
    style: Style,
    out: DType,
) -> Case {
    let [index_a, index_b] = sides;
    let with = |is_indexed: bool, tail: [u64; 2]| {
        let lead: &[u64] = if is_indexed { &[3] } else { batch };
        [lead, &tail].concat()
    };
    let normal = Fill::Normal(1.0);
    // Three more elements make rows of k whole, where B's lie along it.
    let of_a = if style == Style::Turned { Style::Odd } else { style };
    let mut operands = vec![
        Operand::new(dtype, &with(index_a, [m, k]), of_a, 0, normal),
        Operand::new(dtype, &with(index_b, [k, n]), style, 0, normal),
    ];
    let of = [(index_a, DType::U32), (index_b, DType::I32)].into_iter().filter(|(is, _)| *is);
    let index = |(_, dtype)| Operand::new(dtype, batch, Style::Gapped, 0, Fill::Indices(3));
    operands.extend(of.map(index));
    operands.push(Operand::out(out, &with(false, [m, n]), Style::Tight, 0));
    Case::new(Matmul { index_a, index_b, ..Matmul::default() }, operands)
}

/// Such products whose matrices the copy engine brings.
fn named_on_hopper() -> Vec<Case> {
    let (bf16, fp8) = (DType::BF16, DType::F8E4M3);
    let mut scaled = named(fp8, &[4], [false, true], [33, 48, 141], Style::Turned, DType::F32);
    scaled.op =
        Matmul { index_b: true, scales: [Scale::Row, Scale::None], ..Matmul::default() }.into();
    let rows = Operand::new(DType::F32, &[4, 33], Style::Tight, 0, Fill::Positive);
    scaled.operands.insert(2, rows);
    let mut gated = named(DType::F16, &[4], [true, true], [70, 48, 37], Style::Turned, DType::F16);
    let gate = Gate::Interleaved;
    gated.op = Matmul { index_a: true, index_b: true, gate, ..Matmul::default() }.into();
    gated.operands[4] = Operand::out(DType::F16, &[4, 70, 24], Style::Tight, 0);
    vec![
        named(bf16, &[5], [true, true], [130, 72, 64], Style::Tight, DType::F32),
        named(bf16, &[2, 3], [true, false], [7, 40, 133], Style::Turned, bf16),
        named(DType::F16, &[1, 4], [false, true], [20, 24, 72], Style::Tight, DType::F16),
        named(fp8, &[5], [true, true], [70, 32, 141], Style::Turned, DType::BF16),
        scaled,
        gated,
    ]
}

/// The cases of the table that the model has time for.
fn named_by_table() -> Vec<Case> {
    let mut cases = common::products::indexed();
    cases.retain(|case| case.flops() <= 3 * CASE_FLOPS);
    cases
}

/// Of each case whatever the indices say the result is the reference's, nothing else changes and a fault is told.
fn lie_to(cases: &[Case]) {
    let (mut cuda, mut faults, mut count) = (open(), 0, 0);
    for case in cases {
        for plan in cuda.candidates(&case.checked()).unwrap() {
            count += 1;
            faults += usize::from(lied_to(&mut cuda, case, &plan));
        }
    }
    assert!(faults * 3 > count, "{faults} faults of {count}");
}

#[test]
fn matmul_by_index() {
    if in_child("matmul_by_index", "sm_90a", "late") {
        let (table, hopper) = (named_by_table(), named_on_hopper());
        assert!(table.len() > 15, "{} cases", table.len());
        let cuda = open();
        for case in &hopper {
            let plans = cuda.candidates(&case.checked()).unwrap();
            assert!(plans[0].kernel.starts_with("matmul_sm90"), "{}: {}", case.name, plans[0]);
        }
        drop(cuda);
        run_each(&table);
        run_each(&hopper);
    }
}

#[test]
fn matrices_by_index_that_lie() {
    if in_child("matrices_by_index_that_lie", "sm_90a", "early") {
        lie_to(&named_on_hopper());
        lie_to(&named_by_table().into_iter().step_by(2).collect::<Vec<_>>());
        // Of the plain product, and of one that gathers: both are cut along K.
        let mut plain =
            named(DType::F16, &[3], [true, true], [3, 4, 5000], Style::Tight, DType::F8E4M3);
        let (index_a, index_b) = (true, true);
        plain.op = Matmul { index_a, index_b, quantize: Scale::Tensor, ..Matmul::default() }.into();
        plain.operands.insert(4, Operand::new(DType::F32, &[1], Style::Tight, 0, Fill::Positive));
        let gathered =
            named(DType::BF16, &[3], [true, true], [3, 5, 3300], Style::Gapped, DType::F32);
        let mut cuda = open();
        for case in [plain, gathered] {
            let case = Case::new(case.op, case.operands);
            for plan in cuda.candidates(&case.checked()).unwrap() {
                println!("cases of {plan}");
                assert!(plan.links > 1, "{}: {plan}", case.name);
                assert!(changing(&mut cuda, &case, &plan), "{}: {plan}", case.name);
            }
        }
    }
}

#[test]
fn matmul_by_index_on_ampere() {
    if in_child("matmul_by_index_on_ampere", "sm_80", "early") {
        let mut cases = named_on_hopper();
        cases.extend(named_by_table().into_iter().step_by(3));
        run_each(&cases);
    }
}

/// Attention of 16-bit values in the head dims of the rows.
fn heads() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, dtype) in [DType::F16, DType::BF16].into_iter().enumerate() {
        for (d, dv) in [(64, 64), (64, 128), (128, 64), (192, 128), (200, 256)] {
            let (rows, keys, group) = (20 + 13 * i as u64, 70 + d, 2);
            let lens = [Lens::Full, Lens::Host(vec![keys as u32 - 60, 0])][i].clone();
            let normal = Fill::Normal(1.0);
            let tight = |shape: &[u64]| Operand::new(dtype, shape, Style::Tight, 0, normal);
            let op = Attention {
                scores: Scores { scale: 0.125, causal: d == dv, lens, ..Scores::default() },
                log_sum_exp: true,
                ..Attention::default()
            };
            let operands = vec![
                tight(&[2, group, rows, d]),
                tight(&[2, 1, keys, d]),
                tight(&[2, 1, keys, dv]),
                Operand::out(dtype, &[2, group, rows, dv], Style::Tight, 0),
                Operand::out(DType::F32, &[2, group, rows], Style::Tight, 0),
            ];
            cases.push(Case::new(op, operands));
        }
    }
    cases
}

/// Few rows over keys that are split, dense and in pages, their counts the host's and the device's.
fn decode() -> Vec<Case> {
    let lens = [300, 0, 257];
    let of = |paged: bool, dtype, rows: u64| {
        let normal = |shape: &[u64]| Operand::new(dtype, shape, Style::Tight, 0, Fill::Normal(1.0));
        let (page, room) = (16, 19);
        let kv = |d: u64| match paged {
            true => normal(&[60, 1, page, d]),
            false => normal(&[3, 1, 300, d]),
        };
        let mut operands = vec![normal(&[3, 2, rows, 136]), kv(136), kv(80)];
        if paged {
            operands.push(Operand::new(DType::I32, &[3], Style::Gapped, 0, Fill::List(lens)));
            let pages = Fill::Indices(60);
            operands.push(Operand::new(DType::U32, &[3, room], Style::Odd, 0, pages));
        }
        operands.push(Operand::out(dtype, &[3, 2, rows, 80], Style::Odd, 0));
        operands.push(Operand::out(DType::F32, &[3, 2, rows], Style::Tight, 0));
        let op = Attention {
            scores: Scores {
                scale: 0.1,
                causal: true,
                lens: if paged { Lens::Device { max: 300 } } else { Lens::Host(lens.to_vec()) },
                ..Scores::default()
            },
            key_value: match paged {
                true => KeyValue::Paged { page: page as u32 },
                false => KeyValue::Dense,
            },
            log_sum_exp: true,
            ..Attention::default()
        };
        Case::new(op, operands)
    };
    vec![of(true, DType::F16, 1), of(false, DType::BF16, 3)]
}

#[test]
fn attention() {
    if in_child("attention", "sm_90a", "late") {
        run_each(&small(common::tables::attention()));
        run_each(&heads());
        run_each(&decode());
    }
}

#[test]
fn attention_on_ampere() {
    if in_child("attention_on_ampere", "sm_80", "early") {
        let table = small(common::tables::attention());
        run_each(&table.into_iter().step_by(3).collect::<Vec<_>>());
        run_each(&decode());
    }
}

/// Gradients with the options of attention: few are small.
fn gradients_with_options() -> Vec<Case> {
    let mut cases = common::tables::attention_backward();
    cases.retain(|case| {
        let Op::AttentionBackward(op) = &case.op else { return false };
        let is_plain =
            Scores { scale: op.scores.scale, causal: op.scores.causal, ..Scores::default() };
        op.scores != is_plain && case.flops() <= 40 * CASE_FLOPS
    });
    assert!(cases.len() > 8, "{} cases", cases.len());
    cases
}

#[test]
fn attention_backward() {
    if in_child("attention_backward", "sm_90a", "late") {
        run_each(&small(common::tables::attention_backward()));
        run_each(&gradients_with_options());
        let tiles = common::gradients::attention_backward_in_tiles();
        let (unaligned, aligned) = tiles.split_last().unwrap();
        all_on("attention_backward_sm90_keys", aligned);
        all_on("attention_backward_keys", std::slice::from_ref(unaligned));
        run_each(&tiles);
        let entries = common::gradients::attention_backward_of_entries();
        all_on("attention_backward_sm90_keys", &entries);
        run_each(&entries);
    }
}

#[test]
fn attention_backward_on_ampere() {
    if in_child("attention_backward_on_ampere", "sm_80", "early") {
        let table = small(common::tables::attention_backward());
        run_each(&table.into_iter().step_by(3).collect::<Vec<_>>());
        run_each(&common::gradients::attention_backward_in_tiles()[..1]);
        run_each(&gradients_with_options());
    }
}

/// Counts of rows and keys that lie.
#[test]
fn counts_of_gradients_that_lie() {
    if !in_child("counts_of_gradients_that_lie", "sm_80", "late") {
        return;
    }
    let mut cuda = open();
    let mut cases = gradients_with_options();
    cases.retain(is_told);
    let mut faults = 0;
    for case in &cases {
        let plan = cuda.candidates(&case.checked()).unwrap()[0];
        faults += usize::from(lied_to(&mut cuda, case, &plan));
    }
    assert!(cases.len() > 2 && faults * 3 > cases.len(), "{faults} faults of {}", cases.len());
}

/// Counts and pages that lie or change while kernels read them.
#[test]
fn counts_and_pages_of_attention_that_lie() {
    if !in_child("counts_and_pages_of_attention_that_lie", "sm_90a", "late") {
        return;
    }
    let mut cuda = open();
    let mut cases = common::tables::attention();
    cases.retain(|case| is_told(case) && case.flops() <= 40 * CASE_FLOPS);
    let (mut run, mut faults) = (0, 0);
    for case in cases.iter().chain(&decode()[..1]) {
        run += 1;
        let plan = cuda.candidates(&case.checked()).unwrap()[0];
        faults += usize::from(lied_to(&mut cuda, case, &plan));
    }
    assert!(run > 10 && faults * 3 > run, "{faults} faults of {run}");
    assert!(changed(&mut cuda, "attention_sm80_f16_64", 100));
}

/// Rows of batch-invariant attention have the same bits whatever rows and entries are beside them.
#[test]
fn batch_invariant_attention_ignores_its_neighbours() {
    if !in_child("batch_invariant_attention_ignores_its_neighbours", "sm_90a", "late") {
        return;
    }
    let mut cuda = open();
    const D: u64 = 32;
    const KEYS: u64 = 240;
    const BEFORE: u64 = 90;
    let lines = |rows: u64| (rows * D * 2) as usize;
    let make = |shape: &[u64]| Operand::new(DType::BF16, shape, Style::Tight, 0, Fill::Normal(1.0));
    let all = make(&[150, D]).content(1);
    let (keys, values) = (make(&[KEYS, D]).content(2), make(&[KEYS, D]).content(3));
    // Rows from each of `firsts` on, an entry of the batch each, with the keys up to them that a window leaves.
    let mut run = |rows: u64, firsts: &[u64]| {
        let batch = firsts.len() as u64;
        let kv = make(&[batch, 1, KEYS, D]);
        let out = Operand::out(DType::BF16, &[batch, 1, rows, D], Style::Tight, 0);
        let op = Attention {
            scores: Scores {
                scale: 0.2,
                causal: true,
                window: Some([100, 0]),
                lens: Lens::Host(
                    firsts.iter().map(|first| (BEFORE + first + rows) as u32).collect(),
                ),
                ..Scores::default()
            },
            order: OrderClass::BatchInvariant,
            ..Attention::default()
        };
        let case = Case::new(op, vec![make(&[batch, 1, rows, D]), kv.clone(), kv, out]);
        let mut bytes = contents(&case);
        for (i, &first) in firsts.iter().enumerate() {
            let (to, from) = (i * lines(rows), lines(first));
            bytes[0][to..to + lines(rows)].copy_from_slice(&all[from..from + lines(rows)]);
            for (j, from) in [(1, &keys), (2, &values)] {
                let to = i * lines(KEYS);
                bytes[j][to..to + lines(KEYS)].copy_from_slice(&from[..lines(KEYS)]);
            }
        }
        let op = Arc::new(case.checked());
        let plan = cuda.candidates(&op).unwrap()[0];
        let left = execute(&mut cuda, &op, &plan, &bytes, &case, &[plan.units() as u64]);
        left.unwrap().blocks.swap_remove(3)
    };
    let whole = run(150, &[0]);
    for (rows, firsts) in [(1, &[149, 0, 70][..]), (20, &[120, 33])] {
        let got = run(rows, firsts);
        for (i, &first) in firsts.iter().enumerate() {
            let (at, from) = (i * lines(rows), lines(first));
            let same = got[at..at + lines(rows)] == whole[from..from + lines(rows)];
            assert!(same, "{rows} rows from {first} on");
        }
    }
}

/// Two rows of several pieces, which most tables have too long ones of, and the terms of sums side by side.
fn long_rows() -> Vec<Case> {
    let (shape, n) = ([2, 20_000], 20_000);
    let x = || Operand::new(DType::F32, &shape, Style::Odd, 1, Fill::Normal(1.0));
    let out = |dtype, shape: &[u64]| Operand::out(dtype, shape, Style::Gapped, 3);
    let like = |dtype| out(dtype, &shape);
    let weight = || Operand::new(DType::F16, &[n], Style::Tight, 0, Fill::Normal(1.0));
    let mut cases = Vec::new();
    for kind in [NormKind::Layer, NormKind::Rms] {
        let norm = Norm { kind, epsilon: 1e-5, weight: true, bias: false };
        cases.push(Case::new(norm, vec![x(), weight(), like(DType::BF16)]));
        let back = NormBackward { kind, epsilon: 1e-5, weight: true };
        let outs = [like(DType::F16), like(DType::F32)];
        cases.push(Case::new(back, [x(), weight(), x()].into_iter().chain(outs).collect()));
    }
    cases.push(Case::new(Softmax { scale: 2.0, axis: 1 }, vec![x(), like(DType::F16)]));
    cases.push(Case::new(ArgMax { axis: 1 }, vec![x(), out(DType::I32, &[2])]));
    let found = [DType::F32, DType::U32].map(|dtype| out(dtype, &[2, 40]));
    cases.push(Case::new(TopK { k: 40, axis: 1 }, [x()].into_iter().chain(found).collect()));
    for (format, scales) in [(QuantizeFormat::Row, 2), (QuantizeFormat::Tensor, 1)] {
        let outs = [like(DType::F8E4M3), out(DType::F32, &[scales])];
        let op = Quantize { format, inverse: false };
        cases.push(Case::new(op, [x()].into_iter().chain(outs).collect()));
    }
    let reduce = Reduce { function: ReduceFn::Mean, axis: 1 };
    cases.push(Case::new(reduce.clone(), vec![x(), out(DType::F32, &[2])]));
    let beside = Operand::new(DType::BF16, &[300, 70], Style::Tight, 0, Fill::Normal(1.0));
    let reduce = Reduce { axis: 0, ..reduce };
    cases.push(Case::new(reduce, vec![beside, out(DType::F32, &[70])]));
    cases
}

/// One test per op that streams: the cases of its table up to so many operations, for each of which there is a plan.
macro_rules! streams {
    ($($op:ident: $flops:literal,)*) => {$(
        #[test]
        fn $op() {
            if in_child(stringify!($op), "sm_90a", "late") {
                let mut cases = common::tables::$op();
                cases.retain(|case| case.flops() <= $flops);
                assert!(cases.len() > 20, "{} cases", cases.len());
                run_each(&cases);
            }
        }
    )*};
}

streams! {
    copy: 70_001,
    map: 600_000,
    gather: 50_000,
    rope: 1_000_000,
    scatter: 400_000,
    quantize: 200_000,
    norm: 500_000,
    softmax: 350_000,
    reduce: 132_000,
    arg_max: 132_000,
    top_k: 35_000,
    norm_backward: 2_000_000,
}

#[test]
fn rows_in_pieces() {
    if in_child("rows_in_pieces", "sm_80", "early") {
        run_each(&long_rows());
    }
}

/// How often operands changed between slices, and how often a fault was told then, by kernels and the operand's name.
type Changed = BTreeMap<(&'static str, &'static str), [usize; 2]>;

/// Runs cases that read indices or counts and take more than one slice, each of these operands changing alone.
fn change_in_each(cuda: &mut Cuda, cases: &[Case], changed: &mut Changed) {
    for case in cases.iter().filter(|case| is_told(case)) {
        for plan in cuda.candidates(&case.checked()).unwrap() {
            let by = if plan.kernel.starts_with("matmul_sm90") { "wgmma" } else { case.op.name() };
            for name in told(case).into_iter().filter(|_| plan.units() > 1) {
                let told = changing_those(cuda, case, &plan, |other| other == name);
                let [run, faults] = changed.entry((by, name)).or_default();
                (*run, *faults) = (*run + 1, *faults + usize::from(told));
            }
        }
    }
}

/// Every operand of indices or counts that more than one slice of an op reads, changed between them: each unit of a gather
/// has its own.
#[test]
fn what_is_told_changes_between_slices() {
    if !in_child("what_is_told_changes_between_slices", "sm_90a", "early") {
        return;
    }
    let (mut cuda, mut changed) = (open(), Changed::new());
    let mut attention = common::tables::attention();
    attention.retain(|case| is_told(case) && case.flops() <= 40 * CASE_FLOPS);
    for cases in [
        small(common::tables::scatter()),
        attention,
        gradients_with_options(),
        small(common::tables::matmul()),
        common::products::chains_by_index(),
        of_hopper(),
        named_on_hopper(),
    ] {
        change_in_each(&mut cuda, &cases, &mut changed);
    }
    println!("cases: {changed:?}");
    let names: Vec<(&str, &str)> = changed.keys().copied().collect();
    let of = |by, names: &[&'static str]| names.iter().map(|name| (by, *name)).collect::<Vec<_>>();
    let every = [
        of("attention", &["lens", "pages", "rows"]),
        of("attention_backward", &["lens", "rows"]),
        of("matmul", &["a_index", "b_index", "sizes"]),
        of("scatter", &["index", "lens", "pages"]),
        of("wgmma", &["a_index", "b_index", "sizes"]),
    ];
    assert_eq!(names, every.concat());
    assert!(changed.values().all(|[run, faults]| faults == run), "{changed:?}");
}

/// Whatever indices say, the result is the reference's, nothing else changes and the fault is told.
#[test]
fn gathers_and_scatters_that_lie() {
    if !in_child("gathers_and_scatters_that_lie", "sm_90a", "late") {
        return;
    }
    let mut cuda = open();
    for cases in [common::tables::gather(), common::tables::scatter()] {
        let (mut run, mut faults) = (0, 0);
        for case in cases.iter().filter(|case| case.flops() <= 20_000) {
            run += 1;
            let plan = cuda.candidates(&case.checked()).unwrap()[0];
            faults += usize::from(common::hostile::lied_to(&mut cuda, case, &plan));
        }
        println!("{run} cases lied");
        assert!(run > 20 && faults * 3 > run, "{faults} faults of {run}");
    }
}

#[test]
fn memory_is_what_it_should_be() {
    if !in_child("memory_is_what_it_should_be", "sm_90a", "late") {
        return;
    }
    let mut cuda = open().with_memory(64 << 20);
    let bytes: Vec<u8> = (0..10 << 20).map(|i| (i % 251) as u8).collect();
    let (large, small) = (cuda.alloc(10 << 20).unwrap(), cuda.alloc(100).unwrap());
    cuda.upload(large, 0, &bytes).unwrap();
    cuda.upload(small, 0, &[9; 100]).unwrap();
    cuda.copy(Place { block: large, offset: 5 }, Place { block: small, offset: 1 }, 50).unwrap();
    cuda.zero(large, 100, 1000).unwrap();
    let mark = cuda.mark().unwrap();
    assert!(matches!(cuda.poll(mark, None).unwrap(), Progress::Done { fault: None, .. }));
    let mut back = vec![1; 10 << 20];
    cuda.download(large, 0, &mut back).unwrap();
    let mut expected = bytes.clone();
    expected[100..1100].fill(0);
    assert!(back == expected);
    let mut back = [0; 100];
    cuda.download(small, 0, &mut back).unwrap();
    assert_eq!((back[0], &back[1..51], &back[51..]), (9, &bytes[5..55], &[9; 49][..]));
    // Nothing beyond a block is reached, and unknown blocks are none.
    assert!(matches!(cuda.zero(small, 0, 1 << 20).unwrap_err().kind(), Kind::Bounds { .. }));
    assert!(cuda.upload(small, u64::MAX, &[1]).is_err());
    // Out of memory leaves the device usable, and what is freed makes room for another size.
    let error = cuda.alloc(60 << 20).unwrap_err();
    assert!(
        matches!(error.kind(), Kind::OutOfMemory { quota, .. } if *quota == 64 << 20),
        "{error}"
    );
    assert!(cuda.alloc(u64::MAX).is_err());
    cuda.free(large);
    assert!(cuda.upload(large, 0, &[1]).is_err());
    let other = cuda.alloc(40 << 20).unwrap();
    cuda.zero(other, 0, 40 << 20).unwrap();
    let many: Vec<_> = (0..50).map(|i| cuda.alloc(1 << (i % 16)).unwrap()).collect();
    many.into_iter().for_each(|block| cuda.free(block));
}

/// A driver and a pack and no compiler: the device is opened by name and by default, and the pack is the only source.
#[test]
fn a_served_machine_needs_a_driver_and_a_pack() {
    if !in_child("a_served_machine_needs_a_driver_and_a_pack", "sm_90a", "late") {
        return;
    }
    let found = Device::list();
    assert_eq!(found[0].name, "cuda:0");
    assert_eq!((found[0].caps.backend, found[0].caps.arch), ("cuda", "sm_90a"));
    let read = Pack::read(&model::pack_file()).unwrap();
    let dev = Device::from_backend(Cuda::open_with(0, &read).unwrap()).unwrap();
    let again = Device::from_backend(open()).unwrap();
    assert_eq!(dev.numerics(), again.numerics());
    let error = Cuda::open_with(0, &pack("sm_80")).err().unwrap();
    assert!(matches!(error.kind(), Kind::NoDevice { .. }), "{error}");
    assert!(Cuda::open_with(7, &read).is_err());
    // Tensors and queues on it, through the engine.
    let x: Vec<leasehold::bf16> =
        (0..64 * 64).map(|i| leasehold::bf16::from_f32((i % 7) as f32)).collect();
    let a = dev.tensor([64, 64], &x).unwrap();
    let y = leasehold::Matmul::new(&a, &a).run().unwrap();
    let read = y.read::<leasehold::bf16>().unwrap().wait(None).unwrap();
    let exact: f32 = (0..64).map(|k| ((k % 7) * (64 * k % 7)) as f32).sum();
    assert_eq!(read[0], leasehold::bf16::from_f32(exact));
}

/// No driver, as on most machines: a reason, and the next device.
#[test]
fn a_machine_without_a_driver_says_so() {
    if let Err(why) = Cuda::enumerate() {
        assert!(!why.is_empty());
        let error = Device::open_named("cuda:0").unwrap_err();
        assert!(matches!(error.kind(), Kind::NoDevice { .. }), "{error}");
        let dev = Device::open_named("cpu").unwrap();
        assert_eq!(dev.caps().backend, "cpu");
    }
    assert!(Device::open_named("cuda:x").is_err());
}
