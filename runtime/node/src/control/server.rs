//! Control's sockets and threads: one accepting thread a socket, one thread a client, one a job's door, one an
//! executor, one for its news, and one that commits the ledger in groups.

use super::book::{Book, Running};
use super::door::Door;
use super::executor::{Executor, News};
use super::protocol::{FromClient, ToClient, VERSION};
use crate::executor::protocol::{Terms, Usage, Why};
use crate::keys::{PublicKey, SecretKey};
use crate::lease::{JobId, KeySet, LeaseId, Moment, Name, VerifiedLease, nonce};
use crate::ledger::{LedgerError, Outcome};
use crate::time::Timestamp;
use leasehold::wire::{from_bytes, pair, receive, send};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Executors are restarted this often; whoever is at fault is struck and, at two strikes, suspended.
const RESTARTS_MAX: u32 = 16;
/// A record waits at most this long for the fsync of its group.
const COMMIT_EVERY: Duration = Duration::from_millis(20);

/// What a node is told when it starts.
#[derive(Debug)]
pub struct Config {
    /// Its name: an audience of leases.
    pub node: Name,
    /// Pools that it belongs to.
    pub pools: Vec<Name>,
    /// Whom it believes.
    pub issuers: KeySet,
    /// Signs receipts.
    pub key: SecretKey,
    /// Keys that signed before.
    pub old_keys: Vec<PublicKey>,
    /// The device that its executor owns.
    pub device: String,
    /// The program that is an executor.
    pub program: PathBuf,
    /// The ledger's file.
    pub ledger: PathBuf,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The executor, or a call of the system.
    #[error(transparent)]
    Device(#[from] leasehold::Error),
    /// A socket.
    #[error("{}: {source}", path.display())]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A job, and whom to tell of its end.
struct Job {
    running: Running,
    client: OwnedFd,
    /// How it ended, once that is known.
    outcome: Option<Outcome>,
}

struct State {
    book: Book,
    executor: Arc<Executor>,
    jobs: HashMap<u64, Job>,
    next_job: u64,
    restarts: u32,
    down: bool,
}

struct Node {
    config: Config,
    state: Mutex<State>,
    sessions: Arc<AtomicU64>,
    news: Mutex<Sender<News>>,
}

/// Both clocks.
fn moment() -> Moment {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let boot_ns = (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64);
    Moment { wall: Timestamp::now(), boot_ns }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> leasehold::Result<()> {
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(work).map(drop).map_err(|e| leasehold::Error::system("spawn", e))
}

impl Node {
    fn start(config: Config) -> Result<Arc<Self>, StartError> {
        let book = Book::open(
            &config.ledger,
            config.node.clone(),
            &config.pools,
            config.issuers.clone(),
            config.key.clone(),
            config.old_keys.clone(),
            Timestamp::now(),
        )?;
        let (tell, told) = channel();
        let executor = executor(&config, &tell)?;
        let state =
            State { book, executor, jobs: HashMap::new(), next_job: 0, restarts: 0, down: false };
        let (state, news) = (Mutex::new(state), Mutex::new(tell));
        let node = Arc::new(Self { config, state, sessions: Arc::default(), news });
        let hears = Arc::clone(&node);
        spawn("news", move || hears.hear_all(&told))?;
        let commits = Arc::clone(&node);
        spawn("ledger", move || commits.commit_in_groups())?;
        Ok(node)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear_all(&self, told: &Receiver<News>) {
        while let Ok(news) = told.recv() {
            match news {
                News::Settled { job, usage } => self.settle(job, usage),
                News::Died { job } => self.bury(job),
            }
        }
    }

    /// The job's memory is zeroed: its record is written, its starter told.
    fn settle(&self, number: u64, usage: Usage) {
        let mut state = self.state();
        let Some(job) = state.jobs.remove(&number) else { return };
        // The executor ends a job of its own accord only at the deadline.
        let outcome = job.outcome.unwrap_or(Outcome::Expired);
        if job.outcome.is_none() {
            let _ = send(&job.client, &ToClient::Stop { outcome }, &[]);
        }
        let receipt = state.book.settle(&job.running, usage, outcome, Timestamp::now());
        // A starter that has gone needs no receipt; the ledger has the record.
        let _ = match receipt {
            Ok(receipt) => {
                // Strings and numbers always serialise.
                let receipt = serde_json::to_string(&receipt).unwrap_or_default();
                send(&job.client, &ToClient::Settled { receipt }, &[])
            }
            Err(error) => send(
                &job.client,
                &ToClient::Refused { why: error.to_string(), retryable: true },
                &[],
            ),
        };
    }

    /// The executor has died: its jobs lost their device, the one at fault is struck, and another is started.
    fn bury(&self, at_fault: u64) {
        let mut state = self.state();
        if let Some(running) = state.jobs.get(&at_fault).map(|job| job.running.clone()) {
            let _ = state.book.strike(&running, Timestamp::now());
        }
        let lost: Vec<u64> = state.jobs.keys().copied().collect();
        for number in &lost {
            if let Some(job) = state.jobs.get_mut(number)
                && job.outcome.is_none()
            {
                job.outcome = Some(Outcome::DeviceLost);
                let _ = send(&job.client, &ToClient::Stop { outcome: Outcome::DeviceLost }, &[]);
            }
        }
        if !state.down && state.restarts < RESTARTS_MAX {
            state.restarts += 1;
            let tell = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(new) = executor(&self.config, &tell) {
                state.executor = new;
            }
        }
        drop(state);
        // What they used went with the executor's memory; the ledger says that it is not known.
        lost.into_iter().for_each(|number| self.settle(number, Usage::default()));
    }

    /// The fsync runs without the lock: nobody who is admitted or settled waits for the disk.
    fn commit_in_groups(&self) {
        loop {
            std::thread::sleep(COMMIT_EVERY);
            let (group, down) = {
                let mut state = self.state();
                (state.book.ledger().begin_commit(), state.down)
            };
            // A ledger that failed says so to whoever appends next.
            if let Ok(Some(group)) = group {
                let synced = group.sync();
                let _ = self.state().book.ledger().end_commit(&group, synced);
            }
            if down {
                return;
            }
        }
    }

    /// One client of the jobs socket, from hello to receipt.
    fn attend(self: &Arc<Self>, client: &OwnedFd) -> leasehold::Result<()> {
        let Some(FromClient::Hello { version }) = hear(client)? else { return Ok(()) };
        if version != VERSION {
            let why = format!("version {version} asked, allowed {VERSION}");
            return send(client, &ToClient::Refused { why, retryable: false }, &[]);
        }
        let nonce =
            nonce().map_err(|e| leasehold::Error::system("getrandom", std::io::Error::other(e)))?;
        let (node, device) = {
            let state = self.state();
            (state.book.node().to_string(), state.executor.device.name.clone())
        };
        send(client, &ToClient::Hello { version: VERSION, node, nonce, device }, &[])?;
        let Some(FromClient::Admit { token, job, proof, wall_s }) = hear(client)? else {
            return Ok(());
        };
        let wall = wall_s.map(Duration::from_secs);
        let admitted = self.state().book.admit(&token, nonce, job, &proof, wall, moment());
        let (running, terms, lease) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let (why, retryable) = (refusal.to_string(), refusal.retryable());
                return send(client, &ToClient::Refused { why, retryable }, &[]);
            }
        };
        let number = self.run(client, running, &terms, &lease)?;
        // Whatever comes next is the job's end: the starter's word, or its silence.
        let outcome = match hear(client) {
            Ok(Some(FromClient::Ended { outcome })) => outcome,
            _ => Outcome::Signalled(9),
        };
        self.end(number, outcome, Why::Exited);
        Ok(())
    }

    /// Tells the executor of an admitted job, opens its door, and hands the starter the other side of it.
    fn run(
        self: &Arc<Self>,
        client: &OwnedFd,
        running: Running,
        terms: &Terms,
        lease: &VerifiedLease,
    ) -> leasehold::Result<u64> {
        let (inside, outside) = pair()?;
        let to_tell = client.try_clone().map_err(|e| leasehold::Error::system("dup", e))?;
        let mut state = self.state();
        state.next_job += 1;
        let (number, executor) = (state.next_job, Arc::clone(&state.executor));
        let told = executor.job(number, terms.clone());
        state.jobs.insert(number, Job { running, client: to_tell, outcome: None });
        drop(state);
        told?;
        let door = Door {
            socket: inside,
            executor,
            job: number,
            memory: terms.memory,
            op_cap_ns: terms.op_cap_ns,
            sessions: Arc::clone(&self.sessions),
        };
        spawn("door", move || door.stand())?;
        let admitted = ToClient::Admitted {
            deadline_ns: terms.deadline_ns,
            cpu_milli: lease.job.cpu_milli,
            memory_bytes: lease.job.memory_bytes,
        };
        send(client, &admitted, &[outside.as_fd()])?;
        Ok(number)
    }

    /// Ends a job, unless that is under way.
    fn end(&self, number: u64, outcome: Outcome, why: Why) {
        let mut state = self.state();
        let executor = Arc::clone(&state.executor);
        if let Some(job) = state.jobs.get_mut(&number)
            && job.outcome.is_none()
        {
            job.outcome = Some(outcome);
            // An executor that has gone is buried with its jobs.
            let _ = executor.end(number, why);
        }
    }

    /// Takes a lease back: no more jobs of it, and those that run end now.
    fn revoke(&self, lease: LeaseId) -> Result<u64, LedgerError> {
        let mut state = self.state();
        let jobs: Vec<JobId> = state.book.revoke(lease, Timestamp::now())?;
        state.book.ledger().commit()?;
        let of_lease = state.jobs.iter().filter(|(_, job)| jobs.contains(&job.running.job));
        let numbers: Vec<u64> = of_lease.map(|(number, _)| *number).collect();
        for number in &numbers {
            if let Some(job) = state.jobs.get(number) {
                let _ = send(&job.client, &ToClient::Stop { outcome: Outcome::Revoked }, &[]);
            }
        }
        drop(state);
        numbers.iter().for_each(|number| self.end(*number, Outcome::Revoked, Why::Revoked));
        Ok(numbers.len() as u64)
    }

    fn attend_admin(&self, client: &OwnedFd) -> leasehold::Result<()> {
        let Some(FromClient::Revoke { lease }) = hear(client)? else { return Ok(()) };
        let answer = match self.revoke(lease) {
            Ok(jobs) => ToClient::Done { jobs },
            Err(error) => ToClient::Refused { why: error.to_string(), retryable: true },
        };
        send(client, &answer, &[])
    }

    /// Ends everything and lets the executor go.
    fn shut_down(&self) {
        let numbers: Vec<u64> = {
            let mut state = self.state();
            state.down = true;
            state.jobs.keys().copied().collect()
        };
        numbers.iter().for_each(|number| self.end(*number, Outcome::NodeLost, Why::Revoked));
        for _ in 0..500 {
            if self.state().jobs.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut state = self.state();
        state.executor.shut_down();
        // The last group; an error here was said by whoever appended.
        let _ = state.book.ledger().commit();
    }
}

fn executor(config: &Config, tell: &Sender<News>) -> leasehold::Result<Arc<Executor>> {
    let tell = tell.clone();
    let news = move |news| drop(tell.send(news));
    Executor::start(&config.program, &config.device, news).map(Arc::new)
}

/// The next message; `None` when the peer has gone.
fn hear(client: &OwnedFd) -> leasehold::Result<Option<FromClient>> {
    receive(client)?.map(|(bytes, _)| from_bytes(&bytes)).transpose()
}

/// A listening socket at `path`; a stale one of a node that has gone is replaced, a living one is not.
fn listen(path: &Path, mode: u32) -> Result<OwnedFd, StartError> {
    let at = |source: std::io::Error| StartError::Socket { path: path.into(), source };
    let address = SocketAddrUnix::new(path).map_err(|e| at(e.into()))?;
    let new = || {
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
    };
    let socket = new().map_err(|e| at(e.into()))?;
    if let Err(errno) = rustix::net::bind(&socket, &address) {
        let alive = new().and_then(|probe| rustix::net::connect(&probe, &address)).is_ok();
        if errno != rustix::io::Errno::ADDRINUSE || alive {
            return Err(at(errno.into()));
        }
        std::fs::remove_file(path).map_err(at)?;
        rustix::net::bind(&socket, &address).map_err(|e| at(e.into()))?;
    }
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(at)?;
    rustix::net::listen(&socket, 128).map_err(|e| at(e.into()))?;
    Ok(socket)
}

/// Accepts clients for ever, each on a thread of its own.
fn accept(
    node: &Arc<Node>,
    socket: &OwnedFd,
    attend: fn(&Arc<Node>, &OwnedFd) -> leasehold::Result<()>,
) {
    loop {
        match rustix::net::accept_with(socket, SocketFlags::CLOEXEC) {
            Ok(client) => {
                let node = Arc::clone(node);
                // A client whose thread cannot be started sees its socket close.
                let _ = spawn("client", move || drop(attend(&node, &client)));
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            // Out of descriptors or memory: others must end first.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Serves a node in `sockets`, a folder of its own: `jobs.sock` for its group, `admin.sock` for its user alone.
/// Returns when `stop` does.
///
/// # Errors
/// What it needs to start is missing, in use or broken.
pub fn serve(config: Config, sockets: &Path, stop: impl FnOnce()) -> Result<(), StartError> {
    let (jobs, admin) = (sockets.join("jobs.sock"), sockets.join("admin.sock"));
    let jobs_socket = listen(&jobs, 0o660)?;
    let admin_socket = listen(&admin, 0o600)?;
    let node = Node::start(config)?;
    let (for_jobs, for_admin) = (Arc::clone(&node), Arc::clone(&node));
    spawn("jobs", move || accept(&for_jobs, &jobs_socket, |node, client| node.attend(client)))?;
    spawn("admin", move || {
        accept(&for_admin, &admin_socket, |node, client| node.attend_admin(client));
    })?;
    stop();
    node.shut_down();
    // Stale sockets would only make clients wait for nobody.
    let _ = std::fs::remove_file(&jobs);
    let _ = std::fs::remove_file(&admin);
    Ok(())
}

/// Serves one client on an inherited socket and nobody else, until it has gone. `folder` holds the ledger and is
/// given up as soon as the ledger is open, so that even a killed node leaves nothing behind.
///
/// # Errors
/// As [`serve`].
pub fn private<F>(config: Config, folder: F, client: &OwnedFd) -> Result<(), StartError> {
    let node = Node::start(config)?;
    drop(folder);
    node.attend(client)?;
    // The receipt is sent by the thread that hears the executor.
    while !node.state().jobs.is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    node.shut_down();
    Ok(())
}
