//! The hash chain, pure: making lines, and verifying lines that anyone may have changed.

use serde::{Deserialize, Serialize};

use super::record::{Entry, Hash, Record};
use crate::keys::{KeyId, PublicKey, SecretKey, Signature};
use crate::time::Timestamp;

/// A line has at most this many bytes, its newline not counted.
pub const LINE_BYTES_MAX: usize = 16 << 10;

const CONTEXT: &str = "leasehold checkpoint v1";

/// The end of a chain: where the next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Records so far, which is the next sequence number.
    pub size: u64,
    /// The hash of the last record.
    pub head: Hash,
}

impl Default for Chain {
    fn default() -> Self {
        Self { size: 0, head: hash(b"leasehold ledger v1") }
    }
}

/// A record as the file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its sequence number.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// The record as JSON.
    pub json: String,
}

impl Line {
    /// The bytes for the file, with the newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{} {}\n", self.hash, self.json).into_bytes()
    }

    /// The chain after this line.
    pub fn chain(&self) -> Chain {
        Chain { size: self.seq + 1, head: self.hash }
    }
}

impl Chain {
    /// The next line. The chain goes on from [`Line::chain`] once the line is written.
    pub fn line(&self, at: Timestamp, entry: Entry) -> Result<Line, serde_json::Error> {
        let record = Record { seq: self.size, prev: self.head, at, entry };
        let json = serde_json::to_string(&record)?;
        Ok(Line { seq: self.size, hash: hash(json.as_bytes()), json })
    }

    /// Checks that `text`, without its newline, is the next line. Returns the record and the chain after it.
    fn follow(&self, text: &[u8]) -> Result<(Record, Self), &'static str> {
        if text.len() > LINE_BYTES_MAX {
            return Err("it is longer than a line may be");
        }
        let (digits, json) = text.split_at_checked(65).ok_or("it is too short")?;
        let digits = digits.strip_suffix(b" ").and_then(|d| std::str::from_utf8(d).ok());
        let stored = digits.and_then(Hash::from_hex).ok_or("it does not begin with a hash")?;
        if stored != hash(json) {
            return Err("its bytes have another hash");
        }
        let record: Record = serde_json::from_slice(json).map_err(|_| "it is no record")?;
        if record.seq != self.size {
            return Err("it has another sequence number");
        }
        if record.prev != self.head {
            return Err("it does not follow the record before it");
        }
        Ok((record, Self { size: self.size + 1, head: stored }))
    }
}

fn hash(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

/// The node's word on its chain at one moment. A copy kept elsewhere shows a cut tail or a rewritten history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The node's name.
    pub node: String,
    /// Records so far.
    pub size: u64,
    /// The hash of the last of them.
    pub head: Hash,
    /// When.
    pub at: Timestamp,
    /// The key that signed it.
    pub key: KeyId,
    /// Over all of the above but the key.
    pub signature: Signature,
}

impl Checkpoint {
    /// Signs a chain.
    pub fn sign(node: &str, chain: &Chain, at: Timestamp, key: &SecretKey) -> Self {
        let Chain { size, head } = *chain;
        let signature =
            key.sign(CONTEXT, &parts(node, &size.to_le_bytes(), &head, &at.ns().to_le_bytes()));
        Self { node: node.into(), size, head, at, key: key.public().id(), signature }
    }

    /// True when one of `keys` signed it.
    pub fn verify(&self, keys: &[PublicKey]) -> bool {
        let (size, at) = (self.size.to_le_bytes(), self.at.ns().to_le_bytes());
        let parts = parts(&self.node, &size, &self.head, &at);
        let named = keys.iter().find(|k| k.id() == self.key);
        named.is_some_and(|key| key.verify(CONTEXT, &parts, &self.signature))
    }
}

fn parts<'a>(node: &'a str, size: &'a [u8; 8], head: &'a Hash, at: &'a [u8; 8]) -> [&'a [u8]; 4] {
    [node.as_bytes(), size, &head.0, at]
}

/// The first place where a ledger is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// This record is not the one that was written here.
    #[error("record {seq}: {why}")]
    Record {
        /// Its sequence number.
        seq: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A checkpoint that no key of the node signed.
    #[error("record {seq}: the checkpoint is not signed by a key of the node")]
    Unsigned {
        /// The record, or the checkpoint's size when it was kept elsewhere.
        seq: u64,
    },
    /// The chain holds in itself, but is not the one that a checkpoint signed: a rewritten history.
    #[error("record {first}: rewritten; records {first} to {last} are not those of the checkpoint over {}", last + 1)]
    Rewritten {
        /// The first record that no earlier checkpoint vouches for.
        first: u64,
        /// The last record that the checkpoint vouches for.
        last: u64,
    },
    /// Records that a checkpoint vouches for are gone.
    #[error("record {seq}: missing; the ledger ends here, a checkpoint vouches for {size} records")]
    Truncated {
        /// The first missing record.
        seq: u64,
        /// How many records there were.
        size: u64,
    },
}

/// Verifies lines in order. With no keys, signatures are not checked and only the chain is.
#[derive(Debug)]
pub struct Verifier {
    chain: Chain,
    keys: Vec<PublicKey>,
    /// Checkpoints kept elsewhere, by size, the largest first.
    kept: Vec<Checkpoint>,
    /// Records that checkpoints so far vouch for.
    vouched: u64,
}

impl Verifier {
    /// Verifies against the node's keys and checkpoints that were kept elsewhere.
    pub fn new(keys: Vec<PublicKey>, mut kept: Vec<Checkpoint>) -> Result<Self, Broken> {
        kept.sort_by_key(|c| std::cmp::Reverse(c.size));
        if let Some(bad) = kept.iter().find(|c| !c.verify(&keys)) {
            return Err(Broken::Unsigned { seq: bad.size });
        }
        Ok(Self { chain: Chain::default(), keys, kept, vouched: 0 })
    }

    /// Checks the next line, without its newline.
    pub fn line(&mut self, text: &[u8]) -> Result<Record, Broken> {
        let seq = self.chain.size;
        let (record, after) = self.chain.follow(text).map_err(|why| Broken::Record { seq, why })?;
        if let Entry::Checkpoint(checkpoint) = &record.entry {
            if !self.keys.is_empty() && !checkpoint.verify(&self.keys) {
                return Err(Broken::Unsigned { seq });
            }
            if checkpoint.size != seq || checkpoint.head != record.prev {
                return Err(Broken::Record { seq, why: "it is a checkpoint of another chain" });
            }
            self.vouched = seq;
        }
        self.chain = after;
        while let Some(kept) = self.kept.pop_if(|c| c.size <= after.size) {
            if kept.size == after.size && kept.head != after.head {
                return Err(Broken::Rewritten { first: self.vouched, last: seq });
            }
            self.vouched = kept.size;
        }
        Ok(record)
    }

    /// No more lines. Returns the end of the chain.
    pub fn finish(self) -> Result<Chain, Broken> {
        match self.kept.first() {
            Some(largest) => Err(Broken::Truncated { seq: self.chain.size, size: largest.size }),
            None => Ok(self.chain),
        }
    }
}
