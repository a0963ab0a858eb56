//! What an executor does with a tenant's records: each is judged by the session's own tables and done at once, or put
//! at the session's head, where it takes turns.

use super::blocks::Block;
use super::session::{Copying, Steps, Work};
use super::{Executor, Zeroed, lost};
use crate::sched::{SchedError, SessionId};
use leasehold::backend::Backend;
use leasehold::exec::Run;
use leasehold::op::BoundOp;
use leasehold::wire::{Bad, Outcome, Record};
use leasehold::{Error, Kind, Result, plan};

/// Records taken from one session before others are looked at.
const BURST: usize = 64;
/// Steps without units that are done in one turn: the next take another, so that nobody waits for all of a program's.
const EMPTY_MAX: usize = 64;
/// What a step is taken to cost the executor's thread, in nanoseconds, beside what is launched of it: it is bound and its plan
/// looked up.
pub(super) const STEP_NS: u64 = 1_000;

impl<B: Backend> Executor<B> {
    /// Takes records until one needs turns. A session that breaks the rules of the ring is closed.
    pub(super) fn take_records(&mut self, id: u64, now_ns: u64) -> Result<bool> {
        let mut moved = false;
        for _ in 0..BURST {
            let Some(session) = self.sessions.get_mut(&id) else { break };
            let in_flight = self.jobs.get(&session.job).map_or(1, |job| job.terms.in_flight);
            let answered = match session.next_record(in_flight) {
                Ok(None) => break,
                Ok(Some((ticket, record))) => {
                    moved = true;
                    let before = self.pulse.touches(session.job);
                    let done = record.and_then(|record| self.handle(id, ticket, record, now_ns));
                    let done = match done {
                        Err(error) if lost(&error) => return Err(error),
                        done => done,
                    };
                    self.pulse.touches(before);
                    match done {
                        Ok(None) => Ok(()),
                        Ok(Some(values)) => self.answer(id, ticket, Outcome::Done(values)),
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

    pub(super) fn answer(&mut self, id: u64, ticket: u64, outcome: Outcome) -> Result<(), Bad> {
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
                self.grow_state(id, plan.state_bytes, now_ns)?;
                let session = self.sessions.get_mut(&id).ok_or_else(gone)?;
                let job = self.jobs.get_mut(&session.job).ok_or_else(gone)?;
                job.plans(&plan);
                session.keep(handle, op);
            }
            Record::Undefine { handle } => session.undefine(handle)?,
            Record::Run { handle, bindings } => {
                let op = session.bind(handle, &bindings)?;
                return self.begin(id, ticket, Some(op), Steps::default(), now_ns);
            }
            Record::Record { program, steps } => {
                session.drop_segments(&mut self.core, Some(program));
                session.record(program, steps)?;
            }
            Record::Erase { program } => {
                session.drop_segments(&mut self.core, Some(program));
                session.erase(program)?;
            }
            Record::Replay { program } => {
                let rest = session.program(program)?;
                return self.begin(id, ticket, None, rest, now_ns);
            }
            Record::Plan { handle, staging } => {
                let plan = self.core.plan(session.defined(handle)?)?;
                return session.tell_plan(&plan, staging).map(Some);
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

    /// Gives the session a block.
    fn reserve(&mut self, id: u64, bytes: u64, now_ns: u64) -> Result<[u64; 3]> {
        let block = self.take(id, bytes, now_ns)?;
        let session = self.sessions.get_mut(&id).ok_or_else(|| Error::from(Kind::Revoked))?;
        Ok(session.add_block(block))
    }

    /// Makes room for what the units of a session's op hand on: a block of its lease's memory, which all its ops use in turn.
    fn grow_state(&mut self, id: u64, bytes: u64, now_ns: u64) -> Result<()> {
        let gone = || Error::from(Kind::Revoked);
        let session = self.sessions.get_mut(&id).ok_or_else(gone)?;
        let least = session.state.map_or(0, |block| block.len);
        if bytes <= least {
            return Ok(());
        }
        // Whoever has it next comes after what the session has launched.
        if let Some(block) = session.state.take() {
            // Segments name it by its address.
            session.drop_segments(&mut self.core, None);
            let job = self.jobs.get_mut(&session.job).ok_or_else(gone)?;
            job.hold(job.held().saturating_sub(block.len), now_ns);
            self.blocks.give(job.terms.lease, block);
        }
        let taken = self.take(id, bytes, now_ns);
        let state = match &taken {
            // The ops that were there before go on with as much as they had, if it is still there.
            Err(_) if least > 0 => self.take(id, least, now_ns).ok(),
            taken => taken.as_ref().ok().copied(),
        };
        let session = self.sessions.get_mut(&id).ok_or_else(gone)?;
        session.state = state.map(|mut block| {
            block.wrote(block.len);
            block
        });
        taken.map(drop)
    }

    /// A block of the memory of a session's lease. What had to be zeroed for it is on its job's bill.
    fn take(&mut self, id: u64, bytes: u64, now_ns: u64) -> Result<Block> {
        self.land_all(now_ns)?;
        let gone = || Error::from(Kind::Revoked);
        let number = self.sessions.get(&id).ok_or_else(gone)?.job;
        let terms = &self.jobs.get(&number).ok_or_else(gone)?.terms;
        let taken = self.blocks.take(terms.lease, terms.memory, bytes, &mut Zeroed(&mut self.core));
        let zeroing_ns = self.busy_ns()?;
        let job = self.jobs.get_mut(&number).ok_or_else(gone)?;
        job.usage().zeroing_ns += zeroing_ns;
        let block = taken?;
        job.hold(job.held() + block.len, now_ns);
        Ok(block)
    }

    /// Puts the given op at the session's head, else the next step or several as one. One that launches nothing takes its turn
    /// too: what its program costs the host beside it waits for that.
    fn begin(
        &mut self,
        id: u64,
        ticket: u64,
        op: Option<BoundOp>,
        mut rest: Steps,
        now_ns: u64,
    ) -> Result<Option<[u64; 3]>> {
        let Some(run) = self.next_run(id, op, &mut rest)? else { return Ok(Some([0; 3])) };
        if let Err(error) = self.ops.ready(SessionId(id), run.least_ns()) {
            self.core.end(&run);
            return Err(refused(error));
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.head = Some(Work::Run { ticket, run: Box::new(run), rest });
            session.ready_ns = now_ns;
        }
        Ok(None)
    }

    /// The given op, or the next step or several as one, begun. `None` when nothing is left.
    fn next_run(&mut self, id: u64, op: Option<BoundOp>, rest: &mut Steps) -> Result<Option<Run>> {
        let Some(session) = self.sessions.get(&id) else { return Ok(None) };
        self.core.lend(session.state.map(|block| block.id));
        if op.is_none()
            && let Some(run) = self.next_segment(id, rest)?
        {
            return Ok(Some(run));
        }
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(None) };
        let Some(op) = op.map_or_else(|| session.step(rest), |op| Ok(Some(op)))? else {
            return Ok(None);
        };
        let run = self.core.begin(op)?;
        if run.remaining() == 0 {
            self.ops.charge(SessionId(id), STEP_NS);
        }
        Ok(Some(run))
    }

    /// What comes next of a program, in its session's turn. Steps without units are done; after many of them the last takes
    /// another turn.
    pub(super) fn next_steps(&mut self, id: u64, rest: &mut Steps) -> Result<Option<Run>> {
        for _ in 1..EMPTY_MAX {
            match self.next_run(id, None, rest)? {
                Some(run) if run.remaining() == 0 => {
                    self.core.end(&run);
                    let job = self.sessions.get(&id).and_then(|s| self.jobs.get_mut(&s.job));
                    job.into_iter().for_each(|job| job.usage().ops += 1);
                }
                next => return Ok(next),
            }
        }
        self.next_run(id, None, rest)
    }

    fn copy(&mut self, id: u64, copy: Copying) -> Result<Option<[u64; 3]>> {
        if copy.left == 0 {
            return Ok(Some([0; 3]));
        }
        self.copies.ready(SessionId(id), copy.step()).map_err(refused)?;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.head = Some(Work::Copy(copy));
        }
        Ok(None)
    }
}

/// Work that takes no turns: it is not at the session's head, and its record fails.
fn refused(error: SchedError) -> Error {
    match error {
        SchedError::Unit { asked, allowed } => {
            Kind::Time { asked: asked.into(), allowed: allowed.into() }.into()
        }
        _ => Kind::Revoked.into(),
    }
}
