//! The parity suite on the CPU.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

common::parity!(|| Some(leasehold::backend::cpu::Cpu::new().unwrap()));
