//! A node's state and what happens to it: jobs end and are settled, leases are taken back, executors die and are
//! replaced, a restarted control finds an executor that went on. One thread hears the executor, one commits the
//! ledger in groups; `client` brings what clients ask for.

use super::book::{Book, Running};
use super::door::Door;
use super::executor::{Executor, Kept, News};
use super::protocol::ToClient;
use super::server::{Config, StartError};
use super::sockets::listen;
use super::spawn;
use crate::executor::protocol::{Terms, Usage, Why};
use crate::lease::{JobId, LeaseId};
use crate::ledger::{LedgerError, Outcome};
use crate::time::Timestamp;
use leasehold::wire::send;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Executors that may die in a row, at their start or later, with no lease at fault and no job settled in between.
/// A lease that is at fault is struck, and suspended at two strikes, so that each is bounded for itself.
const DEATHS_MAX: u32 = 16;
/// The pause before an executor is started again, times the deaths so far.
const RESTART_PAUSE: Duration = Duration::from_millis(20);
/// A record waits at most this long for the fsync of its group.
const COMMIT_EVERY: Duration = Duration::from_millis(20);
/// How long a starter has to take up its job again when control was restarted and the jail has ended.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long jobs may take to end when the node is stopped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A job, and whom to tell of its end.
pub(super) struct Job {
    pub(super) running: Running,
    /// Its starter; none after a restart, until it comes back.
    pub(super) client: Option<OwnedFd>,
    /// How it ended, once that is known.
    pub(super) outcome: Option<Outcome>,
}

impl Job {
    fn tell(&self, message: &ToClient) {
        if let Some(client) = &self.client {
            // A starter that has gone needs no word; the ledger has the record.
            let _ = send(client, message, &[]);
        }
    }
}

pub(super) struct State {
    pub(super) book: Book,
    /// None while one is being started, and when too many died.
    pub(super) executor: Option<Arc<Executor>>,
    pub(super) jobs: BTreeMap<u64, Job>,
    /// Receipts of jobs that ended before their starters came back.
    pub(super) unclaimed: HashMap<(LeaseId, JobId), String>,
    deaths: u32,
    /// Why the last one died, as far as is known.
    why: String,
    down: bool,
}

impl State {
    /// Why there is no executor, for whoever asks for one.
    pub(super) fn no_executor(&self) -> String {
        let then = match self.deaths {
            DEATHS_MAX.. => "no more are started until the node is",
            _ => "another is being started",
        };
        let (deaths, why) = (self.deaths, &self.why);
        format!("the node has no executor: {deaths} died in a row, the last one: {why}; {then}")
    }
}

pub(super) struct Node {
    config: Config,
    /// Where the executor waits for a control that comes after this one; a private node has none.
    entrance: Option<PathBuf>,
    /// The device, for people.
    pub(super) device: String,
    state: Mutex<State>,
    sessions: Arc<AtomicU64>,
    news: Mutex<Sender<News>>,
}

impl Node {
    /// Opens the ledger, finds or starts the executor, and settles what no executor knows any more.
    pub(super) fn start(
        config: Config,
        entrance: Option<PathBuf>,
    ) -> Result<Arc<Self>, StartError> {
        let (book, unsettled) = Book::open(
            &config.ledger,
            config.node.clone(),
            &config.pools,
            config.issuers.clone(),
            config.key.clone(),
            config.old_keys.clone(),
            Timestamp::now(),
        )?;
        let (tell, told) = channel();
        let adopted = match &entrance {
            Some(path) => Executor::adopt(path, news(&tell))?,
            None => None,
        };
        let (executor, kept) = match adopted {
            Some(adopted) => adopted,
            None => (start_executor(&config, entrance.as_ref(), &tell)?, Kept::default()),
        };
        let node = Arc::new(Self {
            config,
            entrance,
            device: executor.device.name.clone(),
            state: Mutex::new(State {
                book,
                executor: Some(Arc::new(executor)),
                jobs: BTreeMap::new(),
                unclaimed: HashMap::new(),
                deaths: 0,
                why: String::new(),
                down: false,
            }),
            sessions: Arc::new(AtomicU64::new(kept.sessions)),
            news: Mutex::new(tell),
        });
        node.take_up(unsettled, kept)?;
        let hears = Arc::clone(&node);
        spawn("news", move || hears.hear_all(&told))?;
        let commits = Arc::clone(&node);
        spawn("ledger", move || commits.commit_in_groups())?;
        Ok(node)
    }

    /// Jobs that an earlier control admitted go on if the executor still has them; the others were lost with it.
    fn take_up(self: &Arc<Self>, unsettled: Vec<Running>, kept: Kept) -> Result<(), StartError> {
        let mut state = self.state();
        let Some(executor) = state.executor.clone() else { return Ok(()) };
        let mut kept: BTreeMap<_, _> = kept.jobs.into_iter().collect();
        for running in unsettled {
            let Some(runs) = kept.remove(&running.number) else {
                let (usage, lost) = (Usage::default(), Outcome::NodeLost);
                state.book.settle(&running, usage, lost, Timestamp::now())?;
                continue;
            };
            let number = running.number;
            state.jobs.insert(number, Job { running, client: None, outcome: None });
            if let Some((terms, door)) = runs {
                self.open_door(number, &terms, door, Arc::clone(&executor))?;
            }
        }
        // Whatever else the executor has was settled before; it is told so when it says what they used.
        kept.keys().for_each(|number| drop(executor.end(*number, Why::Revoked)));
        Ok(())
    }

    /// Lets a job's processes open sessions.
    pub(super) fn open_door(
        self: &Arc<Self>,
        number: u64,
        terms: &Terms,
        socket: OwnedFd,
        executor: Arc<Executor>,
    ) -> leasehold::Result<()> {
        let door = Door {
            socket,
            executor,
            job: number,
            memory: terms.memory,
            op_cap_ns: terms.op_cap_ns,
            sessions: Arc::clone(&self.sessions),
        };
        let node = Arc::clone(self);
        spawn("door", move || {
            door.stand();
            node.jail_ended(number);
        })
    }

    /// Nobody holds the other side of a job's door any more. Its starter says how it ended, unless a restart of
    /// control has parted them.
    fn jail_ended(&self, number: u64) {
        let is_alone = || self.state().jobs.get(&number).is_some_and(|job| job.client.is_none());
        let begin = Instant::now();
        while is_alone() {
            if begin.elapsed() > ATTACH_TIMEOUT {
                return self.end(number, Outcome::NodeLost, Why::Exited);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_jobs(&self) -> bool {
        !self.state().jobs.is_empty()
    }

    fn hear_all(&self, told: &Receiver<News>) {
        while let Ok(news) = told.recv() {
            match news {
                News::Settled { job, usage } => {
                    self.settle(job, usage);
                    self.state().deaths = 0;
                }
                News::Died { job } => self.bury(job),
            }
        }
    }

    /// The job's memory is zeroed: its record is written, its starter told.
    fn settle(&self, number: u64, usage: Usage) {
        let mut state = self.state();
        let executor = state.executor.clone();
        let written = || executor.iter().for_each(|executor| executor.written(number));
        let Some(job) = state.jobs.remove(&number) else { return written() };
        // The executor ends a job of its own accord only at the deadline.
        let outcome = job.outcome.unwrap_or(Outcome::Expired);
        if job.outcome.is_none() {
            job.tell(&ToClient::Stop { outcome });
        }
        match state.book.settle(&job.running, usage, outcome, Timestamp::now()) {
            Ok(receipt) => {
                written();
                // Strings and numbers always serialise.
                let receipt = serde_json::to_string(&receipt).unwrap_or_default();
                if job.client.is_none() {
                    let id = (job.running.lease, job.running.job);
                    state.unclaimed.insert(id, receipt.clone());
                }
                job.tell(&ToClient::Settled { receipt });
            }
            Err(error) => job.tell(&ToClient::Refused { why: error.to_string(), retryable: true }),
        }
    }

    /// The executor has died: its jobs lost their device, the one at fault is struck, and another is started.
    fn bury(&self, at_fault: u64) {
        let mut state = self.state();
        state.executor = None;
        match state.jobs.get(&at_fault).map(|job| job.running.clone()) {
            // A ledger that failed says so to whoever appends next.
            Some(running) => drop(state.book.strike(&running, Timestamp::now())),
            None => state.deaths += 1,
        }
        state.why = "its process ended".into();
        let lost: Vec<u64> = state.jobs.keys().copied().collect();
        for job in state.jobs.values_mut().filter(|job| job.outcome.is_none()) {
            job.outcome = Some(Outcome::DeviceLost);
            job.tell(&ToClient::Stop { outcome: Outcome::DeviceLost });
        }
        drop(state);
        // What they used went with the executor's memory; the ledger says that it is not known.
        lost.into_iter().for_each(|number| self.settle(number, Usage::default()));
        self.restart();
    }

    /// Starts another executor, as often as it takes and is allowed.
    fn restart(&self) {
        loop {
            let deaths = {
                let state = self.state();
                if state.down || state.deaths >= DEATHS_MAX {
                    return;
                }
                state.deaths
            };
            std::thread::sleep(RESTART_PAUSE * deaths);
            let tell = self.news.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let started = start_executor(&self.config, self.entrance.as_ref(), &tell);
            let mut state = self.state();
            match started {
                Ok(executor) => {
                    state.executor = Some(Arc::new(executor));
                    return;
                }
                Err(error) => {
                    state.deaths += 1;
                    state.why = error.to_string();
                }
            }
        }
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

    /// Ends a job, unless that is under way.
    pub(super) fn end(&self, number: u64, outcome: Outcome, why: Why) {
        let mut state = self.state();
        let executor = state.executor.clone();
        if let Some(job) = state.jobs.get_mut(&number)
            && job.outcome.is_none()
        {
            job.outcome = Some(outcome);
            // Whoever ends it otherwise than by its own exit has it ended, jail and all.
            if why != Why::Exited {
                job.tell(&ToClient::Stop { outcome });
            }
            // An executor that has gone is buried with its jobs.
            executor.iter().for_each(|executor| drop(executor.end(number, why)));
        }
    }

    /// Takes a lease back: no more jobs of it, and those that run end now.
    pub(super) fn revoke(&self, lease: LeaseId) -> Result<u64, LedgerError> {
        let mut state = self.state();
        let jobs: Vec<JobId> = state.book.revoke(lease, Timestamp::now())?;
        let of_lease = state.jobs.iter().filter(|(_, job)| jobs.contains(&job.running.job));
        let numbers: Vec<u64> = of_lease.map(|(number, _)| *number).collect();
        drop(state);
        numbers.iter().for_each(|number| self.end(*number, Outcome::Revoked, Why::Revoked));
        // The device does not wait for the disk; whoever asked does.
        self.state().book.ledger().commit()?;
        Ok(numbers.len() as u64)
    }

    /// Ends everything and lets the executor go.
    pub(super) fn shut_down(&self) {
        let numbers: Vec<u64> = {
            let mut state = self.state();
            state.down = true;
            state.jobs.keys().copied().collect()
        };
        numbers.iter().for_each(|number| self.end(*number, Outcome::NodeLost, Why::Revoked));
        let begin = Instant::now();
        while self.has_jobs() && begin.elapsed() < DRAIN_TIMEOUT {
            std::thread::sleep(Duration::from_millis(1));
        }
        let executor = self.state().executor.take();
        executor.iter().for_each(|executor| executor.shut_down());
        // The last group; an error here was said by whoever appended.
        let _ = self.state().book.ledger().commit();
    }
}

fn news(tell: &Sender<News>) -> impl Fn(News) + Send + use<> {
    let tell = tell.clone();
    move |news| drop(tell.send(news))
}

fn start_executor(
    config: &Config,
    entrance: Option<&PathBuf>,
    tell: &Sender<News>,
) -> Result<Executor, StartError> {
    let entrance = entrance.map(|path| listen(path, 0o600)).transpose()?;
    let Config { program, device, kernels, .. } = config;
    Ok(Executor::start(program, device, kernels.as_deref(), entrance.as_ref(), news(tell))?)
}
