//! Joins lease, control and sandbox into one leased job: `leasehold run` calls this.

mod node;
mod run;

pub use node::{Admitted, Grant, Node, Word, quiet};
pub use run::{End, Request, run};

use crate::lease::{BadName, LeaseError};
use crate::sandbox::{PolicyError, SandboxError};
use std::path::PathBuf;

/// Why a job did not run, or could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The node cannot be reached or started.
    #[error("node {}: {source}", path.display())]
    Node {
        /// Its socket or its program.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Control said no.
    #[error("refused: {why}")]
    Refused {
        /// Its words.
        why: String,
        /// Whether a later try may succeed.
        retryable: bool,
    },
    /// Control broke the conversation off: it was stopped or killed.
    #[error("the node has gone")]
    Gone,
    /// Control broke the conversation's rules.
    #[error("the node's answer: {what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
    /// More than the lease allows a job.
    #[error("{what} {asked} is asked, the lease allows {allowed}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What was asked.
        asked: u64,
        /// What the lease allows.
        allowed: u64,
    },
    /// The request breaks a rule of the jail.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The jail could not be started.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A call of the system.
    #[error(transparent)]
    System(#[from] leasehold::Error),
}
