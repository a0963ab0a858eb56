//! The programs that do the heavy work: the front finds them beside itself and becomes them.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::{Args, Subcommand};
use leasehold_node::job::{Node, quiet};
use leasehold_node::lease::LeaseId;
use uuid::Uuid;

use crate::CliError;

/// The folder of the other programs, when they are not beside the front.
const LIBEXEC: &str = "LEASEHOLD_LIBEXEC";

/// The path of another program of Leasehold.
pub(crate) fn beside(name: &str) -> Result<PathBuf, CliError> {
    let folder = match std::env::var_os(LIBEXEC) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default(),
    };
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(format!("{}: not found; install it there or name its folder in {LIBEXEC}", path.display())
        .into())
}

/// Becomes another program; returns only when that failed.
fn become_program(name: &str, args: &[String]) -> CliError {
    match beside(name) {
        Ok(path) => {
            let mut command = Command::new(&path);
            quiet(&mut command);
            let error = command.args(args).exec();
            format!("{}: {error}", path.display()).into()
        }
        Err(error) => error,
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Serve a node until TERM or INT.
    Serve(Serve),
    /// Take a lease back: its jobs end now, and no more are admitted.
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The served node's folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The lease's id.
    #[arg(long, value_name = "ID", value_parser = crate::units::id)]
    lease: Uuid,
}

impl Revoke {
    fn run(&self) -> Result<String, CliError> {
        let jobs = Node::revoke(&self.dir.join("admin.sock"), LeaseId(self.lease))?;
        Ok(format!("lease {} is revoked, {jobs} jobs were ended\n", self.lease))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The node's name: an audience of leases.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The key set of the issuers that it believes, as JSON.
    #[arg(long, value_name = "FILE")]
    issuers: String,
    /// The node's secret key file; it signs receipts.
    #[arg(long, value_name = "FILE")]
    key: String,
    /// A folder for its sockets and its ledger; it must exist.
    #[arg(long, value_name = "DIR")]
    dir: String,
    /// The device to own [default: the best].
    #[arg(long, value_name = "NAME", value_parser = crate::units::device)]
    device: Option<String>,
    /// The file of kernels that a CUDA device runs, as `leasehold kernels build` makes it.
    #[arg(long, value_name = "FILE")]
    kernels: Option<String>,
    /// A pool that it belongs to.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
}

impl NodeCommand {
    pub(crate) fn run(self) -> Result<String, CliError> {
        let serve = match self {
            Self::Serve(serve) => serve,
            Self::Revoke(revoke) => return revoke.run(),
        };
        let mut args = vec!["serve".to_string()];
        let needed = [
            ("--name", Some(serve.name)),
            ("--issuers", Some(serve.issuers)),
            ("--key", Some(serve.key)),
            ("--dir", Some(serve.dir)),
            ("--device", serve.device),
            ("--kernels", serve.kernels),
            ("--pool", serve.pool),
        ];
        for (name, value) in needed {
            if let Some(value) = value {
                args.extend([name.to_string(), value]);
            }
        }
        Err(become_program("leasehold-node", &args))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Devices {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub(crate) fn run(self) -> Result<String, CliError> {
        let mut args = vec!["devices".to_string()];
        args.extend(self.json.then(|| "--json".to_string()));
        Err(become_program("leasehold-node", &args))
    }
}

/// A command of the program `leasehold-bench`, with its arguments as they are.
#[derive(Debug, Args)]
pub(crate) struct Passed {
    /// See `--help` of the command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

impl Passed {
    pub(crate) fn run(self, command: &str) -> Result<String, CliError> {
        let args = [vec![command.to_string()], self.args].concat();
        Err(become_program("leasehold-bench", &args))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What to measure, and how: see `leasehold bench help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

impl Bench {
    pub(crate) fn run(self) -> Result<String, CliError> {
        Err(become_program("leasehold-bench", &self.args))
    }
}
