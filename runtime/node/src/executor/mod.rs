//! The process that owns a device for one isolation group: it takes records off its tenants' rings, checks them
//! again, runs them fairly in slices, meters them, and zeroes what a lease leaves. Control starts it and says who
//! may use it; nothing stands between it and a tenant.

mod blocks;
mod job;
mod link;
pub mod protocol;
mod serve;
mod session;

pub use serve::serve;

use crate::sched::{Class, FlowId, FlowSpec, Latency, Params, Sched, SessionId, SliceId};
use blocks::Blocks;
use job::Job;
use leasehold::backend::{Backend, Mark, Progress};
use leasehold::exec::{Core, Run};
use leasehold::op::{BoundOp, BufferId};
use leasehold::order::UNIT_CAP_GPU_NS;
use leasehold::wire::{Bad, Outcome, Record, TenantEnd};
use leasehold::{Error, Kind, Result, plan};
use protocol::{Device, PROTOCOL, Terms, Usage, Why};
use session::{Copying, Session, Steps, Work};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Records taken from one session before others are looked at.
const BURST: usize = 64;

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
    /// Told which job's work is about to touch the device; 0: none.
    pulse: Box<dyn FnMut(u64) + Send>,
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
        let place = self.0.place(id, 0, len)?;
        self.0.backend().zero(place.block, 0, len)
    }
}

impl<B: Backend> Executor<B> {
    /// An executor on a backend, `pulse` being told whose work is about to touch the device.
    pub fn new(backend: B, pulse: Box<dyn FnMut(u64) + Send>) -> Self {
        let core = Core::new(backend);
        let caps = core.caps();
        let params = if caps.unit_cap_ns <= UNIT_CAP_GPU_NS { Params::GPU } else { Params::SLOW };
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
            pulse,
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
            (self.pulse)(job);
            self.blocks.leave(lease, &mut Zeroed(&mut self.core))?;
            ended.usage().zeroing_ns += self.busy_ns()?;
            (self.pulse)(0);
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
        let Some(session) = self.sessions.remove(&id) else { return Ok(()) };
        if let Some(Work::Run { run, .. }) = &session.head {
            self.core.end(run);
        }
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

    /// One round: takes records, launches a slice of ops and one of copies if it is somebody's turn, and collects
    /// what is done. Whether anything moved.
    ///
    /// # Errors
    /// `DeviceLost`: the executor is of no more use.
    pub fn turn(&mut self, now_ns: u64) -> Result<bool> {
        let mut moved = false;
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        for id in ids {
            moved |= self.take_records(id, now_ns)?;
        }
        if let Some(turn) = self.copies.next(now_ns) {
            moved = true;
            self.copy_slice(turn)?;
        }
        match self.ops.next(now_ns) {
            Some(turn) => {
                moved = true;
                self.launch_slice(turn, now_ns)?;
                self.land(Some(Duration::ZERO), now_ns)?;
            }
            // Nothing fits the window, or nothing is ready: what is in flight decides when to look again.
            None if !self.flights.is_empty() => {
                self.land(Some(Duration::from_micros(200)), now_ns)?;
                moved = true;
            }
            None => {}
        }
        Ok(moved)
    }

    /// Takes records until one needs turns. A session that breaks the rules of the ring is closed.
    fn take_records(&mut self, id: u64, now_ns: u64) -> Result<bool> {
        let mut moved = false;
        for _ in 0..BURST {
            let Some(session) = self.sessions.get_mut(&id) else { break };
            let in_flight = self.jobs.get(&session.job).map_or(1, |job| job.terms.in_flight);
            let answered = match session.next_record(in_flight) {
                Ok(None) => break,
                Ok(Some((ticket, record))) => {
                    moved = true;
                    match record.and_then(|record| self.handle(id, ticket, record, now_ns)) {
                        Ok(None) => Ok(()),
                        Ok(Some(values)) => self.answer(id, ticket, Outcome::Done(values)),
                        Err(error) if lost(&error) => return Err(error),
                        Err(error) => self.answer(id, ticket, Outcome::Failed(error)),
                    }
                }
                Err(bad) => Err(bad),
            };
            if answered.is_err() {
                self.close(id, now_ns)?;
                return Ok(true);
            }
        }
        Ok(moved)
    }

    fn answer(&mut self, id: u64, ticket: u64, outcome: Outcome) -> Result<(), Bad> {
        self.sessions.get_mut(&id).map_or(Ok(()), |session| session.complete(ticket, outcome))
    }

    /// Does a record, or puts it at the session's head: `None` means that its answer comes later.
    fn handle(
        &mut self,
        id: u64,
        ticket: u64,
        record: Record,
        now_ns: u64,
    ) -> Result<Option<[u64; 3]>> {
        if matches!(record, Record::Release { .. }) {
            // What the session launched may still use the block.
            self.drain(id, now_ns)?;
        }
        let gone = || Error::from(Kind::Revoked);
        let session = self.sessions.get_mut(&id).ok_or_else(gone)?;
        let job = self.jobs.get_mut(&session.job).ok_or_else(gone)?;
        match record {
            Record::Define { handle, op, specs, lens } => {
                let op = session.define(handle, &op, &specs, lens)?;
                let name = op.op().name();
                if job.terms.ops.as_ref().is_some_and(|ops| !ops.iter().any(|o| o == name)) {
                    let (asked, allowed) = (name.to_string(), "the lease's ops".to_string());
                    return Err(Kind::Unsupported { asked, allowed }.into());
                }
                let plan = self.core.plan(&op)?;
                plan::within(&plan, job.terms.op_cap_ns.into())?;
                job.plans(&plan);
                session.keep(handle, op);
            }
            Record::Undefine { handle } => session.undefine(handle)?,
            Record::Run { handle, bindings } => {
                let op = session.bind(handle, &bindings)?;
                return self.begin(id, ticket, Some(op), Steps::default(), now_ns);
            }
            Record::Record { program, steps } => session.record(program, steps)?,
            Record::Erase { program } => session.erase(program)?,
            Record::Replay { program } => {
                let rest = session.program(program)?;
                return self.begin(id, ticket, None, rest, now_ns);
            }
            Record::Reserve { bytes } => {
                session.may_add_block()?;
                return self.reserve(id, bytes, now_ns).map(Some);
            }
            Record::Release { at } => {
                let block = session.remove_block(at)?;
                job.hold(job.held().saturating_sub(block.len), now_ns);
                self.blocks.give(job.terms.lease, block);
            }
            Record::Write { at, staging, len } => {
                let copy = session.copy(ticket, true, at, staging, len)?;
                return self.copy(id, copy);
            }
            Record::Read { at, staging, len } => {
                let copy = session.copy(ticket, false, at, staging, len)?;
                return self.copy(id, copy);
            }
        }
        Ok(Some([0; 3]))
    }

    /// Gives the session a block. What had to be zeroed for it is on its job's bill.
    fn reserve(&mut self, id: u64, bytes: u64, now_ns: u64) -> Result<[u64; 3]> {
        self.land_all(now_ns)?;
        let gone = || Error::from(Kind::Revoked);
        let number = self.sessions.get(&id).ok_or_else(gone)?.job;
        let terms = &self.jobs.get(&number).ok_or_else(gone)?.terms;
        (self.pulse)(number);
        let taken = self.blocks.take(terms.lease, terms.memory, bytes, &mut Zeroed(&mut self.core));
        let zeroing_ns = self.busy_ns()?;
        (self.pulse)(0);
        let job = self.jobs.get_mut(&number).ok_or_else(gone)?;
        job.usage().zeroing_ns += zeroing_ns;
        let block = taken?;
        job.hold(job.held() + block.len, now_ns);
        Ok(self.sessions.get_mut(&id).ok_or_else(gone)?.add_block(block))
    }

    /// Puts the first op that has anything to do at the session's head: the given one, else the next step.
    fn begin(
        &mut self,
        id: u64,
        ticket: u64,
        op: Option<BoundOp>,
        mut rest: Steps,
        now_ns: u64,
    ) -> Result<Option<[u64; 3]>> {
        let Some(run) = self.next_run(id, op, &mut rest)? else { return Ok(Some([0; 3])) };
        let head = run.plan().unit_ns;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.head = Some(Work::Run { ticket, run, rest });
            session.ready_ns = now_ns;
            let ready = self.ops.ready(SessionId(id), head);
            ready.map_err(|_| Kind::Time { asked: head.into(), allowed: 0 })?;
        }
        Ok(None)
    }

    /// The given op, or the next step, begun; those without units are done. `None` when nothing is left.
    fn next_run(
        &mut self,
        id: u64,
        mut op: Option<BoundOp>,
        rest: &mut Steps,
    ) -> Result<Option<Box<Run>>> {
        loop {
            let Some(session) = self.sessions.get(&id) else { return Ok(None) };
            let next = match op.take() {
                Some(op) => Some(op),
                None => session.step(rest)?,
            };
            let Some(op) = next else { return Ok(None) };
            let run = Box::new(self.core.begin(op)?);
            if run.remaining() > 0 {
                return Ok(Some(run));
            }
            self.core.end(&run);
            if let Some(job) = self.jobs.get_mut(&session.job) {
                job.usage().ops += 1;
            }
        }
    }

    fn copy(&mut self, id: u64, copy: Copying) -> Result<Option<[u64; 3]>> {
        if copy.left == 0 {
            return Ok(Some([0; 3]));
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.head = Some(Work::Copy(copy));
            let ready = self.copies.ready(SessionId(id), copy.step());
            ready.map_err(|_| Kind::Time { asked: copy.step().into(), allowed: 0 })?;
        }
        Ok(None)
    }

    /// Copies as much of the session's head as its turn allows.
    fn copy_slice(&mut self, turn: crate::sched::Turn) -> Result<()> {
        let (id, budget) = (turn.session.0, turn.budget);
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let Some(Work::Copy(copy)) = &mut session.head else {
            self.copies.idle(SessionId(id));
            return Ok(());
        };
        (self.pulse)(session.job);
        let mut done = 0;
        while copy.left > 0 && done + copy.step() <= budget.max(copy.step()) {
            let step = copy.step();
            self.buffer.resize(step as usize, 0);
            let place = self.core.place(copy.buffer, copy.offset, step)?;
            if copy.up {
                session.staging.read(copy.staging, &mut self.buffer);
                self.core.backend().upload(place.block, place.offset, &self.buffer)?;
            } else {
                self.core.backend().download(place.block, place.offset, &mut self.buffer)?;
                session.staging.write(copy.staging, &self.buffer);
            }
            copy.offset += step;
            copy.staging += step;
            copy.left -= step;
            done += step;
        }
        (self.pulse)(0);
        let copy = *copy;
        let next = (copy.left > 0).then(|| copy.step());
        if let Some(job) = self.jobs.get_mut(&session.job) {
            let usage = job.usage();
            *(if copy.up { &mut usage.bytes_up } else { &mut usage.bytes_down }) += done;
        }
        let slice = self.copies.launched(turn, done, next);
        self.copies.done(slice, done);
        if next.is_none() {
            session.head = None;
            if session.complete(copy.ticket, Outcome::Done([0; 3])).is_err() {
                self.close(id, 0)?;
            }
        }
        Ok(())
    }

    /// Launches as many units of the session's head as its turn allows.
    fn launch_slice(&mut self, turn: crate::sched::Turn, now_ns: u64) -> Result<()> {
        let (id, budget) = (turn.session.0, turn.budget);
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let Some(Work::Run { ticket, mut run, mut rest }) = session.head.take() else {
            self.ops.idle(SessionId(id));
            return Ok(());
        };
        if run.remaining() == run.plan().units() as u64
            && let Some(job) = self.jobs.get_mut(&session.job)
        {
            job.usage().queue_wait_ns += now_ns.saturating_sub(session.ready_ns);
        }
        let units = run.units_within(budget);
        let unit_ns = run.plan().unit_ns;
        (self.pulse)(session.job);
        self.core.step(&mut run, units)?;
        let mark = self.core.mark()?;
        (self.pulse)(0);
        let mut failed = None;
        // What comes after this slice, and what ends with it.
        let (head, last) = if run.remaining() > 0 {
            (Some(run), None)
        } else {
            let next = self.next_run(id, None, &mut rest).unwrap_or_else(|error| {
                failed = Some(error);
                None
            });
            let ends = next.is_none() && failed.is_none();
            (next, Some((ends.then_some(ticket), run)))
        };
        let next_ns = head.as_ref().map(|run| run.plan().unit_ns);
        let slice = self.ops.launched(turn, unit_ns.saturating_mul(units), next_ns);
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        session.finishing += usize::from(last.is_some());
        session.head = head.map(|run| Work::Run { ticket, run, rest });
        let job = session.job;
        if let Some(job) = self.jobs.get_mut(&job) {
            job.usage().units += units;
        }
        self.flights.push_back(Flight { slice, mark, session: id, job, last });
        match failed {
            Some(error) if lost(&error) => Err(error),
            Some(error) => {
                self.drain(id, now_ns)?;
                if self.answer(id, ticket, Outcome::Failed(error)).is_err() {
                    self.close(id, now_ns)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Collects slices that are done, the first within `timeout`.
    fn land(&mut self, timeout: Option<Duration>, now_ns: u64) -> Result<()> {
        let mut timeout = timeout;
        while let Some(flight) = self.flights.front() {
            (self.pulse)(flight.job);
            let progress = self.core.poll(flight.mark, timeout)?;
            (self.pulse)(0);
            let Progress::Done { busy_ns, fault } = progress else { return Ok(()) };
            timeout = Some(Duration::ZERO);
            let Some(flight) = self.flights.pop_front() else { return Ok(()) };
            self.ops.done(flight.slice, busy_ns);
            let job = self.jobs.get_mut(&flight.job);
            let session = self.sessions.get_mut(&flight.session);
            if let Some(job) = job {
                job.usage().busy_ns += busy_ns;
                job.usage().ops += u64::from(flight.last.is_some());
            }
            let Some(session) = session else { continue };
            session.fault = session.fault.or(fault);
            let Some((ticket, run)) = flight.last else { continue };
            self.core.end(&run);
            session.finishing -= 1;
            // A fault of a step is its record's.
            let Some(ticket) = ticket else { continue };
            let outcome = match session.fault.take() {
                None => Outcome::Done([0; 3]),
                Some(f) => Outcome::Failed(Kind::Index { value: f.value, bound: f.bound }.into()),
            };
            if session.complete(ticket, outcome).is_err() {
                let id = flight.session;
                self.close(id, now_ns)?;
            }
        }
        Ok(())
    }
}

/// Whether the device itself failed.
fn lost(error: &Error) -> bool {
    matches!(error.kind(), Kind::DeviceLost { .. })
}
