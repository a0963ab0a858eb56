//! The parity suite's cases and their judge, which are those of the runtime's tests, and the proofs that run on a backend:
//! every case of every op, and one case again and again. `ours` calls it on the backend behind a device.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "the files below are those of tests, and more than is called here; their cases are all legal"
)]

#[path = "../../../runtime/tests/common/case.rs"]
pub mod case;
#[path = "../../../runtime/tests/common/cover.rs"]
pub mod cover;
#[path = "../../../runtime/tests/common/gradients.rs"]
pub mod gradients;
#[path = "../../../runtime/tests/common/judge.rs"]
pub mod judge;
#[path = "../../../runtime/tests/common/products.rs"]
pub mod products;
#[path = "../../../runtime/tests/common/quantised.rs"]
pub mod quantised;
#[path = "../../../runtime/tests/common/run.rs"]
pub mod run;
#[path = "../../../runtime/tests/common/tables.rs"]
pub mod tables;

use super::report::Checked;
use case::{Case, Fill, Operand, Random, Style};
use leasehold::DType;
use leasehold::backend::Backend;
use leasehold::op::{Attention, Matmul, Scores};
use run::{Left, Outcome};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Floating-point operations of a cover's cases: what the runtime's tests take.
pub fn cover_flops() -> u64 {
    200_000_000
}

/// An op's name and its cases.
type Cases = (&'static str, fn() -> Vec<Case>);

/// Every op's table of cases.
pub const OPS: [Cases; 15] = [
    ("matmul", tables::matmul),
    ("attention", tables::attention),
    ("attention_backward", tables::attention_backward),
    ("norm", tables::norm),
    ("norm_backward", tables::norm_backward),
    ("softmax", tables::softmax),
    ("map", tables::map),
    ("rope", tables::rope),
    ("gather", tables::gather),
    ("scatter", tables::scatter),
    ("reduce", tables::reduce),
    ("arg_max", tables::arg_max),
    ("top_k", tables::top_k),
    ("quantize", tables::quantize),
    ("copy", tables::copy),
];

/// What became of an op's cases.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Every plan and cut of them gave one result, which is right.
    pub passed: u64,
    /// The backend does not run them, and what it said of the first.
    pub unsupported: u64,
    pub first: Option<String>,
    /// There was no time for them.
    pub left: u64,
    /// They take more operations than the reference can be asked for; `lists` has windows of as large ones.
    pub large: u64,
    pub failed: Vec<String>,
}

/// Runs the cases of at most so many operations, within a time.
pub fn count<B: Backend>(backend: &mut B, cases: &[Case], flops: u64, time: Duration) -> Count {
    let (mut count, began) = (Count::default(), Instant::now());
    for case in cases {
        if case.flops() > flops.into() {
            count.large += 1;
            continue;
        }
        // One runs however little time there is, or the row would say nothing.
        let is_first = count.passed + count.unsupported + count.failed.len() as u64 == 0;
        if began.elapsed() > time && !is_first {
            count.left += 1;
            continue;
        }
        match run::run_on(backend, case) {
            Ok(Outcome::Passed) => count.passed += 1,
            Ok(Outcome::Unsupported(why)) => {
                count.unsupported += 1;
                count.first.get_or_insert_with(|| why.to_string());
            }
            Err(why) => count.failed.push(format!("{}: {why}", case.name)),
        }
    }
    count
}

/// What is run again and again: products and attention with tails, whose chains are cut.
pub fn repeated() -> Vec<(&'static str, Case)> {
    let product = |dtype, [m, n, k]: [u64; 3]| {
        let normal = Fill::Normal(1.0);
        let operands = vec![
            Operand::new(dtype, &[m, k], Style::Tight, 0, normal),
            Operand::new(dtype, &[k, n], Style::Turned, 0, normal),
            Operand::out(dtype, &[m, n], Style::Tight, 0),
        ];
        Case::new(Matmul::default(), operands)
    };
    let heads = |dtype, rows: u64, dim: u64| {
        let normal = Fill::Normal(1.0);
        let [q, kv] = [[2, 4, rows, dim], [2, 2, rows, dim]];
        let operands = vec![
            Operand::new(dtype, &q, Style::Tight, 0, normal),
            Operand::new(dtype, &kv, Style::Tight, 0, normal),
            Operand::new(dtype, &kv, Style::Tight, 0, normal),
            Operand::out(dtype, &q, Style::Tight, 0),
        ];
        Case::new(
            Attention {
                scores: Scores { scale: 0.125, causal: true, ..Scores::default() },
                ..Attention::default()
            },
            operands,
        )
    };
    vec![
        ("product 129x136x1032 bf16", product(DType::BF16, [129, 136, 1032])),
        ("product 65x72x520 f32", product(DType::F32, [65, 72, 520])),
        ("causal attention 2x4x113x64 bf16", heads(DType::BF16, 113, 64)),
    ]
}

/// Runs a case so often under all its plans in turn, each time cut anew at random, and holds every byte against the first.
///
/// # Errors
/// What the backend does not run.
pub fn repeat<B: Backend>(
    backend: &mut B,
    case: &Case,
    times: u64,
    seed: u64,
) -> Result<Checked, String> {
    let op = Arc::new(case.checked());
    let plans = backend.candidates(&op).map_err(|error| error.to_string())?;
    let contents = run::contents(case);
    let mut random = Random(seed);
    let mut first: Option<Left> = None;
    for (i, plan) in (0..times).zip(plans.iter().cycle()) {
        let units = plan.units() as u64;
        let mut cuts: Vec<u64> = (0..i % 4).map(|_| random.below(units)).chain([units]).collect();
        cuts.sort_unstable();
        let left = run::execute(backend, &op, plan, &contents, case, &cuts)
            .map_err(|error| format!("{plan}: {error}"))?;
        match &first {
            None => first = Some(left),
            Some(first) if *first == left => {}
            Some(_) => {
                let wrong = format!("run {i}, {plan} cut at {cuts:?}, gives other bits");
                return Ok(Checked { wrong, ..Checked::all(i) });
            }
        }
    }
    Ok(Checked::all(times))
}
