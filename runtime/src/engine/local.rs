//! The engine of a device in this process: a queue of commands and one backend. A worker thread drives the
//! queue; a caller that waits drives it too when the backend is free, so that op + wait costs no thread switch.

mod replay;

use super::{Engine, Planned, Poison, ProgramId, QueueId, Ticket, WhenFull, program_ops};
use crate::backend::{Backend, Caps, Mark, Progress};
use crate::error::{Error, Kind, Result};
use crate::exec::{Core, Part, Run};
use crate::numerics::Numerics;
use crate::op::{BoundOp, BufferId, CheckedOp};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Commands that the queue holds before `submit` waits.
const QUEUE_MAX: usize = 16_384;
/// Ops launched but not yet polled: enough to keep a device fed, few enough to bound what a loss takes along.
const IN_FLIGHT_MAX: usize = 64;
/// Frees remembered while ops are in flight.
const FREED_MAX: usize = 1024;

/// An engine on a backend of this process.
pub struct Local<B: Backend> {
    shared: Arc<Shared<B>>,
    caps: Caps,
    numerics: Numerics,
    worker: Option<JoinHandle<()>>,
    /// The process that has the worker and the backend's threads; a forked child has neither.
    process: u32,
}

struct Shared<B: Backend> {
    queue: Mutex<Queue>,
    /// Signals the worker: there is work, or the engine closes.
    work: Condvar,
    /// Signals waiters: a ticket completed.
    done: Condvar,
    driver: Mutex<Driver<B>>,
}

/// What callers and the driver share. Held for moments only, never during work.
struct Queue {
    commands: VecDeque<(Ticket, Command)>,
    issued: u64,
    completed: u64,
    next_buffer: u64,
    /// Lengths of live buffers, as callers see them.
    lens: HashMap<BufferId, u64>,
    used: u64,
    reads: HashMap<Ticket, Option<Result<Vec<u8>>>>,
    programs: HashMap<ProgramId, Arc<[BoundOp]>>,
    next_program: u64,
    first_error: Option<Error>,
    closed: bool,
}

enum Command {
    Alloc(BufferId, u64),
    Free(BufferId),
    Write(BufferId, u64, Vec<u8>),
    Read(BufferId, u64, u64),
    Run(BoundOp),
    Replay(ProgramId, Arc<[BoundOp]>),
    Erase(ProgramId),
}

/// An op launched and not yet polled.
struct InFlight {
    /// Complete when it is done: for ops of a program but the last, the ticket before the replay's.
    ticket: Ticket,
    mark: Mark,
    run: Run,
    /// The program that it is of: its failure is that of all.
    program: Option<Arc<[BoundOp]>>,
}

/// What only the thread that drives may touch.
struct Driver<B: Backend> {
    core: Core<B>,
    poison: Poison,
    /// What programs that were replayed are launched in: segments where the backend has them. Of one that was replayed once,
    /// nothing.
    parts: HashMap<ProgramId, Arc<[Part]>>,
    /// Buffers freed while ops that may have failed them are in flight: readers of those need the cause.
    freed: Vec<BufferId>,
    in_flight: VecDeque<InFlight>,
    /// The last ticket that ended while earlier ones were still in flight.
    ended: Ticket,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics while it holds a lock; if something did, the data is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Local<B> {
    /// Starts the worker thread of `backend`.
    ///
    /// # Errors
    /// `System` when the thread cannot be started.
    pub fn new(backend: B) -> Result<Self> {
        let core = Core::new(backend);
        let (caps, numerics) = (core.caps().clone(), core.numerics());
        let queue = Queue {
            commands: VecDeque::new(),
            issued: 0,
            completed: 0,
            next_buffer: 0,
            lens: HashMap::new(),
            used: 0,
            reads: HashMap::new(),
            programs: HashMap::new(),
            next_program: 0,
            first_error: None,
            closed: false,
        };
        let driver = Driver {
            core,
            poison: Poison::default(),
            parts: HashMap::new(),
            freed: Vec::new(),
            in_flight: VecDeque::new(),
            ended: Ticket(0),
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            work: Condvar::new(),
            done: Condvar::new(),
            driver: Mutex::new(driver),
        });
        let worker = Arc::clone(&shared);
        let worker = std::thread::Builder::new()
            .name("leasehold".into())
            .spawn(move || worker.work())
            .map_err(|e| Error::system("spawn", e))?;
        Ok(Self { shared, caps, numerics, worker: Some(worker), process: std::process::id() })
    }

    /// The queue, unless this process is a fork of the one that opened the device: then its lock may be held for
    /// ever by a thread that is not here.
    fn queue(&self) -> Result<MutexGuard<'_, Queue>> {
        match std::process::id() {
            pid if pid == self.process => Ok(lock(&self.shared.queue)),
            pid => Err(Kind::Forked { pid }.into()),
        }
    }

    /// Enqueues a command under the queue's lock and wakes the worker if it may be asleep.
    fn push(&self, queue: &mut Queue, command: Command) -> Ticket {
        queue.issued += 1;
        let ticket = Ticket(queue.issued);
        queue.commands.push_back((ticket, command));
        if queue.commands.len() == 1 {
            self.shared.work.notify_one();
        }
        ticket
    }

    /// Enqueues work, which waits for room or is refused.
    fn enqueue(&self, command: Command, full: WhenFull) -> Result<Ticket> {
        loop {
            let mut queue = self.queue()?;
            if queue.commands.len() < QUEUE_MAX {
                return Ok(self.push(&mut queue, command));
            }
            drop(queue);
            if full == WhenFull::Refuse {
                return Err(Kind::QueueFull { limit: QUEUE_MAX as u64 }.into());
            }
            self.wait_until(None, |queue| queue.commands.len() < QUEUE_MAX / 2);
        }
    }

    /// The buffer's length, if `len` bytes at `offset` lie inside it.
    fn inside(queue: &Queue, buffer: BufferId, offset: u64, len: u64) -> Result<u64> {
        let have = queue.lens.get(&buffer).copied().unwrap_or(0);
        let end = u128::from(offset) + u128::from(len);
        if end <= u128::from(have) {
            return Ok(have);
        }
        Err(Kind::Bounds { asked: end.to_string(), allowed: have.to_string() }.into())
    }

    /// Waits until `ready` says so or the time is over. Without a time-out the caller drives the queue itself
    /// when the backend is free; with one it must not, since an op may take longer than the time-out.
    fn wait_until(&self, timeout: Option<Duration>, ready: impl Fn(&Queue) -> bool) -> bool {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            let queue = lock(&self.shared.queue);
            if ready(&queue) {
                return true;
            }
            if timeout.is_none() {
                drop(queue);
                let free = match self.shared.driver.try_lock() {
                    Ok(driver) => Some(driver),
                    Err(TryLockError::Poisoned(driver)) => Some(driver.into_inner()),
                    Err(TryLockError::WouldBlock) => None,
                };
                if let Some(mut driver) = free {
                    driver.drive(&self.shared, &ready);
                    continue;
                }
                let queue = lock(&self.shared.queue);
                if !ready(&queue) {
                    // Woken by every completion; the short limit lets this thread take over a driver that
                    // stopped at its own ticket.
                    let nap = Duration::from_millis(1);
                    drop(self.shared.done.wait_timeout(queue, nap));
                }
                continue;
            }
            let now = Instant::now();
            match deadline {
                Some(end) if now >= end => return false,
                Some(end) => drop(self.shared.done.wait_timeout(queue, end - now)),
                None => drop(self.shared.done.wait(queue)),
            }
        }
    }
}

/// Ends what runs, forgets what was queued, which nobody can read any more, and gives the device back. It waits: a
/// process that exits while a driver's threads still close a device dies of it.
impl<B: Backend> Drop for Local<B> {
    fn drop(&mut self) {
        let Ok(mut queue) = self.queue() else { return };
        queue.closed = true;
        queue.commands.clear();
        drop(queue);
        self.shared.work.notify_one();
        if let Some(worker) = self.worker.take() {
            // It never panics; if it did, the backend has gone with it.
            let _ = worker.join();
        }
    }
}

impl<B: Backend> Shared<B> {
    /// The worker thread: drives whenever there is work.
    fn work(&self) {
        loop {
            let mut queue = lock(&self.queue);
            while queue.commands.is_empty() && queue.completed == queue.issued && !queue.closed {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let closed = queue.closed;
            drop(queue);
            lock(&self.driver).drive(self, &|_| false);
            if closed {
                return;
            }
        }
    }

    fn complete(&self, ticket: Ticket, error: Option<Error>, read: Option<Result<Vec<u8>>>) {
        let mut queue = lock(&self.queue);
        // The ops of a program complete what is before it, again and again: nobody waits for that.
        if ticket.0 <= queue.completed && error.is_none() && read.is_none() {
            return;
        }
        queue.completed = queue.completed.max(ticket.0);
        if let Some(error) = error {
            queue.first_error.get_or_insert(error);
        }
        if let (Some(result), Some(slot)) = (read, queue.reads.get_mut(&ticket)) {
            *slot = Some(result);
        }
        drop(queue);
        self.done.notify_all();
    }
}

impl<B: Backend> Driver<B> {
    /// Executes commands in order until the queue is empty and the device idle, or `enough`.
    fn drive(&mut self, shared: &Shared<B>, enough: &dyn Fn(&Queue) -> bool) {
        loop {
            let mut queue = lock(&shared.queue);
            if enough(&queue) {
                return;
            }
            let command = queue.commands.pop_front();
            drop(queue);
            match command {
                Some((ticket, command)) => self.execute(shared, ticket, command),
                None if self.in_flight.is_empty() => return,
                None => self.settle(shared, self.in_flight.len() - 1),
            }
        }
    }

    fn execute(&mut self, shared: &Shared<B>, ticket: Ticket, command: Command) {
        match command {
            Command::Run(op) => match self.launch_op(&op) {
                Ok((mark, run)) => {
                    self.fly(shared, InFlight { ticket, mark, run, program: None });
                }
                Err(error) => {
                    // Causes before this one come first.
                    self.settle(shared, 0);
                    let error = self.poison.inherited(&op).cloned().unwrap_or(error);
                    self.poison.fail(&op, &error);
                    self.finish(shared, ticket, Some(error), None);
                }
            },
            Command::Replay(id, ops) => self.replay(shared, ticket, id, &ops),
            Command::Erase(id) => {
                self.drop_parts(id);
                self.finish(shared, ticket, None, None);
            }
            Command::Alloc(id, len) => {
                let result = self.core.alloc(id, len);
                if let Err(error) = &result {
                    self.poison.fail_buffer(id, error);
                }
                self.finish(shared, ticket, result.err(), None);
            }
            Command::Free(id) => {
                self.core.free(id);
                self.freed.push(id);
                if self.in_flight.is_empty() || self.freed.len() > FREED_MAX {
                    self.settle(shared, 0);
                }
                self.finish(shared, ticket, None, None);
            }
            Command::Write(id, offset, bytes) => {
                let error = self.write(id, offset, &bytes).err();
                self.finish(shared, ticket, error, None);
            }
            Command::Read(id, offset, len) => {
                // Faults of earlier ops are known only once their marks are polled.
                self.settle(shared, 0);
                let result = self.read(id, offset, len);
                self.finish(shared, ticket, None, Some(result));
            }
        }
    }

    fn fly(&mut self, shared: &Shared<B>, flight: InFlight) {
        self.in_flight.push_back(flight);
        if self.in_flight.len() > IN_FLIGHT_MAX {
            self.settle(shared, IN_FLIGHT_MAX / 2);
        }
    }

    /// The first cause that one of these ops inherits.
    fn inherited(&self, ops: &[BoundOp]) -> Option<Error> {
        ops.iter().find_map(|op| self.poison.inherited(op)).cloned()
    }

    /// Completes a ticket. Tickets complete in order, so those in flight come first.
    fn finish(
        &mut self,
        shared: &Shared<B>,
        ticket: Ticket,
        error: Option<Error>,
        read: Option<Result<Vec<u8>>>,
    ) {
        if error.is_some() || read.is_some() {
            self.settle(shared, 0);
        }
        if self.in_flight.is_empty() {
            shared.complete(ticket, error, read);
        } else {
            self.ended = ticket;
        }
    }

    fn launch_op(&mut self, op: &BoundOp) -> Result<(Mark, Run)> {
        if let Some(cause) = self.poison.inherited(op) {
            return Err(cause.clone());
        }
        let run = self.core.begin(op.clone())?;
        self.launch(run)
    }

    fn launch(&mut self, mut run: Run) -> Result<(Mark, Run)> {
        let units = run.remaining();
        let launched = self.core.step(&mut run, units).and_then(|_| self.core.mark());
        match launched {
            Ok(mark) => Ok((mark, run)),
            Err(error) => {
                self.core.end(&run);
                Err(error)
            }
        }
    }

    /// Polls marks until at most `keep` ops are in flight.
    fn settle(&mut self, shared: &Shared<B>, keep: usize) {
        while self.in_flight.len() > keep {
            let Some(flight) = self.in_flight.pop_front() else { return };
            let InFlight { ticket, mark, run, program } = flight;
            let name = |step: u32| {
                let ops = run.ops();
                ops.get(step as usize).or(ops.first()).map_or("", |op| op.op().op().name())
            };
            let own = match self.core.poll(mark, None) {
                Ok(Progress::Done { fault: None, .. } | Progress::Pending) => None,
                Ok(Progress::Done { fault: Some(fault), .. }) => {
                    let kind = Kind::Index { value: fault.value, bound: fault.bound };
                    Some(Error::from(kind).in_op(name(fault.step)))
                }
                Err(error) => Some(error.in_op(name(0))),
            };
            // An operand may have failed after this op was launched on it.
            let error = self.inherited(run.ops()).or(own);
            if let Some(error) = &error {
                match &program {
                    Some(ops) => self.poison.fail_all(ops, error),
                    None => self.poison.fail_all(run.ops(), error),
                }
            }
            self.core.end(&run);
            shared.complete(ticket, error, None);
        }
        if self.in_flight.is_empty() {
            self.freed.drain(..).for_each(|buffer| self.poison.clear(buffer));
            if self.ended > Ticket(0) {
                shared.complete(self.ended, None, None);
            }
        }
    }

    fn write(&mut self, id: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.core.place(id, offset, bytes.len() as u64)?;
        self.core.backend().upload(place.block, offset, bytes)
    }

    fn read(&mut self, id: BufferId, offset: u64, len: u64) -> Result<Vec<u8>> {
        if let Some(cause) = self.poison.of(id) {
            return Err(cause.clone());
        }
        let place = self.core.place(id, offset, len)?;
        let bytes = usize::try_from(len).map_err(|_| -> Error {
            Kind::Bounds { asked: len.to_string(), allowed: usize::MAX.to_string() }.into()
        })?;
        let mut data = super::zeroed(bytes)?;
        self.core.backend().download(place.block, offset, &mut data)?;
        Ok(data)
    }
}

impl<B: Backend> Engine for Local<B> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn numerics(&self) -> Numerics {
        self.numerics
    }

    fn alloc(&self, bytes: u64) -> Result<BufferId> {
        let (quota, max) = (self.caps.memory, self.caps.max_alloc);
        if bytes > max {
            let asked = format!("an allocation of {bytes} bytes");
            return Err(Kind::Unsupported { asked, allowed: format!("{max} bytes") }.into());
        }
        let mut queue = self.queue()?;
        let free = quota.saturating_sub(queue.used);
        if bytes > free {
            return Err(Kind::OutOfMemory { asked: bytes, free, quota }.into());
        }
        queue.used += bytes;
        queue.next_buffer += 1;
        let id = BufferId(queue.next_buffer);
        queue.lens.insert(id, bytes);
        self.push(&mut queue, Command::Alloc(id, bytes));
        Ok(id)
    }

    fn free(&self, buffer: BufferId) {
        let Ok(mut queue) = self.queue() else { return };
        if let Some(len) = queue.lens.remove(&buffer) {
            queue.used -= len;
            self.push(&mut queue, Command::Free(buffer));
        }
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8], _: QueueId) -> Result<Ticket> {
        let mut queue = self.queue()?;
        Self::inside(&queue, buffer, offset, bytes.len() as u64)?;
        Ok(self.push(&mut queue, Command::Write(buffer, offset, bytes.to_vec())))
    }

    fn read(&self, buffer: BufferId, offset: u64, len: u64, _: QueueId) -> Result<Ticket> {
        let mut queue = self.queue()?;
        Self::inside(&queue, buffer, offset, len)?;
        let ticket = self.push(&mut queue, Command::Read(buffer, offset, len));
        queue.reads.insert(ticket, None);
        Ok(ticket)
    }

    fn submit(&self, op: BoundOp, _: QueueId, full: WhenFull) -> Result<Ticket> {
        self.enqueue(Command::Run(op), full)
    }

    fn plan(&self, op: &Arc<CheckedOp>) -> Result<Planned> {
        // Of a forked child nothing answers.
        drop(self.queue()?);
        let plan = lock(&self.shared.driver).core.plan(op)?;
        Ok(Planned { text: plan.to_string(), time_ns: plan.total_ns() })
    }

    fn record(&self, ops: Vec<BoundOp>) -> Result<ProgramId> {
        let ops = program_ops(ops)?;
        let mut queue = self.queue()?;
        queue.next_program += 1;
        let id = ProgramId(queue.next_program);
        queue.programs.insert(id, ops);
        Ok(id)
    }

    fn replay(&self, program: ProgramId, _: QueueId, full: WhenFull) -> Result<Ticket> {
        let ops = self.queue()?.programs.get(&program).cloned();
        let ops = ops.ok_or_else(|| -> Error {
            Kind::Bounds { asked: format!("{program:?}"), allowed: "a kept program".into() }.into()
        })?;
        self.enqueue(Command::Replay(program, ops), full)
    }

    fn erase(&self, program: ProgramId) {
        let Ok(mut queue) = self.queue() else { return };
        if queue.programs.remove(&program).is_some() {
            self.push(&mut queue, Command::Erase(program));
        }
    }

    fn poll(&self, ticket: Ticket, timeout: Option<Duration>) -> Result<bool> {
        drop(self.queue()?);
        if !self.wait_until(timeout, |queue| queue.completed >= ticket.0) {
            return Ok(false);
        }
        match lock(&self.shared.queue).reads.get(&ticket) {
            Some(Some(Err(error))) => Err(error.clone()),
            _ => Ok(true),
        }
    }

    fn fetch(&self, ticket: Ticket, dst: &mut [u8]) -> Result<()> {
        let slot = self.queue()?.reads.remove(&ticket).flatten();
        let bytes = slot.transpose()?.unwrap_or_default();
        if bytes.len() != dst.len() {
            let (asked, allowed) = (dst.len().to_string(), bytes.len().to_string());
            return Err(Kind::Bounds { asked, allowed }.into());
        }
        dst.copy_from_slice(&bytes);
        Ok(())
    }

    fn forget(&self, ticket: Ticket) {
        if let Ok(mut queue) = self.queue() {
            queue.reads.remove(&ticket);
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let last = self.queue()?.issued;
        if !self.wait_until(timeout, |queue| queue.completed >= last) {
            let waited_ms = timeout.map_or(0, |t| t.as_millis() as u64);
            return Err(Kind::Timeout { waited_ms }.into());
        }
        lock(&self.shared.queue).first_error.take().map_or(Ok(()), Err)
    }
}
