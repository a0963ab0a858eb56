//! The tenant's end of a session: tickets, records on their way, and what their completions mean. One thread at a
//! time uses it; `Remote` holds the lock and does the waiting.

mod programs;
mod reads;

use super::gone;
use super::memory::Memory;
use crate::engine::{Planned, Poison, ProgramId, QueueId, Ticket};
use crate::error::{Error, Kind, Result};
use crate::op::{BoundOp, BufferId, CheckedOp};
use crate::wire::{
    COMPLETE_BYTES, Completion, Consumer, LENS_MAX, Outcome, PLAN_TEXT_BYTES, Producer,
    RECORD_ALIGN, Record, SUBMIT_BYTES, Shared, TenantEnd, Wire, awake,
};
use programs::Program;
use reads::{At, Part, Reading};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Handles that a session keeps; all are forgotten when it would need more.
const HANDLES_MAX: usize = 1024;

/// What a ticket in flight was for.
enum Pending {
    Run {
        op: BoundOp,
        handle: u32,
    },
    /// A definition, and the staging that its lengths lie in: offset and bytes.
    Define {
        handle: u32,
        staged: [u64; 2],
    },
    Reserve,
    /// A program's steps, and the staging that they lie in: offset and bytes.
    Record {
        program: ProgramId,
        staged: [u64; 2],
    },
    Replay {
        program: ProgramId,
        ops: Arc<[BoundOp]>,
    },
    /// Staging to free when done: offset and bytes.
    Staged(u64, u64),
    /// A part of a read: where its bytes lie in staging, and where they go.
    Read {
        read: Ticket,
        buffer: BufferId,
        staging: u64,
        len: u64,
        to: usize,
    },
    /// An op's plan, and where in staging its text will lie.
    Plan {
        handle: u32,
        staging: u64,
    },
    Plain,
}

pub(super) struct Client {
    /// Shared with the thread that watches it.
    socket: Arc<OwnedFd>,
    submit: Shared,
    staging: Shared,
    complete: Shared,
    producer: Producer,
    consumer: Consumer,
    issued: u64,
    completed: u64,
    pending: VecDeque<(u64, Pending)>,
    memory: Memory,
    handles: HashMap<Arc<CheckedOp>, u32>,
    poison: Poison,
    reads: HashMap<Ticket, Reading>,
    /// Memory of spilled parts, kept because fresh pages cost a fault each.
    spare: Vec<Vec<u8>>,
    next_read: u64,
    reserve_error: Option<Error>,
    reserving: bool,
    first_error: Option<Error>,
    /// Why the session is over, once it is.
    over: Option<Error>,
    /// Whether a thread watches the socket, and the record whose completion the first sleeper waits for.
    pub(super) watched: bool,
    sought: u64,
    next_handle: u32,
    /// Why definitions were refused, by handle.
    refused: HashMap<u32, Error>,
    /// Buffers freed while records were in flight.
    freed: Vec<BufferId>,
    programs: HashMap<ProgramId, Program>,
    /// Plans that came and are not taken yet.
    plans: HashMap<Ticket, Result<Planned>>,
    next_program: u32,
    /// Programs that the executor is still to forget.
    erased: Vec<u32>,
}

/// Tickets of reads live apart from those of records.
const READ_BASE: u64 = 1 << 62;

impl Client {
    pub(super) fn new(end: TenantEnd, memory: u64) -> Result<Self> {
        Ok(Self {
            submit: end.submit.map(true)?,
            staging: end.staging.map(true)?,
            complete: end.complete.map(false)?,
            socket: Arc::new(end.socket),
            producer: Producer::new(SUBMIT_BYTES),
            consumer: Consumer::new(COMPLETE_BYTES),
            issued: 0,
            completed: 0,
            pending: VecDeque::new(),
            memory: Memory::new(memory),
            handles: HashMap::new(),
            poison: Poison::default(),
            reads: HashMap::new(),
            spare: Vec::new(),
            next_read: READ_BASE,
            reserve_error: None,
            reserving: false,
            first_error: None,
            over: None,
            watched: false,
            sought: u64::MAX,
            next_handle: 0,
            refused: HashMap::new(),
            freed: Vec::new(),
            programs: HashMap::new(),
            plans: HashMap::new(),
            next_program: 0,
            erased: Vec::new(),
        })
    }

    pub(super) fn issued(&self) -> Ticket {
        Ticket(self.issued)
    }

    pub(super) fn socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket)
    }

    pub(super) fn take_error(&mut self) -> Result<()> {
        self.first_error.take().map_or(Ok(()), Err)
    }

    /// Pushes a record; `None` when the ring is full.
    fn push(
        &mut self,
        record: &Record,
        queue: QueueId,
        pending: Pending,
    ) -> Result<Option<Ticket>> {
        if let Some(over) = &self.over {
            return Err(over.clone());
        }
        let ticket = self.issued + 1;
        let bytes = record.encode(ticket, queue.0)?;
        let pushed = self.producer.push(&self.submit, &self.complete, &bytes);
        match pushed {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(bad) => return Err(self.end(gone(&bad.to_string()))),
        }
        self.issued = ticket;
        self.pending.push_back((ticket, pending));
        if self.producer.wakes(&self.complete) {
            self.wake();
        }
        Ok(Some(Ticket(ticket)))
    }

    /// One byte without blocking: if the socket is full, the executor has news enough.
    fn wake(&self) {
        let _ = rustix::net::send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// The session is over: everything in flight fails with the first cause.
    fn end(&mut self, cause: Error) -> Error {
        let cause = self.over.get_or_insert(cause).clone();
        for (ticket, pending) in std::mem::take(&mut self.pending) {
            self.fail(ticket, pending, &cause);
        }
        self.completed = self.issued;
        cause
    }

    fn fail(&mut self, ticket: u64, pending: Pending, cause: &Error) {
        match pending {
            Pending::Define { handle, staged: [offset, len] } => {
                if len > 0 {
                    self.memory.unstage(offset, len);
                }
                self.handles.retain(|_, known| *known != handle);
                self.refused.insert(handle, cause.clone());
            }
            Pending::Run { op, handle } => {
                // A run of a refused definition fails for the definition's reason.
                let cause = self.refused.get(&handle).unwrap_or(cause);
                let named = cause.clone().in_op(op.op().op().name());
                self.poison.fail(&op, &named);
                self.first_error.get_or_insert(named);
            }
            Pending::Record { program, staged: [offset, len] } => {
                self.memory.unstage(offset, len);
                if let Some(program) = self.programs.get_mut(&program) {
                    // What refused one of its ops says more.
                    let first = program.handles.iter().find_map(|h| self.refused.get(h));
                    program.refused = Some(first.unwrap_or(cause).clone());
                }
            }
            Pending::Replay { program, ops } => {
                let refused = self.programs.get(&program).and_then(|p| p.refused.as_ref());
                let cause = refused.unwrap_or(cause).clone();
                self.poison.fail_all(&ops, &cause);
                self.first_error.get_or_insert(cause);
            }
            Pending::Reserve => {
                self.reserving = false;
                self.reserve_error = Some(cause.clone());
            }
            Pending::Staged(offset, len) => {
                self.memory.unstage(offset, len);
                self.first_error.get_or_insert(cause.clone());
            }
            Pending::Read { read, staging, len, .. } => {
                self.memory.unstage(staging, len);
                if let Some(reading) = self.reads.get_mut(&read) {
                    reading.parts -= 1;
                    reading.error.get_or_insert(cause.clone());
                }
            }
            Pending::Plan { handle, staging } => {
                self.memory.unstage(staging, PLAN_TEXT_BYTES);
                let cause = self.refused.get(&handle).unwrap_or(cause).clone();
                self.plans.insert(Ticket(ticket), Err(cause));
            }
            Pending::Plain => {
                self.first_error.get_or_insert(cause.clone());
            }
        }
    }

    /// Takes every completion that is there.
    pub(super) fn take_completions(&mut self) -> Result<()> {
        let mut took = false;
        while self.over.is_none() {
            let taken = self.consumer.pop_fixed(&self.submit, &self.complete);
            let bytes = match taken {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    if took && self.consumer.wakes(&self.complete) {
                        self.wake();
                    }
                    return Ok(());
                }
                Err(bad) => return Err(self.end(gone(&bad.to_string()))),
            };
            let completion = Completion::decode(&bytes)?;
            // Ticket 0 is no record's: the executor ends the session.
            if let (0, Outcome::Failed(cause)) = (completion.ticket, &completion.outcome) {
                return Err(self.end(cause.clone()));
            }
            let Some((ticket, pending)) = self.pending.pop_front() else {
                return Err(self.end(gone("a completion that nothing waits for")));
            };
            if ticket != completion.ticket {
                return Err(self.end(gone("completions out of order")));
            }
            (self.completed, took) = (ticket, true);
            match completion.outcome {
                Outcome::Done(values) => self.succeed(ticket, pending, values),
                Outcome::Failed(cause) => {
                    if matches!(
                        cause.kind(),
                        Kind::Revoked | Kind::Expired | Kind::DeviceLost { .. }
                    ) {
                        self.fail(ticket, pending, &cause);
                        return Err(self.end(cause));
                    }
                    self.fail(ticket, pending, &cause);
                }
            }
        }
        Ok(())
    }

    fn succeed(&mut self, ticket: u64, pending: Pending, values: [u64; 3]) {
        match pending {
            Pending::Define { staged: [offset, len], .. } => {
                if len > 0 {
                    self.memory.unstage(offset, len);
                }
            }
            Pending::Run { op, .. } => {
                // The executor ran it on whatever a failed operand held; the cause is passed on here.
                if let Some(cause) = self.poison.inherited(&op).cloned() {
                    self.poison.fail(&op, &cause);
                }
            }
            Pending::Record { staged: [offset, len], .. } => self.memory.unstage(offset, len),
            Pending::Replay { ops, .. } => {
                let cause = ops.iter().find_map(|op| self.poison.inherited(op).cloned());
                if let Some(cause) = cause {
                    self.poison.fail_all(&ops, &cause);
                }
            }
            Pending::Reserve => {
                self.reserving = false;
                self.memory.add_block(values);
            }
            Pending::Staged(offset, len) => self.memory.unstage(offset, len),
            Pending::Read { read, buffer, staging, len, to } => match self.reads.get_mut(&read) {
                Some(reading) => {
                    reading.parts -= 1;
                    if reading.error.is_none() {
                        reading.error = self.poison.of(buffer).cloned();
                    }
                    reading.here.push(Part { to, len, at: At::Staging(staging) });
                }
                None => self.memory.unstage(staging, len),
            },
            Pending::Plan { staging, .. } => {
                let planned = self.planned(staging, values);
                self.plans.insert(Ticket(ticket), Ok(planned));
            }
            Pending::Plain => {}
        }
    }

    /// Failures of freed buffers matter until nothing that read them is in flight.
    fn forget_freed(&mut self) {
        if self.pending.is_empty() || self.poison.is_empty() {
            self.freed.drain(..).for_each(|buffer| self.poison.clear(buffer));
        }
    }

    pub(super) fn alloc(&mut self, bytes: u64) -> Result<Option<BufferId>> {
        if let Some(id) = self.memory.alloc(bytes) {
            return Ok(Some(id));
        }
        if self.reserving {
            return Ok(None);
        }
        if let Some(error) = self.reserve_error.take() {
            // Blocks without buffers may be in the way.
            let Some(at) = self.memory.take_empty_block() else { return Err(error) };
            self.push(&Record::Release { at }, QueueId(0), Pending::Plain)?;
        }
        let record = Record::Reserve { bytes: self.memory.block_for(bytes) };
        self.reserving = self.push(&record, QueueId(0), Pending::Reserve)?.is_some();
        Ok(None)
    }

    pub(super) fn free(&mut self, buffer: BufferId) {
        self.memory.free(buffer);
        self.freed.push(buffer);
        self.forget_freed();
    }

    /// The last ticket, if the range lies inside the buffer.
    pub(super) fn inside(&self, buffer: BufferId, offset: u64, len: u64) -> Result<Ticket> {
        self.memory.at(buffer, offset, len)?;
        Ok(self.issued())
    }

    pub(super) fn write(
        &mut self,
        buffer: BufferId,
        offset: u64,
        bytes: &[u8],
        queue: QueueId,
    ) -> Result<Option<Ticket>> {
        let len = bytes.len() as u64;
        let at = self.memory.at(buffer, offset, len)?;
        let Some(staging) = self.stage(len)? else { return Ok(None) };
        self.staging.write(staging, bytes);
        let record = Record::Write { at, staging, len };
        let pushed = self.push(&record, queue, Pending::Staged(staging, len))?;
        if pushed.is_none() {
            self.memory.unstage(staging, len);
        }
        Ok(pushed)
    }

    /// Forgets all handles where `more` would be too many; whether there is room.
    fn room_for_handles(&mut self, more: usize) -> Result<bool> {
        if self.handles.len() + more <= HANDLES_MAX {
            return Ok(true);
        }
        let known: Vec<_> = self.handles.iter().map(|(op, &h)| (Arc::clone(op), h)).collect();
        for (op, handle) in known {
            let record = Record::Undefine { handle };
            if self.push(&record, QueueId(0), Pending::Plain)?.is_none() {
                return Ok(false);
            }
            self.handles.remove(&op);
        }
        Ok(true)
    }

    pub(super) fn submit(&mut self, op: &BoundOp, queue: QueueId) -> Result<Option<Ticket>> {
        if !self.handles.contains_key(op.op()) && !self.room_for_handles(1)? {
            return Ok(None);
        }
        let Some(handle) = self.handle(op.op())? else { return Ok(None) };
        let bindings = op.bindings().iter().map(|b| self.memory.at(b.buffer, b.offset, 0));
        let bindings = bindings.collect::<Result<_>>()?;
        self.push(&Record::Run { handle, bindings }, queue, Pending::Run { op: op.clone(), handle })
    }

    /// The op's handle, defined now if it has none; `None` when the ring is full.
    fn handle(&mut self, op: &Arc<CheckedOp>) -> Result<Option<u32>> {
        if let Some(&handle) = self.handles.get(op) {
            return Ok(Some(handle));
        }
        let list = op.op().host_lens().concat();
        if list.len() as u64 > LENS_MAX {
            let asked = format!("{} lengths", list.len());
            return Err(Kind::Unsupported { asked, allowed: LENS_MAX.to_string() }.into());
        }
        let bytes: Vec<u8> = list.iter().flat_map(|n| n.to_le_bytes()).collect();
        let len = bytes.len() as u64;
        let staging = if len == 0 { Some(0) } else { self.stage(len)? };
        let Some(staging) = staging else { return Ok(None) };
        self.staging.write(staging, &bytes);
        let handle = self.next_handle;
        let record = Record::Define {
            handle,
            op: Wire::of(op.op()),
            specs: op.specs().to_vec(),
            lens: [staging, list.len() as u64],
        };
        let pending = Pending::Define { handle, staged: [staging, len] };
        if self.push(&record, QueueId(0), pending)?.is_none() {
            if len > 0 {
                self.memory.unstage(staging, len);
            }
            return Ok(None);
        }
        self.next_handle = self.next_handle.wrapping_add(1);
        self.handles.insert(Arc::clone(op), handle);
        Ok(Some(handle))
    }

    /// Whether the ticket is done.
    pub(super) fn poll(&mut self, ticket: Ticket) -> Result<Option<()>> {
        if ticket.0 <= READ_BASE {
            return match &self.over {
                Some(over) => Err(over.clone()),
                None => Ok((self.completed >= ticket.0).then_some(())),
            };
        }
        match self.reads.get(&ticket) {
            Some(Reading { error: Some(error), .. }) => Err(error.clone()),
            Some(Reading { parts: 0, unsent: 0, .. }) | None => Ok(Some(())),
            Some(_) => self.over.clone().map_or(Ok(None), Err),
        }
    }

    /// The record whose completion a wait for this ticket waits for.
    pub(super) fn record_of(&self, ticket: Ticket) -> u64 {
        self.reads.get(&ticket).map_or(ticket.0, |reading| reading.last)
    }

    /// The record whose completion a wait for room waits for: half of what is in flight, so that a tenant that fills
    /// the ring is woken a few times, not for each.
    pub(super) fn record_of_room(&self) -> u64 {
        self.completed + (self.issued - self.completed) / 2
    }

    /// Says that this side will sleep until `record` is completed; `false` when a completion came in between. Of
    /// several sleepers the earliest counts.
    pub(super) fn may_sleep(&mut self, record: u64) -> Result<bool> {
        if let Some(over) = &self.over {
            return Err(over.clone());
        }
        self.sought = self.sought.min(record.max(self.completed + 1));
        // Each record has one completion, and each completion is as long as the least record.
        let more = self.sought.saturating_sub(self.completed).max(1).saturating_mul(RECORD_ALIGN);
        match self.consumer.sleeps(&self.submit, &self.complete, more) {
            Ok(sleeps) => {
                if !sleeps && !self.watched {
                    self.is_awake();
                }
                Ok(sleeps)
            }
            Err(bad) => Err(self.end(gone(&bad.to_string()))),
        }
    }

    fn is_awake(&mut self) {
        self.sought = u64::MAX;
        awake(&self.submit);
    }

    /// After a sleep: awake again, and over if the executor's end of the socket is closed.
    pub(super) fn woken(&mut self, alive: bool) -> Result<()> {
        self.is_awake();
        if alive {
            return Ok(());
        }
        // What was completed before the end still counts.
        self.take_completions()?;
        self.end(gone("the executor has gone"));
        Ok(())
    }
}

/// Sleeps until a byte comes, at most `timeout`; whether the other end is still there.
pub(super) fn sleep(socket: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    let limit =
        Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    if !matches!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1..)) {
        return true;
    }
    let mut bytes = [0u8; 64];
    loop {
        match rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return false,
            Ok(_) => {}
            Err(_) => return true,
        }
    }
}
