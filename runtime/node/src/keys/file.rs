//! Key files: one PASERK line. A secret is created with mode 0600 and never over another file, and refused
//! when anyone but its owner may read it. The CLI and the node's start read and write them here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{KeyError, PublicKey, SecretKey};

/// A key's text has 96 characters; comments are not allowed.
const KEY_FILE_BYTES: u64 = 256;
/// A link is an error, and opening a pipe does not wait.
const OPEN_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Keys are never overwritten.
    #[error("{}: exists already; a key is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A directory, device, socket or pipe.
    #[error("{}: is no regular file", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// More bytes than a key.
    #[error("{}: has {bytes} bytes, a key file at most {KEY_FILE_BYTES}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A secret that others may read, write or run.
    #[error("{}: has mode {mode:03o}; a secret key's file must have no bit for group and others (0600)", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The text is no key.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
}

/// Writes a new secret key, readable by its owner alone. Nothing is left behind on an error.
pub fn write_secret(path: &Path, key: &SecretKey) -> Result<(), KeyFileError> {
    write(path, 0o600, &key.to_paserk())
}

/// Writes a new public key.
pub fn write_public(path: &Path, key: &PublicKey) -> Result<(), KeyFileError> {
    write(path, 0o644, &key.to_string())
}

/// Reads a secret key that nobody but its owner can read.
pub fn read_secret(path: &Path) -> Result<SecretKey, KeyFileError> {
    let (text, meta) = read(path)?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Readable { path: path.into(), mode });
    }
    text.parse().map_err(|source| KeyFileError::Key { path: path.into(), source })
}

/// Reads a public key.
pub fn read_public(path: &Path) -> Result<PublicKey, KeyFileError> {
    let (text, _) = read(path)?;
    text.parse().map_err(|source| KeyFileError::Key { path: path.into(), source })
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.into(), source };
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyFileError::Exists { path: path.into() });
        }
        opened => opened.map_err(io)?,
    };
    file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(
        |source| {
            // The file is ours and useless; what went wrong first is what the caller wants to hear.
            let _ = std::fs::remove_file(path);
            io(source)
        },
    )
}

fn read(path: &Path) -> Result<(String, std::fs::Metadata), KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.into(), source };
    let file = open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(KeyFileError::NoFile { path: path.into() });
    }
    if meta.len() > KEY_FILE_BYTES {
        return Err(KeyFileError::TooLong { path: path.into(), bytes: meta.len() });
    }
    let mut bytes = Vec::new();
    file.take(KEY_FILE_BYTES).read_to_end(&mut bytes).map_err(io)?;
    // What is not UTF-8 is no key either; the replacement characters fail to parse.
    let text = String::from_utf8_lossy(&bytes);
    Ok((text.strip_suffix('\n').unwrap_or(&text).into(), meta))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OPEN_FLAGS.bits() as i32).open(path)
}
