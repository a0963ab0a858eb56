//! Files of machine code, by descriptors: a folder is opened once, and what is asked of it and its files is asked of what
//! was opened, so that nobody can put another in its place between the question and the use. Links are not followed.
//! `cache` and `pack` read and write here.

use rustix::fs::{
    AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, fstat, fsync, openat, renameat, statat,
    unlinkat,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Names that are tried for a file until it is whole: a process that died may have left some.
const TRIES: usize = 100;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder; the empty path is the current one.
    ///
    /// # Errors
    /// What the system said: there is none, or it is a link or no folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// That nobody but this user and root can have put anything here.
    ///
    /// # Errors
    /// `PermissionDenied` with the mode or the owner.
    pub(super) fn check(&self) -> io::Result<()> {
        check(&self.0)
    }

    /// A whole file that nobody but this user and root can have written.
    ///
    /// # Errors
    /// What the system said, `PermissionDenied` with the mode or owner of folder or file, `InvalidData` for what is no
    /// file or has more than `most` bytes.
    pub(super) fn read(&self, name: &OsStr, most: u64) -> io::Result<Vec<u8>> {
        self.check()?;
        // Opening a pipe must not wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = openat(&self.0, name, flags | OFlags::CLOEXEC, Mode::empty())?;
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(wrong("no regular file".into()));
        }
        check(&file)?;
        let mut bytes = Vec::new();
        File::from(file).take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(wrong(format!("more than {most} bytes")));
        }
        Ok(bytes)
    }

    /// Writes a file of these parts, whole or not at all: whoever reads the old one goes on with it, and once this
    /// returns the new one outlives a crash of the machine.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn store(&self, name: &OsStr, mode: Mode, parts: &[&[u8]]) -> io::Result<()> {
        let (part, mut file) = self.part(mode)?;
        let mut write = || {
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()?;
            renameat(&self.0, &*part, &self.0, name)?;
            Ok(fsync(&self.0)?)
        };
        write().inspect_err(|_| {
            // It may have been renamed already.
            let _ = unlinkat(&self.0, &*part, AtFlags::empty());
        })
    }

    /// Removes files, those first that were written first, until `most` are left. What a process leaves that dies as it writes
    /// is as old as the rest some day; what is under way is new. What cannot be removed, or another process has, holds up none.
    ///
    /// # Errors
    /// What the system said of the folder.
    pub(super) fn keep(&self, most: usize) -> io::Result<()> {
        let written = |entry: DirEntry| {
            let stat = statat(&self.0, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let time = (stat.st_mtime, stat.st_mtime_nsec);
            is_file.then(|| (time, entry.file_name().to_owned()))
        };
        let entries = Dir::read_from(&self.0)?.filter_map(Result::ok);
        let mut files: Vec<_> = entries.filter_map(written).collect();
        files.sort_unstable();
        let over = files.len().saturating_sub(most);
        for (_, name) in &files[..over] {
            let _ = unlinkat(&self.0, &**name, AtFlags::empty());
        }
        Ok(())
    }

    /// A new file under a name that nobody has.
    fn part(&self, mode: Mode) -> io::Result<(String, File)> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut last = rustix::io::Errno::EXIST;
        for _ in 0..TRIES {
            let number = NUMBER.fetch_add(1, Relaxed);
            let name = format!(".{}-{number}.part", std::process::id());
            match openat(&self.0, &*name, flags, mode) {
                Ok(file) => return Ok((name, file.into())),
                Err(errno) => last = errno,
            }
            if last != rustix::io::Errno::EXIST {
                break;
            }
        }
        Err(last.into())
    }
}

fn check(opened: impl AsFd) -> io::Result<()> {
    let stat = fstat(opened)?;
    let (mode, own) = (Mode::from_raw_mode(stat.st_mode), rustix::process::geteuid().as_raw());
    let why = match stat.st_uid {
        _ if mode.intersects(Mode::WGRP | Mode::WOTH) => {
            format!("mode {:o}, others may write", mode.bits())
        }
        owner if owner != own && owner != 0 => format!("of user {owner}, this one is {own}"),
        _ => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}
