//! Benchmarks of Leasehold beside its peers: what is measured, how, and against what. The program
//! `leasehold-bench` prints them; `leasehold bench` starts it.

pub mod measure;
pub mod ops;
pub mod peak;
pub mod versus;
