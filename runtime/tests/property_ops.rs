//! Properties of ops as data: what `check` accepts stays in bounds, within the time cap, and right; what it
//! rejects is named; any cut of a plan gives equal bits. Cases grow from a legal one by at most a few changes.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::case::{Case, Fill, Operand, Style};
use common::grow::{ALL, JUDGED, apply, change, choices, resized, within_cap};
use common::run::{Outcome, contents, execute, run_on};
use leasehold::backend::cpu::Cpu;
use leasehold::backend::null::Null;
use leasehold::backend::{Backend, Place};
use leasehold::op::{Binding, BufferId, CheckedOp, Map, MapFn, Matmul, Op, Spec, check};
use leasehold::{DType, Rule};
use proptest::prelude::*;
use std::sync::Arc;

/// Runs a checked op on `null`, which holds every operand's span against its block, in one launch.
fn stays_inside(op: &Arc<CheckedOp>, offsets: &[u64]) {
    let mut null = Null::new(u64::MAX).0;
    let mut places = Vec::new();
    let mut bindings = Vec::new();
    for (spec, &offset) in op.specs().iter().zip(offsets) {
        let offset = offset / 256 * 256 + u64::from(spec.offset_class);
        let Some(len) = offset.checked_add(spec.span_bytes() as u64) else { return };
        let Ok(block) = null.alloc(len) else { return };
        places.push(Place { block, offset });
        bindings.push(Binding { buffer: BufferId(block.0), offset, len });
    }
    // A byte less is a byte too few.
    for i in (0..bindings.len()).filter(|&i| op.specs()[i].span_bytes() > 0) {
        let mut short = bindings.clone();
        short[i].len -= 1;
        assert_eq!(op.bind(&short).unwrap_err().rule(), Some(Rule::InBounds));
    }
    let bound = op.bind(&bindings).unwrap();
    let Ok(plans) = null.candidates(op) else { return };
    let mut prepared = null.prepare(op, &plans[0]).unwrap();
    null.launch(&mut prepared, 0..1, &bound, &places, None).unwrap();
}

/// Every backend's units are within its cap.
fn capped(op: &CheckedOp) {
    let null = Null::new(u64::MAX).0;
    within_cap(op, null.candidates(op), null.caps().unit_cap_ns);
    CPU.with(|cpu| within_cap(op, cpu.candidates(op), cpu.caps().unit_cap_ns));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_ops_agree_with_the_reference(choices in choices(24, JUDGED)) {
        let case = choices.case();
        let outcome = run_on(&mut Cpu::new().unwrap(), &case);
        prop_assert!(matches!(outcome, Ok(Outcome::Passed)), "{}: {outcome:?}", case.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_stays_in_bounds_and_rejected_names_its_rule(
        choices in choices(9, ALL),
        changes in prop::collection::vec(change(), 0..3),
    ) {
        let mut case = choices.case();
        changes.iter().for_each(|change| apply(&mut case, change));
        let specs: Vec<Spec> = case.operands.iter().map(Operand::spec).collect();
        match check(case.op.clone(), &specs) {
            Err(error) => {
                prop_assert!(error.rule().is_some(), "{error}");
                prop_assert_eq!(error.op(), Some(case.op.name()));
            }
            Ok(op) => {
                capped(&op);
                let offsets: Vec<u64> = case.operands.iter().map(|o| o.offset).collect();
                stays_inside(&Arc::new(op), &offsets);
            }
        }
    }

    #[test]
    fn no_accepted_size_predicts_a_unit_over_the_cap(op in resized()) {
        op.iter().for_each(capped);
    }
}

thread_local! {
    /// One backend a test thread: starting its threads takes longer than planning.
    static CPU: &'static Cpu = Box::leak(Box::new(Cpu::new().unwrap()));
}

/// Cheap cases of several links: their state is carried from unit to unit.
fn chained(backend: &impl Backend) -> Vec<Case> {
    let has_state = |case: &Case| {
        let plans = backend.candidates(&case.checked());
        plans.is_ok_and(|plans| plans[0].state_bytes > 0)
    };
    let small = |case: &Case| case.flops() <= u128::from(common::CASE_FLOPS / 2);
    let tables = [common::tables::matmul(), common::tables::attention(), common::tables::norm()];
    let more = [common::tables::softmax(), common::tables::reduce(), common::tables::quantize()];
    let gradients = [common::tables::norm_backward(), common::tables::attention_backward()];
    let options = [common::products::options()];
    let all = tables.into_iter().chain(more).chain(gradients).chain(options).flat_map(|table| {
        table.into_iter().filter(|c| small(c) && has_state(c)).take(3).collect::<Vec<_>>()
    });
    all.collect()
}

fn cut_anywhere(mut backend: impl Backend, names: &[&str]) {
    let cases = chained(&backend);
    for name in names {
        assert!(cases.iter().any(|case| case.op.name() == *name), "no chained {name}");
    }
    let mut random = common::case::Random(11);
    for case in &cases {
        let op = Arc::new(case.checked());
        let plan = backend.candidates(&op).unwrap()[0];
        let (contents, units) = (contents(case), plan.units() as u64);
        let whole = execute(&mut backend, &op, &plan, &contents, case, &[units]).unwrap();
        for _ in 0..5 {
            let mut cuts: Vec<u64> = (0..random.below(8)).map(|_| random.below(units)).collect();
            cuts.push(units);
            cuts.sort();
            let cut = execute(&mut backend, &op, &plan, &contents, case, &cuts).unwrap();
            assert!(whole == cut, "{} cut at {cuts:?}", case.name);
        }
    }
}

/// Ops that every backend cuts into chains.
const CHAINED: [&str; 5] = ["matmul", "attention", "norm", "softmax", "reduce"];

#[test]
fn any_cut_gives_equal_bits() {
    let gradients = ["norm_backward", "attention_backward"];
    cut_anywhere(Cpu::new().unwrap(), &[&CHAINED[..], &["quantize"], &gradients].concat());
}

#[cfg(feature = "wgpu")]
#[test]
fn any_cut_gives_equal_bits_on_wgpu() {
    common::adapter::open().into_iter().for_each(|adapter| cut_anywhere(adapter, &CHAINED));
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let mut all: Vec<Vec<Vec<u8>>> = Vec::new();
    for threads in ["1", "2", "5"] {
        let mut cpu = Cpu::with_threads(threads.parse().unwrap()).unwrap();
        let cases = [common::tables::matmul(), common::tables::attention()].concat();
        let more = [common::tables::quantize(), common::tables::attention_backward()].concat();
        let cases = [cases, more].concat();
        let some = cases.iter().filter(|case| case.flops() <= common::CASE_FLOPS.into()).step_by(7);
        all.push(
            some.flat_map(|case| {
                let op = Arc::new(case.checked());
                let plan = cpu.candidates(&op).unwrap()[0];
                let contents = contents(case);
                let units = plan.units() as u64;
                execute(&mut cpu, &op, &plan, &contents, case, &[units]).unwrap().blocks
            })
            .collect(),
        );
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn more_than_2_to_31_elements() {
    if !common::full() {
        println!("skip: needs 13 GB of memory; set LEASEHOLD_TEST_FULL=1");
        return;
    }
    let neg = Map { function: MapFn::Neg, scale: 1.0, shift: 0.0 };
    let n = (1 << 31) + 5;
    let x = Operand::new(DType::BF16, &[n], Style::Repeat, 0, Fill::Poison);
    large(neg.into(), vec![x], &[n], &[&[1.5]], |_| -1.5);
    // Products of small integers are exact in bf16.
    let [m, n] = [65_537, 32_769];
    let inputs = [[m, 1], [1, n]];
    let inputs = inputs.map(|s| Operand::new(DType::BF16, &s, Style::Tight, 0, Fill::Poison));
    let (a, b) = (|row: u64| (row % 15) as f32, |col: u64| (col % 7) as f32);
    let values = [(0..m).map(a).collect::<Vec<_>>(), (0..n).map(b).collect()];
    let exact = |i| a(i / n) * b(i % n);
    large(Matmul::default().into(), inputs.to_vec(), &[m, n], &[&values[0], &values[1]], exact);
}

/// Runs an op on the CPU whose bf16 output has more than 2^31 elements, at an odd offset, and compares each.
fn large(
    op: Op,
    mut operands: Vec<Operand>,
    shape: &[u64],
    values: &[&[f32]],
    exact: impl Fn(u64) -> f32,
) {
    let bits = |x: f32| leasehold::bf16::from_f32(x).to_le_bytes();
    operands.push(Operand::out(DType::BF16, shape, Style::Tight, 1));
    let case = Case::new(op, operands);
    let mut cpu = Cpu::new().unwrap();
    let op = Arc::new(case.checked());
    let plan = cpu.candidates(&op).unwrap()[0];
    let units = plan.units() as u64;
    let mut before = contents(&case);
    for (bytes, values) in before.iter_mut().zip(values) {
        let values: Vec<u8> = values.iter().flat_map(|x| bits(*x)).collect();
        bytes[..values.len()].copy_from_slice(&values);
    }
    let mut left = execute(&mut cpu, &op, &plan, &before, &case, &[1, units - 1, units]).unwrap();
    let to = left.blocks.pop().unwrap();
    let n: u64 = shape.iter().product();
    assert!(n > 1 << 31);
    let wrong = (0..n).find(|&i| to[2 + 2 * i as usize..][..2] != bits(exact(i)));
    assert_eq!(wrong, None, "{}", case.name);
    assert!(to[..2].iter().chain(&to[2 + 2 * n as usize..]).all(|byte| *byte == 0xff));
}
