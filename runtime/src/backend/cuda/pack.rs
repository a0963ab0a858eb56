//! Machine code made ahead: one file with every row of some architectures. An operator builds it for a node image, which
//! then needs no compiler; a served node loads nothing else, so that no tenant's value reaches one.
//!
//! The file: a line that names the format; the compiler's version; for each row its architecture, key and machine code,
//! every part behind its length in 32 bits, little endian; at the end a BLAKE3 of all before.

use super::ARCHS;
use super::cache::{Key, key};
use super::compiler::Compiler;
use super::folder::Folder;
use crate::error::{Error, Kind, Result};
use leasehold_kernels::{Row, rows};
use rustix::fs::Mode;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const MAGIC: &[u8] = b"leasehold kernels 1\n";
const HASH: usize = 32;
/// Largest file that is read.
const FILE_MAX: u64 = 1 << 30;

/// Machine code by architecture and key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pack {
    compiler: String,
    cubins: HashMap<(String, Key), Vec<u8>>,
}

impl Pack {
    /// Compiles every row of some architectures, on all cores.
    ///
    /// # Errors
    /// `Value` for an architecture that no row is for, `Unsupported` when there is no compiler or it refuses a row.
    pub fn build(archs: &[&str]) -> Result<Self> {
        known(archs)?;
        let compiler = Compiler::open().map_err(|why| -> Error {
            Kind::Unsupported { asked: "kernels to be built".into(), allowed: why }.into()
        })?;
        Self::made(compiler.version(), archs, |row, arch| compiler.compile(row, arch))
    }

    /// A pack whose machine code comes from a function; tests of the host side make one without a compiler.
    ///
    /// # Errors
    /// As [`Pack::build`].
    pub fn made(
        compiler: &str,
        archs: &[&str],
        make: impl Fn(&Row, &str) -> Result<Vec<u8>> + Sync,
    ) -> Result<Self> {
        known(archs)?;
        let mut wanted: Vec<(&str, Row)> = Vec::new();
        for arch in archs {
            wanted.extend(of_arch(arch).map(|row| (*arch, row)));
        }
        let cubins = each(&wanted, |(arch, row)| {
            let cubin = make(row, arch)?;
            Ok((((*arch).into(), key(row, arch, compiler)), cubin))
        })?;
        Ok(Self { compiler: compiler.into(), cubins: cubins.into_iter().collect() })
    }

    /// The machine code of a row.
    pub(super) fn cubin(&self, row: &Row, arch: &str) -> Option<&[u8]> {
        let key = key(row, arch, &self.compiler);
        self.cubins.get(&(arch.to_string(), key)).map(Vec::as_slice)
    }

    /// The pack as the bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut put = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        put(self.compiler.as_bytes());
        let mut entries: Vec<_> = self.cubins.iter().collect();
        entries.sort();
        for ((arch, key), cubin) in entries {
            put(arch.as_bytes());
            put(key);
            put(cubin);
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// A pack from the bytes of its file.
    ///
    /// # Errors
    /// `Value` when it is no pack, or not all of one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refuse = |asked: &str| -> Error {
            let allowed = "a file that `leasehold kernels build` made".into();
            Kind::Value { asked: asked.into(), allowed }.into()
        };
        let end = bytes.len().checked_sub(HASH).ok_or_else(|| refuse("a short file"))?;
        let (body, hash) = bytes.split_at(end);
        if blake3::hash(body).as_bytes() != hash {
            return Err(refuse("a file whose hash is wrong"));
        }
        let mut rest = body.strip_prefix(MAGIC).ok_or_else(|| refuse("another format"))?;
        let mut take = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some((part, after.is_empty()))
        };
        let text = |part: &[u8]| String::from_utf8(part.into()).ok();
        let cut = || refuse("a file with an entry cut off");
        let (compiler, mut is_end) = take().ok_or_else(cut)?;
        let mut pack = Self { compiler: text(compiler).ok_or_else(cut)?, cubins: HashMap::new() };
        while !is_end {
            let parts = [take(), take(), take()];
            let [Some((arch, _)), Some((key, _)), Some((cubin, last))] = parts else {
                return Err(cut());
            };
            let (Some(arch), Ok(key)) = (text(arch), Key::try_from(key)) else {
                return Err(refuse("a file with an entry of no row"));
            };
            pack.cubins.insert((arch, key), cubin.into());
            is_end = last;
        }
        Ok(pack)
    }

    /// Reads a pack's file. Its code runs on the device with all that it may do: the file and its folder are such that only
    /// this user and root can write to them, and neither is a link.
    ///
    /// # Errors
    /// `System` when it cannot be read or others may have written it, else as [`Pack::from_bytes`].
    pub fn read(path: &Path) -> Result<Self> {
        let read = beside(path).and_then(|(folder, name)| folder.read(name, FILE_MAX));
        Self::from_bytes(&read.map_err(|error| Error::system("read of the kernels' file", error))?)
    }

    /// Writes the pack's file, whole or not at all: a node may be reading the old one. Says its size.
    ///
    /// # Errors
    /// `System` when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<u64> {
        let (bytes, mode) = (self.to_bytes(), Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH);
        let written = beside(path).and_then(|(folder, name)| folder.store(name, mode, &[&bytes]));
        written.map_err(|error| Error::system("write of the kernels' file", error))?;
        Ok(bytes.len() as u64)
    }
}

/// A file's folder, and its name there.
fn beside(path: &Path) -> io::Result<(Folder, &OsStr)> {
    let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "no name of a file");
    let name = path.file_name().ok_or_else(no_file)?;
    Ok((Folder::open(path.parent().unwrap_or(Path::new("")))?, name))
}

/// Whether rows are for all of these.
fn known(archs: &[&str]) -> Result<()> {
    match archs.iter().find(|arch| !ARCHS.contains(*arch)) {
        None => Ok(()),
        Some(arch) => Err(Kind::Value { asked: (*arch).into(), allowed: ARCHS.join(", ") }.into()),
    }
}

/// Every row of an architecture that a plan may name: what the streaming rows are held to is for tests.
pub(super) fn of_arch(arch: &str) -> impl Iterator<Item = Row> {
    let arch = arch.to_string();
    let is_named = |row: &Row| !matches!(row, Row::StreamingReference(_));
    rows().into_iter().filter(move |row| is_named(row) && row.archs().contains(&&*arch))
}

/// Calls with every item, on all cores; the results in the items' order, or the first failure.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    make: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    let work = || {
        while let Some((i, item)) = items.iter().enumerate().nth(next.fetch_add(1, Relaxed)) {
            let result = make(item);
            let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            results.push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..cores.min(items.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
