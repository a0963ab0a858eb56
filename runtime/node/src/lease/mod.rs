//! Leases: what an owner grants a tenant on a node, signed so that a node can verify it alone. Control verifies
//! and admits; the CLI issues and shows. Pure but for the key set's file; clocks are passed in.
//!
//! `claims` says what a lease grants and which values are sound, `token` signs and verifies it, `keyset` holds
//! the issuers that a node trusts, `proof` is the holder's answer to a nonce, `admission` counts jobs.

mod admission;
mod claims;
mod keyset;
mod name;
mod proof;
mod token;

pub use admission::{
    Admission, AdmitError, Admitted, CLOCK_BACK_MAX, JOB_IDS_MAX, JobState, Limit, Moment,
    STRIKES_MAX,
};
pub use claims::{ClaimError, Isolation, JobLimits, Latency, Lease, Ops, Priority};
pub use keyset::{IssuerKey, KeySet, KeySetError};
pub use name::{BadName, JobId, LeaseId, Name};
pub use proof::{Challenge, NONCE_BYTES, nonce};
pub use token::{CLOCK_SKEW, LeaseError, TOKEN_BYTES_MAX, VerifiedLease, issue, verify};

#[cfg(test)]
mod tests;
