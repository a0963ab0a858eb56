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
const THREADS_MAX: usize = 1024;

/// As many threads as this process may run at once, or as `LEASEHOLD_THREADS` says.
///
/// # Errors
/// `Environment` for a value that is not 1 to 1024.
pub(super) fn threads_of_environment() -> Result<usize> {
    let Ok(text) = std::env::var(THREADS) else {
        return Ok(std::thread::available_parallelism().map_or(1, usize::from));
    };
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

impl Pool {
    /// A pool of `threads` threads, the caller's included, held to 1 to 1024.
    ///
    /// # Errors
    /// `System` when threads cannot be started.
    pub(super) fn new(threads: usize) -> Result<Self> {
        let threads = threads.clamp(1, THREADS_MAX);
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
}
