//! The backend's threads: one loop over work items that all of them, the caller included, take from a counter.
//! Which thread takes an item never changes its bits.

use crate::error::{Error, Kind, Result};
use rayon::ThreadPool;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Below this much predicted work a wake-up costs more than a second thread saves, in nanoseconds.
const INLINE_NS: u64 = 150_000;

/// Threads for work items.
pub(super) struct Pool {
    threads: usize,
    /// The threads beside the caller's.
    others: Option<ThreadPool>,
}

/// The variable that overrides the number of threads.
const THREADS: &str = "LEASEHOLD_THREADS";

impl Pool {
    /// As many threads as this process may run at once, or as `LEASEHOLD_THREADS` says.
    ///
    /// # Errors
    /// `Environment` for a value that is not 1 to 1024, `System` when threads cannot be started.
    pub(super) fn new() -> Result<Self> {
        let threads = match std::env::var(THREADS) {
            Ok(text) => match text.parse() {
                Ok(n @ 1..=1024) => n,
                _ => {
                    let allowed = "1 to 1024";
                    return Err(Kind::Environment { name: THREADS, asked: text, allowed }.into());
                }
            },
            Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let build = |n| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(n);
            let builder = builder.thread_name(|i| format!("leasehold-cpu-{i}"));
            builder.build().map_err(|e| Error::system("spawn", std::io::Error::other(e)))
        };
        let others = if threads > 1 { Some(build(threads - 1)?) } else { None };
        Ok(Self { threads, others })
    }

    /// Number of threads, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `item` with every number below `items`, each once, on all threads. `item_ns` is its prediction.
    pub(super) fn run(&self, items: u64, item_ns: u64, item: impl Fn(u64) + Sync) {
        let next = AtomicU64::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Relaxed);
                if i >= items {
                    return;
                }
                item(i);
            }
        };
        match &self.others {
            Some(others) if items > 1 && items.saturating_mul(item_ns) > INLINE_NS => {
                let helpers = (self.threads - 1).min(items as usize - 1);
                others.in_place_scope(|scope| {
                    (0..helpers).for_each(|_| scope.spawn(|_| work()));
                    work();
                });
            }
            _ => work(),
        }
    }
}
