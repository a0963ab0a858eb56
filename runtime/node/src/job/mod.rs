//! Joins lease, control and sandbox into one leased job: `leasehold run` calls this.

mod node;

pub use node::{Admitted, Grant, Node, Word};

use crate::lease::{BadName, LeaseError};
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
    /// Control broke the conversation's rules, or off.
    #[error("the node's answer: {what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
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
