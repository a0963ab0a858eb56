//! The executor's loop: the socket to control, the tenants' sockets, the clock, and [`Executor::turn`] between them.

use super::Executor;
use super::protocol::{FromExecutor, ToExecutor, Why};
use leasehold::backend::Backend;
use leasehold::wire::{Memfd, PAGE, TenantEnd, from_bytes, receive, send};
use leasehold::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the loop spins without work before it sleeps: about twice what waking it costs.
const SPIN: Duration = Duration::from_micros(100);
/// The longest sleep: a lost wake-up costs this once, never a hang.
const NAP: Duration = Duration::from_millis(100);

/// Nanoseconds of the boot-time clock, which counts through suspend and which nobody can set.
fn now_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
}

/// Serves `backend` until control says so, or has gone and every job's time is over. The first word of `pulse`
/// always names the job whose work touches the device, so that control knows whom a crash belongs to.
///
/// # Errors
/// `DeviceLost`, or a broken socket to control.
pub fn serve<B: Backend>(backend: B, control: OwnedFd, pulse: &Memfd) -> Result<()> {
    let page = pulse.map(true)?;
    debug_assert!(page.len() == PAGE);
    let mut executor = Executor::new(backend, Box::new(move |job| page.set_position(0, job)));
    send(&control, &FromExecutor::Device(executor.device()), &[])?;
    let mut control = Some(control);
    let mut idle_since = Instant::now();
    loop {
        let now = now_ns();
        for job in executor.overdue(now) {
            settle(&mut executor, job, Why::Expired, control.as_ref(), now)?;
        }
        let moved = executor.turn(now)?;
        if moved {
            idle_since = Instant::now();
        }
        let nap = if moved || idle_since.elapsed() < SPIN { Duration::ZERO } else { NAP };
        if nap.is_zero() && !moved {
            // Whoever else wants the core has it.
            std::thread::yield_now();
        }
        // While work flows, sockets are looked at every so often; a new job may wait that long.
        if nap.is_zero() && !executor.look_at_sockets(now) {
            continue;
        }
        let heard = executor.sleep(control.as_ref().map(AsFd::as_fd), nap)?;
        for session in heard.ended {
            executor.end_session(session, now_ns())?;
        }
        if heard.control {
            match control.as_ref().map(receive).transpose()?.flatten() {
                Some((bytes, fds)) => {
                    let message = from_bytes(&bytes)?;
                    if !act(&mut executor, message, fds, control.as_ref())? {
                        return Ok(());
                    }
                }
                // Control has gone: its jobs go on to their deadlines.
                None => control = None,
            }
        }
        if control.is_none() && executor.is_empty() {
            return Ok(());
        }
    }
}

/// Does what control says; whether to go on.
fn act<B: Backend>(
    executor: &mut Executor<B>,
    message: ToExecutor,
    fds: Vec<OwnedFd>,
    control: Option<&OwnedFd>,
) -> Result<bool> {
    let now = now_ns();
    let tell = |message| control.map_or(Ok(()), |control| send(control, &message, &[]));
    match message {
        ToExecutor::Job { job, terms } => executor.add_job(job, terms, now),
        ToExecutor::Session { job, session } => {
            let added =
                TenantEnd::received(fds).and_then(|end| executor.add_session(job, session, end));
            tell(match added {
                Ok(()) => FromExecutor::Mapped { session },
                Err(error) => FromExecutor::Refused { session, why: error.to_string() },
            })?;
        }
        ToExecutor::End { job, why } => settle(executor, job, why, control, now)?,
        ToExecutor::Shutdown => {
            for job in executor.all_jobs() {
                settle(executor, job, Why::Revoked, control, now)?;
            }
            return Ok(false);
        }
    }
    Ok(true)
}

fn settle<B: Backend>(
    executor: &mut Executor<B>,
    job: u64,
    why: Why,
    control: Option<&OwnedFd>,
    now: u64,
) -> Result<()> {
    // A job that ended before, at its deadline, was settled then.
    let Some(usage) = executor.end_job(job, why, now)? else { return Ok(()) };
    match control {
        Some(control) => send(control, &FromExecutor::Settled { job, usage }, &[]),
        None => Ok(()),
    }
}

/// What a sleep heard.
#[derive(Debug, Default)]
struct Heard {
    control: bool,
    ended: Vec<u64>,
}

impl<B: Backend> Executor<B> {
    fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    fn all_jobs(&self) -> Vec<u64> {
        self.jobs.keys().copied().collect()
    }

    /// Whether it is time to look at the sockets although there is work: every millisecond.
    fn look_at_sockets(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.looked_ns) > 1_000_000;
        if due {
            self.looked_ns = now_ns;
        }
        due
    }

    /// Sleeps until somebody sends or a deadline comes, at most `nap`. It says in the rings first what it sleeps for
    /// and looks once more, so that no record is missed.
    fn sleep(&mut self, control: Option<BorrowedFd<'_>>, nap: Duration) -> Result<Heard> {
        let mut nap = nap;
        if !nap.is_zero() {
            if !self.sessions.values_mut().all(|session| session.may_sleep()) {
                nap = Duration::ZERO;
            }
            if let Some(deadline) = self.next_deadline_ns() {
                nap = nap.min(Duration::from_nanos(deadline.saturating_sub(now_ns())));
            }
        }
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        let mut fds: Vec<PollFd<'_>> =
            self.sessions.values().map(|s| PollFd::new(&s.socket, PollFlags::IN)).collect();
        if let Some(control) = &control {
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        let limit = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: nap.subsec_nanos().into() };
        match rustix::event::poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::system("poll", errno.into())),
        }
        let woken: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut heard =
            Heard { control: control.is_some() && woken.last() == Some(&true), ..Heard::default() };
        for (id, woken) in ids.iter().zip(&woken) {
            let Some(session) = self.sessions.get(id) else { continue };
            session.awake();
            if *woken && !session.is_alive() {
                heard.ended.push(*id);
            }
        }
        Ok(heard)
    }
}
