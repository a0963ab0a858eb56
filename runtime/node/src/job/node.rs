//! The starter's side of control: finding a node or starting a private one, being admitted, and taking the receipt.

use super::JobError;
use crate::control::protocol::{FromClient, ToClient, VERSION};
use crate::keys::SecretKey;
use crate::lease::{
    Challenge, Isolation, JobId, JobLimits, Lease, LeaseId, Name, Ops, Priority, issue,
};
use crate::ledger::{Outcome, Receipt};
use crate::time::Timestamp;
use leasehold::wire::{from_bytes, pair, receive, send};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a private node's trial lease is good.
const TRIAL: Duration = Duration::from_secs(24 * 3600);
/// The name of every private node.
const PRIVATE: &str = "private";
/// A control that is back answers within this.
const ATTACH: Duration = Duration::from_secs(10);

/// A lease with its holder's key.
#[derive(Debug)]
pub struct Grant {
    /// The lease's text.
    pub token: String,
    /// The holder's key; it never leaves this process.
    pub holder: SecretKey,
}

/// A connection to a node's control. A served node may be killed and started again while a job runs: its executor
/// and the job go on, and [`Node::attach`] takes the job up again.
#[derive(Debug)]
pub struct Node {
    socket: Mutex<Arc<OwnedFd>>,
    /// Where a served node listens.
    path: Option<PathBuf>,
    /// A private node's process.
    child: Option<Child>,
}

/// An admitted job.
#[derive(Debug)]
pub struct Admitted {
    /// The lease.
    pub lease: LeaseId,
    /// The job.
    pub job: JobId,
    /// The device, for people.
    pub device: String,
    /// The jail's session socket.
    pub door: OwnedFd,
    /// The job's end on the boot-time clock, in nanoseconds.
    pub deadline_ns: u64,
}

/// What control says while a job runs.
#[derive(Debug)]
pub enum Word {
    /// End the job now.
    Stop(Outcome),
    /// The job is settled.
    Settled(Box<Receipt>),
    /// Control has gone.
    Gone,
}

/// Tells Mesa's layer that picks a device to stand aside in a program where it would only complain: it asks for a Wayland
/// display, and says on stderr that there can be none. It stays where someone picks by it.
pub fn quiet(command: &mut Command) {
    let set = |name: &&str| std::env::var_os(name).is_some();
    if !["XDG_RUNTIME_DIR", "DRI_PRIME", "MESA_VK_DEVICE_SELECT"].iter().any(set) {
        command.env("NODEVICE_SELECT", "1");
    }
}

impl Node {
    /// Connects to a served node.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not.
    pub fn connect(path: &Path) -> Result<Self, JobError> {
        let socket = Mutex::new(Arc::new(connect(path)?));
        Ok(Self { socket, path: Some(path.into()), child: None })
    }

    /// Takes a lease back, at the admin socket of a served node; how many jobs were ended.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not; `Refused` when the node cannot write it down.
    pub fn revoke(admin: &Path, lease: LeaseId) -> Result<u64, JobError> {
        let node = Self::connect(admin)?;
        node.tell(&FromClient::Revoke { lease })?;
        match node.hear()? {
            (ToClient::Done { jobs }, _) => Ok(jobs),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// What the executor's threads did beside what is billed since it was started, over their number; asked at the
    /// admin socket of a served node.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not; `Refused` when there is no executor.
    pub fn idle(admin: &Path) -> Result<Duration, JobError> {
        let node = Self::connect(admin)?;
        node.tell(&FromClient::Idle)?;
        match node.hear()? {
            (ToClient::Idle { idle_ns }, _) => Ok(Duration::from_nanos(idle_ns)),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Starts a node of one's own with a trial lease: its issuer's and holder's keys are made here and forgotten.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn private(program: PathBuf, device: Option<&str>) -> Result<(Self, Grant), JobError> {
        let (issuer, holder) = (SecretKey::generate(), SecretKey::generate());
        let token = issue(&trial(&holder)?, &issuer)?;
        let (socket, theirs) = pair()?;
        let mut command = Command::new(&program);
        command.args(["private", "--name", PRIVATE, "--issuer"]).arg(issuer.public().to_string());
        if let Some(device) = device {
            command.args(["--device", device]);
        }
        quiet(&mut command);
        // Ctrl-C is for the job; a private node ends when its client has gone.
        let child =
            command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).process_group(0).spawn();
        let child = child.map_err(|source| JobError::Node { path: program, source })?;
        let socket = Mutex::new(Arc::new(socket));
        Ok((Self { socket, path: None, child: Some(child) }, Grant { token, holder }))
    }

    /// The process id of a private node.
    pub fn private_pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Proves possession and asks for the job to be admitted.
    ///
    /// # Errors
    /// `Refused` with control's words; a broken connection.
    pub fn admit(&self, grant: &Grant, wall: Option<Duration>) -> Result<Admitted, JobError> {
        let (lease, _) = Lease::unverified(&grant.token)?;
        let job = JobId::generate();
        let (device, proof) = self.prove(grant, lease.id, job)?;
        let wall_s = wall.map(|wall| wall.as_secs().max(1));
        self.tell(&FromClient::Admit { token: grant.token.clone(), job, proof, wall_s })?;
        match self.hear()? {
            (ToClient::Admitted { deadline_ns }, mut fds) => {
                let door = fds.pop().ok_or(JobError::Protocol { what: "no session socket" })?;
                let lease = lease.id;
                Ok(Admitted { lease, job, device, door, deadline_ns })
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Whether control may come back when it has gone.
    pub fn is_served(&self) -> bool {
        self.path.is_some()
    }

    /// Connects again to a served node whose control has gone, and takes up a job that it had admitted. Its next
    /// word is about that job.
    ///
    /// # Errors
    /// `Node` while nobody listens; `Refused` when the job is not known there any more.
    pub fn attach(&self, grant: &Grant, lease: LeaseId, job: JobId) -> Result<(), JobError> {
        let path = self.path.as_ref().ok_or(JobError::Gone)?;
        let socket = connect(path)?;
        // One that takes connections and says nothing is as good as none.
        let patience = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&socket, patience, Some(ATTACH))
            .map_err(|e| leasehold::Error::system("setsockopt", e.into()))?;
        self.replace(socket);
        let (_, proof) = self.prove(grant, lease, job)?;
        self.tell(&FromClient::Attach { token: grant.token.clone(), job, proof })?;
        match self.hear()? {
            (ToClient::Attached, _) => {
                rustix::net::sockopt::set_socket_timeout(self.socket(), patience, None)
                    .map_err(|e| leasehold::Error::system("setsockopt", e.into()).into())
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Greets control and signs its nonce; the device's name and the proof.
    fn prove(
        &self,
        grant: &Grant,
        lease: LeaseId,
        job: JobId,
    ) -> Result<(String, Vec<u8>), JobError> {
        self.tell(&FromClient::Hello { version: VERSION })?;
        match self.hear()? {
            (ToClient::Hello { node, nonce, device, .. }, _) => {
                let challenge = Challenge { node: node.parse()?, nonce, lease, job };
                Ok((device, challenge.prove(&grant.holder).to_bytes().to_vec()))
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Says that the jail has ended, and how.
    ///
    /// # Errors
    /// A broken connection.
    pub fn ended(&self, outcome: Outcome) -> Result<(), JobError> {
        self.tell(&FromClient::Ended { outcome })
    }

    /// Waits for control's next word.
    pub fn word(&self) -> Word {
        match self.hear() {
            Ok((ToClient::Stop { outcome }, _)) => Word::Stop(outcome),
            Ok((ToClient::Settled { receipt }, _)) => {
                serde_json::from_str(&receipt).map_or(Word::Gone, |r| Word::Settled(Box::new(r)))
            }
            _ => Word::Gone,
        }
    }

    /// Ends the conversation, so that whoever waits for a word hears that nobody is there.
    pub(super) fn hang_up(&self) {
        // A socket that has gone already is as good.
        let _ = rustix::net::shutdown(self.socket(), rustix::net::Shutdown::Both);
    }

    fn socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, socket: OwnedFd) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(socket);
    }

    fn tell(&self, message: &FromClient) -> Result<(), JobError> {
        send(self.socket(), message, &[]).map_err(|_| JobError::Gone)
    }

    fn hear(&self) -> Result<(ToClient, Vec<OwnedFd>), JobError> {
        match receive(self.socket())? {
            Some((bytes, fds)) => Ok((from_bytes(&bytes)?, fds)),
            None => Err(JobError::Gone),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It ends by itself once this side is closed; a shut-down socket says so before the close.
            let socket = Arc::clone(self.socket.get_mut().unwrap_or_else(PoisonError::into_inner));
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
            let _ = child.wait();
        }
    }
}

fn connect(path: &Path) -> Result<OwnedFd, JobError> {
    let failed = |e: rustix::io::Errno| JobError::Node { path: path.into(), source: e.into() };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    Ok(socket)
}

fn unexpected(message: ToClient) -> JobError {
    match message {
        ToClient::Refused { why, retryable } => JobError::Refused { why, retryable },
        _ => JobError::Protocol { what: "an answer out of turn" },
    }
}

/// The lease of a private node: everything that the machine has, for a day, billed as a trial.
fn trial(holder: &SecretKey) -> Result<Lease, JobError> {
    let now = Timestamp::now().whole_second();
    let name: Name = PRIVATE.parse()?;
    Ok(Lease {
        version: 1,
        id: LeaseId::generate(),
        issuer: name.clone(),
        tenant: "self".parse()?,
        audience: vec![name],
        holder: holder.public(),
        not_before: now,
        expiry: now.after(TRIAL),
        isolation: Isolation::SharedContext,
        priority: Priority::Reserved,
        weight: 100,
        latency: None,
        memory_bytes: 1 << 40,
        staging_bytes: 1 << 30,
        sessions: 256,
        queues: 256,
        in_flight: 65_536,
        concurrency: 1,
        ops: Ops::All,
        job: JobLimits { cpu_milli: 1_024_000, memory_bytes: 1 << 48, wall_s: 24 * 3600 },
        sku: None,
        node: None,
        trial: true,
        labels: BTreeMap::new(),
    })
}
