//! The parity suite on a wgpu adapter: a hardware one where there is one, else software Vulkan.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

common::parity!(common::adapter::open);
