//! What the ledger says of a lease or a job: sums over its settled records.

use std::collections::BTreeSet;

use serde::Serialize;
use uuid::Uuid;

use super::record::{Entry, Record};
use crate::time::Timestamp;

/// What a bill is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// All jobs of a lease.
    Lease(Uuid),
    /// One job.
    Job(Uuid),
}

/// Sums of what was used. They saturate rather than wrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bill {
    /// What it is of.
    pub of: Of,
    /// Who is billed; more than one tenant cannot come from an honest node.
    pub tenants: BTreeSet<String>,
    /// The prices that its leases name.
    pub skus: BTreeSet<String>,
    /// True when all of it is trial use, for which nobody pays.
    pub trial: bool,
    /// Jobs settled.
    pub jobs: u64,
    /// The first interval's start.
    pub start: Option<Timestamp>,
    /// The last interval's end, itself not in it.
    pub end: Option<Timestamp>,
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
    /// The records that it sums, by sequence number.
    pub records: Vec<u64>,
    #[serde(skip)]
    seen: BTreeSet<Uuid>,
}

impl Bill {
    /// A bill of nothing yet.
    pub fn new(of: Of) -> Self {
        Self {
            of,
            tenants: BTreeSet::new(),
            skus: BTreeSet::new(),
            trial: false,
            jobs: 0,
            start: None,
            end: None,
            busy_ns: 0,
            zeroing_ns: 0,
            memory_byte_s: 0,
            bytes_up: 0,
            bytes_down: 0,
            ops: 0,
            units: 0,
            queue_wait_ns: 0,
            records: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Adds a record, if the bill is of it. The record comes from a verified chain.
    pub fn add(&mut self, record: &Record) {
        let Entry::Settle(usage) = &record.entry else { return };
        let mine = match self.of {
            Of::Lease(lease) => usage.lease == lease,
            Of::Job(job) => usage.job == job,
        };
        if !mine {
            return;
        }
        self.trial = usage.trial && (self.trial || self.records.is_empty());
        self.records.push(record.seq);
        self.jobs += u64::from(self.seen.insert(usage.job));
        self.tenants.insert(usage.tenant.clone());
        self.skus.extend(usage.sku.clone());
        self.start = Some(self.start.map_or(usage.start, |s| s.min(usage.start)));
        self.end = Some(self.end.map_or(usage.end, |e| e.max(usage.end)));
        for (sum, more) in [
            (&mut self.busy_ns, usage.busy_ns),
            (&mut self.zeroing_ns, usage.zeroing_ns),
            (&mut self.memory_byte_s, usage.memory_byte_s),
            (&mut self.bytes_up, usage.bytes_up),
            (&mut self.bytes_down, usage.bytes_down),
            (&mut self.ops, usage.ops),
            (&mut self.units, usage.units),
            (&mut self.queue_wait_ns, usage.queue_wait_ns),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
