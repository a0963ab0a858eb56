//! What ends a process of `check` from which no more can be had: a device whose kernel never ends keeps every thread that
//! waits for it. `mod` begins and ends a row's time; the rows before it are in the file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the device is lost or a row hangs: another process can go on after that row.
const STATUS: i32 = 3;
/// How often is looked, and how long an orderly end may take.
const EVERY: Duration = Duration::from_millis(200);
const END: Duration = Duration::from_secs(5);

/// The end of the row that runs, watched by a thread.
pub(super) struct Stall(Arc<Mutex<Option<Instant>>>);

impl Stall {
    /// Watches from now on, as long as it lives.
    pub(super) fn watched() -> Self {
        let end = Arc::new(Mutex::new(None::<Instant>));
        let weak = Arc::downgrade(&end);
        std::thread::spawn(move || {
            while let Some(end) = weak.upgrade() {
                let is_over = |end: &Instant| Instant::now() > *end;
                if end
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_some_and(|end| is_over(&end))
                {
                    eprintln!("check: the row hangs");
                    leave();
                }
                drop(end);
                std::thread::sleep(EVERY);
            }
        });
        Self(end)
    }

    fn set(&self, end: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// A row begins that may take so long.
    pub(super) fn begin(&self, limit: Duration) {
        self.set(Some(Instant::now() + limit));
    }

    /// It has ended.
    pub(super) fn end(&self) {
        self.set(None);
    }
}

/// Ends the process. Nothing of the device is freed: that would wait for what hangs, as its driver's own end can.
pub(super) fn leave() -> ! {
    std::thread::spawn(|| {
        std::thread::sleep(END);
        std::process::abort();
    });
    std::process::exit(STATUS)
}
