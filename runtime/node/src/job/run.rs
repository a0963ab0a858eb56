//! One job from admission to receipt: the jail is built, watched from both sides, and settled.

use super::{Admitted, Grant, JobError, Node, Word};
use crate::lease::Lease;
use crate::ledger::{Outcome, Receipt};
use crate::sandbox::{
    Exit, HostId, Jail, JailHandle, JobIo, JobRecord, KillReason, Launcher, PolicyDraft, Promise,
    Reason, SandboxError,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How long a settlement may take: draining, zeroing, and writing one record.
const SETTLE: Duration = Duration::from_secs(60);
/// Host ids that root gives to jobs: this one and the 65535 above it.
const FIRST_HOST_ID: u32 = 2_000_000_000;

/// What a job shall be.
#[derive(Debug)]
pub struct Request {
    /// The jail. Bounds of zero memory or processors ask for all that the lease allows.
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
    let mut draft = request.draft;
    let limits = draft.limits;
    if rustix::process::geteuid().is_root() && draft.host_id.is_none() {
        // What the lease says is believed only once control has; until then nothing of the job runs.
        let (lease, _) = Lease::unverified(&grant.token)?;
        let id = FIRST_HOST_ID + (lease.id.0.as_u128() & 0xffff) as u32;
        draft.host_id = Some(HostId { uid: id, gid: id });
    }
    let channel_failed = |source| JobError::Sandbox(SandboxError::Channel { source });
    let (promise, session) = Promise::new().map_err(channel_failed)?;
    let io = JobIo { stdin: request.stdin, session: Some(session), ..JobIo::default() };
    // A request that breaks a rule is told before the node is asked for anything.
    let jail = Jail::start(&request.launcher, &draft.check()?, io, request.outputs)?;
    let Admitted { lease, job, device, door, cpu_milli, memory_bytes, .. } =
        node.admit(grant, limits.wall)?;
    within("memory", limits.memory, memory_bytes)?;
    within("cpus", limits.milli_cpus.into(), cpu_milli.into())?;
    let handle = jail.handle();
    signals(handle.clone());
    promise.keep(&door).map_err(channel_failed)?;
    // The jail's copy alone says how long the job holds it.
    drop(door);
    let (record, receipt) = std::thread::scope(|scope| {
        let (tell, told) = channel();
        scope.spawn(move || listen(node, &handle, &tell));
        // A node that has gone is told nothing, and settles when it comes back.
        let mut told_early = false;
        let record = jail.wait_telling(|code| {
            let code = u8::try_from(code).unwrap_or(u8::MAX);
            told_early = node.ended(Outcome::Exited(code)).is_ok();
        });
        if !told_early {
            let _ = node.ended(outcome(&record));
        }
        let receipt = told.recv_timeout(SETTLE).ok();
        if receipt.is_none() {
            node.hang_up();
        }
        (record, receipt)
    });
    Ok(End { lease: lease.to_string(), job: job.to_string(), device, record, receipt })
}

/// Holds an asked bound to what the lease allows.
fn within(what: &'static str, asked: u64, allowed: u64) -> Result<(), JobError> {
    if asked > allowed { Err(JobError::Limit { what, asked, allowed }) } else { Ok(()) }
}

/// Hears control until the job is settled or control has gone; ends the jail when control says so.
fn listen(node: &Node, jail: &JailHandle, settled: &Sender<Receipt>) {
    loop {
        match node.word() {
            Word::Stop(Outcome::DeviceLost) => jail.kill(KillReason::DeviceLost),
            Word::Stop(Outcome::NodeLost) => jail.kill(KillReason::NodeGone),
            Word::Stop(_) => jail.kill(KillReason::Revoked),
            Word::Settled(receipt) => {
                // Whoever waited may have given up.
                let _ = settled.send(*receipt);
                return;
            }
            Word::Gone => {
                jail.kill(KillReason::NodeGone);
                return;
            }
        }
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
