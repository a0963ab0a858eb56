//! The parity suite: one table of awkward cases per op, run on any backend and judged against the f64 reference.
//! A backend's test file says `common::parity!(open)` and gets one test per op. Property tests use its parts.
#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    unreachable_pub,
    reason = "every user takes another part"
)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub mod adapter;
pub mod case;
pub mod cover;
pub mod gradients;
pub mod grow;
pub mod hostile;
pub mod judge;
pub mod products;
pub mod quantised;
pub mod run;
pub mod scripted;
pub mod tables;

use leasehold::backend::Backend;

/// Floating-point operations that a case may take where `LEASEHOLD_TEST_FULL` is not set to 1.
pub const CASE_FLOPS: u64 = 200_000_000;

/// Whether the cases beyond [`CASE_FLOPS`] run too.
pub fn full() -> bool {
    std::env::var_os("LEASEHOLD_TEST_FULL").is_some_and(|v| v == "1")
}

/// What a case of a cover may take; cases with a reason of their own may take more where all run.
pub fn cover_flops() -> u64 {
    if full() { 10 * CASE_FLOPS } else { CASE_FLOPS }
}

/// Runs every case of an op's table, then fails with all that went wrong.
pub fn run_table<B: Backend>(mut backend: B, cases: Vec<case::Case>) {
    let (mut passed, mut skipped, mut failed) = (0, Vec::new(), Vec::new());
    for case in cases.iter().filter(|case| full() || case.flops() <= CASE_FLOPS.into()) {
        match run::run_on(&mut backend, case) {
            Ok(run::Outcome::Passed) => passed += 1,
            Ok(run::Outcome::Unsupported(why)) => skipped.push(format!("{}: {why}", case.name)),
            Err(why) => failed.push(format!("{}: {why}", case.name)),
        }
    }
    println!("{passed} cases passed, {} unsupported on this backend", skipped.len());
    if let Some(first) = skipped.first() {
        println!("skip: {} cases, the first {first}", skipped.len());
    }
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
    assert!(passed + skipped.len() > 0, "no case ran");
}

/// One test per op. `$open` makes the backend, or `None` after saying why it cannot.
macro_rules! parity {
    ($open:expr) => {
        $crate::common::parity!(@ $open; matmul attention attention_backward norm norm_backward softmax map rope gather scatter reduce arg_max top_k quantize copy);
    };
    (@ $open:expr; $($op:ident)*) => {$(
        #[test]
        fn $op() {
            let open: fn() -> Option<_> = $open;
            if let Some(backend) = open() {
                $crate::common::run_table(backend, $crate::common::tables::$op());
            }
        }
    )*};
}
pub(crate) use parity;
