//! A served node of one's own for measurements, in a folder that goes with it, and tenants in this process.

use leasehold::remote::Remote;
use leasehold::{Device, LEASEHOLD_KERNELS};
use leasehold_node::job::{Admitted, Grant, JobError, Node, Word};
use leasehold_node::keys::{KeyFileError, SecretKey, write_secret};
use leasehold_node::lease::{
    Isolation, JobLimits, KeySet, Latency, Lease, LeaseError, LeaseId, Name, Ops, Priority, issue,
};
use leasehold_node::ledger::{Entry, Outcome, Record, Usage};
use leasehold_node::time::Timestamp;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The file in a node's folder that it says its errors to.
const LOG: &str = "log";
/// How long the node may take to serve.
const START: Duration = Duration::from_secs(30);

/// Why a measurement did not run.
#[derive(Debug, thiserror::Error)]
pub enum ServedError {
    /// The node.
    #[error(transparent)]
    Job(#[from] JobError),
    /// An op.
    #[error(transparent)]
    Op(#[from] leasehold::Error),
    /// A lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The node's key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// A file or a process.
    #[error("{}: {source}", path.display())]
    System {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A job that was not settled.
    #[error("the node did not settle a job")]
    Unsettled,
}

/// A node, its process and its folder.
pub struct Served {
    folder: PathBuf,
    child: Child,
    issuer: SecretKey,
    name: Name,
}

/// A lease's job with its sessions.
pub struct Tenant {
    /// Its place at control.
    pub node: Node,
    /// The job.
    pub admitted: Admitted,
    /// One device a session.
    pub devices: Vec<Device>,
}

fn at(path: &Path) -> impl Fn(io::Error) -> ServedError {
    move |source| ServedError::System { path: path.into(), source }
}

impl Served {
    /// Starts a node on a device by its program, with keys of its own. A CUDA device is served with the kernels of the
    /// file that `LEASEHOLD_KERNELS` names.
    ///
    /// # Errors
    /// The folder, the program, or a node that does not serve.
    pub fn start(program: PathBuf, device: &str) -> Result<Self, ServedError> {
        let name: Name = "bench".parse().map_err(JobError::from)?;
        let folder = std::env::temp_dir().join(format!("leasehold-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(at(&folder))?;
        let issuer = SecretKey::generate();
        let started = Self::spawn(&program, device, &folder, &name, &issuer);
        let child = started.inspect_err(|_| drop(std::fs::remove_dir_all(&folder)))?;
        let mut served = Self { folder, child, issuer, name };
        let (begin, socket) = (Instant::now(), served.folder.join("jobs.sock"));
        while Node::connect(&socket).is_err() {
            let ended = served.child.try_wait().map_err(at(&program))?.is_some();
            if ended || begin.elapsed() > START {
                let log = std::fs::read_to_string(served.folder.join(LOG)).unwrap_or_default();
                let first = log.lines().next().unwrap_or("it said nothing");
                let source = io::Error::other(format!("the node does not serve: {first}"));
                return Err(ServedError::System { path: program, source });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(served)
    }

    fn spawn(
        program: &Path,
        device: &str,
        folder: &Path,
        name: &Name,
        issuer: &SecretKey,
    ) -> Result<Child, ServedError> {
        let [issuers, key, log] = ["issuers", "key", LOG].map(|name| folder.join(name));
        let set = serde_json::to_string(&KeySet::of(name.clone(), issuer.public()));
        std::fs::write(&issuers, set.map_err(io::Error::from).map_err(at(&issuers))?)
            .map_err(at(&issuers))?;
        write_secret(&key, &SecretKey::generate())?;
        let mut command = Command::new(program);
        command.args(["serve", "--name", name.as_str(), "--device", device, "--issuers"]);
        command.arg(issuers).arg("--key").arg(key).arg("--dir").arg(folder);
        let kernels = std::env::var_os(LEASEHOLD_KERNELS).filter(|file| !file.is_empty());
        if let Some(file) = kernels.filter(|_| device.starts_with("cuda:")) {
            command.arg("--kernels").arg(file);
        }
        command.stderr(File::create(&log).map_err(at(&log))?).spawn().map_err(at(program))
    }

    /// The operator's socket.
    pub fn admin(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// A job of a fresh lease with so many sessions.
    ///
    /// # Errors
    /// The node refuses, or a session cannot be opened.
    pub fn tenant(
        &self,
        weight: u32,
        latency: Option<Latency>,
        sessions: usize,
    ) -> Result<Tenant, ServedError> {
        let holder = SecretKey::generate();
        let now = Timestamp::now().whole_second();
        let lease = Lease {
            version: 1,
            id: LeaseId::generate(),
            issuer: self.name.clone(),
            tenant: self.name.clone(),
            audience: vec![self.name.clone()],
            holder: holder.public(),
            not_before: now,
            expiry: now.after(Duration::from_secs(24 * 3600)),
            isolation: Isolation::SharedContext,
            priority: Priority::Reserved,
            weight,
            latency,
            memory_bytes: 1 << 30,
            staging_bytes: 1 << 30,
            sessions: 16,
            queues: 16,
            in_flight: 4096,
            concurrency: 1,
            ops: Ops::All,
            job: JobLimits { cpu_milli: 1000, memory_bytes: 1 << 30, wall_s: 24 * 3600 },
            sku: None,
            node: None,
            trial: true,
            labels: BTreeMap::new(),
        };
        let grant = Grant { token: issue(&lease, &self.issuer)?, holder };
        let node = Node::connect(&self.folder.join("jobs.sock"))?;
        let admitted = node.admit(&grant, None)?;
        let open = |_| -> Result<Device, ServedError> {
            let remote = Remote::on(admitted.door.as_fd())?;
            Ok(Device::from_engine(Box::new(remote), "a node to measure".into()))
        };
        let devices = (0..sessions).map(open).collect::<Result<_, _>>()?;
        Ok(Tenant { node, admitted, devices })
    }

    /// Nanoseconds of processor time that the executor's threads have had.
    ///
    /// # Errors
    /// The kernel does not say, or there is no executor.
    pub fn executor_ns(&self) -> Result<u64, ServedError> {
        let children = format!("/proc/{0}/task", self.child.id());
        let children = Path::new(&children);
        let mut executor = None;
        for task in std::fs::read_dir(children).map_err(at(children))?.flatten() {
            // Whichever thread of control started it.
            let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            executor = list.split_whitespace().next().map(String::from).or(executor);
        }
        let executor = executor.ok_or_else(|| at(children)(io::ErrorKind::NotFound.into()))?;
        let threads = PathBuf::from(format!("/proc/{executor}/task"));
        let mut ns = 0;
        for task in std::fs::read_dir(&threads).map_err(at(&threads))?.flatten() {
            let path = task.path().join("schedstat");
            let stat = std::fs::read_to_string(&path).map_err(at(&path))?;
            let ran = stat.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
            ns += ran.ok_or_else(|| at(&path)(io::ErrorKind::InvalidData.into()))?;
        }
        Ok(ns)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            // One that has ended needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Tenant {
    /// Ends the job; what it used.
    ///
    /// # Errors
    /// The node has gone.
    pub fn end(self) -> Result<Usage, ServedError> {
        let Self { node, devices, .. } = self;
        drop(devices);
        node.ended(Outcome::Exited(0))?;
        let Word::Settled(receipt) = node.word() else { return Err(ServedError::Unsettled) };
        match serde_json::from_str::<Record>(&receipt.record).map(|record| record.entry) {
            Ok(Entry::Settle(usage)) => Ok(usage),
            _ => Err(ServedError::Unsettled),
        }
    }
}
