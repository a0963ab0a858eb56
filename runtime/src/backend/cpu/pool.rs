//! The backend's threads: one loop over work items that all of them, the caller included, share. Each begins with a
//! run of its own, so that it reads memory in order, and then helps the others with theirs. Which thread takes an item
//! never changes its bits.
//!
//! The slices of an op follow each other within microseconds, and waking a thread costs tens of them: the threads
//! beside the caller's spin a moment after a job before they sleep, and a caller never waits for one that did not
//! wake in time to join.

use crate::error::{Error, Kind, Result};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

/// Below this much predicted work a wake-up costs more than a second thread saves, in nanoseconds.
const INLINE_NS: u64 = 150_000;
/// How long a thread spins before it sleeps: about twice what waking it costs.
const SPIN: Duration = Duration::from_micros(100);
/// How long it keeps the core to itself: the ops of a program are no further apart, and a yield costs as much as a wait.
const KEEP: Duration = Duration::from_micros(20);
/// Looks between two glances at the clock, some microseconds, and between two yields once others may have the core.
const LOOKS: u32 = 32;

/// Threads for work items.
pub(super) struct Pool {
    crew: Arc<Crew>,
    /// The threads beside the caller's.
    others: Vec<JoinHandle<()>>,
}

/// The variable that overrides the number of threads.
const THREADS: &str = "LEASEHOLD_THREADS";
const THREADS_MAX: usize = 1024;

/// As many threads as this process may run at once, or as `LEASEHOLD_THREADS` says.
///
/// # Errors
/// `Environment` for a value that is not 1 to 1024.
pub(super) fn threads_of_environment() -> Result<usize> {
    let Ok(text) = std::env::var(THREADS) else { return Ok(cores()) };
    threads_of(&text)
}

fn threads_of(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(n) if (1..=THREADS_MAX).contains(&n) => Ok(n),
        _ => {
            Err(Kind::Environment { name: THREADS, asked: text.into(), allowed: "1 to 1024" }
                .into())
        }
    }
}

/// Threads that this process may run at once.
fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

impl Pool {
    /// A pool of `threads` threads, the caller's included, held to 1 to 1024.
    ///
    /// # Errors
    /// `System` when threads cannot be started.
    pub(super) fn new(threads: usize) -> Result<Self> {
        let threads = threads.clamp(1, THREADS_MAX);
        // Without a core for each thread, who spins keeps another from its work.
        let spin = if threads <= cores() { SPIN } else { Duration::ZERO };
        let mut pool = Self { crew: Arc::new(Crew::new(spin)), others: Vec::new() };
        for i in 1..threads {
            let crew = Arc::clone(&pool.crew);
            let builder = std::thread::Builder::new().name(format!("leasehold-cpu-{i}"));
            let other =
                builder.spawn(move || crew.help()).map_err(|e| Error::system("spawn", e))?;
            pool.others.push(other);
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.others.len() + 1
    }

    /// CPU time that the calling thread and the others' work items took so far; spinning between jobs is not work.
    pub(super) fn cpu_time(&self) -> Duration {
        thread_time() + Duration::from_nanos(self.crew.helped_ns.load(Relaxed))
    }

    /// CPU time that the other threads took so far beside work items: spinning, and finding their way in and out.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.crew.waited_ns.load(Relaxed))
    }

    /// Calls `item` with every number below `items`, each once, on all threads. `item_ns` is its prediction.
    pub(super) fn run(&self, items: u64, item_ns: u64, item: impl Fn(u64) + Sync) {
        let seats = items.saturating_sub(1).min(self.others.len() as u64) as usize;
        if seats == 0 || items.saturating_mul(item_ns) <= INLINE_NS {
            return (0..items).for_each(item);
        }
        let takers = seats + 1;
        let (each, more) = (items / takers as u64, items % takers as u64);
        let from = |taker: u64| taker * each + taker.min(more);
        let turns: Vec<Turn> = (0..takers as u64)
            .map(|taker| Turn { next: AtomicU64::new(from(taker)), end: from(taker + 1) })
            .collect();
        let work = |seat: usize| {
            let (before, own) = turns.split_at(seat);
            for turn in own.iter().chain(before) {
                loop {
                    let i = turn.next.fetch_add(1, Relaxed);
                    if i >= turn.end {
                        break;
                    }
                    item(i);
                }
            }
        };
        self.crew.share(seats, self.others.len(), &work);
    }
}

/// A thread's run of items, on a cache line of its own.
#[repr(align(64))]
struct Turn {
    next: AtomicU64,
    end: u64,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.crew.lock().closed = true;
        self.crew.posted.fetch_add(1, Release);
        self.crew.work.notify_all();
        // A thread that panicked handed its panic to the caller of its job.
        self.others.drain(..).for_each(|other| drop(other.join()));
    }
}

/// CPU time of the calling thread so far.
fn thread_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// What the caller and the other threads share.
struct Crew {
    spin: Duration,
    state: Mutex<State>,
    /// Counts posted jobs, so that who spins needs no lock. Changes under the lock.
    posted: AtomicU64,
    /// Threads inside the job. Grows under the lock.
    inside: AtomicUsize,
    /// The caller sleeps until nobody is inside.
    waiting: AtomicBool,
    /// Signals sleeping threads: a job is posted, or the pool closes.
    work: Condvar,
    /// Signals the caller: nobody is inside.
    left: Condvar,
    /// CPU time of the others inside jobs.
    helped_ns: AtomicU64,
    /// And between them.
    waited_ns: AtomicU64,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    asleep: usize,
    panic: Option<Box<dyn Any + Send>>,
    closed: bool,
}

/// Work that other threads may join. It borrows from the caller's frame: see [`Crew::share`].
struct Job {
    work: &'static Work<'static>,
    /// How many may still join.
    seats: usize,
}

/// What a thread does in its seat; the caller's is 0.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

impl Crew {
    fn new(spin: Duration) -> Self {
        Self {
            spin,
            state: Mutex::default(),
            posted: AtomicU64::new(0),
            inside: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            work: Condvar::new(),
            left: Condvar::new(),
            helped_ns: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on this thread and on up to `seats` of the `others`, until all who joined have returned from it.
    fn share(&self, seats: usize, others: usize, work: &Work<'_>) {
        // SAFETY: only the lifetime changes. Other threads use the reference between joining and leaving the job.
        // They join under the lock while the job is posted; `Posted` takes the job away and waits for all who
        // joined before this function returns or unwinds, so no use outlives the borrow.
        let work_of_job = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        let mut state = self.lock();
        if state.job.is_some() || self.inside.load(Relaxed) > 0 {
            // Some other call has the threads.
            drop(state);
            return work(0);
        }
        state.job = Some(Job { work: work_of_job, seats });
        // A caller that panicked itself left the panic of another thread behind.
        state.panic = None;
        self.posted.fetch_add(1, Release);
        let awake = others - state.asleep;
        drop(state);
        let posted = Posted(self);
        (awake..seats).for_each(|_| self.work.notify_one());
        work(0);
        drop(posted);
        if let Some(panic) = self.lock().panic.take() {
            resume_unwind(panic);
        }
    }

    /// Another thread's life: joins jobs until the pool closes.
    fn help(&self) {
        let (mut seen, mut ended) = (0, thread_time());
        let count = |ns: &AtomicU64, since: Duration| {
            let now = thread_time();
            ns.fetch_add(now.saturating_sub(since).as_nanos() as u64, Relaxed);
            now
        };
        while let Some(job) = self.next(&mut seen) {
            let Some((work, seat)) = job else { continue };
            let began = count(&self.waited_ns, ended);
            let panic = catch_unwind(AssertUnwindSafe(|| work(seat))).err();
            ended = count(&self.helped_ns, began);
            if panic.is_some() {
                self.lock().panic = panic;
            }
            // Either this sees the caller asleep, or the caller sees that nobody is inside: both look after they wrote.
            if self.inside.fetch_sub(1, SeqCst) == 1 && self.waiting.load(SeqCst) {
                drop(self.lock());
                self.left.notify_all();
            }
        }
    }

    /// Waits for a job after number `seen`, spinning first, and joins it if it has a seat; `None` once the pool
    /// closes.
    fn next(&self, seen: &mut u64) -> Option<Option<(&'static Work<'static>, usize)>> {
        let news = spin_until(self.spin, || self.posted.load(Acquire) != *seen);
        let mut state = self.lock();
        if !news {
            state.asleep += 1;
            let old = |state: &mut State| !state.closed && self.posted.load(Acquire) == *seen;
            let woken = self.work.wait_while(state, old);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
        }
        if state.closed {
            return None;
        }
        *seen = self.posted.load(Acquire);
        let job = state.job.as_mut().filter(|job| job.seats > 0);
        Some(job.map(|job| {
            let seat = job.seats;
            job.seats -= 1;
            self.inside.fetch_add(1, Relaxed);
            (job.work, seat)
        }))
    }
}

/// A job that is posted; dropping it ends the job.
struct Posted<'a>(&'a Crew);

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        let crew = self.0;
        crew.lock().job = None;
        let empty = || crew.inside.load(SeqCst) == 0;
        if !spin_until(crew.spin, empty) {
            crew.waiting.store(true, SeqCst);
            drop(crew.left.wait_while(crew.lock(), |_| !empty()));
            crew.waiting.store(false, SeqCst);
        }
    }
}

/// Looks until `done` or for `limit`, and gives the core away now and then; whether it is done.
fn spin_until(limit: Duration, done: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        match begin.elapsed() {
            waited if waited >= limit => return done(),
            waited if waited >= KEEP => std::thread::yield_now(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_number_of_threads_is_named() {
        assert_eq!(threads_of("3").ok(), Some(3));
        for bad in ["0", "1025", "-1", "two", ""] {
            let text = threads_of(bad).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(text.contains(THREADS) && text.contains("1 to 1024"), "{bad}: {text}");
        }
    }

    #[test]
    fn every_item_runs_once() {
        let pool = Pool::new(3).unwrap();
        for (items, ns) in [(0, 1), (1, 1 << 30), (5, 1), (1000, 1 << 20)] {
            let seen: Vec<AtomicU64> = (0..items).map(|_| AtomicU64::new(0)).collect();
            pool.run(items, ns, |i| {
                seen[i as usize].fetch_add(1, Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Relaxed) == 1));
        }
    }

    /// Jobs that follow at once and after the threads sleep, on more threads than there are cores and on fewer:
    /// what a thread wrote inside a job is seen after it, and nobody touches a job that is over.
    #[test]
    fn jobs_end_with_their_last_item() {
        for threads in [2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..2000u64 {
                if round % 100 == 99 {
                    std::thread::sleep(2 * SPIN);
                }
                let items = 2 + round % 7;
                let sum = AtomicU64::new(0);
                let list: Vec<u64> = (0..items).map(|i| i + round).collect();
                pool.run(items, INLINE_NS, |i| {
                    sum.fetch_add(list[i as usize], Relaxed);
                });
                assert_eq!(sum.load(Relaxed), list.iter().sum::<u64>());
            }
        }
    }

    /// Two items that wait for each other end only if a second thread wakes and joins.
    #[test]
    fn sleeping_threads_are_woken() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..20 {
            std::thread::sleep(2 * SPIN);
            let both = std::sync::Barrier::new(2);
            pool.run(2, INLINE_NS, |_| {
                both.wait();
            });
        }
    }

    #[test]
    fn a_panic_in_an_item_is_the_callers_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        let both = std::sync::Barrier::new(2);
        let caller = std::thread::current().id();
        let failed = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, INLINE_NS, |_| {
                both.wait();
                assert_eq!(std::thread::current().id(), caller, "another thread fails");
            });
        }));
        assert!(failed.is_err());
        let done = AtomicU64::new(0);
        pool.run(4, INLINE_NS, |_| {
            done.fetch_add(1, Relaxed);
        });
        assert_eq!(done.load(Relaxed), 4);
    }
}
