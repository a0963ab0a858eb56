//! `leasehold keys`.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use leasehold_node::keys::{SecretKey, write_public, write_secret};

use crate::{CliError, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key pair, for an issuer, a holder or a node: FILE (mode 0600) and FILE.pub.
    New(New),
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// Where the secret key goes; it must not exist.
    file: PathBuf,
}

impl Keys {
    pub(crate) fn run(self) -> Result<String, CliError> {
        let Self::New(New { file }) = self;
        let mut public_file = file.clone().into_os_string();
        public_file.push(".pub");
        let public_file = PathBuf::from(public_file);
        let key = SecretKey::generate();
        write_secret(&file, &key)?;
        if let Err(error) = write_public(&public_file, &key.public()) {
            // Half a pair is worse than none; the first error is the one to report.
            let _ = fs::remove_file(&file);
            return Err(error.into());
        }
        Ok(table(&[
            ("key id", key.public().id().to_string()),
            ("public key", key.public().to_string()),
            ("secret", file.display().to_string()),
            ("public", public_file.display().to_string()),
        ]))
    }
}
