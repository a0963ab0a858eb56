//! The sandbox: starts the launcher, hears its reports, ends the jail, collects what the job used
//! and left, and sweeps what a killed run left behind. Stands alone; the job room calls it.
//!
//! ```text
//! Jail::start ── policy, descriptors ──> launcher ── clone ──> first process ── fork ──> job
//!      │ <───────── reports ────────────────┴──────────────────────┘
//!      └── cgroups made before, read and removed after
//! ```

mod cgroup;
mod channel;
mod explain;
mod outputs;
mod record;
mod terminal;
mod watchdog;

pub use channel::Promise;
pub use explain::explain;
pub use leasehold_launcher::{
    HostId, Layer, LayerReport, LayerState, Limits, Policy, PolicyDraft, PolicyError, Profile,
    Source, Step,
};
pub use record::{Exit, JobRecord, KillReason, OutputRecord, Reason, Resources};

use cgroup::{Cgroups, Hierarchies};
use channel::Channel;
use leasehold_launcher::{
    Report, Start, Usage,
    report::{Order, encode},
};
use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use terminal::Screens;
use thiserror::Error;

/// Why a jail could not even be started. What fails later is in the [`JobRecord`].
#[derive(Debug, Error)]
#[allow(missing_docs)] // each message says what its fields are
pub enum SandboxError {
    #[error("the launcher {path:?} cannot be started: {source}")]
    Launcher { path: PathBuf, source: io::Error },
    #[error("there is no launcher beside {program:?}, and LEASEHOLD_LAUNCHER names none")]
    NoLauncher { program: PathBuf },
    #[error("the job's cgroup cannot be joined: {source}")]
    Cgroup { source: io::Error },
    #[error("the launcher cannot be told what to do: {source}")]
    Channel { source: io::Error },
    #[error("the job's standard input and output cannot be passed on: {source}")]
    Stdio { source: io::Error },
}

/// The launcher's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher(PathBuf);

impl Launcher {
    /// This file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `LEASEHOLD_LAUNCHER`, or the file `leasehold-launcher` beside the running program.
    ///
    /// # Errors
    /// Neither exists.
    pub fn find() -> Result<Self, SandboxError> {
        if let Some(path) = std::env::var_os("LEASEHOLD_LAUNCHER") {
            return Ok(Self(path.into()));
        }
        let program = std::env::current_exe().unwrap_or_default();
        let path = program.with_file_name("leasehold-launcher");
        if path.is_file() { Ok(Self(path)) } else { Err(SandboxError::NoLauncher { program }) }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// The descriptors that a job gets. All others are closed. A terminal among them is kept from it: it gets a pipe, and
/// its output is shown with every control character spelled out.
#[derive(Debug, Default)]
pub struct JobIo {
    /// Standard input; `None` is /dev/null.
    pub stdin: Option<OwnedFd>,
    /// Standard output; `None` is the caller's own.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `None` is the caller's own.
    pub stderr: Option<OwnedFd>,
    /// The socket of a [`Promise`]; the session that it brings is descriptor 3 in the job.
    pub session: Option<OwnedFd>,
}

/// A running jail.
#[derive(Debug)]
pub struct Jail {
    /// Until the last word was heard.
    launcher: Option<Child>,
    pid: u32,
    channel: Channel,
    cgroups: Cgroups,
    policy: Policy,
    outputs: BTreeMap<String, PathBuf>,
    killed: Arc<Mutex<Option<KillReason>>>,
    screens: Screens,
}

/// Ends a jail or signals its job, from any thread.
#[derive(Clone, Debug)]
pub struct JailHandle {
    channel: Channel,
    killed: Arc<Mutex<Option<KillReason>>>,
}

impl JailHandle {
    /// Ends the jail at once. The first reason stays.
    pub fn kill(&self, reason: KillReason) {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.channel.order(Order::Kill);
    }

    /// Sends the job's process one of TERM, INT, HUP, QUIT, USR1, USR2, WINCH; others are ignored.
    pub fn signal(&self, signal: i32) {
        self.channel.order(Order::Signal(signal));
    }
}

impl Jail {
    /// Starts the launcher on `policy`. `outputs` says where each output of the policy goes.
    ///
    /// # Errors
    /// The launcher could not be started. A step that fails in it is told by [`Jail::wait`].
    pub fn start(
        launcher: &Launcher,
        policy: &Policy,
        io: JobIo,
        outputs: BTreeMap<String, PathBuf>,
    ) -> Result<Self, SandboxError> {
        let (channel, theirs) =
            Channel::pair().map_err(|e| SandboxError::Channel { source: e.into() })?;
        let JobIo { stdin, stdout, stderr, session } = io;
        let or_own = |fd: Option<OwnedFd>, own: BorrowedFd<'_>| {
            fd.map_or_else(|| own.try_clone_to_owned(), Ok)
        };
        let mut screens = Screens::default();
        let [stdout, stderr] = or_own(stdout, io::stdout().as_fd())
            .and_then(|out| Ok([out, or_own(stderr, io::stderr().as_fd())?]))
            .and_then(|both| screens.stand_before(both))
            .map_err(|source| SandboxError::Stdio { source })?;
        let stdin = stdin
            .map(terminal::typed)
            .transpose()
            .map_err(|source| SandboxError::Stdio { source })?;
        let mut command = Command::new(launcher.path());
        command.stdin(Stdio::from(theirs)).stdout(stdout).stderr(stderr);
        if !policy.probe().without.contains(&Layer::Environment) {
            command.env_clear();
        }
        let child = command.spawn().map_err(|source| SandboxError::Launcher {
            path: launcher.path().to_owned(),
            source,
        })?;
        drop(command);
        // While the launcher starts.
        let hierarchies = Hierarchies::find();
        let (cgroups, layers) = if policy.probe().without.contains(&Layer::Memory) {
            (Cgroups::default(), absent_cgroups())
        } else {
            Cgroups::make(&hierarchies, &policy.limits)
        };
        let jail = Self {
            pid: child.id(),
            launcher: Some(child),
            channel,
            cgroups,
            policy: policy.clone(),
            outputs,
            killed: Arc::default(),
            screens,
        };
        jail.send_policy(stdin, session, layers)?;
        // While the jail is built.
        hierarchies.sweep();
        Ok(jail)
    }

    fn send_policy(
        &self,
        stdin: Option<OwnedFd>,
        session: Option<OwnedFd>,
        layers: Vec<LayerReport>,
    ) -> Result<(), SandboxError> {
        let doors = self.cgroups.doors().map_err(|source| SandboxError::Cgroup { source })?;
        let exits = self.cgroups.exits();
        let start = Start {
            policy: self.policy.encode(),
            stdin: stdin.is_some(),
            session: session.is_some(),
            cgroups: doors.len() as u32,
            exits: exits.len() as u32,
            layers,
        };
        let given = [&stdin, &session].into_iter().flatten().map(AsFd::as_fd);
        let fds: Vec<BorrowedFd<'_>> =
            given.chain(doors.iter().chain(&exits).map(AsFd::as_fd)).collect();
        self.channel
            .send(&encode(&start), &fds)
            .map_err(|e| SandboxError::Channel { source: e.into() })
    }

    /// The process id of the launcher.
    pub fn launcher_pid(&self) -> u32 {
        self.pid
    }

    /// A handle for other threads.
    pub fn handle(&self) -> JailHandle {
        JailHandle { channel: self.channel.clone(), killed: Arc::clone(&self.killed) }
    }

    /// Waits for the job's end, takes its outputs and removes its cgroups.
    pub fn wait(self) -> JobRecord {
        self.wait_and(|_| {})
    }

    /// As [`Jail::wait`]; calls `exited` as soon as the job has exited with a code of its own, while its jail is still
    /// taken down. The record will say the same.
    pub fn wait_telling(self, mut exited: impl FnMut(i32)) -> JobRecord {
        self.wait_and(|report| {
            if let Report::Exited(status) = report
                && let Some(code) = ExitStatus::from_raw(*status).code()
            {
                exited(code);
            }
        })
    }

    /// As [`Jail::wait`], and shows every report to `look` first.
    #[doc(hidden)]
    pub fn wait_and(mut self, mut look: impl FnMut(&Report)) -> JobRecord {
        let mut heard = Heard::default();
        let watch = (!self.cgroups.limit_memory()
            && !self.policy.probe().without.contains(&Layer::Memory))
        .then_some(watchdog::PERIOD);
        loop {
            match self.channel.report(watch) {
                Ok(Some((report, fd))) => {
                    look(&report);
                    if self.hear(&mut heard, report, fd) {
                        break;
                    }
                }
                Ok(None) => self.bite(&mut heard),
                Err(_) => break,
            }
        }
        self.launcher.take().into_iter().for_each(reap_later);
        std::mem::take(&mut self.screens).settle();
        self.record(heard)
    }

    /// Takes in one report; true if it is the last.
    fn hear(&self, heard: &mut Heard, report: Report, fd: Option<OwnedFd>) -> bool {
        let names = &self.policy.outputs;
        match (report, fd) {
            (Report::Ready(layers), _) => heard.layers = layers,
            (Report::Timings(timings), _) => heard.timings = timings,
            (Report::Exited(status), _) => heard.status = Some(status),
            (Report::Failed { step, errno, what }, _) => {
                let words = if errno == 0 {
                    what
                } else {
                    format!("{what}: {}", io::Error::from_raw_os_error(errno))
                };
                heard.failed = Some(Reason::LauncherFailed {
                    number: step.number(),
                    step,
                    errno,
                    what: words,
                });
            }
            (Report::Output(i), Some(fd)) => {
                if let Some(name) = names.get(i as usize)
                    && let Some(path) = self.outputs.get(name)
                {
                    let taken = outputs::take(name, path, fd, self.policy.limits.file);
                    heard.outputs.insert(name.clone(), taken);
                }
            }
            (Report::NoOutput(i, errno), _) => {
                if let Some(name) = names.get(i as usize) {
                    heard.outputs.insert(name.clone(), outputs::missing(name, errno));
                }
            }
            (Report::Ended { expired, wall_ns, usage }, _) => {
                heard.ended = Some((expired, Duration::from_nanos(wall_ns), usage));
                return true;
            }
            _ => {}
        }
        false
    }

    /// Without a memory cgroup: ends a job that has grown over its limit.
    fn bite(&self, heard: &mut Heard) {
        let used = watchdog::resident_bytes(self.pid);
        heard.peak = heard.peak.max(used);
        if used > self.policy.limits.memory && !heard.over {
            heard.over = true;
            self.channel.order(Order::Kill);
        }
    }

    fn record(&self, heard: Heard) -> JobRecord {
        const SIGSYS: i32 = 31;
        const SIGKILL: i32 = 9;
        let status = heard.status.map(ExitStatus::from_raw);
        let exit = match status.map(|s| (s.code(), s.signal())) {
            Some((Some(code), _)) => Exit::Code(code),
            Some((None, Some(signal))) => Exit::Signal(signal),
            _ => Exit::None,
        };
        let counted = self.cgroups.counted();
        let (expired, wall, usage) =
            heard.ended.unwrap_or((false, Duration::ZERO, Usage::default()));
        let killed = *self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        let ended_by_kill = matches!(exit, Exit::None | Exit::Signal(SIGKILL));
        let reason = match (heard.failed, killed) {
            (Some(failed), _) => failed,
            // A job that came to its own end first was told of with that end.
            _ if heard.over && !matches!(exit, Exit::Code(_)) => Reason::Oom,
            _ if counted.oom_kills > 0 && ended_by_kill => Reason::Oom,
            _ if heard.ended.is_none() => Reason::LauncherDied,
            _ if expired && exit == Exit::None => Reason::WallTime,
            (None, Some(why)) if exit == Exit::None => Reason::Killed(why),
            _ if exit == Exit::Signal(SIGSYS) => Reason::Seccomp,
            _ if exit == Exit::None => Reason::LauncherDied,
            _ => Reason::Exited,
        };
        let mut outputs = heard.outputs;
        let take =
            |name: &String| outputs.remove(name).unwrap_or_else(|| outputs::missing(name, 0));
        JobRecord {
            exit,
            reason,
            resources: Resources {
                wall,
                cpu_user: Duration::from_micros(usage.user_us),
                cpu_system: Duration::from_micros(usage.system_us),
                max_rss: usage.max_rss,
                peak_memory: counted.peak_memory.or((heard.peak > 0).then_some(heard.peak)),
                peak_pids: counted.peak_pids,
                oom_kills: counted.oom_kills + u64::from(heard.over),
            },
            layers: heard.layers,
            outputs: self.policy.outputs.iter().map(take).collect(),
            timings: heard.timings,
        }
    }
}

impl Drop for Jail {
    /// A jail that nobody waits for ends.
    fn drop(&mut self) {
        if let Some(mut launcher) = self.launcher.take() {
            self.channel.order(Order::Kill);
            let _ = launcher.wait();
        }
    }
}

/// Launchers that have said their last word and only have to end. Whoever waits for a job does not wait for them; the
/// next jail's end reaps those of the last ones.
fn reap_later(launcher: Child) {
    static ENDING: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    let mut ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    ending.push(launcher);
    ending.retain_mut(|launcher| matches!(launcher.try_wait(), Ok(None)));
}

/// What the launcher has said so far.
#[derive(Default)]
struct Heard {
    layers: Vec<LayerReport>,
    timings: Vec<(Step, u64)>,
    status: Option<i32>,
    failed: Option<Reason>,
    outputs: BTreeMap<String, OutputRecord>,
    ended: Option<(bool, Duration, Usage)>,
    over: bool,
    peak: u64,
}

fn absent_cgroups() -> Vec<LayerReport> {
    let state = LayerState::Absent("left out by a probe".to_owned());
    [Layer::Memory, Layer::Cpu].map(|name| LayerReport { name, state: state.clone() }).into()
}
