//! Benchmarks of Leasehold beside its peers: what is measured, how, and against what. The program
//! `leasehold-bench` prints them; `leasehold bench` starts it.

#[cfg(target_os = "linux")]
pub mod leased;
pub mod measure;
#[cfg(target_os = "linux")]
pub mod node;
pub mod ops;
pub mod peak;
#[cfg(target_os = "linux")]
pub mod served;
pub mod versus;
