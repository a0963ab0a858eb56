//! What a tenant takes home: the job's record with the node's signature.

use serde::{Deserialize, Serialize};

use super::chain::Line;
use super::record::{Entry, Hash, Record, Usage};
use crate::keys::{KeyId, PublicKey, SecretKey, Signature};

const CONTEXT: &str = "leasehold receipt v1";

/// A node's signed word on one settled job. It names a place in the chain, so that the ledger can be held to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The node's name.
    pub node: String,
    /// The hash of the record.
    pub hash: Hash,
    /// The record as JSON, exactly as the ledger has it.
    pub record: String,
    /// Whether the record was on disk (fsync) when this was signed; if not, it was written and will be soon.
    pub durable: bool,
    /// The key that signed it.
    pub key: KeyId,
    /// Over all of the above but the key.
    pub signature: Signature,
}

impl Receipt {
    /// Signs a line of the ledger.
    pub fn sign(node: &str, line: &Line, durable: bool, key: &SecretKey) -> Self {
        let signature =
            key.sign(CONTEXT, &parts(node, &line.hash, &line.json, &[u8::from(durable)]));
        let (node, hash, record) = (node.into(), line.hash, line.json.clone());
        Self { node, hash, record, durable, key: key.public().id(), signature }
    }

    /// The usage that this node's key signed; none when it did not, or when the record is no settled job.
    pub fn verify(&self, key: &PublicKey) -> Option<Usage> {
        let durable = [u8::from(self.durable)];
        let good = key.verify(
            CONTEXT,
            &parts(&self.node, &self.hash, &self.record, &durable),
            &self.signature,
        );
        let intact = *blake3::hash(self.record.as_bytes()).as_bytes() == self.hash.0;
        match serde_json::from_str(&self.record) {
            Ok(Record { entry: Entry::Settle(usage), .. }) if good && intact => Some(usage),
            _ => None,
        }
    }
}

fn parts<'a>(
    node: &'a str,
    hash: &'a Hash,
    record: &'a str,
    durable: &'a [u8; 1],
) -> [&'a [u8]; 4] {
    [node.as_bytes(), &hash.0, record.as_bytes(), durable]
}
