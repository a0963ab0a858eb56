//! That a device was judged before and its kernels came out right, on disk beside their machine code and by the same rules:
//! what is doubtful counts for nothing, and only a pass is ever written. `device` asks and tells, for a device of its own
//! process; an executor's is judged each time.

use super::Cuda;
use super::cache::{Cache, Key};
use crate::backend::{Backend, digest};

/// What a file says.
const PASSED: &[u8] = b"every kernel came out right";

macro_rules! launching {
    ($($path:literal),* $(,)?) => {
        /// The sources that speak to the driver, by their names: what they launch comes out right by their doing too.
        const LAUNCHING: &[(&str, &str)] = &[$(($path, include_str!($path))),*];
    };
}

launching!(
    "api.rs",
    "driver.rs",
    "graph.rs",
    "kernels.rs",
    "memory.rs",
    "mod.rs",
    "ranges.rs",
    "stream.rs",
);

/// All that a verdict is of.
#[derive(Clone)]
struct Subject<'a> {
    version: &'a str,
    /// Of the judge, and of the kernels with what decides what they are told.
    digests: [[u8; 32]; 2],
    launching: &'a [(&'a str, &'a str)],
    name: &'a str,
    multiprocessors: u32,
    /// The card, its driver, and where that lies.
    device: [String; 3],
}

impl Subject<'_> {
    fn key(&self) -> Key {
        let multiprocessors = self.multiprocessors.to_le_bytes();
        let mut parts: Vec<&[u8]> = vec![self.version.as_bytes(), self.name.as_bytes()];
        parts.push(&multiprocessors);
        parts.extend(self.digests.iter().map(<[u8; 32]>::as_slice));
        parts.extend(self.device.iter().map(String::as_bytes));
        let sources = self.launching.iter();
        parts.extend(sources.flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
        digest(&parts)
    }
}

/// Where it is remembered that a device's kernels came out right.
pub struct Verdict {
    cache: Cache,
    key: Key,
}

impl Verdict {
    /// Of this very device with its driver and kernels, by a judge of that digest and this version of ours; `None` where the
    /// device or the driver cannot be told from others, or nothing is kept.
    pub fn of(cuda: &Cuda, judge: &[u8; 32]) -> Option<Self> {
        let subject = Subject {
            version: env!("CARGO_PKG_VERSION"),
            digests: [*judge, cuda.digest()],
            launching: LAUNCHING,
            name: &cuda.caps.name,
            multiprocessors: cuda.multiprocessors,
            device: cuda.context.identity()?,
        };
        Some(Self { cache: Cache::open("judged").ok()?, key: subject.key() })
    }

    /// Whether the device passed before.
    pub fn is_passed(&self) -> bool {
        self.cache.load(&self.key).is_some_and(|said| said == PASSED)
    }

    /// Remembers that it passed just now. What cannot be written costs the next process its time, nothing else.
    pub fn pass(&self) {
        let _ = self.cache.store(&self.key, PASSED);
        self.cache.tidy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn whatever_a_verdict_is_of_changes_its_key() {
        let device = ["card", "driver", "/lib/libcuda.so.1"].map(String::from);
        let whole = Subject {
            version: "1",
            digests: [[1; 32], [2; 32]],
            launching: LAUNCHING,
            name: "device",
            multiprocessors: 132,
            device: device.clone(),
        };
        let mut others = vec![
            whole.clone(),
            Subject { version: "2", ..whole.clone() },
            Subject { digests: [[3; 32], [2; 32]], ..whole.clone() },
            Subject { digests: [[1; 32], [3; 32]], ..whole.clone() },
            Subject { name: "another", ..whole.clone() },
            Subject { multiprocessors: 114, ..whole.clone() },
        ];
        for i in 0..3 {
            let mut device = device.clone();
            device[i].push('x');
            others.push(Subject { device, ..whole.clone() });
        }
        let changed: Vec<_> = (0..LAUNCHING.len())
            .map(|i| {
                let mut sources = LAUNCHING.to_vec();
                sources[i].1 = "changed";
                sources
            })
            .collect();
        others.extend(changed.iter().map(|launching| Subject { launching, ..whole.clone() }));
        let keys: HashSet<Key> = others.iter().map(Subject::key).collect();
        assert_eq!(keys.len(), 9 + LAUNCHING.len());
    }

    /// Every file of the backend is of a verdict, but those that only find, store or check code and what is beside it.
    #[test]
    fn sources_that_launch_are_of_a_verdict() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/cuda");
        let beside =
            ["cache.rs", "compiler.rs", "cublaslt.rs", "folder.rs", "pack.rs", "verdict.rs"];
        let files = std::fs::read_dir(root).into_iter().flatten().flatten();
        let files = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let is_other = |name: &String| name.ends_with("tests.rs") || !name.ends_with(".rs");
        let mut found: Vec<String> =
            files.filter(|name| !is_other(name) && !beside.contains(&&**name)).collect();
        found.sort();
        assert_eq!(found, LAUNCHING.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
