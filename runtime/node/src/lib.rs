//! The node of Leasehold: control, executor, scheduler, leases, ledger, sandbox.

#[cfg(feature = "serve")]
pub mod executor;
pub mod keys;
pub mod lease;
pub mod ledger;
pub mod sched;
pub mod time;
