//! A served node for tests: its folder with keys and a ledger, its process, and leases that it believes.
#![allow(dead_code, reason = "each test program uses its part")]

use leasehold::Device;
use leasehold::remote::Remote;
use leasehold_node::job::{Admitted, Grant, JobError, Node, Word};
use leasehold_node::keys::{SecretKey, write_secret};
use leasehold_node::lease::{Isolation, JobLimits, KeySet, Lease, LeaseId, Ops, Priority, issue};
use leasehold_node::ledger::{Entry, Record, Usage, read};
use leasehold_node::time::Timestamp;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// What a loaded machine may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `ready` gives something.
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A node's folder, and the node while it runs.
pub(crate) struct Served {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) issuer: SecretKey,
    child: Option<Child>,
}

impl Served {
    /// A folder with keys; nothing runs yet.
    pub(crate) fn new() -> Self {
        let (dir, issuer) = (tempfile::tempdir().unwrap(), SecretKey::generate());
        let set = KeySet::of("owner".parse().unwrap(), issuer.public());
        std::fs::write(dir.path().join("issuers"), serde_json::to_string(&set).unwrap()).unwrap();
        write_secret(&dir.path().join("key"), &SecretKey::generate()).unwrap();
        std::fs::create_dir(dir.path().join("node")).unwrap();
        Self { dir, issuer, child: None }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// Starts `leasehold-node serve` on the processor.
    pub(crate) fn start(&mut self) {
        self.start_on(&["--device", "cpu"], &[]);
    }

    /// The same on a device, with variables of its own.
    pub(crate) fn start_on(&mut self, device: &[&str], variables: &[(&str, &str)]) {
        let child = Command::new(env!("CARGO_BIN_EXE_leasehold-node"))
            .args(["serve", "--name", "node-a", "--issuers", "issuers", "--key", "key"])
            .args(["--dir", "node"])
            .args(device)
            .envs(variables.iter().copied())
            .current_dir(&self.dir)
            .spawn();
        self.child = Some(child.unwrap());
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    /// A connection, as soon as it serves.
    pub(crate) fn connect(&self) -> Node {
        let path = self.folder().join("jobs.sock");
        until("the node serves", || Node::connect(&path).ok())
    }

    /// Kills control, and nobody else.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks control to stop, and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        signal(self.pid(), rustix::process::Signal::TERM);
        let mut child = self.child.take().unwrap();
        until("the node stops", || child.try_wait().unwrap())
    }

    /// A lease that the node believes.
    pub(crate) fn lease(&self) -> Grant {
        let holder = SecretKey::generate();
        let now = Timestamp::now().whole_second();
        let lease = Lease {
            version: 1,
            id: LeaseId::generate(),
            issuer: "owner".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            audience: vec!["node-a".parse().unwrap()],
            holder: holder.public(),
            not_before: now,
            expiry: now.after(Duration::from_secs(3600)),
            isolation: Isolation::SharedContext,
            priority: Priority::Reserved,
            weight: 100,
            latency: None,
            memory_bytes: 1 << 30,
            staging_bytes: 1 << 30,
            sessions: 8,
            queues: 8,
            in_flight: 4096,
            concurrency: 1,
            ops: Ops::All,
            job: JobLimits { cpu_milli: 1000, memory_bytes: 1 << 30, wall_s: 3600 },
            sku: Some("cpu-hour".parse().unwrap()),
            node: None,
            trial: true,
            labels: BTreeMap::new(),
        };
        Grant { token: issue(&lease, &self.issuer).unwrap(), holder }
    }

    /// The entries of the ledger, its chain verified.
    pub(crate) fn ledger(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let path = self.folder().join("ledger");
        read(&path, vec![], vec![], |record| entries.push(record.entry)).unwrap();
        entries
    }

    /// What the ledger says that this job used, in each record about it.
    pub(crate) fn settled(&self, job: &Admitted) -> Vec<Usage> {
        let of_job = |entry| match entry {
            Entry::Settle(usage) if usage.job == job.job.0 => Some(usage),
            _ => None,
        };
        self.ledger().into_iter().filter_map(of_job).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A test that failed must not leave an executor behind, which only an orderly end takes along.
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let _ = child.wait();
    }
}

/// A session of the job.
pub(crate) fn device(admitted: &Admitted) -> Device {
    Device::from_engine(Box::new(Remote::on(admitted.door.as_fd()).unwrap()), "test".into())
}

/// The usage in a receipt.
pub(crate) fn usage(word: Word) -> Usage {
    let Word::Settled(receipt) = word else { panic!("{word:?}") };
    let record: Record = serde_json::from_str(&receipt.record).unwrap();
    match record.entry {
        Entry::Settle(usage) => usage,
        other => panic!("{other:?}"),
    }
}

/// Why the node refuses a job.
pub(crate) fn refusal(node: &Node, grant: &Grant) -> Option<String> {
    match node.admit(grant, None) {
        Ok(_) => None,
        Err(JobError::Refused { why, .. }) => Some(why),
        Err(other) => panic!("{other}"),
    }
}

/// The living executors that a control started.
pub(crate) fn executors(control: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| state(*pid).is_some_and(|(state, parent)| state != 'Z' && parent == control))
        .collect()
}

/// Whether a process lives.
pub(crate) fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// A process's state and its parent.
pub(crate) fn state(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit(')').next()?.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
