//! Admission and the ledger together: every decision that control writes down. It holds no socket and no process;
//! clocks are read by its callers.

use crate::executor::protocol::{Terms, Usage};
use crate::keys::{PublicKey, SecretKey, Signature};
use crate::lease::{
    Admission, AdmitError, Admitted, Challenge, JobId, JobState, KeySet, LeaseError, LeaseId,
    Moment, Name, Ops, Priority, VerifiedLease, verify,
};
use crate::ledger::{Entry, Hash, Ledger, LedgerError, Outcome, Receipt};
use crate::time::{SECOND_NS, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// Predicted nanoseconds that one op may take: a minute.
const OP_CAP_NS: u64 = 60 * SECOND_NS;

/// Why a job was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The lease itself.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Its standing on this node.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// The holder's key did not sign this node's nonce.
    #[error("the proof of possession is not the lease holder's for this node, nonce and job")]
    Proof,
    /// The ledger cannot be written: nothing is admitted that could not be settled.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Refusal {
    /// Whether a later try may succeed.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Admit(AdmitError::Concurrency { .. }) | Self::Ledger(_))
    }
}

/// A job that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its number for the executor: that of its record of admission, never 0.
    pub number: u64,
    /// The lease.
    pub lease: LeaseId,
    /// The job.
    pub job: JobId,
    tenant: String,
    sku: Option<String>,
    trial: bool,
    start: Timestamp,
}

/// Admission, ledger, and the keys they need.
pub struct Book {
    node: Name,
    names: Vec<Name>,
    issuers: KeySet,
    key: SecretKey,
    admission: Admission,
    ledger: Ledger,
    /// Executors know leases by the number of their first job here.
    numbers: HashMap<LeaseId, u64>,
}

impl Book {
    /// Opens the ledger and rebuilds who stands how from it. Jobs that an earlier control left unsettled come back:
    /// their executor may still run them.
    ///
    /// # Errors
    /// The ledger is broken, locked or cannot be written.
    pub fn open(
        path: &Path,
        node: Name,
        pools: &[Name],
        issuers: KeySet,
        key: SecretKey,
        old_keys: Vec<PublicKey>,
        wall: Timestamp,
    ) -> Result<(Self, Vec<Running>), LedgerError> {
        let mut records = Vec::new();
        let keys = old_keys.into_iter().chain([key.public()]).collect();
        let opened = Ledger::open(path, keys, |record| records.push(record))?;
        let mark = records.iter().map(|record| record.at).max().unwrap_or_default();
        let mut names = vec![node.clone()];
        names.extend_from_slice(pools);
        let numbers = HashMap::new();
        let admission = Admission::new(mark);
        let mut book =
            Self { node, names, issuers, key, admission, ledger: opened.ledger, numbers };
        let unsettled = book.replay(records);
        let boot = boot_id();
        let entry =
            Entry::Open { node: book.node.to_string(), key: book.key.public().id(), boot, mark };
        book.ledger.append(wall, entry)?;
        book.ledger.commit()?;
        Ok((book, unsettled))
    }

    /// Restores what the records say; the jobs that were never settled.
    fn replay(&mut self, records: Vec<crate::ledger::Record>) -> Vec<Running> {
        let mut open: BTreeMap<Uuid, Running> = BTreeMap::new();
        for record in records {
            match record.entry {
                Entry::Admit { lease, job, tenant, expiry, deadline_ns, sku, trial } => {
                    let (number, lease, job) = (record.seq, LeaseId(lease), JobId(job));
                    self.admission.restore(lease, expiry, job, JobState::Running { deadline_ns });
                    self.numbers.entry(lease).or_insert(number);
                    let start = record.at;
                    open.insert(job.0, Running { number, lease, job, tenant, sku, trial, start });
                }
                Entry::Settle(usage) => {
                    self.admission.release(LeaseId(usage.lease), JobId(usage.job));
                    open.remove(&usage.job);
                }
                Entry::Strike { lease, .. } => drop(self.admission.strike(LeaseId(lease))),
                Entry::Revoke { lease } => drop(self.admission.revoke(LeaseId(lease))),
                Entry::Open { .. } | Entry::Checkpoint(_) => {}
            }
        }
        open.into_values().collect()
    }

    /// The node's name.
    pub fn node(&self) -> &Name {
        &self.node
    }

    /// The key that signs receipts, its public half.
    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// Admits a job: the lease's text, the proof over `challenge` (node and nonce are control's own), and the
    /// run time asked.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &mut self,
        token: &str,
        nonce: [u8; crate::lease::NONCE_BYTES],
        job: JobId,
        proof: &[u8],
        wall: Option<Duration>,
        now: Moment,
    ) -> Result<(Running, Terms), Refusal> {
        let lease = self.held(token, nonce, job, proof, now)?;
        let admitted = self.admission.admit(&lease, job, wall, now)?;
        let tenant = lease.tenant.to_string();
        let sku = lease.sku.as_ref().map(ToString::to_string);
        let entry = Entry::Admit {
            lease: lease.id.0,
            job: job.0,
            tenant: tenant.clone(),
            expiry: lease.expiry,
            deadline_ns: admitted.deadline_ns,
            sku: sku.clone(),
            trial: lease.trial,
        };
        let number = match self.ledger.append(now.wall, entry) {
            Ok(line) => line.seq,
            Err(error) => {
                self.admission.release(lease.id, job);
                return Err(error.into());
            }
        };
        let (trial, start) = (lease.trial, now.wall);
        let running = Running { number, lease: lease.id, job, tenant, sku, trial, start };
        let terms = self.terms(number, &lease, admitted);
        Ok((running, terms))
    }

    /// The lease of this text, whose holder proved to be the one who asks for this job.
    ///
    /// # Errors
    /// The lease is not good here, or the proof is not its holder's.
    pub fn held(
        &mut self,
        token: &str,
        nonce: [u8; crate::lease::NONCE_BYTES],
        job: JobId,
        proof: &[u8],
        now: Moment,
    ) -> Result<VerifiedLease, Refusal> {
        let time = self.admission.time(now.wall)?;
        let lease = verify(token, &self.issuers, time, &self.names)?;
        let challenge = Challenge { node: self.node.clone(), nonce, lease: lease.id, job };
        let proof = <[u8; 64]>::try_from(proof).map_err(|_| Refusal::Proof)?;
        if !challenge.verify(&lease.holder, &Signature::from_bytes(proof)) {
            return Err(Refusal::Proof);
        }
        Ok(lease)
    }

    /// What the executor is told of job `number`.
    fn terms(&mut self, number: u64, lease: &VerifiedLease, admitted: Admitted) -> Terms {
        // A lease is known by the number of its first job.
        let number = *self.numbers.entry(lease.id).or_insert(number);
        let ops = match &lease.ops {
            Ops::All => None,
            Ops::Only(names) => Some(names.iter().map(ToString::to_string).collect()),
        };
        Terms {
            lease: number,
            weight: lease.weight,
            spare: lease.priority == Priority::Spare,
            latency: lease.latency.map(|l| [l.period_us * 1000, l.budget_us * 1000]),
            memory: lease.memory_bytes,
            op_cap_ns: OP_CAP_NS,
            ops,
            in_flight: lease.in_flight,
            sessions: lease.sessions,
            deadline_ns: admitted.deadline_ns,
        }
    }

    /// Writes down what a job used and frees its place; the receipt says whether it is on disk already.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn settle(
        &mut self,
        running: &Running,
        usage: Usage,
        outcome: Outcome,
        wall: Timestamp,
    ) -> Result<Receipt, LedgerError> {
        let entry = Entry::Settle(crate::ledger::Usage {
            lease: running.lease.0,
            job: running.job.0,
            tenant: running.tenant.clone(),
            session: None,
            start: running.start,
            end: wall.max(running.start),
            busy_ns: usage.busy_ns,
            zeroing_ns: usage.zeroing_ns,
            memory_byte_s: u64::try_from(usage.memory_byte_ns / u128::from(SECOND_NS))
                .unwrap_or(u64::MAX),
            bytes_up: usage.bytes_up,
            bytes_down: usage.bytes_down,
            ops: usage.ops,
            units: usage.units,
            queue_wait_ns: usage.queue_wait_ns,
            outcome,
            plans: (usage.ops > 0).then_some(Hash(usage.plans)),
            output: None,
            sku: running.sku.clone(),
            trial: running.trial,
        });
        self.admission.release(running.lease, running.job);
        let line = self.ledger.append(wall, entry)?;
        Ok(Receipt::sign(self.node.as_str(), &line, false, &self.key))
    }

    /// An op of the job took the executor down.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn strike(&mut self, running: &Running, wall: Timestamp) -> Result<u32, LedgerError> {
        let strikes = self.admission.strike(running.lease);
        let (lease, job) = (running.lease.0, running.job.0);
        self.ledger.append(wall, Entry::Strike { lease, job, strikes })?;
        Ok(strikes)
    }

    /// Takes a lease back.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn revoke(&mut self, lease: LeaseId, wall: Timestamp) -> Result<Vec<JobId>, LedgerError> {
        let jobs = self.admission.revoke(lease);
        self.ledger.append(wall, Entry::Revoke { lease: lease.0 })?;
        Ok(jobs)
    }

    /// The ledger, for putting what was written on disk.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

/// The kernel's boot id; nil where there is none.
fn boot_id() -> Uuid {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}
