//! What the tenant programs of Leasehold share: models written against the crate `leasehold` alone, as any
//! tenant would write them. The programs are in `bin/`, the tests in `tests/`.

pub mod bert;
pub mod gguf;
pub mod llama;
pub mod model;
pub mod training;
