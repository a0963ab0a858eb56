//! A job as the executor meters it: its terms, and what it used so far. Time comes in as nanoseconds.

use super::protocol::{Terms, Usage};
use leasehold::order::Plan;

/// A job and its meter.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) terms: Terms,
    usage: Usage,
    plans: blake3::Hasher,
    /// Bytes of blocks that its sessions hold, and since when.
    held: u64,
    since_ns: u64,
}

impl Job {
    pub(super) fn new(terms: Terms, now_ns: u64) -> Self {
        let usage = Usage::default();
        Self { terms, usage, plans: blake3::Hasher::new(), held: 0, since_ns: now_ns }
    }

    /// The meter, for what happens outside this file.
    pub(super) fn usage(&mut self) -> &mut Usage {
        &mut self.usage
    }

    /// Its sessions now hold `held` bytes.
    pub(super) fn hold(&mut self, held: u64, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.since_ns);
        self.usage.memory_byte_ns += u128::from(self.held) * u128::from(elapsed);
        (self.held, self.since_ns) = (held, now_ns);
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// It defined an op that will follow this plan.
    pub(super) fn plans(&mut self, plan: &Plan) {
        self.plans.update(plan.to_string().as_bytes()).update(b"\n");
    }

    /// What it used, once nothing of it is left.
    pub(super) fn settle(mut self, now_ns: u64) -> Usage {
        self.hold(0, now_ns);
        Usage { plans: *self.plans.finalize().as_bytes(), ..self.usage }
    }
}
