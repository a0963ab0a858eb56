//! The ledger's file: opening, appending, committing in groups, reading. One process appends at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::chain::{Broken, Chain, Checkpoint, LINE_BYTES_MAX, Line, Verifier};
use super::record::{Entry, Record};
use crate::keys::PublicKey;
use crate::time::Timestamp;

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another control appends to it.
    #[error("{}: another process appends to this ledger", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("{}: {source}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: Broken,
    },
    /// A record that would not fit a line.
    #[error("a record of {bytes} bytes is longer than a line, {LINE_BYTES_MAX}")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// A record that has no JSON form.
    #[error("a record cannot be written: {0}")]
    Json(#[from] serde_json::Error),
    /// An earlier write or fsync failed, so what is on disk is unknown. Open the ledger again.
    #[error("{}: an earlier write failed; what is on disk is unknown", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
    },
}

/// A ledger open for appending, locked against other processes.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    chain: Chain,
    bytes: u64,
    durable: u64,
    failed: bool,
}

/// A ledger just opened.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// Bytes of a torn last line that a crash left and that were cut off.
    pub torn_bytes: u64,
}

impl Ledger {
    /// Opens or creates a ledger, verifies all of it, cuts a torn last line, and hands each record to `each`,
    /// so that control can rebuild its state. Anything else that is wrong is an error and nothing is changed.
    pub fn open(
        path: &Path,
        keys: Vec<PublicKey>,
        each: impl FnMut(Record),
    ) -> Result<Opened, LedgerError> {
        let io = |source| LedgerError::Io { path: path.into(), source };
        let mut options = OpenOptions::new();
        let file =
            options.read(true).append(true).create(true).mode(0o640).open(path).map_err(io)?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => LedgerError::Locked { path: path.into() },
            TryLockError::Error(source) => io(source),
        })?;
        let (chain, bytes, torn_bytes) = scan(path, &file, keys, Vec::new(), each)?;
        if torn_bytes > 0 {
            file.set_len(bytes).map_err(io)?;
        }
        file.sync_all().map_err(io)?;
        // The name itself must survive a crash, too.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(io)?;
        let ledger =
            Self { path: path.into(), file, chain, bytes, durable: chain.size, failed: false };
        Ok(Opened { ledger, torn_bytes })
    }

    /// Writes a record. When this returns, the record survives the end of this process; it survives a loss of
    /// power once [`commit`](Self::commit) returned a number above its sequence number.
    pub fn append(&mut self, at: Timestamp, entry: Entry) -> Result<Line, LedgerError> {
        self.usable()?;
        let line = self.chain.line(at, entry)?;
        let bytes = line.to_bytes();
        if bytes.len() > LINE_BYTES_MAX {
            return Err(LedgerError::TooLong { bytes: bytes.len() });
        }
        if let Err(source) = self.file.write_all(&bytes) {
            // A full disk may have taken half a line: take it back, and go on only if that worked.
            self.failed = self.file.set_len(self.bytes).is_err();
            return Err(LedgerError::Io { path: self.path.clone(), source });
        }
        self.bytes += bytes.len() as u64;
        self.chain = line.chain();
        Ok(line)
    }

    /// Puts every record so far on disk by one fsync. Records below the returned number are durable.
    pub fn commit(&mut self) -> Result<u64, LedgerError> {
        let Some(group) = self.begin_commit()? else { return Ok(self.durable) };
        let synced = group.sync();
        self.end_commit(&group, synced)
    }

    /// The records that wait for an fsync, so that it can run while others append; none when all are on disk.
    pub fn begin_commit(&self) -> Result<Option<Group>, LedgerError> {
        self.usable()?;
        if self.durable >= self.chain.size {
            return Ok(None);
        }
        let io = |source| LedgerError::Io { path: self.path.clone(), source };
        Ok(Some(Group { file: self.file.try_clone().map_err(io)?, size: self.chain.size }))
    }

    /// Takes note of a group's fsync. Records below the returned number are durable.
    pub fn end_commit(
        &mut self,
        group: &Group,
        synced: std::io::Result<()>,
    ) -> Result<u64, LedgerError> {
        if let Err(source) = synced {
            // After a failed fsync the kernel may have dropped the pages; trying again proves nothing.
            self.failed = true;
            return Err(LedgerError::Io { path: self.path.clone(), source });
        }
        self.durable = self.durable.max(group.size);
        Ok(self.durable)
    }

    /// Records below this number are durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The end of the chain, for a checkpoint.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    fn usable(&self) -> Result<(), LedgerError> {
        if self.failed { Err(LedgerError::Failed { path: self.path.clone() }) } else { Ok(()) }
    }
}

/// Records on their way to disk together.
#[derive(Debug)]
pub struct Group {
    file: File,
    size: u64,
}

impl Group {
    /// One fsync for all of them.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

/// Reads and verifies a ledger, against the node's keys and checkpoints kept elsewhere, and hands each record to
/// `each`. A torn last line is passed over, since the node may be writing it.
pub fn read(
    path: &Path,
    keys: Vec<PublicKey>,
    kept: Vec<Checkpoint>,
    each: impl FnMut(Record),
) -> Result<Chain, LedgerError> {
    let file = File::open(path).map_err(|source| LedgerError::Io { path: path.into(), source })?;
    scan(path, &file, keys, kept, each).map(|(chain, ..)| chain)
}

/// Verifies all whole lines. Returns the chain, the bytes of whole lines and the bytes of a torn one.
fn scan(
    path: &Path,
    file: &File,
    keys: Vec<PublicKey>,
    kept: Vec<Checkpoint>,
    mut each: impl FnMut(Record),
) -> Result<(Chain, u64, u64), LedgerError> {
    let broken = |source| LedgerError::Broken { path: path.into(), source };
    let mut verifier = Verifier::new(keys, kept).map_err(broken)?;
    let mut reader = BufReader::new(file);
    let (mut line, mut whole, mut torn) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        // One byte more than a line and its newline, so that a longer one is seen to be longer.
        let mut part = reader.by_ref().take(LINE_BYTES_MAX as u64 + 2);
        let read = part.read_until(b'\n', &mut line);
        let bytes = read.map_err(|source| LedgerError::Io { path: path.into(), source })? as u64;
        match line.strip_suffix(b"\n") {
            Some(text) => {
                each(verifier.line(text).map_err(broken)?);
                whole += bytes;
            }
            // Without a newline it is torn, unless it is longer than any line could be.
            None if line.len() > LINE_BYTES_MAX + 1 => {
                verifier.line(&line).map_err(broken)?;
            }
            None => {
                torn += bytes;
                break;
            }
        }
    }
    Ok((verifier.finish().map_err(broken)?, whole, torn))
}
