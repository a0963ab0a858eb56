//! Every row of the table on the host model.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod along;
mod attention;
#[path = "../case/mod.rs"]
mod case;
mod elements;
mod entries;
mod gradients;
mod grouped;
mod indices;
mod matmul;
#[path = "../model/mod.rs"]
mod model;
mod named;
mod own;
mod products;
mod quantized;
mod scaled;
mod selections;
mod tensor;
