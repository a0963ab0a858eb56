//! One job from admission to receipt: the jail is built, watched from both sides, and settled.

use super::{Admitted, Grant, JobError, Node, Word};
use crate::lease::{JobId, Lease, LeaseId};
use crate::ledger::{Outcome, Receipt};
use crate::sandbox::{
    Exit, HostId, Jail, JailHandle, JobIo, JobRecord, KillReason, Launcher, PolicyDraft, Promise,
    Reason, SandboxError,
};
use crate::time::boot_ns;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a settlement may take: draining, zeroing, and writing one record.
const SETTLE: Duration = Duration::from_secs(60);
/// How long a job that has ended waits for a control that has gone. It is settled without its starter, too.
const RETURN: Duration = Duration::from_secs(10);
/// How often a control that has gone is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Host ids that root gives to jobs: this one and the 65535 above it.
const FIRST_HOST_ID: u32 = 2_000_000_000;

/// What a job shall be.
#[derive(Debug)]
pub struct Request {
    /// The jail; the lease bounds its memory and processors.
    pub draft: PolicyDraft,
    /// Where each output of the draft goes.
    pub outputs: BTreeMap<String, PathBuf>,
    /// Standard input; none is /dev/null.
    pub stdin: Option<OwnedFd>,
    /// The program that builds the jail.
    pub launcher: Launcher,
}

/// How a job ended.
#[derive(Debug, Serialize)]
pub struct End {
    /// The lease.
    pub lease: String,
    /// The job.
    pub job: String,
    /// The device.
    pub device: String,
    /// Exit, reason, resources and layers.
    pub record: JobRecord,
    /// The node's signed word on what it used; none when the node has gone.
    pub receipt: Option<Receipt>,
}

/// Admits, runs and settles one job; its jail is built while control looks at the lease. `signals` is called with a handle that passes signals on to the job.
///
/// # Errors
/// The job was refused, or nothing could be started. Whatever happens after the start is in the record.
pub fn run(
    node: &Node,
    grant: &Grant,
    request: Request,
    signals: impl FnOnce(JailHandle),
) -> Result<End, JobError> {
    // A request that breaks a rule is told before the node is asked for anything.
    let mut draft = request.draft;
    let wall = draft.limits.wall;
    let (claims, _) = Lease::unverified(&grant.token)?;
    within("memory", draft.limits.memory, claims.job.memory_bytes)?;
    within("cpus, in thousandths,", draft.limits.milli_cpus.into(), claims.job.cpu_milli.into())?;
    if rustix::process::geteuid().is_root() && draft.host_id.is_none() {
        // What the lease says is believed only once control has; until then nothing of the job runs.
        let id = FIRST_HOST_ID + (claims.id.0.as_u128() & 0xffff) as u32;
        draft.host_id = Some(HostId { uid: id, gid: id });
    }
    let channel_failed = |source| JobError::Sandbox(SandboxError::Channel { source });
    let (promise, session) = Promise::new().map_err(channel_failed)?;
    let io = JobIo { stdin: request.stdin, session: Some(session), ..JobIo::default() };
    let jail = Jail::start(&request.launcher, &draft.check()?, io, request.outputs)?;
    let Admitted { lease, job, device, door, deadline_ns } = node.admit(grant, wall)?;
    let handle = jail.handle();
    signals(handle.clone());
    promise.keep(&door).map_err(channel_failed)?;
    // The jail's copy alone says how long the job holds it.
    drop(door);
    let watch = Watch { node, grant, lease, job, deadline_ns, jail: handle, end: Mutex::default() };
    let (record, receipt) = std::thread::scope(|scope| {
        let (tell, told) = channel();
        let watch = &watch;
        scope.spawn(move || watch.listen(&tell));
        let record = jail.wait_telling(|code| {
            watch.tell(Outcome::Exited(u8::try_from(code).unwrap_or(u8::MAX)));
        });
        let receipt = watch.ended(outcome(&record), &told);
        (record, receipt)
    });
    Ok(End { lease: lease.to_string(), job: job.to_string(), device, record, receipt })
}

/// Holds an asked bound to what the lease allows.
fn within(what: &'static str, asked: u64, allowed: u64) -> Result<(), JobError> {
    if asked > allowed { Err(JobError::Limit { what, asked, allowed }) } else { Ok(()) }
}

/// A running job as its starter watches it: two threads, one of which hears control.
struct Watch<'a> {
    node: &'a Node,
    grant: &'a Grant,
    lease: LeaseId,
    job: JobId,
    deadline_ns: u64,
    jail: JailHandle,
    end: Mutex<Progress>,
}

/// What one thread must know of the other's.
#[derive(Default)]
struct Progress {
    /// How the jail ended, once it has.
    outcome: Option<Outcome>,
    /// Control has gone and is not back.
    away: bool,
    /// Nobody waits for control any more.
    given_up: bool,
}

impl Watch<'_> {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears control until the job is settled or control has gone for good; ends the jail when control says so.
    fn listen(&self, settled: &Sender<Receipt>) {
        loop {
            match self.node.word() {
                Word::Stop(Outcome::DeviceLost) => self.jail.kill(KillReason::DeviceLost),
                Word::Stop(Outcome::NodeLost) => self.jail.kill(KillReason::NodeGone),
                Word::Stop(_) => self.jail.kill(KillReason::Revoked),
                Word::Settled(receipt) => {
                    // Whoever waited may have given up.
                    let _ = settled.send(*receipt);
                    return;
                }
                Word::Gone => match self.find_control() {
                    Ok(()) => {}
                    Err(reason) => return self.jail.kill(reason),
                },
            }
        }
    }

    /// Waits until a control that was killed is back and takes the job up again with it. The job goes on meanwhile,
    /// at most to its deadline.
    fn find_control(&self) -> Result<(), KillReason> {
        if !self.node.is_served() {
            return Err(KillReason::NodeGone);
        }
        self.progress().away = true;
        loop {
            let refused = match self.node.attach(self.grant, self.lease, self.job) {
                Ok(()) => break,
                Err(JobError::Refused { retryable, .. }) => !retryable,
                Err(_) => false,
            };
            if refused || self.progress().given_up {
                return Err(KillReason::NodeGone);
            }
            if boot_ns() > self.deadline_ns {
                self.jail.kill(KillReason::Revoked);
            }
            std::thread::sleep(LOOK);
        }
        let mut progress = self.progress();
        progress.away = false;
        let (outcome, given_up) = (progress.outcome, progress.given_up);
        drop(progress);
        if given_up {
            // Nobody waits for its words any more.
            return Err(KillReason::NodeGone);
        }
        if let Some(outcome) = outcome {
            // A control that goes again is looked for again.
            let _ = self.node.ended(outcome);
        }
        Ok(())
    }

    /// Tells control how the job has ended, once.
    fn tell(&self, outcome: Outcome) {
        if self.progress().outcome.replace(outcome).is_none() {
            // If control is away, whoever finds it says so.
            let _ = self.node.ended(outcome);
        }
    }

    /// Tells control that the jail has ended, and waits for the receipt; none from a node that has gone.
    fn ended(&self, outcome: Outcome, settled: &Receiver<Receipt>) -> Option<Receipt> {
        self.tell(outcome);
        let mut waited = Duration::ZERO;
        let receipt = loop {
            match settled.recv_timeout(LOOK) {
                Ok(receipt) => break Some(receipt),
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => waited += LOOK,
            }
            if waited >= if self.progress().away { RETURN } else { SETTLE } {
                break None;
            }
        };
        self.progress().given_up = true;
        if receipt.is_none() {
            self.node.hang_up();
        }
        receipt
    }
}

fn outcome(record: &JobRecord) -> Outcome {
    let byte = |n: i32| u8::try_from(n).unwrap_or(u8::MAX);
    match (&record.reason, record.exit) {
        (Reason::WallTime, _) => Outcome::WallTime,
        (Reason::Oom, _) => Outcome::OutOfMemory,
        (Reason::Killed(KillReason::Revoked), _) => Outcome::Revoked,
        (Reason::Killed(KillReason::DeviceLost), _) => Outcome::DeviceLost,
        (Reason::Killed(KillReason::NodeGone | KillReason::Reclaimed), _) => Outcome::NodeLost,
        (_, Exit::Code(code)) => Outcome::Exited(byte(code)),
        (_, Exit::Signal(signal)) => Outcome::Signalled(byte(signal)),
        (_, Exit::None) => Outcome::Exited(125),
    }
}
