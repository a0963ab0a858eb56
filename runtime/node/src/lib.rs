//! The node of Leasehold: control, executor, scheduler, leases, ledger, sandbox.
