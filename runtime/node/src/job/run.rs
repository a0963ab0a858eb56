//! One job from admission to receipt: the jail is built, watched from both sides, and settled.

use super::{Admitted, Grant, JobError, Node, Word};
use crate::ledger::{Outcome, Receipt};
use crate::sandbox::{
    Exit, HostId, Jail, JailHandle, JobIo, JobRecord, KillReason, Launcher, PolicyDraft, Reason,
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

/// Admits, runs and settles one job. `signals` is called with a handle that passes signals on to the job.
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
    let wall = request.draft.limits.wall;
    request.draft.clone().check()?;
    let Admitted { lease, job, device, door, cpu_milli, memory_bytes, .. } =
        node.admit(grant, wall)?;
    let mut draft = request.draft;
    within("memory", &mut draft.limits.memory, memory_bytes)?;
    let mut cpus = u64::from(draft.limits.milli_cpus);
    within("cpus", &mut cpus, cpu_milli.into())?;
    draft.limits.milli_cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    if rustix::process::geteuid().is_root() && draft.host_id.is_none() {
        let id = FIRST_HOST_ID + (lease.0.as_u128() & 0xffff) as u32;
        draft.host_id = Some(HostId { uid: id, gid: id });
    }
    let io = JobIo { stdin: request.stdin, session: Some(door), ..JobIo::default() };
    let jail = Jail::start(&request.launcher, &draft.check()?, io, request.outputs)?;
    let handle = jail.handle();
    signals(handle.clone());
    let (record, receipt) = std::thread::scope(|scope| {
        let (tell, told) = channel();
        scope.spawn(move || listen(node, &handle, &tell));
        let record = jail.wait();
        // A node that has gone is told nothing, and settles when it comes back.
        let _ = node.ended(outcome(&record));
        let receipt = told.recv_timeout(SETTLE).ok();
        if receipt.is_none() {
            node.hang_up();
        }
        (record, receipt)
    });
    Ok(End { lease: lease.to_string(), job: job.to_string(), device, record, receipt })
}

/// Holds an asked bound to what the lease allows.
fn within(what: &'static str, asked: &mut u64, allowed: u64) -> Result<(), JobError> {
    if *asked > allowed {
        return Err(JobError::Limit { what, asked: *asked, allowed });
    }
    Ok(())
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
