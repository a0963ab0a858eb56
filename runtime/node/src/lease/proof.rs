//! Proof of possession: the holder signs the node's nonce, so that a stolen lease is useless by itself.

use super::name::{JobId, LeaseId, Name};
use crate::keys::{PublicKey, SecretKey, Signature};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

const CONTEXT: &str = "leasehold possession v1";

/// A nonce from the system's random source.
pub fn nonce() -> Result<[u8; NONCE_BYTES], getrandom::Error> {
    let mut bytes = [0; NONCE_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// What the holder signs. A node makes the nonce and uses it once; the node's name keeps a proof from being
/// passed on to another node, the job id from starting another job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The node that asks.
    pub node: Name,
    /// Fresh random bytes.
    pub nonce: [u8; NONCE_BYTES],
    /// The lease that is to be used.
    pub lease: LeaseId,
    /// The job that is to be started.
    pub job: JobId,
}

impl Challenge {
    /// The holder's answer.
    pub fn prove(&self, holder: &SecretKey) -> Signature {
        holder.sign(CONTEXT, &self.parts())
    }

    /// True when `proof` is this holder's answer to exactly this challenge.
    pub fn verify(&self, holder: &PublicKey, proof: &Signature) -> bool {
        holder.verify(CONTEXT, &self.parts(), proof)
    }

    fn parts(&self) -> [&[u8]; 4] {
        [self.node.as_str().as_bytes(), &self.nonce, self.lease.0.as_bytes(), self.job.0.as_bytes()]
    }
}
