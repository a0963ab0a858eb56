//! Which step the launcher is at: for the message of a failure, for the failpoints and timings of
//! the tests, and the one way out for messages. Used by all modules of the program.

use crate::sys;
use leasehold_launcher::{Probe, Report, Step, report::encode};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// Why a step failed.
pub(crate) struct Fault {
    what: String,
    errno: i32,
    step: Option<Step>,
}

impl Fault {
    pub(crate) fn new(what: &str) -> Self {
        Self { what: what.to_owned(), errno: 0, step: None }
    }

    pub(crate) fn of(error: &io::Error, what: &str) -> Self {
        Self { what: what.to_owned(), errno: error.raw_os_error().unwrap_or(0), step: None }
    }

    /// Books the fault on another step than the one that is being taken.
    pub(crate) fn at(self, step: Step) -> Self {
        Self { step: Some(step), ..self }
    }
}

/// Says what was being done when the kernel said no.
pub(crate) trait During<T> {
    fn during(self, what: &str) -> Result<T, Fault>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &str) -> Result<T, Fault> {
        self.map_err(|e| Fault::of(&e, what))
    }
}

/// The control socket and the current step; the child goes on with a copy.
#[derive(Clone)]
pub(crate) struct Trace {
    control: Arc<OwnedFd>,
    step: Step,
    stop_at: Option<Step>,
    timings: Option<Vec<(Step, u64)>>,
}

impl Trace {
    pub(crate) fn new(control: OwnedFd) -> Self {
        Self { control: Arc::new(control), step: Step::Policy, stop_at: None, timings: None }
    }

    /// Obeys the wishes of a test.
    pub(crate) fn follow(&mut self, probe: &Probe) {
        self.stop_at = probe.stop_at;
        self.timings = probe.timings.then(Vec::new);
    }

    pub(crate) fn enter(&mut self, step: Step) {
        self.step = step;
        if let Some(timings) = &mut self.timings {
            timings.push((step, sys::boot_ns()));
        }
        if self.stop_at == Some(step) {
            self.tell(&Report::Stopped(step));
            // Long enough to be killed here; a process whose launcher was killed then goes on as
            // it would have without the stop.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        (*self.control).as_fd()
    }

    /// Sends a message. A node that no longer listens is told nothing, and ends the jail by that.
    pub(crate) fn tell(&self, report: &Report) {
        let _ = sys::send(self.socket(), &encode(report), None);
    }

    pub(crate) fn tell_timings(&mut self) {
        if let Some(timings) = self.timings.take() {
            self.tell(&Report::Timings(timings));
        }
    }

    pub(crate) fn fail(&self, fault: Fault) {
        let Fault { what, errno, step } = fault;
        self.tell(&Report::Failed { step: step.unwrap_or(self.step), errno, what });
    }
}
