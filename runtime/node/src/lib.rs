//! The node of Leasehold: control, executor, scheduler, leases, ledger, sandbox.

pub mod control;
#[cfg(feature = "serve")]
pub mod executor;
pub mod job;
pub mod keys;
pub mod lease;
pub mod ledger;
#[cfg(target_os = "linux")]
pub mod sandbox;
pub mod sched;
pub mod time;
