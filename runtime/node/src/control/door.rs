//! A job's door: the socket that its jail inherits. Whoever holds it may open sessions of the job, and nothing else.

use super::executor::Executor;
use leasehold::wire::{Ends, Mapped, Open, Opened, VERSION, from_bytes, receive, send};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Seconds that a tenant may take to map its memory.
const MAP_SECONDS: i64 = 5;

/// What a door needs to know of its job.
pub(super) struct Door {
    pub(super) socket: OwnedFd,
    pub(super) executor: Arc<Executor>,
    pub(super) job: u64,
    pub(super) memory: u64,
    pub(super) op_cap_ns: u64,
    pub(super) sessions: Arc<AtomicU64>,
}

impl Door {
    /// Opens sessions until the last holder of the other end has gone.
    pub(super) fn stand(self) {
        while let Ok(Some((bytes, _no_descriptors_are_taken))) = receive(&self.socket) {
            let answered = match from_bytes::<Open>(&bytes) {
                Ok(open) if open.version >= VERSION => self.open(),
                Ok(open) => {
                    self.refuse(format!("version {} asked, allowed {VERSION}", open.version))
                }
                Err(error) => self.refuse(error.to_string()),
            };
            if answered.is_err() {
                return;
            }
        }
    }

    fn refuse(&self, why: String) -> leasehold::Result<()> {
        send(&self.socket, &Opened::Refused { why, retryable: false }, &[])
    }

    /// Makes a session. The executor maps it first; the completion ring is sealed before the tenant sees it, the
    /// rest as soon as the tenant says that it has mapped it. Control keeps nothing.
    fn open(&self) -> leasehold::Result<()> {
        let ends = Ends::new()?;
        let session = self.sessions.fetch_add(1, Relaxed) + 1;
        if let Err(why) = self.executor.session(self.job, session, &ends) {
            return self.refuse(why);
        }
        ends.tenant.complete.seal_writes()?;
        let d = &self.executor.device;
        let opened = Opened::Session {
            version: VERSION,
            name: d.name.clone(),
            backend: d.backend.clone(),
            arch: d.arch.clone(),
            numerics: d.numerics,
            memory: self.memory.min(d.memory),
            max_alloc: d.max_alloc.min(self.memory),
            max_binding: d.max_binding,
            unit_cap_ns: d.unit_cap_ns,
            op_cap_ns: self.op_cap_ns,
        };
        send(&self.socket, &opened, &ends.tenant.fds())?;
        // A tenant that never says so is sealed all the same; one that then cannot map has only hurt itself.
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec { tv_sec: MAP_SECONDS, tv_nsec: 0 };
        let heard = matches!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1..));
        let said = if heard { receive(&self.socket)? } else { None };
        ends.tenant.submit.seal_writes()?;
        ends.tenant.staging.seal_writes()?;
        match said.map(|(bytes, _)| from_bytes::<Mapped>(&bytes)) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => self.refuse(format!("memory not mapped within {MAP_SECONDS} s")),
        }
    }
}
