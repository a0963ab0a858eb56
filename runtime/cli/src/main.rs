//! The program `leasehold`, a small front. It parses arguments, prints, and leaves every decision to the node's
//! rooms. Exit codes: 0 done, 1 refused or failed (one line on stderr says why), 2 malformed arguments; `run` has the job's own.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bill;
mod files;
mod keys;
mod lease;
mod programs;
mod run;
mod units;

#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Lease compute on a GPU node without handing out the GPU.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Issue, show and verify leases.
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Say what a lease or a job used, from a verified ledger.
    Bill(bill::BillArgs),
    /// Run a program as a leased job, in a jail.
    Run(Box<run::Run>),
    /// Serve a node.
    #[command(subcommand)]
    Node(programs::NodeCommand),
    /// List this machine's devices and the reason for the choice.
    Devices(programs::Devices),
    /// Measure matmul and attention on a device.
    #[command(disable_help_flag = true)]
    Bench(programs::Bench),
    /// Make the file of CUDA kernels that a served node runs: `kernels build --arch sm_90a --out FILE`.
    #[command(disable_help_flag = true)]
    Kernels(programs::Passed),
    /// Print how an op would run on a CUDA architecture: `plan "matmul bf16 4096x4096x4096" --arch sm_90a`.
    #[command(disable_help_flag = true)]
    Plan(programs::Passed),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = match command {
        Command::Keys(command) => command.run(),
        Command::Lease(command) => command.run(),
        Command::Bill(args) => args.run(),
        Command::Run(run) => return ExitCode::from(run.run()),
        Command::Node(command) => command.run(),
        Command::Devices(devices) => devices.run(),
        Command::Bench(bench) => bench.run(),
        Command::Kernels(passed) => passed.run("kernels"),
        Command::Plan(passed) => passed.run("plan"),
    };
    match result.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "leasehold: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command failed: the error of the room that refused, or of the system.
type CliError = Box<dyn std::error::Error>;

fn print(text: &str) -> Result<(), CliError> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        // Whoever reads has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(format!("standard output: {e}").into()),
        Ok(()) => Ok(()),
    }
}

/// Two columns, aligned.
fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}
