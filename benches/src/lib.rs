//! Benchmarks of Leasehold: what is measured, and how. The program `leasehold-bench` prints them; `leasehold bench`
//! starts it. The package in `peers/` measures other libraries beside it.

#[cfg(target_os = "linux")]
pub mod check;
#[cfg(target_os = "linux")]
pub mod leased;
pub mod measure;
#[cfg(target_os = "linux")]
pub mod node;
pub mod ops;
pub mod peak;
pub mod plan;
#[cfg(target_os = "linux")]
pub mod served;
