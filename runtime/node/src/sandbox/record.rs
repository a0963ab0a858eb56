//! What is left of a job: how it ended and why, what it used, and which layers held. Made by
//! [`super::Jail::wait`]; the job room writes it as JSON.

use leasehold_launcher::{LayerReport, Step};
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

/// How the job's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was taken down with its jail, or never ran.
    None,
}

/// Who ended a job from outside, and so whether another try makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillReason {
    /// The caller asked for it.
    Asked,
    /// Its lease was revoked or ran out.
    Revoked,
    /// Its spare capacity was taken back. Retryable.
    Reclaimed,
    /// Its device was lost. Retryable.
    DeviceLost,
    /// Its node went away or is drained. Retryable.
    NodeGone,
}

/// Why the job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// By itself, or by a signal of its own.
    Exited,
    /// The memory limit.
    Oom,
    /// The wall time.
    WallTime,
    /// A system call that no job may make.
    Seccomp,
    /// From outside.
    Killed(KillReason),
    /// The launcher failed at this step and nothing ran.
    LauncherFailed {
        /// The step's number, from 1.
        number: u32,
        /// The step.
        step: Step,
        /// The kernel's error number, or 0.
        errno: i32,
        /// What was tried, and the kernel's words.
        what: String,
    },
    /// The launcher vanished; the jail went with it.
    LauncherDied,
}

/// What the whole jail used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// From the jail's first process to its end.
    pub wall: Duration,
    /// Processor time in user mode.
    pub cpu_user: Duration,
    /// Processor time in the kernel.
    pub cpu_system: Duration,
    /// Largest resident set of one process, in bytes.
    pub max_rss: u64,
    /// Peak memory of the whole job, in bytes; `None` without a memory cgroup.
    pub peak_memory: Option<u64>,
    /// Peak number of processes and threads; `None` where the kernel does not count it.
    pub peak_pids: Option<u64>,
    /// Processes that the memory limit killed.
    pub oom_kills: u64,
}

/// What became of one output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputRecord {
    /// Its name under /out.
    pub name: String,
    /// Where it lies now; `None` if it was not taken.
    pub path: Option<PathBuf>,
    /// Its bytes, or why it was not taken.
    pub result: Result<u64, String>,
}

/// The end of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobRecord {
    /// How its process ended.
    pub exit: Exit,
    /// Why.
    pub reason: Reason,
    /// What it used.
    pub resources: Resources,
    /// What was enforced, layer by layer; empty if the jail never stood.
    pub layers: Vec<LayerReport>,
    /// Its outputs.
    pub outputs: Vec<OutputRecord>,
    /// Nanoseconds of the boot-time clock at the start of each step, if they were asked for.
    #[serde(skip)]
    pub timings: Vec<(Step, u64)>,
}

impl JobRecord {
    /// The exit code of `leasehold run`: the job's own; 75 where another try may succeed; 124 wall
    /// time; 125 the wrapper failed; 126 not executable; 127 not found; 128+N signal.
    pub fn exit_code(&self) -> i32 {
        use KillReason::{DeviceLost, NodeGone, Reclaimed};
        const ENOENT: i32 = 2;
        match (&self.reason, self.exit) {
            (Reason::WallTime, _) => 124,
            (Reason::Killed(Reclaimed | DeviceLost | NodeGone), _) => 75,
            (Reason::LauncherFailed { step: Step::Exec, errno, .. }, _) => {
                if *errno == ENOENT {
                    127
                } else {
                    126
                }
            }
            (Reason::LauncherFailed { .. } | Reason::LauncherDied, _) => 125,
            (_, Exit::Code(code)) => code,
            (_, Exit::Signal(signal)) => 128 + signal,
            (_, Exit::None) => 128 + 9,
        }
    }
}
