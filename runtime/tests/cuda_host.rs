//! The host side of the CUDA backend where things run short or break, on the host model as its driver: memory, failed calls,
//! lost devices, and the time that work takes.
#![cfg(feature = "cuda")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod model;

use leasehold::backend::cuda::Cuda;
use leasehold::backend::{Backend, BlockId, Progress};
use leasehold::exec::Core;
use leasehold::op::{Attention, Lens, Spec, check};
use leasehold::{DType, Dims, Error, Kind, Layout};
use model::{ORDER, in_child, open};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What the model has, and its granule.
const TOTAL: u64 = 256 * MIB;
const GRANULE: u64 = 2 * MIB;

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error.kind(), Kind::OutOfMemory { .. })
}

fn wait(cuda: &mut Cuda) {
    let mark = cuda.mark().unwrap();
    assert!(matches!(cuda.poll(mark, None).unwrap(), Progress::Done { .. }));
}

/// Blocks of a size, as many as there is room for.
fn fill(cuda: &mut Cuda, bytes: u64) -> Vec<BlockId> {
    let mut blocks = Vec::new();
    loop {
        match cuda.alloc(bytes) {
            Ok(block) => blocks.push(block),
            Err(error) if is_out_of_memory(&error) => return blocks,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn memory_is_what_was_free() {
    if !in_child("memory_is_what_was_free", &[]) {
        return;
    }
    let first = open();
    let memory = first.caps().memory;
    assert!(memory > TOTAL / 2 && memory < TOTAL, "{memory}");
    // Another process's memory is not promised twice.
    let mut first = first.with_memory(100 * MIB).taken().unwrap();
    let second = open();
    assert!(second.caps().memory < memory - 90 * MIB, "{}", second.caps().memory);
    // What was taken is there, and zeros.
    let block = first.alloc(100 * MIB).unwrap();
    let mut bytes = vec![1; 100 << 20];
    first.download(block, 0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    drop(first);
    assert_eq!(open().caps().memory, memory);
}

/// A device that was taken whole needs nothing of the driver any more, and its ranges have gaps around them.
#[test]
fn taken_memory_makes_blocks_of_any_size() {
    if !in_child("taken_memory_makes_blocks_of_any_size", &[]) {
        return;
    }
    let mut cuda = open().with_memory(64 * MIB).taken().unwrap();
    // Nobody else leaves anything.
    let rest = fill(&mut open(), GRANULE);
    assert!(rest.len() > 50, "{}", rest.len());
    for granules in [1, 3, 7, 30] {
        let blocks = fill(&mut cuda, granules * GRANULE);
        assert!(blocks.len() as u64 >= 32 / granules, "{} of {granules}", blocks.len());
        for (i, block) in blocks.iter().enumerate() {
            cuda.upload(*block, granules * GRANULE - 5, &[i as u8; 5]).unwrap();
        }
        for (i, block) in blocks.iter().enumerate() {
            let mut back = [0xff; 5];
            cuda.download(*block, granules * GRANULE - 5, &mut back).unwrap();
            assert_eq!(back, [i as u8; 5], "block {i} of {granules}");
        }
        blocks.into_iter().for_each(|block| cuda.free(block));
    }
}

#[test]
fn slabs_of_small_blocks_come_back() {
    if !in_child("slabs_of_small_blocks_come_back", &[]) {
        return;
    }
    let mut cuda = open().with_memory(32 * MIB);
    for round in 0..3 {
        // Sizes in turn, each of which takes nearly everything.
        for size in [400 * 1024, 256, 512 * 1024, 3000] {
            let count = if size < 4096 { 2000 } else { 60 };
            let blocks: Vec<_> = (0..count).map(|_| cuda.alloc(size).unwrap()).collect();
            cuda.upload(blocks[count - 1], 0, &[7; 256]).unwrap();
            blocks.into_iter().for_each(|block| cuda.free(block));
        }
        let large = cuda.alloc(30 * MIB).unwrap_or_else(|error| panic!("round {round}: {error}"));
        cuda.zero(large, 0, 30 * MIB).unwrap();
        cuda.free(large);
    }
    wait(&mut cuda);
}

/// Ops with long lists, each different, more of them than the device has room for.
#[test]
fn lists_of_ops_take_a_bounded_part_of_memory() {
    if !in_child("lists_of_ops_take_a_bounded_part_of_memory", &[]) {
        return;
    }
    const BATCH: u64 = 4000;
    let cuda = open().with_memory(48 * MIB).taken().unwrap();
    let mut core = Core::new(cuda);
    // Tenants may have all that they were promised.
    let all = fill(core.backend(), 48 * MIB);
    assert_eq!(all.len(), 1);
    let dense = |shape: [u64; 4]| Layout::contiguous(Dims::new(&shape).unwrap());
    let spec = |shape| Spec::new(DType::F16, dense(shape), 0);
    let specs = [[BATCH, 1, 1, 64], [BATCH, 1, 2, 64], [BATCH, 1, 2, 64], [BATCH, 1, 1, 64]];
    let specs = specs.map(spec);
    for i in 0..1000 {
        let mut lens = vec![1; BATCH as usize];
        lens[i % 1000] = 2;
        let op = Attention { lens: Lens::Host(lens), scale: 1.0, ..Attention::default() };
        let op = Arc::new(check(op.into(), &specs).unwrap());
        core.plan(&op).unwrap_or_else(|error| panic!("op {i}: {error}"));
    }
}

/// What the host does between two pieces of work is not the device's time.
#[test]
fn busy_time_has_no_pauses_of_the_host() {
    if !in_child("busy_time_has_no_pauses_of_the_host", &[(ORDER, "early")]) {
        return;
    }
    const PAUSE: Duration = Duration::from_millis(300);
    let mut cuda = open();
    let block = cuda.alloc(MIB).unwrap();
    let busy = |cuda: &mut Cuda| {
        let mark = cuda.mark().unwrap();
        match cuda.poll(mark, None).unwrap() {
            Progress::Done { busy_ns, .. } => Duration::from_nanos(busy_ns),
            Progress::Pending => panic!("waited for"),
        }
    };
    for _ in 0..2 {
        for pause in [Duration::ZERO, PAUSE, PAUSE] {
            std::thread::sleep(pause);
            cuda.zero(block, 0, MIB).unwrap();
        }
        let time = busy(&mut cuda);
        assert!(time > Duration::ZERO && time < PAUSE, "{time:?}");
        // Copies do not count, nor does nothing.
        cuda.upload(block, 0, &[1; 4096]).unwrap();
        assert_eq!(busy(&mut cuda), Duration::ZERO);
        assert_eq!(busy(&mut cuda), Duration::ZERO);
    }
}
