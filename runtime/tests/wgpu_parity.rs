//! The parity suite on a wgpu adapter: a hardware one where there is one, else software Vulkan.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

common::parity!(common::adapter::open);

#[test]
fn matmul_by_index() {
    if let Some(backend) = common::adapter::open() {
        common::run_table(backend, common::products::indexed());
    }
}
