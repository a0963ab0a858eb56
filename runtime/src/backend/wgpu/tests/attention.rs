//! Kernels of attention that the machines of the CI would not choose: those that stage tiles, and those of a matrix
//! unit with the unit emulated.

use super::open;
use crate::backend::Backend;
use crate::backend::common::case::Case;
use crate::backend::common::hostile::{changed, is_told, lied_to};
use crate::backend::common::run::{Outcome, run_on};
use crate::backend::common::tables;
use crate::backend::wgpu::Wgpu;
use crate::backend::wgpu::plan::{EMULATED, GPU};
use crate::op::{KeyValue, Lens, Mask, Op};

/// The options that a case has, one bit each.
fn options(case: &Case) -> u32 {
    let Op::Attention(op) = &case.op else { return 0 };
    let [d, dv] = [0, 2].map(|i| case.operands[i].layout.shape()[3]);
    let has = [
        op.scores.causal,
        op.scores.window.is_some(),
        op.scores.softcap > 0.0,
        op.scores.mask == Mask::Additive,
        op.scores.alibi,
        op.sinks,
        op.log_sum_exp,
        op.scores.rows.on_device(),
        matches!(op.scores.rows, Lens::Host(_)),
        op.scores.lens.on_device(),
        matches!(op.scores.lens, Lens::Host(_)),
        matches!(op.key_value, KeyValue::Paged { .. }),
        d != dv,
    ];
    (0..).zip(has).map(|(bit, has)| u32::from(has) << bit).sum()
}

/// Some cheap cases of the table; of a cover of the options every so manyth case, and what brings another option.
fn passes(backend: &mut Wgpu, kernel: &str, step: usize) {
    let cheap = tables::attention().into_iter().filter(|case| case.flops() < 3_000_000);
    let (mut ran, mut covered) = (0, 0);
    let cover = tables::attention_of_f16().into_iter().enumerate();
    for (i, case) in cover.chain(cheap.step_by(12).map(|case| (0, case))) {
        let plans = backend.candidates(&case.checked()).unwrap();
        let is_next = i % step == 0 || covered | options(&case) != covered;
        if !is_next || plans[0].kernel != kernel {
            continue;
        }
        let outcome = run_on(backend, &case);
        assert!(matches!(outcome, Ok(Outcome::Passed)), "{}: {outcome:?}", case.name);
        (ran, covered) = (ran + 1, covered | options(&case));
    }
    println!("{kernel}: {ran} cases");
    assert!(ran > 10 && covered == (1 << 13) - 1, "{ran} cases, options {covered:b}");
}

/// Lengths and pages in device memory that lie, and that change during the run.
fn holds(backend: &mut Wgpu, kernel: &str) {
    let (mut run, mut faults) = (0, 0);
    for case in tables::attention_of_f16().iter().filter(|case| is_told(case)).step_by(4) {
        let plans = backend.candidates(&case.checked()).unwrap();
        let plan = plans.iter().find(|plan| plan.kernel == kernel).unwrap();
        run += 1;
        faults += usize::from(lied_to(backend, case, plan));
    }
    println!("{kernel}: {faults} faults of {run}");
    assert!(run > 3 && faults * 2 > run, "{kernel}: {faults} faults of {run}");
    // One chunk, whose kernel writes the output, and several, which are merged.
    for keys in [200, 600] {
        assert!(changed(backend, kernel, keys), "{kernel}: no index of {keys} changed");
    }
}

#[test]
fn lengths_and_pages_cannot_lead_staged_kernels_astray() {
    let Some(mut backend) = open() else { return };
    backend.class = &GPU;
    for kernel in ["attention_tiled_32", "attention_tiled_8"] {
        holds(&mut backend, kernel);
    }
}

#[test]
fn kernels_of_a_matrix_unit_pass_attention_of_f16_and_are_not_led_astray() {
    let Some(mut backend) = open() else { return };
    backend.caps.unit_cap_ns = GPU.unit_cap_ns;
    // Tiles of either edge are one kernel: one of them sees every pair of options.
    for (class, step) in EMULATED.iter().zip([1, 4]) {
        backend.class = class;
        let kernel = class.unit.unwrap().attention.kernels[0];
        passes(&mut backend, kernel, step);
        holds(&mut backend, kernel);
    }
}
