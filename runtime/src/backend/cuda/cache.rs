//! Machine code that was compiled before, on disk. Code runs on the device with all that it may do, so nothing doubtful is
//! taken: the folder is its owner's alone, each file carries the hash of what it holds under which key, and what does
//! not fit is compiled again. Files appear whole or not at all. `kernels` calls it.

use super::compiler::FLAGS;
use crate::backend::digest;
use leasehold_kernels::{Row, SOURCES};
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Largest file that is read back.
const FILE_MAX: u64 = 64 << 20;

/// Names the machine code of a row: sources, flags, compiler and architecture.
pub(super) type Key = [u8; 32];

/// The key of a row's machine code.
pub(super) fn key(row: &Row, arch: &str, compiler: &str) -> Key {
    let source = row.source();
    let mut parts: Vec<&[u8]> = vec![source.as_bytes(), arch.as_bytes(), compiler.as_bytes()];
    parts.extend(FLAGS.iter().map(|flag| flag.as_bytes()));
    parts.extend(SOURCES.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
    digest(&parts)
}

/// A folder of machine code.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's cache folder.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn open() -> Result<Self, String> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let base = set("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
        let base = base.ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
        Self::at(&base.join("leasehold/kernels"))
    }

    /// A folder, made where it is not there.
    ///
    /// # Errors
    /// Why it is not used: it cannot be made, is another user's, or others may write to it.
    pub(super) fn at(folder: &Path) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", folder.display());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| named(error.to_string()))?;
        let cache = Self { folder: folder.into() };
        cache.check().map_err(named).map(|()| cache)
    }

    fn check(&self) -> Result<(), String> {
        // Not through a link, which somebody else may turn.
        let folder = fs::symlink_metadata(&self.folder).map_err(|error| error.to_string())?;
        let (mode, owner) = (folder.mode() & 0o7777, folder.uid());
        let own = rustix::process::geteuid().as_raw();
        match folder.is_dir() {
            false => Err("no folder".into()),
            _ if mode & 0o022 != 0 => Err(format!("mode {mode:o}, others may write")),
            _ if owner != own => Err(format!("of user {owner}, this one is {own}")),
            true => Ok(()),
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name + ".cubin")
    }

    /// What was stored under a key; `None` for what is not there, or not as it was written.
    pub(super) fn load(&self, key: &Key) -> Option<Vec<u8>> {
        self.check().ok()?;
        let path = self.path(key);
        if !fs::symlink_metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut file = File::open(path).ok()?.take(FILE_MAX);
        let (mut hash, mut cubin) = ([0; 32], Vec::new());
        file.read_exact(&mut hash).ok()?;
        file.read_to_end(&mut cubin).ok()?;
        (hash == digest(&[key, &cubin])).then_some(cubin)
    }

    /// Stores machine code under a key.
    ///
    /// # Errors
    /// What the system said; nothing is there then, or all of it.
    pub(super) fn store(&self, key: &Key, cubin: &[u8]) -> Result<(), String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        self.check()?;
        let number = NUMBER.fetch_add(1, Relaxed);
        let part = self.folder.join(format!("{}-{number}.part", std::process::id()));
        let write = || {
            let mut file = File::create_new(&part)?;
            file.write_all(&digest(&[key, cubin]))?;
            file.write_all(cubin)?;
            file.sync_all()?;
            fs::rename(&part, self.path(key))
        };
        write().map_err(|error| {
            // Left by this attempt, or by a process of the same number that died.
            let _ = fs::remove_file(&part);
            format!("{}: {error}", part.display())
        })
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
