//! Reading small files that a user names, and writing new ones.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::CliError;

/// The text of a regular file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<String, CliError> {
    let named = |e| format!("{}: {e}", path.display());
    let file = File::open(path).map_err(named)?;
    if !file.metadata().map_err(named)?.is_file() {
        return Err(format!("{}: is no regular file", path.display()).into());
    }
    let mut bytes = Vec::new();
    // One byte more, by which a longer file is seen to be longer.
    file.take(most + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() as u64 > most {
        return Err(format!(
            "{}: has over {most} bytes, which is the most allowed",
            path.display()
        )
        .into());
    }
    Ok(String::from_utf8(bytes).map_err(|_| format!("{}: is no UTF-8 text", path.display()))?)
}

/// Writes a new file for its owner alone; nothing is left behind on an error.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let named = |e| format!("{}: {e}", path.display());
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(named)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| {
        // Ours and useless; the first error is the one to report.
        let _ = fs::remove_file(path);
        named(e)
    })?;
    Ok(())
}
