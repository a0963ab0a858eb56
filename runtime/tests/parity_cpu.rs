//! The parity suite on the CPU.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

common::parity!(|| Some(leasehold::backend::cpu::Cpu::new().unwrap()));

/// Products of matrices that indices name, and with indices that lie.
#[test]
fn matmul_by_index() {
    use common::hostile::lied_to;
    use leasehold::backend::Backend;
    let cases = common::products::indexed();
    let mut cpu = leasehold::backend::cpu::Cpu::new().unwrap();
    let mut faults = 0;
    let small: Vec<_> =
        cases.iter().filter(|case| case.flops() <= u128::from(common::CASE_FLOPS) / 4).collect();
    for case in &small {
        let plan = cpu.candidates(&case.checked()).unwrap()[0];
        faults += usize::from(lied_to(&mut cpu, case, &plan));
    }
    assert!(faults * 3 > small.len(), "{faults} faults of {}", small.len());
    common::run_table(cpu, cases);
}

/// Indices that change between two slices, to ones that are no matrix and to others: every sum is of elements of A and
/// B, beside which all is NaN, and no byte beside the output changes.
#[test]
fn indices_that_change_between_slices() {
    use common::case::POISON;
    use common::run::contents;
    use leasehold::backend::{Backend, Place, Progress};
    use leasehold::op::{Binding, BufferId};
    use std::sync::Arc;
    let mut cpu = leasehold::backend::cpu::Cpu::new().unwrap();
    let mut faults = 0;
    let is_long = |case: &common::case::Case| {
        case.operands[0].layout.shape().last().is_some_and(|&k| k > 5000)
    };
    for case in common::products::indexed().into_iter().filter(is_long) {
        let op = Arc::new(case.checked());
        let plan = cpu.candidates(&op).unwrap()[0];
        let contents = contents(&case);
        let places: Vec<Place> = contents
            .iter()
            .zip(&case.operands)
            .map(|(bytes, operand)| {
                let block = cpu.alloc(bytes.len() as u64).unwrap();
                cpu.upload(block, 0, bytes).unwrap();
                Place { block, offset: operand.offset }
            })
            .collect();
        let bindings = case.operands.iter().enumerate().map(|(i, operand)| {
            let len = operand.offset + operand.spec().span_bytes() as u64;
            Binding { buffer: BufferId(i as u64), offset: operand.offset, len }
        });
        let bound = op.bind(&bindings.collect::<Vec<_>>()).unwrap();
        let state = (plan.state_bytes > 0)
            .then(|| Place { block: cpu.alloc(plan.state_bytes).unwrap(), offset: 0 });
        let mut prepared = cpu.prepare(&op, &plan).unwrap();
        let units = plan.units() as u64;
        for unit in 0..units {
            let roles = op.roles().iter().enumerate();
            for (i, _) in roles.filter(|(_, role)| role.name.ends_with("_index")) {
                let mut lies = contents[i].clone();
                let operand = &case.operands[i];
                for (n, at) in leasehold::reference::offsets(&operand.layout).enumerate() {
                    let at = (operand.offset + 4 * at) as usize;
                    let lie = [0, u32::MAX, 2, i32::MAX as u32, 3][(n + unit as usize) % 5];
                    lies[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                }
                cpu.upload(places[i].block, 0, &lies).unwrap();
            }
            cpu.launch(&mut prepared, unit..unit + 1, &bound, &places, state).unwrap();
        }
        let mark = cpu.mark().unwrap();
        let fault = loop {
            if let Progress::Done { fault, .. } = cpu.poll(mark, None).unwrap() {
                break fault;
            }
        };
        faults += usize::from(fault.is_some());
        let i = op.position("out").unwrap();
        let operand = &case.operands[i];
        let mut after = vec![0; contents[i].len()];
        cpu.download(places[i].block, 0, &mut after).unwrap();
        let layout = &op.specs()[i].layout;
        let values =
            leasehold::reference::read(operand.dtype, layout, &after[operand.offset as usize..]);
        assert!(values.iter().all(|x| x.is_finite()), "{}", case.name);
        let size = operand.dtype.size() as usize;
        for at in leasehold::reference::offsets(layout) {
            let at = operand.offset as usize + at as usize * size;
            after[at..at + size].fill(POISON);
        }
        assert!(after.iter().all(|&byte| byte == POISON), "{}: a guard changed", case.name);
        places.iter().chain(&state).for_each(|place| cpu.free(place.block));
    }
    assert_eq!(faults, 2);
}
