//! Batched matrix multiply and attention at library speed, on a CPU, on any GPU, or on a leased device that
//! this process cannot see. The same program runs in all three places and, where [`Device::numerics`] agrees,
//! gives the same bits.
//!
//! The map of this crate, its flows and the arrows between its rooms are in `docs/ARCHITECTURE.md`.

pub mod backend;
mod dtype;
mod error;
mod layout;
pub mod op;
pub mod order;

pub use dtype::{DType, Element};
pub use error::{Error, Fault, Kind, Result};
pub use half::{bf16, f16};
pub use layout::{Dims, Layout, MAX_RANK};
