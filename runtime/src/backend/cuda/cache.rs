//! Machine code that was compiled before, and that a device was judged, on disk. Code runs on the device with all that it
//! may do, so nothing doubtful is taken: the folder is its owner's alone, each file carries the hash of what it holds under
//! which key, and what does not fit is made again. Files appear whole or not at all. `kernels` and `verdict` call it.

use super::compiler::NEWER_FLAGS;
use super::folder::Folder;
use crate::backend::digest;
use leasehold_kernels::{FLAGS, Row, SOURCES};
use rustix::fs::Mode;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Largest file that is read back.
const FILE_MAX: u64 = 64 << 20;
/// Files that are kept of a kind: several versions of all kernels for several architectures.
const FILES_MAX: usize = 2048;

/// Names what is kept by all that it is of: the machine code of a row by sources, flags, compiler and architecture.
pub(super) type Key = [u8; 32];

/// The key of a row's machine code. The compiler's version tells which of the flags it was given.
pub(super) fn key(row: &Row, arch: &str, compiler: &str) -> Key {
    let source = row.source();
    let mut parts: Vec<&[u8]> = vec![source.as_bytes(), arch.as_bytes(), compiler.as_bytes()];
    let newer = NEWER_FLAGS.iter().map(|(flag, _)| flag);
    parts.extend(FLAGS.iter().chain(newer).map(|flag| flag.as_bytes()));
    parts.extend(SOURCES.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
    digest(&parts)
}

/// A folder of files of one kind.
#[derive(Debug)]
pub(super) struct Cache {
    folder: Folder,
}

impl Cache {
    /// The folder of this name in the user's cache folder.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn open(name: &str) -> Result<Self, String> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let base = set("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
        let base = base.ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
        Self::at(&base.join("leasehold").join(name))
    }

    /// A folder, made where it is not there.
    ///
    /// # Errors
    /// Why it is not used: it cannot be made, is another user's, or others may write to it.
    pub(super) fn at(path: &Path) -> Result<Self, String> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        let opened = made.and_then(|()| Folder::open(path));
        let checked = opened.and_then(|folder| folder.check().map(|()| Self { folder }));
        checked.map_err(|error| format!("{}: {error}", path.display()))
    }

    fn name(key: &Key) -> OsString {
        key.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
    }

    /// What was stored under a key; `None` for what is not there, or not as it was written.
    pub(super) fn load(&self, key: &Key) -> Option<Vec<u8>> {
        let file = self.folder.read(&Self::name(key), FILE_MAX).ok()?;
        let (hash, bytes) = file.split_first_chunk::<32>()?;
        (*hash == digest(&[key, bytes])).then(|| bytes.to_vec())
    }

    /// Stores bytes under a key.
    ///
    /// # Errors
    /// What the system said; nothing is there then, or all of it.
    pub(super) fn store(&self, key: &Key, bytes: &[u8]) -> Result<(), String> {
        let parts: [&[u8]; 2] = [&digest(&[key, bytes]), bytes];
        let mode = Mode::RUSR | Mode::WUSR;
        let stored = self.folder.check();
        let stored = stored.and_then(|()| self.folder.store(&Self::name(key), mode, &parts));
        stored.map_err(|error| error.to_string())
    }

    /// Removes what was written first where there is much: of sources, compilers and drivers that are no more, nobody asks
    /// again. What cannot be removed takes room, nothing else.
    pub(super) fn tidy(&self) {
        let _ = self.folder.check().and_then(|()| self.folder.keep(FILES_MAX));
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
