//! Indices and counts in device memory that lie: whatever they say, the result is that of the reference, which drops bad
//! writes, reads zeros for bad pages and holds counts to what there is room for, no other byte changes, and the fault
//! is told.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::adapter::open;
use common::case::Case;
use common::hostile::{changing, is_told, lied_to};
use leasehold::Kind;
use leasehold::backend::Backend;

/// Runs some of an op's cases that read indices or counts; not few tell a fault (others have none to tell).
fn lie_to(cases: Vec<Case>, step: usize) {
    let Some(mut backend) = open() else { return };
    let flops = u128::from(common::CASE_FLOPS / 10);
    let reads = |case: &&Case| case.flops() < flops && is_told(case);
    let (mut run, mut faults) = (0, 0);
    for case in cases.iter().filter(reads).step_by(step) {
        run += 1;
        let plan = backend.candidates(&case.checked()).unwrap()[0];
        faults += usize::from(lied_to(&mut backend, case, &plan));
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
fn counts_of_gradients_that_lie_and_change() {
    lie_to(common::tables::attention_backward(), 1);
    let Some(mut backend) = open() else { return };
    let small = |case: &&Case| is_told(case) && case.flops() < 5_000_000;
    let (mut run, mut faults) = (0, 0);
    for case in common::tables::attention_backward().iter().filter(small) {
        let plan = backend.candidates(&case.checked()).unwrap()[0];
        // What is carried from link to link is of the counts that the links before were told.
        if plan.links == 1 {
            run += 1;
            faults += usize::from(changing(&mut backend, case, &plan));
        }
    }
    assert!(run > 1 && faults == run, "{faults} faults of {run}");
}

#[test]
fn sizes_of_groups_that_lie() {
    lie_to(common::tables::matmul(), 2);
}

#[test]
fn matrices_by_index_that_lie() {
    lie_to(common::products::indexed(), 1);
}

#[test]
fn indices_that_change_between_slices() {
    let Some(mut backend) = open() else { return };
    let mut faults = 0;
    for case in common::products::chains_by_index() {
        let plan = backend.candidates(&case.checked()).unwrap()[0];
        assert!(plan.links > 1, "{}: {plan}", case.name);
        faults += usize::from(changing(&mut backend, &case, &plan));
    }
    assert_eq!(faults, 2);
}

/// A launch counts them all before its first tile, so there is an end to them.
#[test]
fn too_many_counts_in_device_memory_are_refused() {
    use leasehold::op::{Attention, AttentionBackward, Lens, Scores, Spec, check};
    use leasehold::{DType, Dims, Layout};
    let Some(backend) = open() else { return };
    let spec =
        |dtype, shape: &[u64]| Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap()), 0);
    for (batch, runs) in [(1024, true), (1025, false)] {
        let tensor = spec(DType::F32, &[batch, 1, 1, 1]);
        let (lens, lse) = (spec(DType::I32, &[batch]), spec(DType::F32, &[batch, 1, 1]));
        let scores = Scores { lens: Lens::Device { max: 1 }, ..Scores::default() };
        let backward = AttentionBackward { scores: scores.clone() };
        let forward = Attention { scores, ..Attention::default() };
        let ops = [
            check(forward.into(), &[tensor, tensor, tensor, lens, tensor]),
            check(
                backward.into(),
                &[tensor, tensor, tensor, tensor, lse, tensor, lens, tensor, tensor, tensor],
            ),
        ];
        for op in ops {
            match backend.candidates(&op.unwrap()) {
                Ok(_) => assert!(runs),
                Err(e) => assert!(!runs && matches!(e.kind(), Kind::Unsupported { .. }), "{e}"),
            }
        }
    }
}
