//! Every row of the table on the host model.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod attention;
#[path = "../case/mod.rs"]
mod case;
mod matmul;
#[path = "../model/mod.rs"]
mod model;
