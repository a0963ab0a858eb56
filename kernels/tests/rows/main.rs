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
mod products;
mod quantized;
mod scaled;
mod selections;
mod tensor;

#[test]
fn every_row_has_run_under_sanitizers_since_it_changed() {
    if std::env::var("LEASEHOLD_WRITE_GOLDEN").is_ok_and(|value| value == "1") {
        // What changed is what differs from before.
        let _ = model::known();
        std::fs::write(model::SANITIZED, model::sanitized()).expect("the table is written");
        return;
    }
    assert!(
        model::known() == model::sanitized(),
        "rows changed: all of these tests with LEASEHOLD_WRITE_GOLDEN=1 run them under sanitizers, and write"
    );
}
