//! What a GPU API makes easy to get wrong: one buffer in many roles, hostile indices, words shared by neighbours,
//! large grids, loss of the device, memory and binding limits, transfers that are no whole words.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::adapter::open;
use common::case::{Case, Fill, Operand, Random, Style};
use common::judge::judge;
use common::run::{Outcome, contents, execute, run_on};
use leasehold::backend::wgpu::Wgpu;
use leasehold::backend::{Backend, BlockId, IndexFault, Mark, Place, Progress};
use leasehold::op::{
    Binding, BufferId, Copy, Gather, Map, MapFn, Matmul, Norm, NormKind, Op, Reduce, ReduceFn,
    Spec, check,
};
use leasehold::{DType, Dims, Error, Kind, Layout, reference};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn done(backend: &mut Wgpu, mark: Mark) -> (u64, Option<IndexFault>) {
    loop {
        if let Progress::Done { busy_ns, fault } = backend.poll(mark, None).unwrap() {
            return (busy_ns, fault);
        }
    }
}

/// Runs a case whose operands all lie in one block, and judges its last operand.
fn in_one_block(backend: &mut Wgpu, case: &Case) {
    let op = Arc::new(case.checked());
    let plan = backend.candidates(&op).unwrap()[0];
    let contents = contents(case);
    let mut at = 0;
    let mut starts: Vec<u64> = Vec::new();
    for (operand, content) in case.operands.iter().zip(&contents) {
        starts.push(match operand.fill {
            Fill::Same(other) => starts[other],
            _ => at,
        });
        at += content.len() as u64;
    }
    let block = backend.alloc(at).unwrap();
    let mut places = Vec::new();
    for ((operand, content), &start) in case.operands.iter().zip(&contents).zip(&starts) {
        if !matches!(operand.fill, Fill::Same(_)) {
            backend.upload(block, start, content).unwrap();
        }
        places.push(Place { block, offset: start + operand.offset });
    }
    let bindings =
        places.iter().map(|p| Binding { buffer: BufferId(1), offset: p.offset, len: at });
    let bound = op.bind(&bindings.collect::<Vec<_>>()).unwrap();
    let mut prepared = backend.prepare(&op, &plan).unwrap();
    let units = 0..plan.units() as u64;
    backend.launch(&mut prepared, units, &bound, &places, None).unwrap();
    let mut after = vec![0; at as usize];
    backend.download(block, 0, &mut after).unwrap();
    backend.free(block);

    let written = |i: usize| op.roles()[i].access.writes();
    let reads = (0..places.len()).filter(|&i| !written(i));
    let inputs: Vec<&[u8]> =
        reads.map(|i| &contents[i][case.operands[i].offset as usize..]).collect();
    let last = places.len() - 1;
    let out = &case.operands[last];
    let got = reference::read(out.dtype, &out.layout, &after[places[last].offset as usize..]);
    let exact = reference::exact(&op, &inputs);
    let low = reference::rounded(&op, &inputs, out.dtype, reference::Unit::Single);
    judge(out.dtype, &got, &exact[0], &low[0]).unwrap();
    for (i, &start) in starts.iter().enumerate() {
        let shared = case.operands.iter().any(|o| matches!(o.fill, Fill::Same(j) if j == i));
        if !written(i) && !shared {
            let end = start as usize + contents[i].len();
            assert_eq!(after[start as usize..end], contents[i], "operand {i} changed");
        }
    }
}

fn normal(dtype: DType, shape: &[u64]) -> Operand {
    Operand::new(dtype, shape, Style::Odd, 1, Fill::Normal(1.0))
}

fn same(operands: &[Operand], i: usize) -> Operand {
    Operand { fill: Fill::Same(i), ..operands[i].clone() }
}

#[test]
fn all_operands_may_lie_in_one_block() {
    let Some(mut backend) = open() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut operands: Vec<Operand> =
            [[33, 20], [20, 45], [33, 45], [33, 45]].iter().map(|s| normal(dtype, s)).collect();
        operands.push(same(&operands, 3));
        let op = Matmul { bias: true, residual: true, ..Matmul::default() };
        in_one_block(&mut backend, &Case::new(op, operands));

        let mut operands = vec![normal(dtype, &[9, 65]), normal(dtype, &[9, 65])];
        operands.push(same(&operands, 0));
        let op = Map { function: MapFn::Mul, scale: 1.0, shift: 0.5 };
        in_one_block(&mut backend, &Case::new(op, operands));

        let mut operands = vec![normal(dtype, &[7, 129]), normal(dtype, &[129])];
        operands.push(same(&operands, 0));
        let op = Norm { kind: NormKind::Layer, epsilon: 1e-5, weight: true, bias: false };
        in_one_block(&mut backend, &Case::new(op, operands));

        let x = normal(dtype, &[5, 33]);
        let out = Operand::out(dtype, &[5, 33], Style::Turned, 3);
        in_one_block(&mut backend, &Case::new(Copy, vec![x, out]));
    }
}

#[test]
fn halves_of_words_have_neighbours() {
    let Some(mut backend) = open() else { return };
    for dtype in [DType::F16, DType::BF16] {
        for (style, offset) in [(Style::Odd, 1), (Style::Tight, 1), (Style::Gapped, 1)] {
            let op = Matmul::default();
            let out = Operand::out(dtype, &[17, 19], style, offset);
            let case = Case::new(op, vec![normal(dtype, &[17, 8]), normal(dtype, &[8, 19]), out]);
            // The run holds every byte that is no element of the output against what it was.
            let outcome = run_on(&mut backend, &case).unwrap();
            assert!(matches!(outcome, Outcome::Passed), "{outcome:?}");
        }
    }
}

/// A gather of single elements whose indices are these words.
fn gathered(backend: &mut Wgpu, rows: u64, index: &[u32]) -> (Vec<u32>, Option<IndexFault>) {
    let table = Operand::new(DType::U32, &[rows, 1], Style::Tight, 0, Fill::Words);
    let count = [index.len() as u64];
    let indices = Operand::new(DType::I32, &count, Style::Tight, 0, Fill::Indices(1));
    let out = Operand::out(DType::U32, &[count[0], 1], Style::Tight, 0);
    let case = Case::new(Gather { axis: 0 }, vec![table, indices, out]);
    let mut contents = contents(&case);
    contents[0] = (0..rows as u32).flat_map(|row| (row + 7).to_le_bytes()).collect();
    contents[0].resize(case.operands[0].bytes() as usize, 0xff);
    contents[1] = index.iter().flat_map(|i| i.to_le_bytes()).collect();
    contents[1].resize(case.operands[1].bytes() as usize, 0xff);
    let op = Arc::new(case.checked());
    let plan = backend.candidates(&op).unwrap()[0];
    let cuts = [plan.units() as u64];
    let left = execute(backend, &op, &plan, &contents, &case, &cuts).unwrap();
    let words = left.blocks[2].as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w));
    (words.take(index.len()).collect(), left.fault)
}

#[test]
fn a_bad_index_reads_zero_and_is_told() {
    let Some(mut backend) = open() else { return };
    let rows = 50;
    for bad in [u32::MAX, 0x7fff_ffff, 0x8000_0000, 50] {
        let (words, fault) = gathered(&mut backend, rows, &[3, bad, 49]);
        assert_eq!(words, [10, 0, 56]);
        assert_eq!(fault, Some(IndexFault { value: bad, bound: 50, step: 0 }));
    }
    let mut random = Random(5);
    let index: Vec<u32> = (0..5000).map(|_| random.bits() as u32).collect();
    let (words, fault) = gathered(&mut backend, rows, &index);
    assert!(index.iter().zip(&words).all(|(&i, &w)| w == if i < 50 { i + 7 } else { 0 }));
    let fault = fault.unwrap();
    assert!(index.contains(&fault.value) && fault.value >= 50 && fault.bound == 50);
    // The fault is told once; what follows is clean.
    let (words, fault) = gathered(&mut backend, rows, &[0]);
    assert_eq!((words, fault), (vec![7], None));
}

#[test]
fn indices_may_change_between_launches() {
    let Some(mut backend) = open() else { return };
    let spec = |dtype, n: u64| Spec::new(dtype, Layout::contiguous(Dims::new(&[n]).unwrap()), 0);
    let specs = [spec(DType::F32, 8), spec(DType::U32, 4), spec(DType::F32, 4)];
    let op = Arc::new(check(Gather { axis: 0 }.into(), &specs).unwrap());
    let plan = backend.candidates(&op).unwrap()[0];
    let mut prepared = backend.prepare(&op, &plan).unwrap();
    let blocks: Vec<BlockId> = (0..3).map(|_| backend.alloc(256).unwrap()).collect();
    let bindings: Vec<Binding> =
        blocks.iter().map(|b| Binding { buffer: BufferId(b.0), offset: 0, len: 256 }).collect();
    let bound = op.bind(&bindings).unwrap();
    let places: Vec<Place> = blocks.iter().map(|&block| Place { block, offset: 0 }).collect();
    let table: Vec<u8> = (1..=8).flat_map(|x| (x as f32).to_le_bytes()).collect();
    backend.upload(blocks[0], 0, &table).unwrap();
    let mut faults = Vec::new();
    for last in [1u32, 8, 2] {
        let index: Vec<u8> = [0, 7, 3, last].iter().flat_map(|i: &u32| i.to_le_bytes()).collect();
        backend.upload(blocks[1], 0, &index).unwrap();
        backend.launch(&mut prepared, 0..1, &bound, &places, None).unwrap();
        faults.push(backend.mark().unwrap());
    }
    let faults: Vec<_> = faults.into_iter().map(|mark| done(&mut backend, mark).1).collect();
    assert_eq!(faults, [None, Some(IndexFault { value: 8, bound: 8, step: 0 }), None]);
    let mut out = [0; 16];
    backend.download(blocks[2], 0, &mut out).unwrap();
    let out: Vec<f32> = out.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(out, [1.0, 8.0, 4.0, 3.0]);
}

/// The index lies where the op writes its rows, so invocations change it while others read it: a binding says that
/// the buffers are apart, the places say otherwise. What comes out is a word of the table or a zero.
#[test]
fn indices_may_change_during_the_run() {
    let Some(mut backend) = open() else { return };
    let (rows, n) = (1000u32, 40_000u64);
    let spec =
        |shape: &[u64]| Spec::new(DType::U32, Layout::contiguous(Dims::new(shape).unwrap()), 0);
    let specs = [spec(&[rows.into(), 2]), spec(&[n]), spec(&[n, 2])];
    let op = Arc::new(check(Gather { axis: 0 }.into(), &specs).unwrap());
    let plan = backend.candidates(&op).unwrap()[0];
    let mut prepared = backend.prepare(&op, &plan).unwrap();
    // Half of the table's words are no good index: they differ from every index that was there before.
    let mut random = Random(23);
    let table: Vec<u32> = (0..2 * rows)
        .map(|i| if i % 2 == 0 { i / 2 } else { random.bits() as u32 | 1 << 30 })
        .collect();
    let hostile: HashSet<u32> = table.iter().skip(1).step_by(2).copied().collect();
    let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let blocks = [backend.alloc(8 * u64::from(rows)).unwrap(), backend.alloc(8 * n).unwrap()];
    backend.upload(blocks[0], 0, &bytes(&table)).unwrap();
    let lens = [8 * u64::from(rows), 4 * n, 8 * n];
    let bindings =
        [0, 1, 2].map(|i| Binding { buffer: BufferId(i), offset: 0, len: lens[i as usize] });
    let bound = op.bind(&bindings).unwrap();
    let places = [0, 1, 1].map(|i| Place { block: blocks[i], offset: 0 });
    let (mut faults, mut torn) = (0, 0);
    for _ in 0..10 {
        let index: Vec<u32> = (0..n).map(|_| random.below(rows.into()) as u32).collect();
        backend.upload(blocks[1], 0, &bytes(&index)).unwrap();
        let units = 0..plan.units() as u64;
        backend.launch(&mut prepared, units, &bound, &places, None).unwrap();
        let mark = backend.mark().unwrap();
        if let Some(fault) = done(&mut backend, mark).1 {
            assert!(fault.bound == rows && fault.value >= rows, "{fault:?}");
            assert!(hostile.contains(&fault.value), "{fault:?} was never an index");
            faults += 1;
        }
        let mut out = vec![0; 8 * n as usize];
        backend.download(blocks[1], 0, &mut out).unwrap();
        let out: Vec<u32> = out.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        for (i, word) in out.iter().enumerate() {
            let known = if i % 2 == 0 { *word < rows } else { hostile.contains(word) };
            assert!(known || *word == 0, "word {i} is {word}");
            torn += usize::from(i % 2 == 0 && *word != index[i / 2]);
        }
    }
    assert!(faults > 0 && torn > 0, "no index changed: {faults} faults, {torn} others");
}

#[test]
fn a_grid_may_have_more_workgroups_than_a_dimension() {
    let Some(mut backend) = open() else { return };
    let x = Operand::new(DType::F16, &[70_000, 3], Style::Tight, 1, Fill::Normal(1.0));
    let out = Operand::out(DType::F16, &[70_000], Style::Tight, 1);
    let op = Reduce { function: ReduceFn::Sum, axis: 1 };
    let outcome = run_on(&mut backend, &Case::new(op, vec![x, out])).unwrap();
    assert!(matches!(outcome, Outcome::Passed), "{outcome:?}");
}

#[test]
fn transfers_need_not_be_whole_words() {
    let Some(mut backend) = open() else { return };
    let mut model: Vec<u8> = (0..=255).collect();
    let block = backend.alloc(256).unwrap();
    let other = backend.alloc(300).unwrap();
    backend.upload(block, 0, &model).unwrap();
    let mut random = Random(11);
    for _ in 0..60 {
        let (at, to) = (random.below(120) as usize, 128 + random.below(90) as usize);
        let len = random.below(38) as usize;
        match random.below(4) {
            0 => {
                let bytes: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
                backend.upload(block, at as u64, &bytes).unwrap();
                model[at..at + len].copy_from_slice(&bytes);
            }
            1 => {
                backend.zero(block, at as u64, len as u64).unwrap();
                model[at..at + len].fill(0);
            }
            2 => {
                let (len, at) = (len.min(8), at.min(110));
                let place = |offset: usize| Place { block, offset: offset as u64 };
                backend.copy(place(at), place(to), len as u64).unwrap();
                model.copy_within(at..at + len, to);
            }
            _ => {
                let near = Place { block, offset: at as u64 & !3 };
                let far = Place { block: other, offset: 4 };
                let len = len as u64 & !3;
                backend.copy(near, far, len).unwrap();
                let mut bytes = vec![0; len as usize];
                backend.download(other, 4, &mut bytes).unwrap();
                let at = near.offset as usize;
                assert_eq!(bytes, model[at..at + len as usize]);
            }
        }
        let mut bytes = vec![0; len];
        backend.download(block, at as u64, &mut bytes).unwrap();
        assert_eq!(bytes, model[at..at + len]);
    }
    let mut whole = vec![0; 256];
    backend.download(block, 0, &mut whole).unwrap();
    assert_eq!(whole, model);
    assert!(backend.download(block, 250, &mut [0; 7]).is_err());
}

fn is_lost<T>(result: Result<T, Error>) -> bool {
    matches!(result.map_err(|e| e.kind().clone()), Err(Kind::DeviceLost { .. }))
}

#[test]
fn a_lost_device_is_an_error_everywhere() {
    let Some(mut backend) = open() else { return };
    let dims = Dims::new(&[1000]).unwrap();
    let spec = Spec::new(DType::F32, Layout::contiguous(dims), 0);
    let op = Arc::new(check(Op::from(Copy), &[spec, spec]).unwrap());
    let plan = backend.candidates(&op).unwrap()[0];
    let mut prepared = backend.prepare(&op, &plan).unwrap();
    let blocks = [backend.alloc(4096).unwrap(), backend.alloc(4096).unwrap()];
    let bindings = blocks.map(|b| Binding { buffer: BufferId(b.0), offset: 0, len: 4096 });
    let bound = op.bind(&bindings).unwrap();
    let places = blocks.map(|block| Place { block, offset: 0 });
    backend.launch(&mut prepared, 0..1, &bound, &places, None).unwrap();
    let mark = backend.mark().unwrap();
    backend.lose();
    assert!(is_lost(backend.poll(mark, None)));
    assert!(is_lost(backend.launch(&mut prepared, 0..1, &bound, &places, None)));
    assert!(is_lost(backend.upload(blocks[0], 0, &[0; 16])));
    assert!(is_lost(backend.download(blocks[0], 0, &mut [0; 16])));
    assert!(is_lost(backend.zero(blocks[0], 0, 16)));
    assert!(is_lost(backend.copy(places[0], places[1], 16)));
    assert!(is_lost(backend.alloc(16)));
    assert!(is_lost(backend.prepare(&op, &plan)));
    assert!(is_lost(backend.mark()));
    backend.free(blocks[0]);
}

#[test]
fn memory_ends_with_both_numbers() {
    let Some(backend) = open() else { return };
    let mut backend = backend.with_memory(1 << 20);
    let first = backend.alloc(600_000).unwrap();
    let quota = 1 << 20;
    let error = backend.alloc(600_000).unwrap_err();
    let free = quota - 600_000;
    assert_eq!(*error.kind(), Kind::OutOfMemory { asked: 600_000, free, quota });
    backend.free(first);
    backend.alloc(600_000).unwrap();
    // Beyond what the adapter gives one buffer, whatever the budget.
    let mut backend = open().unwrap().with_memory(u64::MAX);
    let asked = backend.caps().max_alloc + 1;
    let error = backend.alloc(asked).unwrap_err();
    assert!(matches!(error.kind(), Kind::OutOfMemory { .. }), "{error}");
}

#[test]
fn an_operand_beyond_the_binding_limit_is_refused() {
    let Some(backend) = open() else { return };
    let max = backend.caps().max_binding;
    let spec = |n: u64| {
        let dims = Dims::new(&[n]).unwrap();
        Spec::new(DType::F32, Layout::contiguous(dims), 0)
    };
    let fits = check(Op::from(Copy), &[spec(max / 4), spec(max / 4)]).unwrap();
    backend.candidates(&fits).unwrap();
    let over = check(Op::from(Copy), &[spec(max / 4 + 1), spec(max / 4 + 1)]).unwrap();
    let error = backend.candidates(&over).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{text}");
    assert!(text.contains(&max.to_string()) && text.contains(&((max / 4 + 1) * 4).to_string()));
    // A stride of 0 makes a long axis of few bytes: element numbers have 31 bits.
    let long = Layout::new(Dims::new(&[1 << 31]).unwrap(), Dims::new(&[0]).unwrap()).unwrap();
    let x = Spec::new(DType::F32, long, 0);
    let out = Spec::new(DType::F32, Layout::contiguous(Dims::NONE), 0);
    let op = check(Reduce { function: ReduceFn::Sum, axis: 0 }.into(), &[x, out]).unwrap();
    let error = backend.candidates(&op).unwrap_err();
    assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{error}");
}

#[test]
fn a_poll_ends_with_its_time() {
    let Some(mut backend) = open() else { return };
    let shape = [512, 512];
    let operands = vec![
        normal(DType::F32, &shape),
        normal(DType::F32, &shape),
        Operand::out(DType::F32, &shape, Style::Tight, 0),
    ];
    let case = Case::new(Matmul::default(), operands);
    let op = Arc::new(case.checked());
    let plan = backend.candidates(&op).unwrap()[0];
    let mut prepared = backend.prepare(&op, &plan).unwrap();
    let places: Vec<Place> = case
        .operands
        .iter()
        .map(|o| Place { block: backend.alloc(o.bytes()).unwrap(), offset: o.offset })
        .collect();
    let bindings = places.iter().zip(&case.operands).map(|(p, o)| {
        let (buffer, len) = (BufferId(p.block.0), o.bytes());
        Binding { buffer, offset: p.offset, len }
    });
    let bound = op.bind(&bindings.collect::<Vec<_>>()).unwrap();
    let began = Instant::now();
    for _ in 0..20 {
        let units = 0..plan.units() as u64;
        backend.launch(&mut prepared, units, &bound, &places, None).unwrap();
    }
    let mark = backend.mark().unwrap();
    let first = backend.poll(mark, Some(Duration::ZERO)).unwrap();
    let software = backend.caps().software;
    // 5 GFLOP are not done at once in software; a GPU may be that fast.
    assert!(first == Progress::Pending || !software);
    let (busy_ns, fault) = match first {
        Progress::Done { busy_ns, fault } => (busy_ns, fault),
        Progress::Pending => done(&mut backend, mark),
    };
    let wall = began.elapsed().as_nanos() as u64;
    assert!(busy_ns > 0 && busy_ns < 2 * wall, "busy {busy_ns} ns in {wall} ns");
    assert_eq!(fault, None);
    // Nothing in between: nothing to wait for.
    let empty = backend.mark().unwrap();
    assert_eq!(done(&mut backend, empty), (0, None));
}

#[test]
fn every_op_has_a_shader_and_every_shader_is_an_op() {
    let mut names: Vec<&str> = leasehold_shaders::SHADERS.iter().map(|shader| shader.op).collect();
    let mut all = Op::NAMES.to_vec();
    names.sort();
    all.sort();
    assert_eq!(names, all);
}

#[test]
fn software_adapters_are_marked_and_ids_are_stable() {
    let Some(backend) = open() else { return };
    for adapter in Wgpu::enumerate() {
        assert_eq!(adapter.caps.software, adapter.kind == "software");
        println!("{} ({}, {}, {})", adapter.caps.name, adapter.api, adapter.kind, adapter.driver);
    }
    assert_eq!(backend.digest(), open().unwrap().digest());
    let error = Wgpu::open(1000).err().unwrap();
    assert!(matches!(error.kind(), Kind::NoDevice { .. }), "{error}");
    let chosen = leasehold::Device::open();
    assert!(
        chosen.is_err() || chosen.unwrap().caps().backend != "wgpu" || !backend.caps().software
    );
}

#[test]
fn a_device_by_name_runs_ops() {
    if open().is_none() {
        return;
    }
    let device = leasehold::Device::open_named("wgpu:0").unwrap();
    let a = device.tensor([2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let b = device.tensor([3, 2], &[1f32, 0.0, 0.0, 1.0, 1.0, 1.0]).unwrap();
    let y = leasehold::Matmul::new(&a, &b).relu().run().unwrap();
    assert_eq!(y.read::<f32>().unwrap().wait(None).unwrap(), [4.0, 5.0, 10.0, 11.0]);
    let error = leasehold::Device::open_named("wgpu:99").unwrap_err();
    assert!(matches!(error.kind(), Kind::NoDevice { .. }), "{error}");
}
