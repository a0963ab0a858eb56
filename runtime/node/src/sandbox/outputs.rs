//! Takes what a job left in /out to where its owner wants it. The launcher hands over one open
//! descriptor per regular file, after every process of the job is gone.

use super::record::OutputRecord;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Copies one output into a new file beside `path` and renames it there, so that `path` is always
/// either what it was or whole.
pub(super) fn take(name: &str, path: &Path, fd: OwnedFd, limit: u64) -> OutputRecord {
    let taken = copy(path, &File::from(fd), limit);
    OutputRecord {
        name: name.to_owned(),
        path: taken.is_ok().then(|| path.to_owned()),
        result: taken.map_err(|e| e.to_string()),
    }
}

/// The record of an output that could not be taken.
pub(super) fn missing(name: &str, errno: i32) -> OutputRecord {
    let why = match errno {
        0 => "the job did not get that far".to_owned(),
        errno => format!(
            "/out/{name} is no regular file that can be taken: {}",
            io::Error::from_raw_os_error(errno)
        ),
    };
    OutputRecord { name: name.to_owned(), path: None, result: Err(why) }
}

fn copy(path: &Path, from: &File, limit: u64) -> io::Result<u64> {
    let meta = from.metadata()?;
    if !meta.is_file() || meta.len() > limit {
        return Err(io::Error::other(format!("{} bytes, at most {limit} are allowed", meta.len())));
    }
    let temporary = beside(path);
    let result = (|| {
        let mut to =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let copied = io::copy(&mut from.take(limit), &mut to)?;
        fs::rename(&temporary, path)?;
        Ok(copied)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}
