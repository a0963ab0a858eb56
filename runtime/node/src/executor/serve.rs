//! The executor's loop: the socket to control, the tenants' sockets, the clock, and [`Executor::turn`] between them.

use super::Executor;
use super::link::{Link, one};
use super::protocol::{FromExecutor, PULSE_IDLE, PULSE_JOB, Terms, ToExecutor, Why};
use leasehold::backend::Backend;
use leasehold::wire::TenantEnd;
use leasehold::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the loop spins without work before it sleeps: about twice what waking it costs.
const SPIN: Duration = Duration::from_micros(100);
/// The longest sleep: a lost wake-up costs this once, never a hang.
const NAP: Duration = Duration::from_millis(100);
/// How often control's socket is looked at while work flows: an order waits that long beside the slice under way.
const HEAR_NS: u64 = 100_000;
/// How often the tenants' are: each costs a look, and what they ask for is in their rings.
const LOOK_NS: u64 = 10_000_000;

/// Nanoseconds of the boot-time clock, which counts through suspend and which nobody can set.
fn now_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
}

/// Serves `backend` until control says so, or has gone and nobody is left to serve. At `entrance`, a listening socket,
/// the control that comes after it knocks; without one jobs end with their control.
///
/// # Errors
/// `DeviceLost`, or a word of control that cannot be read.
pub fn serve<B: Backend>(backend: B, control: OwnedFd, entrance: Option<OwnedFd>) -> Result<()> {
    let mut link = Link::new(control, entrance)?;
    let (page, meter) = (link.pulse()?, link.pulse()?);
    let mut executor =
        Executor::new(backend, Box::new(move |job| page.set_position(PULSE_JOB, job)));
    link.greet(executor.device(), Vec::new(), 0);
    let (mut idle_since, mut heard_ns) = (Instant::now(), 0);
    loop {
        let now = now_ns();
        for job in executor.overdue(now) {
            settle(&mut executor, job, Why::Expired, &mut link, now)?;
        }
        let moved = executor.turn(now)?;
        meter.set_position(PULSE_IDLE, executor.idle_ns());
        if moved {
            idle_since = Instant::now();
        }
        let nap = if moved || idle_since.elapsed() < SPIN { Duration::ZERO } else { NAP };
        if nap.is_zero() && !moved {
            // Whoever else wants the core has it.
            std::thread::yield_now();
        }
        // While work flows, sockets are looked at every so often.
        let heard = if !nap.is_zero() || executor.looks_at_tenants(now) {
            executor.sleep(link.fd(), nap)?
        } else if now.saturating_sub(heard_ns) > HEAR_NS {
            Heard { control: look(link.fd())?, ended: Vec::new() }
        } else {
            continue;
        };
        heard_ns = now;
        for session in heard.ended {
            executor.end_session(session, now_ns())?;
        }
        if heard.control {
            if link.is_new() {
                link.greet(executor.device(), executor.all_jobs(), executor.last_session());
            } else if let Some((message, fds)) = link.hear()?
                && !act(&mut executor, message, fds, &mut link)?
            {
                return Ok(());
            }
        }
        if link.is_over(executor.jobs.len(), executor.sessions.len()) {
            return end_all(&mut executor, &mut link);
        }
    }
}

/// Does what control says; whether to go on.
fn act<B: Backend>(
    executor: &mut Executor<B>,
    message: ToExecutor,
    fds: Vec<OwnedFd>,
    link: &mut Link,
) -> Result<bool> {
    let now = now_ns();
    match message {
        ToExecutor::Job { job, terms } => {
            link.keep(job, one(fds)?);
            executor.add_job(job, terms, now);
        }
        ToExecutor::Session { job, session } => {
            let added =
                TenantEnd::received(fds).and_then(|end| executor.add_session(job, session, end));
            link.tell(&match added {
                Ok(()) => FromExecutor::Mapped { session },
                Err(error) => FromExecutor::Refused { session, why: error.to_string() },
            });
        }
        ToExecutor::End { job, why } => settle(executor, job, why, link, now)?,
        ToExecutor::Written { job } => link.written(job),
        ToExecutor::Shutdown => {
            end_all(executor, link)?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends every job, so that nothing of them is left in the device's memory.
fn end_all<B: Backend>(executor: &mut Executor<B>, link: &mut Link) -> Result<()> {
    let jobs = executor.all_jobs();
    jobs.iter().try_for_each(|(job, _)| settle(executor, *job, Why::Revoked, link, now_ns()))
}

fn settle<B: Backend>(
    executor: &mut Executor<B>,
    job: u64,
    why: Why,
    link: &mut Link,
    now: u64,
) -> Result<()> {
    // A job that ended before, at its deadline, was settled then.
    if let Some(usage) = executor.end_job(job, why, now)? {
        link.settled(job, usage);
    }
    Ok(())
}

/// Whether control has said something.
fn look(control: Option<BorrowedFd<'_>>) -> Result<bool> {
    let Some(control) = control else { return Ok(false) };
    wait(&mut [PollFd::new(&control, PollFlags::IN)], Duration::ZERO)
}

/// Waits for one of these, at most `limit`; whether there is one.
fn wait(fds: &mut [PollFd<'_>], limit: Duration) -> Result<bool> {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    match rustix::event::poll(fds, Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(Error::system("poll", errno.into())),
    }
}

/// What a sleep heard.
#[derive(Debug, Default)]
struct Heard {
    control: bool,
    ended: Vec<u64>,
}

impl<B: Backend> Executor<B> {
    fn all_jobs(&self) -> Vec<(u64, Terms)> {
        self.jobs.iter().map(|(number, job)| (*number, job.terms.clone())).collect()
    }

    /// The highest number of a session so far.
    fn last_session(&self) -> u64 {
        self.last_session
    }

    /// Whether it is time to look at the tenants' sockets although there is work.
    fn looks_at_tenants(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.looked_ns) > LOOK_NS;
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
        wait(&mut fds, nap)?;
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
