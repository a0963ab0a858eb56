//! Properties of ops as data: what `check` accepts stays in bounds, within the time cap, and right; what it
//! rejects is named; any cut of a plan gives equal bits. Cases grow from a legal one by at most a few changes.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::case::{Case, Fill, Operand, Style};
use common::run::{Outcome, contents, execute, run_on};
use leasehold::backend::cpu::Cpu;
use leasehold::backend::null::Null;
use leasehold::backend::{Backend, Place};
use leasehold::op::{
    Activation, Attention, Binding, BufferId, CheckedOp, Copy, Gather, Lens, Map, MapFn, Mask,
    Matmul, Norm, NormKind, Op, Reduce, ReduceFn, Softmax, Spec, check,
};
use leasehold::{DType, Dims, Layout, Rule};
use proptest::prelude::*;
use std::sync::Arc;

/// The free choices of a case.
#[derive(Clone, Debug)]
struct Choices {
    op: usize,
    dims: [u64; 5],
    dtypes: [usize; 3],
    styles: [usize; 3],
    offset: u64,
    flags: u32,
}

fn choices(max_dim: u64) -> impl Strategy<Value = Choices> {
    (
        0..8usize,
        prop::array::uniform5(0..=max_dim),
        prop::array::uniform3(0..3usize),
        prop::array::uniform3(0..4usize),
        0..200u64,
        any::<u32>(),
    )
        .prop_map(|(op, dims, dtypes, styles, offset, flags)| Choices {
            op,
            dims,
            dtypes,
            styles,
            offset,
            flags,
        })
}

impl Choices {
    fn flag(&self, bit: u32) -> bool {
        self.flags >> bit & 1 == 1
    }

    fn input(&self, which: usize, shape: &[u64], fill: Fill) -> Operand {
        let styles = [Style::Tight, Style::Odd, Style::Turned, Style::Repeat];
        self.place(which, shape, styles[self.styles[which]], fill)
    }

    fn out(&self, shape: &[u64]) -> Operand {
        let styles = [Style::Tight, Style::Odd, Style::Turned, Style::Gapped];
        self.place(2, shape, styles[self.styles[2]], Fill::Poison)
    }

    fn place(&self, which: usize, shape: &[u64], style: Style, fill: Fill) -> Operand {
        let dtype = [DType::F32, DType::F16, DType::BF16][self.dtypes[which]];
        Operand::new(dtype, shape, style, self.offset, fill)
    }

    /// A legal case.
    fn case(&self) -> Case {
        const NORMAL: Fill = Fill::Normal(1.0);
        let [a, b, c, d, e] = self.dims;
        let row = [a % 5, b % 9, c];
        let (op, mut operands): (Op, _) = match self.op {
            0 => {
                let op = Matmul {
                    alpha: [1.0, 0.5][self.flags as usize % 2],
                    bias: self.flag(1),
                    residual: self.flag(2),
                    activation: Activation::ALL[(self.flags >> 3) as usize % 5],
                    ..Matmul::default()
                };
                let mut operands = vec![self.input(0, &[a % 4, b, c], NORMAL)];
                operands.push(Operand {
                    dtype: operands[0].dtype,
                    ..self.input(1, &[a % 4, c, d], Fill::Normal(0.3))
                });
                let extras = [op.bias, op.residual].into_iter().filter(|extra| *extra);
                operands.extend(extras.map(|_| self.input(1, &[a % 4, b, d], NORMAL)));
                operands.push(self.out(&[a % 4, b, d]));
                (op.into(), operands)
            }
            1 => {
                let (batch, kv, dv) = (a % 3, 1 + b % 2, 1 + e);
                let heads = kv * (1 + self.flags as u64 % 3);
                let q = self.input(0, &[batch, heads, c, 1 + d], NORMAL);
                let dtype = q.dtype;
                let keys = |dim| Operand { dtype, ..self.input(1, &[batch, kv, e, dim], NORMAL) };
                let mut operands = vec![q, keys(1 + d), keys(dv)];
                let mask = self.flag(5);
                if mask {
                    operands.push(self.input(1, &[batch, heads, c, e], Fill::Mask(1)));
                }
                operands.push(self.out(&[batch, heads, c, dv]));
                let lens = (0..batch).map(|i| (e * (i + 1) / 3) as u32).collect();
                let op = Attention {
                    scale: 0.4,
                    causal: self.flag(6),
                    mask: if mask { Mask::Additive } else { Mask::None },
                    lens: if self.flag(7) { Lens::Host(lens) } else { Lens::Full },
                    ..Attention::default()
                };
                (op.into(), operands)
            }
            2 => {
                let (weight, bias) = (self.flag(0), self.flag(1));
                let kind = if self.flag(2) { NormKind::Layer } else { NormKind::Rms };
                let mut operands = vec![self.input(0, &row, NORMAL)];
                let extras = [weight, bias].into_iter().filter(|extra| *extra);
                operands.extend(extras.map(|_| self.place(1, &[c], Style::Gapped, NORMAL)));
                operands.push(self.out(&row));
                (Norm { kind, epsilon: 0.01, weight, bias }.into(), operands)
            }
            3 => {
                let operands = vec![self.input(0, &row, Fill::Mask(2)), self.out(&row)];
                (Softmax { scale: 0.7, axis: 2 }.into(), operands)
            }
            4 => {
                let function = MapFn::ALL[self.flags as usize % MapFn::ALL.len()];
                let inputs = (0..function.arity()).map(|i| self.input(i, &row, Fill::Positive));
                let mut operands: Vec<Operand> = inputs.collect();
                operands.push(self.out(&row));
                (Map { function, scale: 1.0, shift: 0.5 }.into(), operands)
            }
            5 => {
                let rows = 1 + a;
                let table = self.input(0, &[rows, b, d], NORMAL);
                let index = self.place(1, &[c], Style::Gapped, Fill::Indices(rows as u32));
                let dtype = [DType::I32, DType::U32][self.flags as usize % 2];
                let index = Operand { dtype, offset: self.offset * 4, ..index };
                let out = Operand { dtype: table.dtype, ..self.out(&[c, b, d]) };
                (Gather { axis: 0 }.into(), vec![table, index, out])
            }
            6 => {
                let function = ReduceFn::ALL[self.flags as usize % 4];
                let operands = vec![self.input(0, &row, NORMAL), self.out(&row[..2])];
                (Reduce { function, axis: 2 }.into(), operands)
            }
            _ => {
                let x = self.input(0, &row, NORMAL);
                let out = Operand { dtype: x.dtype, ..self.out(&row) };
                (Copy.into(), vec![x, out])
            }
        };
        // A dtype that was changed above keeps its offset a multiple of its size.
        for operand in &mut operands {
            operand.offset = self.offset * operand.dtype.size();
        }
        Case::new(op, operands)
    }
}

/// A change to one operand, or to the op.
#[derive(Clone, Debug)]
enum Change {
    DType(usize, usize),
    Size(usize, usize, u64),
    Stride(usize, usize, u64),
    Rank(usize, bool),
    Offset(usize, u64),
    Drop,
    Number(f32),
}

fn big() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..20u64,
        (0..63u32).prop_map(|bits| 1 << bits),
        (0..63u32).prop_map(|bits| (1 << bits) - 1),
        any::<u64>(),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let float =
        prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-0.0), Just(-2.5), Just(1e30)];
    prop_oneof![
        (0..6usize, 0..8usize).prop_map(|(i, d)| Change::DType(i, d)),
        (0..6usize, 0..4usize, big()).prop_map(|(i, axis, n)| Change::Size(i, axis, n)),
        (0..6usize, 0..4usize, big()).prop_map(|(i, axis, n)| Change::Stride(i, axis, n)),
        (0..6usize, any::<bool>()).prop_map(|(i, more)| Change::Rank(i, more)),
        (0..6usize, any::<u64>()).prop_map(|(i, n)| Change::Offset(i, n >> 1)),
        Just(Change::Drop),
        float.prop_map(Change::Number),
    ]
}

fn apply(case: &mut Case, change: &Change) {
    let n = case.operands.len();
    let mut with = |i: usize, f: &dyn Fn(&mut Operand)| {
        if n > 0 {
            f(&mut case.operands[i % n]);
        }
    };
    let edit = |layout: &Layout, f: &dyn Fn(&mut Vec<u64>, &mut Vec<u64>)| {
        let (mut shape, mut strides) = (layout.shape().to_vec(), layout.strides().to_vec());
        f(&mut shape, &mut strides);
        let dims = Dims::new(&shape).zip(Dims::new(&strides));
        dims.and_then(|(shape, strides)| Layout::new(shape, strides)).unwrap_or(*layout)
    };
    match *change {
        Change::DType(i, d) => with(i, &|o| o.dtype = DType::ALL[d]),
        // A size is changed in every operand that has it, so that many changes stay legal.
        Change::Size(i, axis, size) => {
            let of = |o: &Operand| o.layout.shape().get(axis).copied();
            let old = case.operands.get(i % n.max(1)).and_then(of);
            for operand in &mut case.operands {
                operand.layout = edit(&operand.layout, &|shape, strides| {
                    for (s, t) in shape.iter_mut().zip(strides) {
                        if Some(*s) == old {
                            (*s, *t) = (size, if size > 1 << 20 { 0 } else { *t });
                        }
                    }
                });
            }
        }
        Change::Stride(i, axis, stride) => with(i, &|o| {
            o.layout = edit(&o.layout, &|_, strides| {
                if let Some(s) = strides.get_mut(axis) {
                    *s = stride;
                }
            });
        }),
        Change::Rank(i, more) => with(i, &|o| {
            o.layout = edit(&o.layout, &|shape, strides| {
                if more {
                    shape.insert(0, 1);
                    strides.insert(0, 0);
                } else {
                    shape.pop();
                    strides.pop();
                }
            });
        }),
        Change::Offset(i, offset) => with(i, &|o| o.offset = offset),
        Change::Drop => drop(case.operands.pop()),
        Change::Number(x) => match &mut case.op {
            Op::Matmul(op) => op.alpha = x,
            Op::Attention(op) => op.scale = x,
            Op::Norm(op) => op.epsilon = x,
            Op::Softmax(op) => op.scale = x,
            Op::Map(op) => op.shift = x,
            _ => {}
        },
    }
}

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

/// Every plan's unit is within the cap, on `null` and on the CPU.
fn within_cap(op: &CheckedOp, cpu: &Cpu) {
    let null = Null::new(u64::MAX).0;
    let plans = [null.candidates(op), cpu.candidates(op)];
    for (plans, cap) in plans.into_iter().zip([null.caps(), cpu.caps()].map(|c| c.unit_cap_ns)) {
        // Units beyond 64 bits are refused as time, with both numbers.
        for plan in plans.into_iter().flatten() {
            assert!(plan.unit_ns <= cap, "{plan} for {op:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_ops_agree_with_the_reference(choices in choices(24)) {
        let case = choices.case();
        let outcome = run_on(&mut Cpu::new().unwrap(), &case);
        prop_assert!(matches!(outcome, Ok(Outcome::Passed)), "{}: {outcome:?}", case.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_stays_in_bounds_and_rejected_names_its_rule(
        choices in choices(9),
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
                within_cap(&op, CPU.with(|cpu| *cpu));
                let offsets: Vec<u64> = case.operands.iter().map(|o| o.offset).collect();
                stays_inside(&Arc::new(op), &offsets);
            }
        }
    }

    #[test]
    fn no_accepted_size_predicts_a_unit_over_the_cap(
        choices in choices(5),
        sizes in prop::collection::vec((0..6usize, 0..4usize, big()), 1..4),
    ) {
        let mut case = choices.case();
        sizes.iter().for_each(|&(i, axis, n)| apply(&mut case, &Change::Size(i, axis, n)));
        let specs: Vec<Spec> = case.operands.iter().map(Operand::spec).collect();
        if let Ok(op) = check(case.op.clone(), &specs) {
            within_cap(&op, CPU.with(|cpu| *cpu));
        }
    }
}

thread_local! {
    /// One backend a test thread: starting its threads takes longer than planning.
    static CPU: &'static Cpu = Box::leak(Box::new(Cpu::new().unwrap()));
}

/// Cases of several links: their state is carried from unit to unit.
fn chained() -> Vec<Case> {
    let has_state = |case: &Case| {
        let op = case.checked();
        CPU.with(|cpu| cpu.candidates(&op).unwrap()[0].state_bytes > 0)
    };
    let small = |case: &Case| case.flops() <= common::CASE_FLOPS / 2;
    let tables = [common::tables::matmul(), common::tables::attention(), common::tables::norm()];
    let more = [common::tables::softmax(), common::tables::reduce()];
    let all = tables.into_iter().chain(more).flat_map(|table| {
        table.into_iter().filter(|c| small(c) && has_state(c)).take(3).collect::<Vec<_>>()
    });
    all.collect()
}

#[test]
fn any_cut_gives_equal_bits() {
    let cases = chained();
    for name in ["matmul", "attention", "norm", "softmax", "reduce"] {
        assert!(cases.iter().any(|case| case.op.name() == name), "no chained {name}");
    }
    let mut cpu = Cpu::new().unwrap();
    let mut random = common::case::Random(11);
    for case in &cases {
        let op = Arc::new(case.checked());
        let plan = cpu.candidates(&op).unwrap()[0];
        let (contents, units) = (contents(case), plan.units() as u64);
        let whole = execute(&mut cpu, &op, &plan, &contents, case, &[units]).unwrap();
        for _ in 0..5 {
            let mut cuts: Vec<u64> = (0..random.below(8)).map(|_| random.below(units)).collect();
            cuts.push(units);
            cuts.sort();
            let cut = execute(&mut cpu, &op, &plan, &contents, case, &cuts).unwrap();
            assert!(whole == cut, "{} cut at {cuts:?}", case.name);
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let mut all: Vec<Vec<Vec<u8>>> = Vec::new();
    for threads in ["1", "2", "5"] {
        let mut cpu = Cpu::with_threads(threads.parse().unwrap()).unwrap();
        let cases = [common::tables::matmul(), common::tables::attention()].concat();
        let some = cases.iter().filter(|case| case.flops() <= common::CASE_FLOPS).step_by(7);
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
    const N: u64 = (1 << 31) + 5;
    let mut cpu = Cpu::new().unwrap();
    let x = Operand::new(DType::BF16, &[N], Style::Repeat, 0, Fill::Poison);
    let case = Case::new(
        Map { function: MapFn::Neg, scale: 1.0, shift: 0.0 },
        vec![x, Operand::out(DType::BF16, &[N], Style::Tight, 1)],
    );
    let op = Arc::new(case.checked());
    let plan = cpu.candidates(&op).unwrap()[0];
    let units = plan.units() as u64;
    let mut before = contents(&case);
    before[0][..2].copy_from_slice(&leasehold::bf16::from_f32(1.5).to_le_bytes());
    let left = execute(&mut cpu, &op, &plan, &before, &case, &[1, units - 1, units]).unwrap();
    let (from, to) = (&before[0], &left.blocks[1]);
    let expected = [from[0], from[1] ^ 0x80];
    assert!(to[2..][..2 * N as usize].chunks_exact(2).all(|pair| pair == expected));
    assert!(to[..2].iter().chain(&to[2 + 2 * N as usize..]).all(|byte| *byte == 0xff));
}
