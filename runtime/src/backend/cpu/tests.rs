//! The backend from inside: the numerics id, hostile indices under a changing hand, and the parity suite on the
//! instruction-set classes that this processor has but would not choose.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Cpu, SOURCES, ingredients, plan};
use crate::backend::common;
use crate::backend::cpu::isa::Isa;
use crate::backend::{Backend, BlockId, IndexFault, Place, Progress};
use crate::op::{Binding, BufferId, Gather, Scatter, ScatterFn, Scores, Spec, check};
use crate::order::UNIT_CAP_SLOW_NS;
use crate::{DType, Dims, Kind, Layout};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

#[test]
fn every_source_is_in_the_numerics_id() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend/cpu");
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "tests.rs")
        .collect();
    found.sort();
    assert_eq!(found, SOURCES.map(|(name, _)| name));
}

#[test]
fn one_changed_byte_changes_the_numerics_id() {
    let digest = |parts: &[Vec<u8>]| {
        crate::backend::digest(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let parts = ingredients(Isa::detect());
    let id = digest(&parts);
    assert_eq!(id, Cpu::new().unwrap().digest());
    // Sources, then frequencies, order table, compiler and class: each takes part, and is not empty.
    assert_eq!(parts.len(), SOURCES.len() + 4);
    for i in 0..parts.len() {
        let mut changed = parts.clone();
        changed[i][0] ^= 1;
        assert_ne!(id, digest(&changed), "part {i}");
    }
    // A byte moved from one part to the next is a change too.
    let mut moved = parts.clone();
    let byte = moved[0].pop().unwrap();
    moved[1].insert(0, byte);
    assert_ne!(id, digest(&moved));
    let table = plan::order_table();
    assert!(["x86-v4", "x86-v3", "generic"].iter().all(|class| table.contains(class)));
}

#[test]
fn memory_is_held_to_its_budget_and_reused() {
    const MIB: u64 = 1 << 20;
    let mut cpu = Cpu::new().unwrap().with_memory(8 * MIB);
    let blocks = [5 * MIB, 3 * MIB].map(|bytes| cpu.alloc(bytes).unwrap());
    let full = cpu.alloc(1).unwrap_err();
    assert_eq!(*full.kind(), Kind::OutOfMemory { asked: 1, free: 0, quota: 8 * MIB });
    blocks.into_iter().for_each(|block| cpu.free(block));
    // Freed blocks are kept for reuse, but give way where the budget needs them to.
    let large = cpu.alloc(8 * MIB).unwrap();
    assert_eq!((cpu.memory.used, cpu.memory.regions.spare_bytes()), (8 * MIB, 0));
    cpu.free(large);
    assert!(cpu.alloc(u64::MAX).is_err());
    let again = cpu.alloc(6 * MIB).unwrap();
    assert_eq!(cpu.memory.regions.spare_bytes(), 0);
    // Bytes outside a block are refused, not touched.
    assert!(cpu.upload(again, 8 * MIB - 1, &[0; 2]).is_err());
    assert!(cpu.zero(BlockId(99), 0, 1).is_err());
    assert!(cpu.download(again, u64::MAX, &mut [0; 2]).is_err());
}

/// Every class, the best first.
const ALL: [Isa; 5] = [Isa::Amx, Isa::Bf16, Isa::V4, Isa::V3, Isa::Generic];

/// The classes that this processor runs.
fn classes() -> Vec<Isa> {
    ALL.into_iter().skip_while(|isa| *isa != Isa::detect()).collect()
}

#[test]
fn lower_classes_pass_the_parity_suite() {
    use common::tables;
    for isa in classes().into_iter().skip(1) {
        let tables = [tables::attention(), tables::norm(), tables::softmax(), tables::reduce()];
        let others = [tables::map(), tables::rope(), tables::scatter(), tables::top_k()];
        let gradients = [tables::norm_backward(), tables::attention_backward()];
        let bytes = [tables::quantize(), common::products::options()];
        let indexed = [common::products::indexed()];
        let rest = gradients.into_iter().chain(bytes).chain(indexed);
        for table in tables.into_iter().chain(others).chain(rest) {
            // Every third case: the same loops, compiled for another class.
            let table = table.into_iter().step_by(3).collect();
            common::run_table(Cpu::of_class(isa, 2).unwrap(), table);
        }
    }
}

#[test]
fn every_class_plans_units_within_the_cap() {
    use common::case::{Case, Fill, Operand, Style};
    use common::tables;
    let mut cases = [tables::matmul(), tables::attention(), tables::norm()].concat();
    cases.extend([tables::softmax(), tables::reduce(), tables::map()].concat());
    cases.extend([tables::gather(), tables::copy(), tables::quantize()].concat());
    cases.extend([tables::norm_backward(), tables::attention_backward()].concat());
    // The dearest units: full tiles of every op, and rows of 2^31 columns.
    let full = |shape: &[u64]| Operand::new(DType::F32, shape, Style::Repeat, 0, Fill::Poison);
    let out = |shape: &[u64]| Operand::out(DType::F32, shape, Style::Tight, 0);
    let square = 1 << 20;
    for (rows, style) in
        [(square, Style::Repeat), (16, Style::Tight), (16, Style::Turned), (16, Style::Gapped)]
    {
        let b = Operand::new(DType::F32, &[square, square], style, 0, Fill::Poison);
        let product = vec![full(&[rows, square]), b, out(&[rows, square])];
        cases.push(Case::new(crate::op::Matmul::default(), product));
    }
    let heads = || full(&[2, 3, 1 << 20, 256]);
    let attention = vec![heads(), heads(), heads(), out(&[2, 3, 1 << 20, 256])];
    cases.push(Case::new(crate::op::Attention::default(), attention));
    let stat = |shape: &[u64]| full(&shape[..3]);
    let whole = [2, 3, 1 << 20, 256];
    let inputs =
        [full(&whole), full(&whole), full(&whole), full(&whole), stat(&whole), full(&whole)];
    let gradients = inputs.into_iter().chain([0; 3].map(|_| out(&whole)));
    let backward = crate::op::AttentionBackward::default();
    cases.push(Case::new(backward, gradients.collect()));
    cases.extend(dearest_products(square));
    for columns in [1, 63, 64, 4095, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, 1 << 31] {
        let rows = || vec![full(&[1 << 20, columns]), out(&[1 << 20, columns])];
        cases.push(Case::new(crate::op::Softmax { scale: 1.0, axis: 1 }, rows()));
        let kind = crate::op::NormKind::Layer;
        let norm = crate::op::Norm { kind, epsilon: 0.0, weight: false, bias: false };
        cases.push(Case::new(norm, rows()));
    }
    for case in &cases {
        for isa in ALL {
            let plan = plan::plan(&case.checked(), isa).unwrap();
            assert!(plan.unit_ns <= UNIT_CAP_SLOW_NS, "{isa:?}: {plan} for {}", case.name);
        }
    }
}

/// Products of 8-bit values with everything that an epilogue does, operands turned, of every grouping.
fn dearest_products(n: u64) -> Vec<common::case::Case> {
    use crate::op::{Gate, Group, Lens, Matmul, Scale};
    use common::case::{Case, Fill, Operand, Style};
    let make = |dtype, shape: &[u64], style| Operand::new(dtype, shape, style, 0, Fill::Poison);
    let half = n / 2;
    let mut cases = Vec::new();
    for (gate, columns) in [(Gate::None, n), (Gate::Interleaved, half)] {
        let groups =
            [(Group::None, Lens::Full), (Group::Contiguous, Lens::Device { max: 1 << 20 })];
        for (group, sizes) in groups {
            let device = sizes.on_device();
            let op = Matmul {
                beta: 0.5,
                gate,
                preactivation: true,
                scales: [Scale::Block1x128, Scale::Block128x128],
                group,
                sizes,
                quantize: Scale::Block1x128,
                ..Matmul::default()
            };
            let batch: &[u64] = if device { &[1 << 16] } else { &[] };
            let b = |rows, cols| [batch, &[rows, cols]].concat();
            let mut operands = vec![
                make(DType::F8E4M3, &[n, n], Style::Repeat),
                make(DType::F8E4M3, &b(n, n), Style::Repeat),
                make(DType::BF16, &[n, n], Style::Turned),
                make(DType::F32, &[n, n / 128], Style::Repeat),
                make(DType::F32, &b(n / 128, n / 128), Style::Repeat),
            ];
            operands.extend(device.then(|| make(DType::U32, &[1 << 16], Style::Tight)));
            operands.extend([
                make(DType::I8, &[n, columns], Style::Turned),
                make(DType::BF16, &[n, n], Style::Turned),
                make(DType::F32, &[n, columns.div_ceil(128)], Style::Turned),
            ]);
            cases.push(Case::new(op, operands));
        }
    }
    cases
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_accepted_size_predicts_a_unit_over_the_cap(op in common::grow::resized()) {
        for isa in ALL {
            if let Some(op) = &op {
                let planned = plan::plan(op, isa).map(|plan| vec![plan]);
                common::grow::within_cap(op, planned, UNIT_CAP_SLOW_NS);
            }
        }
    }
}

/// Every output is one chain of multiply-adds from zero, added to what was there, however its operands lie and whatever
/// lies beside it.
#[test]
fn products_are_chains_along_k() {
    use super::isa::fma;
    use super::product::{Columns, Panel, Target, multiply, pack, packed_lines};
    let mut random = common::case::Random(11);
    let mut normal = |n: usize| (0..n).map(|_| random.normal() as f32).collect::<Vec<_>>();
    let turned = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    };
    let sizes = [(1, 1, 1), (6, 64, 4), (7, 80, 33), (25, 65, 5), (3, 200, 19), (40, 16, 130)];
    for (m, n, k) in sizes.into_iter().chain([(13, 31, 1), (26, 79, 7), (30, 128, 6)]) {
        let (a, b, before) = (normal(m * k), normal(k * n), normal(m * (n + 3)));
        let (a_t, b_t) = (turned(&a, m, k), turned(&b, k, n));
        for isa in classes() {
            let fma = if isa == Isa::Generic { fma::<false> } else { fma::<true> };
            let chain = |i: usize, j: usize| {
                (0..k).fold(0.0, |sum, p| fma(a[i * k + p], b[p * n + j], sum))
            };
            for (turn, add) in [(0, false), (1, true), (2, false), (3, true)] {
                let mut c = before.clone();
                let rows = [Panel::dense(&a, m, k), Panel::dense(&a_t, k, m).t()][turn & 1];
                let columns = [Panel::dense(&b, k, n), Panel::dense(&b_t, n, k).t()][turn >> 1];
                let mut lines = vec![super::dot::Line::default(); packed_lines(k, n)];
                pack(isa, columns, &mut lines);
                let both = [Columns::Lies(columns), Columns::Packed(&lines, [k, n])];
                for columns in both {
                    c.copy_from_slice(&before);
                    let target = &mut Target::dense(&mut c, n, n + 3);
                    multiply(isa, rows, columns, target, add, 0.5);
                    for (at, got) in c.iter().enumerate() {
                        let (i, j) = (at / (n + 3), at % (n + 3));
                        let old = if add { before[at] } else { 0.0 };
                        let expected = if j < n { fma(chain(i, j), 0.5, old) } else { before[at] };
                        let place = format!("{isa:?} {m} {n} {k} {turn} at {i} {j}");
                        assert_eq!(got.to_bits(), expected.to_bits(), "{place}");
                    }
                }
            }
        }
    }
}

/// Rows of a batch-invariant product have the same bits in products of any number of rows, at any place of any batch.
#[test]
fn batch_invariant_rows_ignore_their_neighbours() {
    use crate::op::{Matmul, OrderClass};
    use common::case::{Case, Fill, Operand, Style};
    use common::run::{contents, execute};
    const ROWS: u64 = 100;
    let order = OrderClass::BatchInvariant;
    for isa in classes() {
        for (dtype, style, batch, n, k) in [
            (DType::F32, Style::Repeat, &[3][..], 70, 1100),
            (DType::F32, Style::Turned, &[], 33, 600),
            (DType::BF16, Style::Turned, &[], 40, 600),
            (DType::BF16, Style::Repeat, &[3], 64, 300),
            (DType::F16, Style::Tight, &[], 64, 300),
        ] {
            let line = (k * dtype.size()) as usize;
            let make = |shape: &[u64], style| {
                Operand::new(dtype, &[batch, shape].concat(), style, 0, Fill::Normal(1.0))
            };
            let b = make(&[k, n], style);
            let whole = Operand::new(dtype, &[ROWS, k], Style::Tight, 0, Fill::Normal(1.0));
            let (rows, b_bytes) = (whole.content(5), b.content(6));
            let product = |m: u64, first: usize| {
                let out = Operand::out(DType::F32, &[batch, &[m, n]].concat(), Style::Tight, 0);
                let operands = vec![make(&[m, k], Style::Tight), b.clone(), out];
                let case = Case::new(Matmul { order, ..Matmul::default() }, operands);
                let mut bytes = contents(&case);
                bytes[1].clone_from(&b_bytes);
                for (row, to) in bytes[0].chunks_exact_mut(line).enumerate() {
                    let from = (first + row) % ROWS as usize * line;
                    to.copy_from_slice(&rows[from..from + line]);
                }
                let mut cpu = Cpu::of_class(isa, 2).unwrap();
                let op = Arc::new(case.checked());
                let plan = cpu.candidates(&op).unwrap()[0];
                let left = execute(&mut cpu, &op, &plan, &bytes, &case, &[plan.units() as u64]);
                let mut out = left.unwrap().blocks.pop().unwrap();
                // What follows the rows is not theirs.
                out.truncate((batch.iter().product::<u64>() * m * n * 4) as usize);
                out
            };
            let (line, all) = (4 * n as usize, product(ROWS, 0));
            for (m, first) in [(1, 97), (2, 40), (3, 11), (17, 60), (ROWS, 33)] {
                for (row, got) in product(m, first).chunks_exact(line).enumerate() {
                    let from = (first + row) % ROWS as usize * line;
                    let same = got == &all[from..from + line];
                    assert!(same, "{isa:?} {dtype} {style:?}: row {row} of {m}");
                }
            }
        }
    }
}

/// Rows of batch-invariant attention have the same bits in chunks of any number of rows, down to one, in any batch.
#[test]
fn batch_invariant_attention_ignores_its_neighbours() {
    use crate::op::{Attention, KeyValue, Lens, OrderClass};
    use common::case::{Case, Fill, Operand, Style};
    use common::run::{contents, execute};
    const HEADS: u64 = 4;
    const KV_HEADS: u64 = 2;
    const ROWS: u64 = 50;
    const BEFORE: u64 = 180;
    const PAGE: u64 = 16;
    const PAGES: u64 = 18;
    for isa in classes() {
        for (dtype, d, causal, paged) in [
            (DType::F32, 40, true, true),
            (DType::F32, 64, false, false),
            (DType::BF16, 64, true, true),
            (DType::BF16, 48, true, false),
        ] {
            let line = (d * dtype.size()) as usize;
            let make =
                |shape: &[u64]| Operand::new(dtype, shape, Style::Tight, 0, Fill::Normal(1.0));
            let queries = make(&[HEADS, ROWS, d]).content(5);
            let query = |head: u64, row: u64| (head * ROWS + row) as usize * line;
            let row_bytes = (KV_HEADS * PAGE * PAGES * d * dtype.size()) as usize;
            let [keys, values] =
                [6, 7].map(|seed| make(&[KV_HEADS, PAGE * PAGES, d]).content(seed));
            // Chunks of `rows` from each of `firsts` on, an entry of the batch each.
            let run = |rows: u64, firsts: &[u64]| {
                let batch = firsts.len() as u64;
                let seen = |first| if causal { BEFORE + first + rows } else { BEFORE + ROWS };
                let lens = Lens::Host(firsts.iter().map(|&first| seen(first) as u32).collect());
                let order = OrderClass::BatchInvariant;
                let of_page = |paged| {
                    if paged {
                        [PAGES, KV_HEADS, PAGE, d]
                    } else {
                        [batch, KV_HEADS, PAGE * PAGES, d]
                    }
                };
                let (kv, q) = (make(&of_page(paged)), make(&[batch, HEADS, rows, d]));
                let pages =
                    Operand::new(DType::U32, &[batch, PAGES], Style::Tight, 0, Fill::Poison);
                let out = Operand::out(dtype, &[batch, HEADS, rows, d], Style::Tight, 0);
                let mut operands = vec![q, kv.clone(), kv];
                operands.extend(paged.then_some(pages));
                operands.push(out);
                let key_value =
                    if paged { KeyValue::Paged { page: PAGE as u32 } } else { KeyValue::Dense };
                let op = Attention {
                    scores: Scores { scale: 0.3, causal, lens, ..Scores::default() },
                    key_value,
                    order,
                    ..Attention::default()
                };
                let case = Case::new(op, operands);
                let mut bytes = contents(&case);
                for (i, part) in bytes[0]
                    .chunks_exact_mut(line)
                    .take((batch * HEADS * rows) as usize)
                    .enumerate()
                {
                    let (place, row) = (i as u64 / rows, i as u64 % rows);
                    let from = query(place % HEADS, firsts[(place / HEADS) as usize] + row);
                    part.copy_from_slice(&queries[from..from + line]);
                }
                for (to, from) in bytes[1..3].iter_mut().zip([&keys, &values]) {
                    for to in to.chunks_exact_mut(row_bytes) {
                        to.copy_from_slice(&from[..row_bytes]);
                    }
                }
                if paged {
                    let table = (0..batch * PAGES)
                        .flat_map(|i| ((i % PAGES * 7 % PAGES) as u32).to_le_bytes());
                    bytes[3].iter_mut().zip(table).for_each(|(to, from)| *to = from);
                }
                let mut cpu = Cpu::of_class(isa, 2).unwrap();
                let op = Arc::new(case.checked());
                let plan = cpu.candidates(&op).unwrap()[0];
                let left = execute(&mut cpu, &op, &plan, &bytes, &case, &[plan.units() as u64]);
                left.unwrap().blocks.pop().unwrap()
            };
            let all = run(ROWS, &[0]);
            for (rows, firsts) in
                [(1, &[49, 7][..]), (3, &[20]), (17, &[0, 33, 5]), (ROWS, &[0, 0])]
            {
                let got = run(rows, firsts);
                for (i, got) in
                    got.chunks_exact(line).take(firsts.len() * (HEADS * rows) as usize).enumerate()
                {
                    let (place, row) = (i as u64 / rows, i as u64 % rows);
                    let at = query(place % HEADS, firsts[(place / HEADS) as usize] + row);
                    let same = got == &all[at..at + line];
                    assert!(same, "{isa:?} {dtype} {causal} {paged}: row {row} of {rows}, {place}");
                }
            }
        }
    }
}

/// What is refused of no attention: every case of the suite, in an order that ignores rows and batch.
#[test]
fn batch_invariant_attention_passes_the_parity_suite() {
    use crate::op::{Op, OrderClass};
    let mut table = common::tables::attention();
    for case in &mut table {
        if let Op::Attention(attention) = &mut case.op {
            attention.order = OrderClass::BatchInvariant;
        }
    }
    common::run_table(Cpu::with_threads(2).unwrap(), table.into_iter().step_by(16).collect());
}

/// Each way in which the first bytes of a block change, of 4096 at least.
type Change = (&'static str, fn(&mut Cpu, BlockId));
const CHANGES: [Change; 4] = [
    ("upload", |cpu, b| cpu.upload(b, 0, &[0x3f; 64]).unwrap()),
    ("zero", |cpu, b| cpu.zero(b, 0, 4096).unwrap()),
    ("copy", |cpu, b| {
        let src = cpu.alloc(4096).unwrap();
        cpu.upload(src, 0, &[0x40; 4096]).unwrap();
        let place = |block| Place { block, offset: 0 };
        cpu.copy(place(src), place(b), 4096).unwrap();
    }),
    ("launch", |cpu, b| {
        let specs = [16, 16]
            .map(|n| Spec::new(DType::F32, Layout::contiguous(Dims::new(&[n]).unwrap()), 0));
        let op = Arc::new(check(crate::op::Copy.into(), &specs).unwrap());
        let src = cpu.alloc(64).unwrap();
        cpu.upload(src, 0, &[0x41; 64]).unwrap();
        let mut plan = cpu.candidates(&op).unwrap()[0];
        let binding = |i| Binding { buffer: BufferId(i), offset: 0, len: 64 };
        let op = op.bind(&[binding(1), binding(2)]).unwrap();
        let places = [src, b].map(|block| Place { block, offset: 0 });
        cpu.launch(&mut plan, 0..1, &op, &places, None).unwrap();
    }),
];

#[test]
fn fresh_blocks_hold_zeros_and_so_do_zeroed_ones() {
    for (name, change) in CHANGES {
        for shares in [false, true] {
            let mut cpu = Cpu::with_threads(2).unwrap();
            cpu.memory.regions.shares = shares;
            let zeroed = |cpu: &mut Cpu, block, bytes| {
                cpu.zero(block, 0, bytes).unwrap();
                let mut all = vec![1; bytes as usize];
                cpu.download(block, 0, &mut all).unwrap();
                assert!(all.iter().all(|byte| *byte == 0), "{name} of {bytes}");
            };
            for bytes in [5000, 5 << 20] {
                let block = cpu.alloc(bytes).unwrap();
                change(&mut cpu, block);
                zeroed(&mut cpu, block, bytes);
                change(&mut cpu, block);
                cpu.free(block);
                // The same memory again, or other.
                for _ in 0..2 {
                    let block = cpu.alloc(bytes).unwrap();
                    zeroed(&mut cpu, block, bytes);
                    cpu.plain_read(block).unwrap();
                }
            }
            assert!(cpu.plain_read(BlockId(99)).is_err());
        }
    }
}

/// What a cut chain carries is written too.
#[test]
fn a_block_of_state_is_not_fresh() {
    let mut cpu = Cpu::with_threads(1).unwrap();
    let specs = [[64, 1 << 16], [1 << 16, 64], [64, 64]]
        .map(|shape| Spec::new(DType::F32, Layout::contiguous(Dims::new(&shape).unwrap()), 0));
    // Without an epilogue it is summed in the output.
    let product = crate::op::Matmul {
        alpha: 0.5,
        activation: crate::op::Activation::Relu,
        ..Default::default()
    };
    let op = Arc::new(check(product.into(), &specs).unwrap());
    let mut plan = cpu.candidates(&op).unwrap()[0];
    assert!(plan.links > 1, "{plan}");
    let bytes = specs.map(|spec| spec.span_bytes() as u64);
    let blocks = bytes.map(|bytes| cpu.alloc(bytes).unwrap());
    for (block, bytes) in blocks.into_iter().zip(bytes) {
        cpu.upload(block, 0, &vec![0x3f; bytes as usize]).unwrap();
    }
    let mut i = 0;
    let bindings = bytes.map(|len| {
        i += 1;
        Binding { buffer: BufferId(i), offset: 0, len }
    });
    let op = op.bind(&bindings).unwrap();
    let places = blocks.map(|block| Place { block, offset: 0 });
    let state = cpu.alloc(plan.state_bytes).unwrap();
    let mut held = vec![0; plan.state_bytes as usize];
    for zeroed in [true, false] {
        let place = Some(Place { block: state, offset: 0 });
        cpu.launch(&mut plan, 0..1, &op, &places, place).unwrap();
        if zeroed {
            cpu.zero(state, 0, plan.state_bytes).unwrap();
        }
        cpu.download(state, 0, &mut held).unwrap();
        assert_eq!(held.iter().all(|byte| *byte == 0), zeroed);
    }
}

/// A product by a constant B and what a device needs for it, beside one that keeps no copies.
struct Constant {
    cpu: Cpu,
    op: crate::op::BoundOp,
    places: Vec<Place>,
    out_bytes: usize,
}

impl Constant {
    /// `m` rows by a B that lies so, of `n` columns.
    fn new(cpu: Cpu, dtype: DType, m: u64, n: u64, style: common::case::Style) -> Self {
        use common::case::{Case, Fill, Operand, Style};
        let mut cpu = cpu;
        // Of some more than a run of dot products.
        let k = if n == 33 { 2100 } else { 600 };
        let a = Operand::new(dtype, &[m, k], Style::Tight, 0, Fill::Normal(1.0));
        let b = Operand::new(dtype, &[k, n], style, 0, Fill::Normal(1.0));
        let out = Operand::out(DType::F32, &[m, n], Style::Tight, 0);
        let product = crate::op::Matmul { constant_b: true, ..Default::default() };
        let case = Case::new(product, vec![a, b, out]);
        let checked = Arc::new(case.checked());
        let mut places = Vec::new();
        for bytes in common::run::contents(&case) {
            let block = cpu.alloc(bytes.len() as u64).unwrap();
            cpu.upload(block, 0, &bytes).unwrap();
            places.push(Place { block, offset: 0 });
        }
        let bindings = (1..).zip(&case.operands).map(|(i, operand)| Binding {
            buffer: BufferId(i),
            offset: operand.offset,
            len: operand.bytes(),
        });
        let op = checked.bind(&bindings.collect::<Vec<_>>()).unwrap();
        Self { cpu, op, places, out_bytes: (m * n * 4) as usize }
    }

    fn product(&mut self) -> Vec<u8> {
        let mut plan = self.cpu.candidates(self.op.op()).unwrap()[0];
        let units = 0..plan.units() as u64;
        let state = (plan.state_bytes > 0).then(|| self.cpu.alloc(plan.state_bytes).unwrap());
        let state = state.map(|block| Place { block, offset: 0 });
        self.cpu.launch(&mut plan, units, &self.op, &self.places, state).unwrap();
        let mut out = vec![0; self.out_bytes];
        self.cpu.download(self.places[2].block, 0, &mut out).unwrap();
        out
    }

    fn copies(&self) -> usize {
        self.cpu.constants.as_ref().map_or(0, super::constants::Constants::count)
    }
}

#[test]
fn packed_constants_change_no_bit() {
    use common::case::Style;
    for isa in classes() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for style in [Style::Tight, Style::Turned, Style::Gapped] {
                for (m, n) in [(1, 70), (16, 600), (25, 600), (70, 33), (300, 290)] {
                    let cpu = || Cpu::of_class(isa, 2).unwrap();
                    let expected = Constant::new(cpu(), dtype, m, n, style).product();
                    let mut kept = Constant::new(cpu().unshared(), dtype, m, n, style);
                    for time in 0..3 {
                        assert!(kept.product() == expected, "{isa:?} {dtype} {style:?} {m} {n}");
                        // By dot products a copy is worth it for any number.
                        let plan = kept.cpu.candidates(kept.op.op()).unwrap()[0];
                        let many = match plan.kernel {
                            "matmul" => (25..=256).contains(&m),
                            kernel => kernel == "matmul/dot",
                        };
                        let many = many && time > 0;
                        assert_eq!(kept.copies() > 0, many, "{isa:?} {dtype} {style:?} {m}");
                    }
                }
            }
        }
    }
}

/// Each way in which a weight can change drops its copy: what follows is the product of what is there then.
#[test]
fn a_changed_constant_is_packed_again() {
    use common::case::Style;
    for dtype in [DType::F32, DType::BF16] {
        for (name, change) in CHANGES {
            let new = |cpu: Cpu| Constant::new(cpu, dtype, 40, 300, Style::Turned);
            let mut kept = new(Cpu::new().unwrap().unshared());
            let mut plain = new(Cpu::new().unwrap());
            (0..3).for_each(|_| drop(kept.product()));
            assert_eq!(kept.copies(), 1);
            let before = plain.product();
            for of in [&mut kept, &mut plain] {
                change(&mut of.cpu, of.places[1].block);
            }
            let after = plain.product();
            assert!(before != after, "{name} changes the product");
            (0..3).for_each(|_| assert!(kept.product() == after, "{name} {dtype}"));
            // The block leaves, and its copy with it.
            let used = kept.cpu.memory.used;
            kept.cpu.free(kept.places[1].block);
            let weight = 600 * 300 * dtype.size();
            assert!(kept.cpu.memory.used + 2 * weight <= used && kept.copies() == 0);
        }
    }
}

#[test]
fn packed_constants_stay_within_the_budget_and_give_way() {
    use common::case::Style;
    let make = |bytes: u64| {
        let cpu = Cpu::new().unwrap().unshared().with_memory(bytes);
        let mut kept = Constant::new(cpu, DType::F32, 40, 300, Style::Turned);
        (0..2).for_each(|_| drop(kept.product()));
        kept
    };
    let need = make(1 << 30).cpu.memory.used;
    let mut kept = make(need);
    assert_eq!(kept.copies(), 1);
    let expected = kept.product();
    let block = kept.cpu.alloc(4096).unwrap();
    assert_eq!(kept.copies(), 0, "copies give way");
    assert!(kept.product() == expected);
    kept.cpu.free(block);
    let mut none = make(need - 1);
    assert!(none.copies() == 0 && none.product() == expected);
}

/// Columns of B that are packed apart from others have the bits of a product of their own.
#[test]
fn columns_packed_apart_are_the_same() {
    use crate::op::Matmul;
    use common::case::{Case, Fill, Operand, Style};
    use common::run::{contents, execute};
    const M: u64 = 290;
    const N: u64 = 1536;
    const K: u64 = 4096;
    const LAST: u64 = 500;
    let make = |shape: &[u64]| Operand::new(DType::BF16, shape, Style::Tight, 0, Fill::Normal(1.0));
    let (a, b) = (make(&[M, K]).content(5), make(&[K, N]).content(6));
    let row = |n: u64| (2 * n) as usize;
    let part = b.chunks_exact(row(N)).flat_map(|line| &line[row(N - LAST)..]);
    let part: Vec<u8> = part.copied().collect();
    let product = |isa, b: &[u8], n: u64, cuts: &dyn Fn(u64) -> Vec<u64>| {
        let out = Operand::out(DType::BF16, &[M, n], Style::Tight, 0);
        let case = Case::new(Matmul::default(), vec![make(&[M, K]), make(&[K, n]), out]);
        let mut bytes = contents(&case);
        bytes[0][..a.len()].copy_from_slice(&a);
        bytes[1][..b.len()].copy_from_slice(b);
        let mut cpu = Cpu::of_class(isa, 2).unwrap();
        let op = Arc::new(case.checked());
        let plan = cpu.candidates(&op).unwrap()[0];
        let cuts = cuts(plan.units() as u64);
        let left = execute(&mut cpu, &op, &plan, &bytes, &case, &cuts).unwrap();
        left.blocks.last().unwrap()[..row(M * n)].to_vec()
    };
    for isa in classes().into_iter().take_while(|isa| *isa != Isa::V4) {
        let alone = product(isa, &part, LAST, &|units| vec![units]);
        for cuts in [&(|units| vec![units]) as &dyn Fn(u64) -> Vec<u64>, &|n| (1..=n).collect()] {
            let all = product(isa, &b, N, cuts);
            for (all, alone) in all.chunks_exact(row(N)).zip(alone.chunks_exact(row(LAST))) {
                assert!(all[row(N - LAST)..] == *alone, "{isa:?}");
            }
        }
    }
}

fn gather(rows: u64, indices: u64) -> [Spec; 3] {
    let spec =
        |dtype, shape: &[u64]| Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap()), 0);
    let (table, out) = (spec(DType::F32, &[rows, 4]), spec(DType::F32, &[indices, 4]));
    [table, spec(DType::U32, &[indices]), out]
}

/// Table row `r` holds `r + 1` four times.
fn upload_table(cpu: &mut Cpu, rows: u64) -> BlockId {
    let data: Vec<f32> = (0..4 * rows).map(|i| (i / 4 + 1) as f32).collect();
    let block = cpu.alloc(16 * rows).unwrap();
    cpu.upload(block, 0, bytemuck::cast_slice(&data)).unwrap();
    block
}

/// Runs a gather with the given indices in place, and gives the output and the first fault.
fn run(cpu: &mut Cpu, rows: u64, blocks: [BlockId; 3], n: u64) -> (Vec<f32>, Option<IndexFault>) {
    let op = Arc::new(check(Gather { axis: 0 }.into(), &gather(rows, n)).unwrap());
    let plan = cpu.candidates(&op).unwrap()[0];
    let lens = [16 * rows, 4 * n, 16 * n];
    let bindings: Vec<Binding> = (0..3)
        .map(|i| Binding { buffer: BufferId(blocks[i].0), offset: 0, len: lens[i] })
        .collect();
    let bound = op.bind(&bindings).unwrap();
    let places = blocks.map(|block| Place { block, offset: 0 });
    let mut prepared = cpu.prepare(&op, &plan).unwrap();
    cpu.launch(&mut prepared, 0..plan.tiles, &bound, &places, None).unwrap();
    let mark = cpu.mark().unwrap();
    let Progress::Done { fault, .. } = cpu.poll(mark, None).unwrap() else { panic!("pending") };
    let mut out = vec![f32::NAN; 4 * n as usize];
    cpu.download(blocks[2], 0, bytemuck::cast_slice_mut(&mut out)).unwrap();
    (out, fault)
}

/// Operands without elements span nothing, so that any stride is legal for them: nothing of them may be read.
#[test]
fn operands_without_elements_are_never_read() {
    use crate::op::{Group, Lens, Matmul, Scale};
    let mut cpu = Cpu::new().unwrap();
    let spec = |dtype, shape: &[u64], strides: Option<&[u64]>| {
        let shape = Dims::new(shape).unwrap();
        let far = |strides| Layout::new(shape, Dims::new(strides).unwrap()).unwrap();
        Spec::new(dtype, strides.map_or(Layout::contiguous(shape), far), 0)
    };
    let far: Option<&[u64]> = Some(&[1 << 40, 1 << 41]);
    let by_k = Matmul { scales: [Scale::Block1x128; 2], ..Matmul::default() };
    let (group, sizes) = (Group::Contiguous, Lens::Host(Vec::new()));
    let of_none = Matmul { group, sizes, scales: [Scale::None, Scale::Row], ..Matmul::default() };
    let (byte, wide) = (DType::F8E4M3, DType::F32);
    let products = [
        // Nothing to sum, and scales along it.
        (
            by_k,
            vec![
                spec(byte, &[4, 0], None),
                spec(byte, &[0, 4], None),
                spec(wide, &[4, 0], far),
                spec(wide, &[0, 4], far),
                spec(wide, &[4, 4], None),
            ],
        ),
        // No group, so that every row is of none.
        (
            of_none,
            vec![
                spec(byte, &[4, 8], None),
                spec(byte, &[0, 8, 4], None),
                spec(wide, &[0, 4], far),
                spec(wide, &[4, 4], None),
            ],
        ),
    ];
    for (op, specs) in products {
        let op = Arc::new(check(op.into(), &specs).unwrap());
        let blocks: Vec<BlockId> = specs.iter().map(|_| cpu.alloc(64).unwrap()).collect();
        let out = *blocks.last().unwrap();
        cpu.upload(out, 0, &[0xff; 64]).unwrap();
        let binding = |b: &BlockId| Binding { buffer: BufferId(b.0), offset: 0, len: 64 };
        let bound = op.bind(&blocks.iter().map(binding).collect::<Vec<_>>()).unwrap();
        let places: Vec<Place> = blocks.iter().map(|&block| Place { block, offset: 0 }).collect();
        let plan = cpu.candidates(&op).unwrap()[0];
        let mut prepared = cpu.prepare(&op, &plan).unwrap();
        cpu.launch(&mut prepared, 0..plan.units() as u64, &bound, &places, None).unwrap();
        let mut values = [1f32; 16];
        cpu.download(out, 0, bytemuck::cast_slice_mut(&mut values)).unwrap();
        assert_eq!(values, [0.0; 16], "{op:?}");
    }
}

#[test]
fn bad_indices_read_zeros_and_the_first_is_reported() {
    let mut cpu = Cpu::new().unwrap();
    let table = upload_table(&mut cpu, 5);
    let (index, out) = (cpu.alloc(24).unwrap(), cpu.alloc(96).unwrap());
    // -1, 2^31 - 1, 2^31, the bound itself; good ones between.
    for bad in [u32::MAX, (1 << 31) - 1, 1 << 31, 5] {
        cpu.upload(index, 0, bytemuck::cast_slice(&[0u32, bad, 4, 5, 1, 1 << 30])).unwrap();
        let (got, fault) = run(&mut cpu, 5, [table, index, out], 6);
        let rows: Vec<f32> = got.chunks(4).map(|row| row[0]).collect();
        assert_eq!(rows, [1.0, 0.0, 5.0, 0.0, 2.0, 0.0]);
        assert!(got.chunks(4).all(|row| row.iter().all(|x| *x == row[0])));
        assert_eq!(fault, Some(IndexFault { value: bad, bound: 5, step: 0 }));
    }
    cpu.upload(index, 0, &[0; 24]).unwrap();
    assert_eq!(run(&mut cpu, 5, [table, index, out], 6).1, None);
}

/// A scatter of six entries and an append of six rows, by indices of which those at `bad` are no places: what they name
/// is dropped, the others land, and nothing else changes.
#[test]
fn scatters_by_bad_indices_write_nowhere() {
    use common::case::{Case, Fill, Operand, Style};
    use common::run::{contents, execute};
    let mut cpu = Cpu::new().unwrap();
    let normal =
        |shape: &[u64]| Operand::new(DType::F32, shape, Style::Tight, 0, Fill::Normal(1.0));
    let words = |shape: &[u64]| Operand::new(DType::U32, shape, Style::Tight, 0, Fill::Words);
    let set = Scatter { function: ScatterFn::Set, axis: 0 };
    let append = Scatter { function: ScatterFn::Append, axis: 0 };
    let cases = [
        Case::new(set, vec![normal(&[6, 4]), words(&[6]), normal(&[5, 4])]),
        // Key 0 of six entries of one row each.
        Case::new(
            append,
            vec![normal(&[6, 1, 1, 4]), words(&[6, 1]), words(&[6]), normal(&[5, 1, 1, 4])],
        ),
    ];
    for (case, bad) in
        cases.iter().flat_map(|c| [u32::MAX, (1 << 31) - 1, 1 << 31, 5].map(|b| (c, b)))
    {
        let mut bytes = contents(case);
        let list = [0u32, bad, 4, 5, 1, 1 << 30];
        bytes[1][..24].copy_from_slice(bytemuck::cast_slice(&list));
        if case.operands.len() == 4 {
            bytes[2][..24].copy_from_slice(bytemuck::cast_slice(&[1u32; 6]));
        }
        let op = Arc::new(case.checked());
        let plan = cpu.candidates(&op).unwrap()[0];
        let left = execute(&mut cpu, &op, &plan, &bytes, case, &[plan.units() as u64]).unwrap();
        let out = bytes.len() - 1;
        let mut expected = bytes[out].clone();
        for (entry, to) in list.iter().enumerate().filter(|(_, to)| **to < 5) {
            let to = 16 * *to as usize;
            expected[to..to + 16].copy_from_slice(&bytes[0][16 * entry..16 * (entry + 1)]);
        }
        assert_eq!(left.blocks[out], expected);
        assert_eq!(left.fault, Some(IndexFault { value: bad, bound: 5, step: 0 }));
    }
}

/// Sizes of groups that are none, in an operand: each is held to its bound and to what is left, the first is reported,
/// and the product is that of the sizes they were held to.
#[test]
fn groups_of_bad_sizes_stay_inside() {
    use crate::op::{Group, Lens, Matmul};
    use common::case::{Case, Fill, Operand, Style};
    use common::run::{contents, execute};
    let mut cpu = Cpu::new().unwrap();
    let normal =
        |shape: &[u64]| Operand::new(DType::F32, shape, Style::Tight, 0, Fill::Normal(1.0));
    let out = |shape: &[u64]| Operand::out(DType::F32, shape, Style::Tight, 0);
    let op = |group, sizes| Matmul { group, sizes, ..Matmul::default() };
    let case = |group, device: bool, sizes: [u32; 3]| {
        let operands = match group {
            Group::Contiguous => [normal(&[600, 5]), normal(&[3, 5, 4]), out(&[600, 4])],
            Group::Masked => [normal(&[3, 600, 5]), normal(&[3, 5, 4]), out(&[3, 600, 4])],
            _ => [normal(&[4, 600]), normal(&[600, 5]), out(&[3, 4, 5])],
        };
        let list = Operand::new(DType::U32, &[3], Style::Tight, 0, Fill::List(sizes));
        let [a, b, out] = operands;
        match device {
            true => Case::new(op(group, Lens::Device { max: 500 }), vec![a, b, list, out]),
            false => Case::new(op(group, Lens::Host(sizes.to_vec())), vec![a, b, out]),
        }
    };
    for group in [Group::Contiguous, Group::Masked, Group::K] {
        let masked = group == Group::Masked;
        for (sizes, held, fault) in [
            ([7, u32::MAX, 3], [7, 500, 3], (u32::MAX, 501)),
            ([1 << 31, 1, 2], [500, 1, 2], (1 << 31, 501)),
            ([501, 0, 0], [500, 0, 0], (501, 501)),
            (
                [300, 400, 9],
                [300, if masked { 400 } else { 300 }, if masked { 9 } else { 0 }],
                (400, 301),
            ),
        ] {
            let mut run = |case: &Case, bytes: &[Vec<u8>]| {
                let op = Arc::new(case.checked());
                let plan = cpu.candidates(&op).unwrap()[0];
                let cut = [plan.units() as u64];
                let mut left = execute(&mut cpu, &op, &plan, bytes, case, &cut).unwrap();
                (left.blocks.pop().unwrap(), left.fault)
            };
            let (bad, good) = (case(group, true, sizes), case(group, false, held));
            let bytes = contents(&bad);
            let (got, seen) = run(&bad, &bytes);
            let same = [bytes[0].clone(), bytes[1].clone(), bytes[3].clone()];
            let (expected, none) = run(&good, &same);
            assert!(got == expected, "{group:?} {sizes:?}");
            assert_eq!(none, None);
            let fault = IndexFault { value: fault.0, bound: fault.1, step: 0 };
            let legal = masked && sizes[1] == 400;
            assert_eq!(seen, (!legal).then_some(fault), "{group:?} {sizes:?}");
        }
    }
}

#[test]
fn indices_changed_during_the_run_never_leave_the_table() {
    const N: u64 = 50_000;
    let mut cpu = Cpu::new().unwrap();
    let table = upload_table(&mut cpu, 1000);
    let (index, out) = (cpu.alloc(4 * N).unwrap(), cpu.alloc(16 * N).unwrap());
    let words = cpu.memory.bytes(index.0, 0, 4 * N).unwrap().as_mut_ptr() as usize;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = common::case::Random(7);
            while !stop.load(Relaxed) {
                let at = words + 4 * random.below(N) as usize;
                let bits = random.bits() as u32;
                let value = if bits & 1 == 0 { bits % 1000 } else { bits };
                // SAFETY: inside the index block, which outlives this thread's scope; the backend reads it by
                // atomics alone.
                unsafe { AtomicU32::from_ptr(at as *mut u32) }.store(value, Relaxed);
            }
        });
        let mut faults = 0;
        for _ in 0..20 {
            let (got, fault) = run(&mut cpu, 1000, [table, index, out], N);
            for row in got.chunks(4) {
                assert!(row.iter().all(|x| *x == row[0]), "a torn row: {row:?}");
                assert!((0.0..=1000.0).contains(&row[0]), "{row:?}");
            }
            if let Some(fault) = fault {
                assert!(fault.value >= fault.bound && fault.bound == 1000);
                faults += 1;
            }
        }
        stop.store(true, Relaxed);
        assert!(faults > 0);
    });
}
