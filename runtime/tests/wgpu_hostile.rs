//! Indices and counts in device memory that lie: whatever they say, the result is that of the reference, which drops bad
//! writes, reads zeros for bad pages and holds counts to what there is room for, no other byte changes, and the fault
//! is told.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::adapter::open;
use common::case::{Case, Random};
use common::judge::judge;
use common::run::{contents, execute};
use leasehold::backend::Backend;
use leasehold::backend::wgpu::Wgpu;
use leasehold::{Kind, reference};
use std::sync::Arc;

/// Operands of indices and counts.
const TRUSTED_BY_NONE: [&str; 5] = ["index", "pages", "lens", "rows", "sizes"];
const BAD: [u32; 5] = [u32::MAX, 0x8000_0000, 0x7fff_ffff, 1 << 24, 70_000];

/// Runs a case with every second index or count a bad one; true if a fault was told.
fn lied_to(backend: &mut Wgpu, case: &Case) -> bool {
    let op = Arc::new(case.checked());
    let mut contents = contents(case);
    let mut random = Random(contents.len() as u64);
    let mut lies = 0;
    for (i, role) in op.roles().iter().enumerate() {
        if !role.access.reads() || !TRUSTED_BY_NONE.contains(&role.name) {
            continue;
        }
        let operand = &case.operands[i];
        for at in reference::offsets(&operand.layout) {
            let at = (operand.offset + 4 * at) as usize;
            if random.below(2) == 0 {
                let bad = BAD[random.below(BAD.len() as u64) as usize];
                contents[i][at..at + 4].copy_from_slice(&bad.to_le_bytes());
                lies += 1;
            }
        }
    }
    let plan = backend.candidates(&op).unwrap()[0];
    let units = plan.units() as u64;
    let left = execute(backend, &op, &plan, &contents, case, &[units / 2, units]).unwrap();
    let reads: Vec<&[u8]> = op
        .roles()
        .iter()
        .enumerate()
        .filter(|(_, role)| role.access.reads())
        .map(|(i, _)| &contents[i][case.operands[i].offset as usize..])
        .collect();
    let exact = reference::exact(&op, &reads);
    let outs = (0..op.roles().len()).filter(|&i| op.roles()[i].access.writes());
    for (n, i) in outs.enumerate() {
        let operand = &case.operands[i];
        let low = reference::rounded(&op, &reads, operand.dtype).swap_remove(n);
        let mut after = left.blocks[i].clone();
        let bytes = &after[operand.offset as usize..];
        let got = reference::read(operand.dtype, &op.specs()[i].layout, bytes);
        judge(operand.dtype, &got, &exact[n], &low)
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let size = operand.dtype.size() as usize;
        for at in reference::offsets(&operand.layout) {
            let at = operand.offset as usize + at as usize * size;
            after[at..at + size].copy_from_slice(&contents[i][at..at + size]);
        }
        assert!(after == contents[i], "{}: a byte beside the output changed", case.name);
    }
    for (i, role) in op.roles().iter().enumerate() {
        assert!(
            role.access.writes() || left.blocks[i] == contents[i],
            "{}: operand {i}",
            case.name
        );
    }
    if let Some(fault) = left.fault {
        assert!(lies > 0 && BAD.contains(&fault.value), "{}: {fault:?}", case.name);
        assert!(fault.value >= fault.bound, "{}: {fault:?}", case.name);
    }
    left.fault.is_some()
}

/// Runs some of an op's cases that read indices or counts; not few tell a fault (others have none to tell).
fn lie_to(cases: Vec<Case>, step: usize) {
    let Some(mut backend) = open() else { return };
    let flops = u128::from(common::CASE_FLOPS / 10);
    let reads = |case: &&Case| {
        case.flops() < flops
            && case.op.roles().iter().any(|role| TRUSTED_BY_NONE.contains(&role.name))
    };
    let (mut run, mut faults) = (0, 0);
    for case in cases.iter().filter(reads).step_by(step) {
        run += 1;
        faults += usize::from(lied_to(&mut backend, case));
    }
    assert!(run > 4 && faults * 3 > run, "{faults} faults of {run}");
}

#[test]
fn gathers_and_scatters_that_lie() {
    lie_to(common::tables::gather(), 3);
    lie_to(common::tables::scatter(), 2);
}

#[test]
fn lengths_and_pages_that_lie() {
    lie_to(common::tables::attention(), 3);
}

#[test]
fn sizes_of_groups_that_lie() {
    lie_to(common::tables::matmul(), 2);
}

/// A launch counts them all before its first tile, so there is an end to them.
#[test]
fn too_many_counts_in_device_memory_are_refused() {
    use leasehold::op::{Attention, Lens, Spec, check};
    use leasehold::{DType, Dims, Layout};
    let Some(backend) = open() else { return };
    let spec =
        |dtype, shape: &[u64]| Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap()), 0);
    for (batch, runs) in [(1024, true), (1025, false)] {
        let tensor = spec(DType::F32, &[batch, 1, 1, 1]);
        let specs = [tensor, tensor, tensor, spec(DType::I32, &[batch]), tensor];
        let op = Attention { lens: Lens::Device { max: 1 }, ..Attention::default() };
        let planned = backend.candidates(&check(op.into(), &specs).unwrap());
        match planned {
            Ok(_) => assert!(runs),
            Err(e) => assert!(!runs && matches!(e.kind(), Kind::Unsupported { .. }), "{e}"),
        }
    }
}
