//! Batched matrix multiply and attention at library speed, on a CPU, on any GPU, or on a leased device that
//! this process cannot see. The same program runs in all three places and, where [`Device::numerics`] agrees,
//! gives the same bits.
//!
//! The map of this crate, its flows and the arrows between its rooms are in `docs/ARCHITECTURE.md`.

// Backends' own tests use the parity suite's parts, which name this crate as its other users do.
#[cfg(all(test, any(feature = "cpu", feature = "wgpu")))]
extern crate self as leasehold;

pub mod backend;
mod device;
mod dtype;
pub mod engine;
mod error;
pub mod exec;
pub mod judge;
mod layout;
mod numerics;
pub mod op;
pub mod order;
pub mod plan;
pub mod reference;
#[cfg(feature = "remote")]
pub mod remote;
mod tensor;
#[cfg(feature = "remote")]
pub mod wire;

#[cfg(feature = "cuda")]
pub use device::LEASEHOLD_KERNELS;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub use device::LEASEHOLD_TUNED;
pub use device::{Device, Found, LEASEHOLD_FD, Queue};
pub use dtype::{DType, Element};
pub use error::{Error, Fault, Kind, Result, Rule};
pub use half::{bf16, f16};
pub use layout::{Dims, Layout, MAX_RANK};
pub use numerics::Numerics;
pub use op::{Activation, Group, MapFn, OrderClass, Precision, QuantizeFormat, ReduceFn, Scale};
pub use tensor::ops::{
    ArgMax, Attention, AttentionBackward, Copy, Dequantize, Gather, Map, Matmul, Norm,
    NormBackward, Product, Quantize, Quantized, Reduce, Rope, Scatter, Softmax, TopK,
};
pub use tensor::{Program, Quote, Recorder};
pub use tensor::{Read, Tensor};

/// The README's program is compiled and run with the examples of this crate.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
