//! That a device was judged before and its kernels came out right, on disk beside their machine code and by the same rules:
//! what is doubtful counts for nothing, and only a pass is ever written. `device` asks and tells, for a device of its own
//! process; an executor's is judged each time.

use super::Cuda;
use super::cache::{Cache, Key};
use crate::backend::{Backend, digest};

/// What a file says.
const PASSED: &[u8] = b"every kernel came out right";

/// Where it is remembered that a device's kernels came out right.
pub struct Verdict {
    cache: Cache,
    key: Key,
}

impl Verdict {
    /// Of this very device with its driver and kernels, by a judge of that digest and this version of ours; `None` where the
    /// device or the driver cannot be told from others, or nothing is kept.
    pub fn of(cuda: &Cuda, judge: &[u8; 32]) -> Option<Self> {
        let (device, kernels) = (cuda.context.identity()?, cuda.digest());
        let name = cuda.caps.name.as_bytes();
        let version = env!("CARGO_PKG_VERSION").as_bytes();
        let key = digest(&[version, judge, &kernels, name, device.as_bytes()]);
        Some(Self { cache: Cache::open("judged").ok()?, key })
    }

    /// Whether the device passed before.
    pub fn is_passed(&self) -> bool {
        self.cache.load(&self.key).is_some_and(|said| said == PASSED)
    }

    /// Remembers that it passed just now. What cannot be written costs the next process its time, nothing else.
    pub fn pass(&self) {
        let _ = self.cache.store(&self.key, PASSED);
    }
}
