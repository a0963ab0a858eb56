//! The engine of a leased device: it holds no device at all, only rings to a node's executor. Ops are checked here
//! for good messages, and again by the executor for safety.

mod client;
mod heap;
mod memory;

use crate::backend::Caps;
use crate::engine::{Engine, Planned, ProgramId, QueueId, Ticket, WhenFull};
use crate::error::{Error, Kind, Result};
use crate::numerics::Numerics;
use crate::op::{BoundOp, BufferId, CheckedOp};
use crate::wire::{self, Mapped, Open, Opened, Shared, TenantEnd, VERSION};
use client::Client;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a wait spins before it sleeps: about twice what a wake-up costs on a virtual machine.
const SPIN: Duration = Duration::from_micros(100);
/// How long it spins when the wait before was long.
const SPIN_LEAST: Duration = Duration::from_micros(2);
/// Looks between two yields while it spins: whoever else wants the core has it then.
const LOOKS: u32 = 32;
/// The longest sleep between two looks: a lost wake-up costs this once, never a hang.
const NAP: Duration = Duration::from_millis(100);

/// A session with a node's executor.
pub struct Remote {
    client: Mutex<Client>,
    /// Signals that some thread took completions off the ring, or stopped watching the socket.
    progress: Condvar,
    caps: Caps,
    numerics: Numerics,
    /// Zero in a forked child.
    parent: Shared,
    /// How long waits spin: see [`Remote::learn`].
    spin_ns: AtomicU64,
}

impl Remote {
    /// Opens a session on the inherited socket whose number is in `LEASEHOLD_FD`.
    ///
    /// # Errors
    /// `Environment` when the value is no descriptor of this process, `NoDevice` when control refuses, `Protocol`.
    pub fn open(name: &'static str, value: &OsStr) -> Result<Self> {
        let bad = || -> Error {
            let asked = value.to_string_lossy().into_owned();
            Kind::Environment { name, asked, allowed: "the number of an open socket to control" }
                .into()
        };
        let number: RawFd = value.to_str().and_then(|v| v.parse().ok()).ok_or_else(bad)?;
        Self::on(wire::inherited(number).ok_or_else(bad)?.as_fd())
    }

    /// Opens a session on a socket to control.
    ///
    /// # Errors
    /// `NoDevice` when control refuses, `Protocol`, `DeviceLost` when it has gone.
    pub fn on(control: BorrowedFd<'_>) -> Result<Self> {
        wire::send(control, &Open { version: VERSION }, &[])?;
        let (bytes, fds) = wire::receive(control)?.ok_or_else(|| gone("control has gone"))?;
        let opened: Opened = wire::from_bytes(&bytes)?;
        let remote = Self::with(opened, fds)?;
        wire::send(control, &Mapped { version: VERSION }, &[])?;
        Ok(remote)
    }

    fn with(opened: Opened, fds: Vec<OwnedFd>) -> Result<Self> {
        let Opened::Session {
            version,
            name,
            backend,
            arch,
            numerics,
            memory,
            max_alloc,
            max_binding,
            unit_cap_ns,
            ..
        } = opened
        else {
            let Opened::Refused { why, .. } = opened else { return Err(gone("no answer")) };
            return Err(Kind::NoDevice { why }.into());
        };
        if version != VERSION {
            let (asked, allowed) = (version.into(), VERSION.into());
            return Err(Kind::Protocol { what: "version", asked, allowed }.into());
        }
        let caps = Caps {
            backend: "leased",
            name: format!("{name} ({backend}, leased)"),
            arch: known(&arch),
            software: false,
            max_alloc,
            max_binding,
            memory,
            unit_cap_ns,
            clock: "the executor's",
        };
        let parent = Shared::wiped_on_fork()?;
        parent.set_flag(0, true);
        let client = Client::new(TenantEnd::received(fds)?, memory)?;
        let (client, progress) = (Mutex::new(client), Condvar::new());
        Ok(Self {
            client,
            progress,
            caps,
            numerics: Numerics(numerics),
            parent,
            spin_ns: AtomicU64::new(SPIN.as_nanos() as u64),
        })
    }

    fn lock(&self) -> Result<MutexGuard<'_, Client>> {
        if !self.parent.flag(0) {
            return Err(Kind::Forked { pid: std::process::id() }.into());
        }
        Ok(self.client.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes completions until `ready` gives something or the time is over: spins, then one thread watches the
    /// socket while others wait for its news. A sleeper is woken when the record that `until` names is completed.
    fn wait_for<'a, T>(
        &'a self,
        mut client: MutexGuard<'a, Client>,
        timeout: Option<Duration>,
        until: impl Fn(&Client) -> u64,
        mut ready: impl FnMut(&mut Client) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let (begin, mut looks) = (Instant::now(), 0u32);
        let spin = Duration::from_nanos(self.spin_ns.load(Relaxed));
        loop {
            client.take_completions()?;
            if let Some(value) = ready(&mut client)? {
                if looks > 0 {
                    self.learn(begin.elapsed());
                }
                return Ok(Some(value));
            }
            let waited = begin.elapsed();
            let left = timeout.map_or(NAP, |t| t.saturating_sub(waited)).min(NAP);
            if left.is_zero() {
                return Ok(None);
            }
            if waited < spin {
                drop(client);
                looks += 1;
                if looks.is_multiple_of(LOOKS) {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
                client = self.lock()?;
                continue;
            }
            let record = until(&client);
            if !client.may_sleep(record)? {
                continue;
            }
            if client.watched {
                let woken = self.progress.wait_timeout(client, left);
                client = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            client.watched = true;
            let socket = client.socket();
            drop(client);
            let slept = client::sleep(socket.as_fd(), left);
            client = self.lock()?;
            client.watched = false;
            client.woken(slept)?;
            self.progress.notify_all();
        }
    }

    /// Spinning shortens a wait only if that ends about as soon as a sleeper wakes. Waits that took longer leave
    /// the core to those whom they wait for; the first short one brings spinning back.
    fn learn(&self, waited: Duration) {
        let spin = if waited < 2 * SPIN { SPIN } else { SPIN_LEAST };
        self.spin_ns.store(spin.as_nanos() as u64, Relaxed);
    }

    /// Runs `act` until it does not answer `None`, which says that it waits for room.
    fn until_room<T>(&self, act: impl FnMut(&mut Client) -> Result<Option<T>>) -> Result<T> {
        let value = self.wait_for(self.lock()?, None, Client::record_of_room, act)?;
        value.ok_or_else(|| gone("the executor has gone"))
    }
}

/// The arch classes that this build knows by name; another is its own class all the same, by the numerics id.
fn known(arch: &str) -> &'static str {
    let cpu = ["x86-amx", "x86-v4-bf16", "x86-v4", "x86-v3", "generic"];
    let others = ["null", "wgpu-software", "wgpu-gpu"];
    cpu.into_iter().chain(others).find(|class| *class == arch).unwrap_or("other")
}

fn gone(why: &str) -> Error {
    Kind::DeviceLost { why: why.into() }.into()
}

impl Engine for Remote {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn numerics(&self) -> Numerics {
        self.numerics
    }

    fn alloc(&self, bytes: u64) -> Result<BufferId> {
        if bytes > self.caps.max_alloc {
            let (asked, max) = (format!("an allocation of {bytes} bytes"), self.caps.max_alloc);
            return Err(Kind::Unsupported { asked, allowed: format!("{max} bytes") }.into());
        }
        self.until_room(|client| client.alloc(bytes))
    }

    fn free(&self, buffer: BufferId) {
        if let Ok(mut client) = self.lock() {
            client.free(buffer);
        }
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8], queue: QueueId) -> Result<Ticket> {
        let mut last = self.lock()?.inside(buffer, offset, bytes.len() as u64)?;
        let mut at = offset;
        for part in bytes.chunks(wire::COPY_MAX as usize) {
            last = self.until_room(|client| client.write(buffer, at, part, queue))?;
            at += part.len() as u64;
        }
        Ok(last)
    }

    fn read(&self, buffer: BufferId, offset: u64, len: u64, queue: QueueId) -> Result<Ticket> {
        let ticket = self.lock()?.begin_read(buffer, offset, len)?;
        let mut at = 0;
        while at < len {
            let part = wire::COPY_MAX.min(len - at);
            let sent = self.until_room(|client| {
                client.read_part(ticket, buffer, offset + at, at, part, queue)
            });
            if let Err(error) = sent {
                self.forget(ticket);
                return Err(error);
            }
            at += part;
        }
        Ok(ticket)
    }

    fn submit(&self, op: BoundOp, queue: QueueId, full: WhenFull) -> Result<Ticket> {
        let mut client = self.lock()?;
        if let Some(ticket) = client.submit(&op, queue)? {
            return Ok(ticket);
        }
        if full == WhenFull::Refuse {
            return Err(Kind::QueueFull { limit: wire::SUBMIT_BYTES }.into());
        }
        drop(client);
        self.until_room(|client| client.submit(&op, queue))
    }

    fn plan(&self, op: &Arc<CheckedOp>) -> Result<Planned> {
        let ticket = self.until_room(|client| client.ask_plan(op))?;
        let came = |client: &mut Client| client.take_plan(ticket);
        let planned = self.wait_for(self.lock()?, None, |_| ticket.0, came)?;
        planned.ok_or_else(|| gone("the executor has gone"))
    }

    fn record(&self, ops: Vec<BoundOp>) -> Result<ProgramId> {
        self.lock()?.record(ops)
    }

    fn replay(&self, program: ProgramId, queue: QueueId, full: WhenFull) -> Result<Ticket> {
        let mut client = self.lock()?;
        if let Some(ticket) = client.replay(program, queue)? {
            return Ok(ticket);
        }
        if full == WhenFull::Refuse {
            return Err(Kind::QueueFull { limit: wire::SUBMIT_BYTES }.into());
        }
        drop(client);
        self.until_room(|client| client.replay(program, queue))
    }

    fn erase(&self, program: ProgramId) {
        if let Ok(mut client) = self.lock() {
            client.erase(program);
        }
    }

    fn poll(&self, ticket: Ticket, timeout: Option<Duration>) -> Result<bool> {
        let until = |client: &Client| client.record_of(ticket);
        let done = self.wait_for(self.lock()?, timeout, until, |client| client.poll(ticket))?;
        Ok(done.is_some())
    }

    fn fetch(&self, ticket: Ticket, dst: &mut [u8]) -> Result<()> {
        self.lock()?.fetch(ticket, dst)
    }

    fn forget(&self, ticket: Ticket) {
        if let Ok(mut client) = self.lock() {
            client.forget(ticket);
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let client = self.lock()?;
        let last = client.issued();
        let done = self.wait_for(client, timeout, |_| last.0, |client| client.poll(last))?;
        if done.is_none() {
            let waited_ms = timeout.map_or(0, |t| t.as_millis() as u64);
            return Err(Kind::Timeout { waited_ms }.into());
        }
        self.lock()?.take_error()
    }
}
