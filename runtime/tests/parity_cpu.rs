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

#[test]
fn indices_that_change_between_slices() {
    use leasehold::backend::Backend;
    let mut cpu = leasehold::backend::cpu::Cpu::new().unwrap();
    let mut faults = 0;
    for case in common::products::chains_by_index() {
        let plan = cpu.candidates(&case.checked()).unwrap()[0];
        faults += usize::from(common::hostile::changing(&mut cpu, &case, &plan));
    }
    assert_eq!(faults, 2);
}
