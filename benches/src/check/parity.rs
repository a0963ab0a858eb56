//! The parity suite's cases and their judge, which are those of the runtime's tests, and every case of every op on a backend.
//! `ours` calls it on the backend behind a device, `repeats` makes cases of its parts.

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

use case::Case;
use leasehold::backend::Backend;
use run::Outcome;
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
