//! Serving a node: in a folder for whoever may reach its sockets, or for one client alone. The programs call it.

use super::node::Node;
use super::sockets::{accept, listen};
use crate::keys::{PublicKey, SecretKey};
use crate::lease::{KeySet, Name};
use crate::ledger::LedgerError;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a node is told when it starts.
#[derive(Debug)]
pub struct Config {
    /// Its name: an audience of leases.
    pub node: Name,
    /// Pools that it belongs to.
    pub pools: Vec<Name>,
    /// Whom it believes.
    pub issuers: KeySet,
    /// Signs receipts.
    pub key: SecretKey,
    /// Keys that signed before.
    pub old_keys: Vec<PublicKey>,
    /// The device that its executor owns.
    pub device: String,
    /// The file of kernels that a CUDA device runs; without it its executor compiles them.
    pub kernels: Option<PathBuf>,
    /// The program that is an executor.
    pub program: PathBuf,
    /// The ledger's file.
    pub ledger: PathBuf,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The executor, or a call of the system.
    #[error(transparent)]
    Device(#[from] leasehold::Error),
    /// A socket.
    #[error("{}: {source}", path.display())]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another node has the folder.
    #[error("{}: another node serves there", path.display())]
    Served {
        /// Its socket.
        path: PathBuf,
    },
}

/// Serves a node in `folder`, which is its own: `jobs.sock` for its group, `admin.sock` for its user alone, and
/// `executor.sock`, by which a node that was killed and starts again finds the executor that went on.
/// Returns when `stop` does.
///
/// # Errors
/// What it needs to start is missing, in use or broken.
pub fn serve(config: Config, folder: &Path, stop: impl FnOnce()) -> Result<(), StartError> {
    let (jobs, admin) = (folder.join("jobs.sock"), folder.join("admin.sock"));
    let entrance = folder.join("executor.sock");
    let admin_socket = listen(&admin, 0o600)?;
    // Sockets without a node would only make clients wait for nobody.
    let sweep = Sweep(vec![admin, jobs.clone(), entrance.clone()]);
    let jobs_socket = listen(&jobs, 0o660)?;
    let node = Node::start(config, Some(entrance))?;
    let (for_jobs, for_admin) = (Arc::clone(&node), Arc::clone(&node));
    super::spawn("jobs", move || accept(&jobs_socket, |client| for_jobs.welcome(client)))?;
    super::spawn("admin", move || accept(&admin_socket, |client| for_admin.obey(client)))?;
    stop();
    node.shut_down();
    drop(sweep);
    Ok(())
}

/// Removes files when it goes.
struct Sweep(Vec<PathBuf>);

impl Drop for Sweep {
    fn drop(&mut self) {
        // One that is not there is as good.
        self.0.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

/// Serves one client on an inherited socket and nobody else, until it has gone. `folder` holds the ledger and is
/// given up as soon as the ledger is open, so that even a killed node leaves nothing behind.
///
/// # Errors
/// As [`serve`].
pub fn private<F>(config: Config, folder: F, client: &OwnedFd) -> Result<(), StartError> {
    let node = Node::start(config, None)?;
    drop(folder);
    node.attend(client)?;
    // The receipt is sent by the thread that hears the executor.
    while node.has_jobs() {
        std::thread::sleep(Duration::from_millis(1));
    }
    node.shut_down();
    Ok(())
}
