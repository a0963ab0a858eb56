//! An executor's turns: a slice of ops and one of copies at a time, as the scheduler says, and what came of them.

use super::session::Work;
use super::{Executor, Flight, lost};
use crate::sched::{SessionId, Turn};
use leasehold::backend::{Backend, IndexFault, Progress};
use leasehold::wire::Outcome;
use leasehold::{Error, Kind, Result};
use std::time::Duration;

impl<B: Backend> Executor<B> {
    /// One round: takes records, launches a slice of ops and one of copies if it is somebody's turn, and collects
    /// what is done. Whether anything moved.
    ///
    /// # Errors
    /// `DeviceLost`: the executor is of no more use.
    pub fn turn(&mut self, now_ns: u64) -> Result<bool> {
        let mut moved = false;
        self.has_tried = false;
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        for id in ids {
            moved |= self.take_records(id, now_ns)?;
        }
        if let Some(turn) = self.copies.next(now_ns) {
            moved = true;
            let before = self.touches(turn.session);
            self.copy_slice(turn)?;
            self.pulse.touches(before);
        }
        match self.ops.next(now_ns) {
            Some(turn) => {
                moved = true;
                // Whoever has the turn may try, whatever others' records have tried.
                self.has_tried = false;
                let before = self.touches(turn.session);
                self.launch_slice(turn, now_ns)?;
                self.pulse.touches(before);
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

    /// From now on it is a session's work that touches the device; whose it was before.
    fn touches(&mut self, session: SessionId) -> u64 {
        let job = self.sessions.get(&session.0).map_or(0, |session| session.job);
        self.pulse.touches(job)
    }

    /// Copies as much of the session's head as its turn allows.
    fn copy_slice(&mut self, turn: Turn) -> Result<()> {
        let (id, budget) = (turn.session.0, turn.budget);
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let Some(Work::Copy(copy)) = &mut session.head else {
            self.copies.idle(SessionId(id));
            return Ok(());
        };
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
    fn launch_slice(&mut self, turn: Turn, now_ns: u64) -> Result<()> {
        let (id, budget) = (turn.session.0, turn.budget);
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let Some(Work::Run { ticket, mut run, mut rest }) = session.head.take() else {
            self.ops.idle(SessionId(id));
            return Ok(());
        };
        if run.is_new()
            && let Some(job) = self.jobs.get_mut(&session.job)
        {
            job.usage().queue_wait_ns += now_ns.saturating_sub(session.ready_ns);
        }
        let units = run.units_within(budget);
        let predicted_ns = run.predicted_ns(units);
        let owner = session.job;
        let launched = self.core.step(&mut run, units).and_then(|_| self.core.mark());
        let mark = match launched {
            Ok(mark) => mark,
            Err(error) if lost(&error) => return Err(error),
            // What the device has no room for now is this op's failure, and nobody else's. What of it was launched ends
            // first: its time is on its own bill, and a bad index that it met is told with no later slice.
            Err(error) => {
                self.core.end(&run);
                self.land_all(now_ns)?;
                let busy_ns = self.busy_ns()?;
                if let Some(job) = self.jobs.get_mut(&owner) {
                    job.usage().busy_ns += busy_ns;
                }
                self.ops.idle(SessionId(id));
                return self.fail(id, ticket, error, now_ns);
            }
        };
        let mut failed = None;
        // What comes after this slice, and what ends with it.
        let (head, last) = if run.remaining() > 0 {
            (Some(run), None)
        } else {
            let next = self.next_steps(id, &mut rest).unwrap_or_else(|error| {
                failed = Some(error);
                None
            });
            let ends = next.is_none() && failed.is_none();
            (next.map(Box::new), Some((ends.then_some(ticket), run)))
        };
        let next_ns = head.as_ref().map(|run| run.least_ns());
        let slice = self.ops.launched(turn, predicted_ns, next_ns);
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        if last.is_some() {
            session.finishing += 1;
            // What comes next of a program waits from now on.
            session.ready_ns = now_ns;
        }
        session.head = head.map(|run| Work::Run { ticket, run, rest });
        let job = session.job;
        if let Some(job) = self.jobs.get_mut(&job) {
            job.usage().units += units;
        }
        self.flights.push_back(Flight { slice, mark, session: id, job, last });
        match failed {
            Some(error) if lost(&error) => Err(error),
            Some(error) => self.fail(id, ticket, error, now_ns),
            None => Ok(()),
        }
    }

    /// A record's op failed: its answer comes after what the session launched before. A bad index that its slices met is the
    /// cause, and no later record's.
    fn fail(&mut self, id: u64, ticket: u64, error: Error, now_ns: u64) -> Result<()> {
        self.drain(id, now_ns)?;
        let met = self.sessions.get_mut(&id).and_then(|session| session.fault.take());
        let index = |f: IndexFault| Kind::Index { value: f.value, bound: f.bound }.into();
        let error = met.map_or(error, index);
        if self.answer(id, ticket, Outcome::Failed(error)).is_err() {
            self.close(id, now_ns)?;
        }
        Ok(())
    }

    /// Collects slices that are done, the first within `timeout`.
    pub(super) fn land(&mut self, timeout: Option<Duration>, now_ns: u64) -> Result<()> {
        let mut timeout = timeout;
        while let Some(flight) = self.flights.front() {
            let before = self.pulse.touches(flight.job);
            let progress = self.core.poll(flight.mark, timeout)?;
            self.pulse.touches(before);
            let Progress::Done { busy_ns, fault } = progress else { return Ok(()) };
            timeout = Some(Duration::ZERO);
            let Some(flight) = self.flights.pop_front() else { return Ok(()) };
            self.ops.done(flight.slice, busy_ns);
            let job = self.jobs.get_mut(&flight.job);
            let session = self.sessions.get_mut(&flight.session);
            if let Some(job) = job {
                job.usage().busy_ns += busy_ns;
                let ops = flight.last.as_ref().map_or(0, |(_, run)| run.ops().len());
                job.usage().ops += ops as u64;
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
