//! The node of Leasehold: control, executor, scheduler, leases, ledger, sandbox.

pub mod keys;
pub mod lease;
pub mod ledger;
pub mod sched;
pub mod time;
