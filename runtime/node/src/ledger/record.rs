//! What the ledger holds, as data.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::chain::Checkpoint;
use crate::keys::{KeyId, decode_hex, encode_hex};
use crate::time::Timestamp;

/// A BLAKE3 hash; 64 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        decode_hex(text).map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Hash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::from_hex(&text).ok_or_else(|| {
            format!("{} characters are no hash of 64 hexadecimal digits", text.len())
        })
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// One record of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its place, from 0.
    pub seq: u64,
    /// The hash of the record before it.
    pub prev: Hash,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Entry {
    /// The node's control started.
    Open {
        /// The node's name.
        node: String,
        /// The key that signs its checkpoints and receipts.
        key: KeyId,
        /// The kernel's boot id: boot-time deadlines mean something within one boot.
        boot: Uuid,
        /// The latest wall time that the node has seen.
        mark: Timestamp,
    },
    /// A job was admitted; its id is used up.
    Admit {
        /// The lease.
        lease: Uuid,
        /// The job.
        job: Uuid,
        /// Who is billed.
        tenant: String,
        /// The lease's end, until which the job's id is remembered.
        expiry: Timestamp,
        /// The job's end on the boot-time clock.
        deadline_ns: u64,
        /// The price that the lease names.
        sku: Option<String>,
        /// Nobody pays.
        trial: bool,
    },
    /// A job, or a session of it, ended: what it used.
    Settle(Usage),
    /// An op of the lease took the executor down.
    Strike {
        /// The lease.
        lease: Uuid,
        /// The job whose op it was.
        job: Uuid,
        /// Its strikes now.
        strikes: u32,
    },
    /// The operator took the lease back.
    Revoke {
        /// The lease.
        lease: Uuid,
    },
    /// The node signed the chain so far.
    Checkpoint(Checkpoint),
}

/// What one job, or one session of it, used in one interval. Consumed, not reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// The lease.
    pub lease: Uuid,
    /// The job.
    pub job: Uuid,
    /// Who is billed.
    pub tenant: String,
    /// The session, when the record is of one session alone.
    pub session: Option<u64>,
    /// The interval's start.
    pub start: Timestamp,
    /// The interval's end, itself not in it.
    pub end: Timestamp,
    /// Nanoseconds that the device was busy with its ops.
    pub busy_ns: u64,
    /// Nanoseconds that the device was busy zeroing its memory.
    pub zeroing_ns: u64,
    /// Bytes of device memory held, times seconds.
    pub memory_byte_s: u64,
    /// Bytes copied to the device.
    pub bytes_up: u64,
    /// Bytes copied from the device.
    pub bytes_down: u64,
    /// Ops run.
    pub ops: u64,
    /// Units run.
    pub units: u64,
    /// Nanoseconds that its ops waited ready while others ran.
    pub queue_wait_ns: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Digest of the ids of the plans that it ran, in order.
    pub plans: Option<Hash>,
    /// Digest of its outputs.
    pub output: Option<Hash>,
    /// The price that the lease names.
    pub sku: Option<String>,
    /// Nobody pays.
    pub trial: bool,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Signalled(u8),
    /// At its run time.
    WallTime,
    /// At its memory limit.
    OutOfMemory,
    /// At its lease's expiry.
    Expired,
    /// With its lease, revoked.
    Revoked,
    /// With its device.
    DeviceLost,
    /// With its node, which stopped or was restarted.
    NodeLost,
}
