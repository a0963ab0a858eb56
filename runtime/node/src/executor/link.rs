//! The executor's side of control: the socket to it, and, while there is none, the socket at which the next one
//! knocks. Keeps what that one has to hear: which jobs run, the doors of their jails, and what ended jobs used. The
//! loop in `serve` calls it.

use super::protocol::{Device, FromExecutor, Terms, ToExecutor, Usage};
use leasehold::wire::{Memfd, PAGE, Shared, from_bytes, receive, send};
use leasehold::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long an executor that nobody uses any more waits for a control that would write its jobs down.
const LINGER: Duration = Duration::from_secs(600);

/// The link to control.
pub(super) struct Link {
    control: Option<OwnedFd>,
    /// Where the next control knocks; none on a private node, whose jobs end with it.
    entrance: Option<OwnedFd>,
    pulse: Memfd,
    /// The doors of jobs that run. Nobody reads them here; while they are open a tenant that asks for a session waits.
    doors: BTreeMap<u64, OwnedFd>,
    /// What ended jobs used, until control has written it down.
    unwritten: BTreeMap<u64, Usage>,
    /// When somebody last used the device, seen while control was away.
    used: Instant,
}

impl Link {
    /// The link to the control that started this executor.
    ///
    /// # Errors
    /// `System`.
    pub(super) fn new(control: OwnedFd, entrance: Option<OwnedFd>) -> Result<Self> {
        if let Some(entrance) = &entrance {
            // Whoever knocked may have gone again.
            rustix::io::ioctl_fionbio(entrance, true)
                .map_err(|e| Error::system("ioctl", e.into()))?;
        }
        Ok(Self {
            control: Some(control),
            entrance,
            pulse: Memfd::new("leasehold-pulse", PAGE)?,
            doors: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            used: Instant::now(),
        })
    }

    /// The pulse's page, to be written. It outlives this process in control's hands.
    ///
    /// # Errors
    /// `System`.
    pub(super) fn pulse(&self) -> Result<Shared> {
        self.pulse.map(true)
    }

    /// What to wait for: control's next word, or its successor.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().or(self.entrance.as_ref()).map(AsFd::as_fd)
    }

    /// Tells a control what it finds here.
    pub(super) fn greet(&mut self, device: Device, jobs: Vec<(u64, Terms)>, sessions: u64) {
        if let Some(control) = &self.control {
            let pulse = [self.pulse.as_fd()];
            let told = send(control, &FromExecutor::Device(device), &pulse);
            self.heard_by(told);
        }
        let running = jobs.into_iter().map(|(job, terms)| (job, Some(terms)));
        let ended: Vec<(u64, Option<Terms>)> =
            self.unwritten.keys().map(|job| (*job, None)).collect();
        for (job, terms) in running.chain(ended) {
            let Some(control) = &self.control else { return };
            let door: Vec<BorrowedFd<'_>> =
                self.doors.get(&job).map(AsFd::as_fd).into_iter().collect();
            let told = send(control, &FromExecutor::Kept { job, terms }, &door);
            self.heard_by(told);
        }
        self.tell(&FromExecutor::Ready { pid: std::process::id(), sessions });
        for (job, usage) in self.unwritten.clone() {
            self.tell(&FromExecutor::Settled { job, usage });
        }
    }

    /// Tells control something, if it is there. One that has gone is noticed here, too.
    pub(super) fn tell(&mut self, message: &FromExecutor) {
        if let Some(control) = &self.control {
            let told = send(control, message, &[]);
            self.heard_by(told);
        }
    }

    fn heard_by(&mut self, told: Result<()>) {
        if told.is_err() {
            self.lose();
        }
    }

    /// Control has gone: its jobs go on to their deadlines.
    fn lose(&mut self) {
        self.control = None;
        self.used = Instant::now();
    }

    /// Keeps a job's door.
    pub(super) fn keep(&mut self, job: u64, door: Option<OwnedFd>) {
        if let Some(door) = door.filter(|_| self.entrance.is_some()) {
            self.doors.insert(job, door);
        }
    }

    /// A job is over: what it used is told, and told again until it is written down.
    pub(super) fn settled(&mut self, job: u64, usage: Usage) {
        self.doors.remove(&job);
        self.unwritten.insert(job, usage);
        self.tell(&FromExecutor::Settled { job, usage });
    }

    /// What a job used is written down.
    pub(super) fn written(&mut self, job: u64) {
        self.unwritten.remove(&job);
    }

    /// Whether control is there; if not, whether another one has just come: then it is to be greeted.
    pub(super) fn is_new(&mut self) -> bool {
        if self.control.is_some() {
            return false;
        }
        let Some(entrance) = &self.entrance else { return false };
        // One that has gone again is no news.
        self.control = rustix::net::accept_with(entrance, SocketFlags::CLOEXEC).ok();
        self.control.is_some()
    }

    /// Control's word, which has come; `None` when it has gone.
    ///
    /// # Errors
    /// A word that cannot be read.
    pub(super) fn hear(&mut self) -> Result<Option<(ToExecutor, Vec<OwnedFd>)>> {
        let Some(control) = &self.control else { return Ok(None) };
        match receive(control) {
            Ok(Some((bytes, fds))) => Ok(Some((from_bytes(&bytes)?, fds))),
            Ok(None) | Err(_) => {
                self.lose();
                Ok(None)
            }
        }
    }

    /// Whether this executor is of no more use: control has gone, and nobody is left whom it serves or who waits for
    /// its word.
    pub(super) fn is_over(&mut self, jobs: usize, sessions: usize) -> bool {
        if self.control.is_some() {
            return false;
        }
        if self.entrance.is_none() {
            // No session can come any more.
            return sessions == 0;
        }
        if jobs == 0 && self.unwritten.is_empty() {
            return true;
        }
        if sessions > 0 || self.doors.values().any(is_open) {
            self.used = Instant::now();
        }
        self.used.elapsed() > LINGER
    }
}

/// Whether the other end of a door is held by anybody.
fn is_open(door: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(door, PollFlags::empty())];
    let polled = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
}

/// The one descriptor that may come beside a message.
pub(super) fn one(fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
    let asked = fds.len() as u64;
    let mut fds = fds.into_iter();
    let first = fds.next();
    match fds.next() {
        None => Ok(first),
        Some(_) => {
            Err(Error::from(leasehold::Kind::Protocol { what: "descriptors", asked, allowed: 1 }))
        }
    }
}
