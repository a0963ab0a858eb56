//! The process that owns a device for one isolation group: it takes records off its tenants' rings, checks them
//! again, runs them fairly in slices, meters them, and zeroes what a lease leaves. Control starts it and says who
//! may use it; nothing stands between it and a tenant.

mod blocks;
#[cfg(feature = "serve")]
mod confine;
mod job;
mod link;
pub mod protocol;
mod pulse;
mod records;
mod segments;
mod serve;
mod session;
mod turn;

#[cfg(feature = "serve")]
pub use confine::{Reach, confine};
pub use serve::serve;

use crate::sched::{Class, FlowId, FlowSpec, Latency, Params, Sched, SessionId, SliceId};
use blocks::Blocks;
use job::Job;
use leasehold::backend::{Backend, Mark, Progress};
use leasehold::exec::{Core, Run};
use leasehold::op::BufferId;
use leasehold::wire::TenantEnd;
use leasehold::{Error, Kind, Result};
use protocol::{Device, PROTOCOL, Terms, Usage, Why};
use pulse::Pulse;
use session::{Session, Work};
use std::collections::{BTreeMap, VecDeque};

/// A launched slice whose mark is not yet reached.
struct Flight {
    slice: SliceId,
    mark: Mark,
    session: u64,
    job: u64,
    /// The op that ends with this slice, and the record that ends with it, if one does.
    last: Option<(Option<u64>, Box<Run>)>,
}

/// A device and its tenants. Time comes in as nanoseconds of the boot-time clock, so that tests own it.
pub struct Executor<B: Backend> {
    core: Core<B>,
    jobs: BTreeMap<u64, Job>,
    sessions: BTreeMap<u64, Session>,
    ops: Sched,
    copies: Sched,
    blocks: Blocks,
    flights: VecDeque<Flight>,
    buffer: Vec<u8>,
    pulse: Pulse,
    /// Whether a segment was looked for, or tried to be made, since the turn began or, later, since its slice did: who else
    /// would waits for another turn.
    has_tried: bool,
    /// When the loop last looked at its sockets.
    looked_ns: u64,
    /// The highest number of a session so far.
    last_session: u64,
}

/// The core as the block table's device.
struct Zeroed<'a, B: Backend>(&'a mut Core<B>);

impl<B: Backend> blocks::Device for Zeroed<'_, B> {
    fn alloc(&mut self, id: BufferId, len: u64) -> Result<()> {
        self.0.alloc(id, len)
    }

    fn free(&mut self, id: BufferId) {
        self.0.free(id);
    }

    fn zero(&mut self, id: BufferId, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let place = self.0.place(id, 0, len)?;
        self.0.backend().zero(place.block, 0, len)
    }
}

impl<B: Backend> Executor<B> {
    /// An executor on a backend, `pulse` being told whose work is about to touch the device.
    pub fn new(backend: B, pulse: Box<dyn FnMut(u64) + Send>) -> Self {
        let core = Core::new(backend);
        let caps = core.caps();
        let params = if caps.software { Params::SLOW } else { Params::gpu(caps.unit_cap_ns) };
        let blocks = Blocks::new(caps.memory);
        Self {
            core,
            jobs: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ops: Sched::new(params),
            copies: Sched::new(Params::COPY),
            blocks,
            flights: VecDeque::new(),
            buffer: Vec::new(),
            pulse: Pulse::new(pulse),
            has_tried: false,
            looked_ns: 0,
            last_session: 0,
        }
    }

    /// What the device is.
    pub fn device(&self) -> Device {
        let caps = self.core.caps();
        Device {
            protocol: PROTOCOL,
            name: caps.name.clone(),
            backend: caps.backend.into(),
            arch: caps.arch.into(),
            numerics: self.core.numerics().0,
            memory: caps.memory,
            max_alloc: caps.max_alloc,
            max_binding: caps.max_binding,
            unit_cap_ns: caps.unit_cap_ns,
        }
    }

    /// Nanoseconds that the device's own threads spent beside what is billed.
    fn idle_ns(&mut self) -> u64 {
        self.core.backend().idle_ns()
    }

    /// Admits a job. Jobs of one lease share its flow, as the first of them was described.
    pub fn add_job(&mut self, job: u64, terms: Terms, now_ns: u64) {
        let class = if terms.spare { Class::Spare } else { Class::Reserved };
        let latency = terms.latency.map(|[period_ns, budget]| Latency { period_ns, budget });
        let flow = FlowId(terms.lease);
        let spec = FlowSpec { weight: terms.weight.max(1), class, latency };
        // A flow that is there already is the lease's. A latency budget that the device cannot promise is left out.
        if self.ops.add_flow(flow, spec, now_ns).is_err() {
            let _ = self.ops.add_flow(flow, FlowSpec { latency: None, ..spec }, now_ns);
        }
        let _ = self.copies.add_flow(flow, FlowSpec { latency: None, ..spec }, now_ns);
        self.jobs.insert(job, Job::new(terms, now_ns));
        self.share_segments();
    }

    /// Adds a session of a job.
    ///
    /// # Errors
    /// `Revoked` when the job is over, `System` when its memory cannot be mapped.
    pub fn add_session(&mut self, job: u64, session: u64, end: TenantEnd) -> Result<()> {
        let terms = &self.jobs.get(&job).ok_or(Kind::Revoked)?.terms;
        let flow = FlowId(terms.lease);
        let of_lease =
            |s: &&Session| self.jobs.get(&s.job).is_some_and(|job| job.terms.lease == terms.lease);
        let open = self.sessions.values().filter(of_lease).count() as u64;
        if open >= terms.sessions.into() {
            let (asked, allowed) = (open + 1, terms.sessions.into());
            return Err(Kind::Protocol { what: "sessions", asked, allowed }.into());
        }
        let new = Session::new(job, end)?;
        for sched in [&mut self.ops, &mut self.copies] {
            let added = sched.add_session(SessionId(session), flow);
            added.map_err(|_| Kind::Protocol { what: "session", asked: session, allowed: 0 })?;
        }
        self.sessions.insert(session, new);
        self.last_session = self.last_session.max(session);
        Ok(())
    }

    /// Closes a session whose tenant has gone.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn end_session(&mut self, session: u64, now_ns: u64) -> Result<()> {
        self.close(session, now_ns)
    }

    /// Jobs whose deadline has passed.
    pub fn overdue(&self, now_ns: u64) -> Vec<u64> {
        let over = self.jobs.iter().filter(|(_, job)| job.terms.deadline_ns <= now_ns);
        over.map(|(id, _)| *id).collect()
    }

    /// The next deadline of a job.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.jobs.values().map(|job| job.terms.deadline_ns).min()
    }

    /// Ends a job: its sessions are told why and closed, its lease's memory is zeroed unless another job of the
    /// lease lives, and what it used comes back. `None` when there is no such job.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn end_job(&mut self, job: u64, why: Why, now_ns: u64) -> Result<Option<Usage>> {
        let of_job = self.sessions.iter().filter(|(_, s)| s.job == job);
        for session in of_job.map(|(id, _)| *id).collect::<Vec<_>>() {
            let kind = match why {
                Why::Exited => None,
                Why::Revoked => Some(Kind::Revoked),
                Why::Expired => Some(Kind::Expired),
            };
            if let (Some(kind), Some(s)) = (kind, self.sessions.get_mut(&session)) {
                // A tenant that broke its ring learns nothing more.
                let _ = s.farewell(kind);
            }
            self.close(session, now_ns)?;
        }
        let Some(mut ended) = self.jobs.remove(&job) else { return Ok(None) };
        let lease = ended.terms.lease;
        if !self.jobs.values().any(|other| other.terms.lease == lease) {
            self.land_all(now_ns)?;
            let before = self.pulse.touches(job);
            self.blocks.leave(lease, &mut Zeroed(&mut self.core))?;
            ended.usage().zeroing_ns += self.busy_ns()?;
            self.pulse.touches(before);
            self.ops.remove_flow(FlowId(lease));
            self.copies.remove_flow(FlowId(lease));
        }
        Ok(Some(ended.settle(now_ns)))
    }

    /// Closes a session: what it launched ends, what it queued is dropped, its blocks go back to the lease.
    fn close(&mut self, id: u64, now_ns: u64) -> Result<()> {
        self.drain(id, now_ns)?;
        self.ops.remove_session(SessionId(id));
        self.copies.remove_session(SessionId(id));
        let Some(mut session) = self.sessions.remove(&id) else { return Ok(()) };
        let before = self.pulse.touches(session.job);
        session.drop_segments(&mut self.core, None);
        if let Some(Work::Run { run, .. }) = &session.head {
            self.core.end(run);
        }
        self.pulse.touches(before);
        if let Some(job) = self.jobs.get_mut(&session.job) {
            let held: u64 = session.blocks().map(|block| block.len).sum();
            job.hold(job.held().saturating_sub(held), now_ns);
            session.blocks().for_each(|block| self.blocks.give(job.terms.lease, block));
        }
        Ok(())
    }

    /// Waits for everything that a session launched: at most the window W.
    fn drain(&mut self, id: u64, now_ns: u64) -> Result<()> {
        while self.flights.iter().any(|flight| flight.session == id) {
            self.land(None, now_ns)?;
        }
        Ok(())
    }

    /// Waits for everything that is launched, at most the window W, so that what the device does next is known to be
    /// one job's.
    fn land_all(&mut self, now_ns: u64) -> Result<()> {
        while !self.flights.is_empty() {
            self.land(None, now_ns)?;
        }
        Ok(())
    }

    /// Waits until the device has done what was asked of it; how long that took it.
    fn busy_ns(&mut self) -> Result<u64> {
        let mark = self.core.mark()?;
        loop {
            if let Progress::Done { busy_ns, .. } = self.core.poll(mark, None)? {
                return Ok(busy_ns);
            }
        }
    }
}

/// Whether the device itself failed.
fn lost(error: &Error) -> bool {
    matches!(error.kind(), Kind::DeviceLost { .. })
}
