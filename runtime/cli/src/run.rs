//! `leasehold run`: one leased job, in a jail, on a served node or a private one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use leasehold_node::job::{self, End, Grant, JobError, Node, Request};
use leasehold_node::keys::read_secret;
use leasehold_node::lease::{Lease, TOKEN_BYTES_MAX};
use leasehold_node::ledger::{Bill, Of, Record};
use leasehold_node::sandbox::{JailHandle, Launcher, PolicyDraft, Profile, Source, explain};
use uuid::Uuid;

use crate::{CliError, bill, files, table, units};

/// The wrapper itself failed.
const EXIT_WRAPPER: u8 = 125;
/// Another try, here or elsewhere, may succeed.
const EXIT_RETRY: u8 = 75;
/// The program is there, but cannot be executed; it is not there. As a shell says it.
const EXIT_NOT_EXECUTABLE: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Start a node of one's own for this run, with a trial lease; its bill says `trial`.
    #[arg(long, conflicts_with_all = ["lease", "node", "holder_key"])]
    private: bool,
    /// The device of a private node [default: the best].
    #[arg(long, value_name = "NAME", requires = "private", value_parser = units::device)]
    device: Option<String>,
    /// The lease's file.
    #[arg(long, value_name = "FILE", required_unless_present = "private", requires = "holder_key")]
    lease: Option<PathBuf>,
    /// The holder's secret key file.
    #[arg(long, value_name = "FILE")]
    holder_key: Option<PathBuf>,
    /// The node's jobs socket [default: the one that the lease names].
    #[arg(long, value_name = "PATH")]
    node: Option<PathBuf>,
    /// What the jail is furnished for.
    #[arg(long, value_name = "NAME", default_value = "compute")]
    profile: ProfileArg,
    /// A file or folder that the job may read at /in/NAME; may be repeated.
    #[arg(long = "in", value_name = "NAME=PATH", value_parser = named_path)]
    inputs: Vec<(String, PathBuf)>,
    /// A file that the job may leave at /out/NAME, and where it goes; may be repeated.
    #[arg(long = "out", value_name = "NAME=PATH", value_parser = named_path)]
    outputs: Vec<(String, PathBuf)>,
    /// An environment variable of the job; may be repeated.
    #[arg(short = 'e', value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The longest run time [default: the lease's].
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    time: Option<Duration>,
    /// Memory of the job [default: 2GiB, or what the lease allows].
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    mem: Option<u64>,
    /// CPUs of the job [default: all, or what the lease allows].
    #[arg(long, value_name = "CPUS", value_parser = units::cpus)]
    cpus: Option<u32>,
    /// Give the job this standard input.
    #[arg(long)]
    stdin: bool,
    /// Write the job's record here as JSON; it must not exist.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Say what the jail would be, layer by layer, and start nothing.
    #[arg(long)]
    explain: bool,
    /// Print no bill.
    #[arg(long)]
    no_bill: bool,
    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileArg {
    Compute,
    Python,
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.into(), path.into()))
        }
        _ => Err("wanted NAME=PATH".into()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.into(), value.into())).ok_or_else(|| "wanted KEY=VALUE".into())
}

impl Run {
    /// Runs the job; the exit code is the job's own, or says what the wrapper met.
    pub(crate) fn run(self) -> u8 {
        match self.job() {
            Ok(code) => code,
            Err(error) => {
                // With stderr closed there is nobody to tell.
                let _ = writeln!(io::stderr(), "leasehold: {error}");
                let retry = |error: &JobError| {
                    use JobError::{Gone, Node, Refused};
                    matches!(error, Refused { retryable: true, .. } | Node { .. } | Gone)
                };
                match (error.downcast_ref(), error.downcast_ref()) {
                    (Some(NoProgram { code, .. }), _) => *code,
                    (_, Some(error)) if retry(error) => EXIT_RETRY,
                    _ => EXIT_WRAPPER,
                }
            }
        }
    }

    fn job(self) -> Result<u8, CliError> {
        // Whatever can be known now is said now, before a node is asked for anything.
        let draft = self.draft()?;
        self.outputs()?;
        if self.explain {
            print!("{}", explain(&draft.check()?));
            return Ok(0);
        }
        draft.clone().check()?;
        let Some(path) = &self.json else { return self.run_on_node(draft, None) };
        let code = self.run_on_node(draft, Some(new_file(path)?));
        if code.is_err() {
            // Nothing ran, so there is no record; the file is ours.
            let _ = std::fs::remove_file(path);
        }
        code
    }

    fn run_on_node(
        &self,
        mut draft: PolicyDraft,
        record_file: Option<File>,
    ) -> Result<u8, CliError> {
        let launcher = Launcher::find()?;
        let (node, grant) = self.node()?;
        let (lease, _) = Lease::unverified(&grant.token)?;
        let limits = &mut draft.limits;
        limits.memory = self.mem.unwrap_or(limits.memory.min(lease.job.memory_bytes));
        limits.milli_cpus = self.cpus.unwrap_or(limits.milli_cpus.min(lease.job.cpu_milli));
        let stdin = self.stdin.then(|| io::stdin().as_fd().try_clone_to_owned()).transpose()?;
        let outputs: BTreeMap<_, _> = self.outputs.iter().cloned().collect();
        let request = Request { draft, outputs, stdin, launcher };
        let end = job::run(&node, &grant, request, forward_signals)?;
        let code = end.record.exit_code();
        if let Some(mut file) = record_file {
            serde_json::to_writer_pretty(&mut file, &end)?;
            writeln!(file)?;
        }
        self.report(&end)?;
        Ok(u8::try_from(code).unwrap_or(EXIT_WRAPPER))
    }

    fn draft(&self) -> Result<PolicyDraft, CliError> {
        let profile = match self.profile {
            ProfileArg::Compute => Profile::Compute,
            ProfileArg::Python => Profile::Python,
        };
        let Some((program, args)) = self.command.split_first() else {
            return Err("no program".into());
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut draft = PolicyDraft::new(profile, Source::named(find_program(program)?), &args);
        draft.env = self.env.clone();
        for (name, path) in &self.inputs {
            readable(path).map_err(|why| format!("--in {name}={}: {why}", path.display()))?;
            draft.inputs.push((name.clone(), Source::named(std::path::absolute(path)?)));
        }
        draft.outputs = self.outputs.iter().map(|(name, _)| name.clone()).collect();
        draft.limits.wall = self.time;
        draft.limits.memory = self.mem.unwrap_or(draft.limits.memory);
        draft.limits.milli_cpus = self.cpus.unwrap_or(draft.limits.milli_cpus);
        Ok(draft)
    }

    /// Sees that each output has a place of its own to go to.
    fn outputs(&self) -> Result<(), CliError> {
        let mut places = BTreeMap::new();
        for (name, path) in &self.outputs {
            let refused = |why: &str| format!("--out {name}={}: {why}", path.display());
            let path = std::path::absolute(path)?;
            if !path.parent().is_some_and(Path::is_dir) {
                return Err(refused("wanted a file in a folder that is there").into());
            }
            if path.is_dir() {
                return Err(refused("is a folder, wanted a file").into());
            }
            if let Some(other) = places.insert(path, name) {
                return Err(refused(&format!("output {other} goes there, too")).into());
            }
        }
        Ok(())
    }

    /// The node that was asked for, and no other: a private one is never started in its place.
    fn node(&self) -> Result<(Node, Grant), CliError> {
        if self.private {
            let program = crate::programs::beside("leasehold-node")?;
            return Ok(Node::private(program, self.device.as_deref())?);
        }
        let (Some(lease), Some(key)) = (&self.lease, &self.holder_key) else {
            return Err("wanted --private, or --lease with --holder-key".into());
        };
        let token = files::read(lease, TOKEN_BYTES_MAX as u64)?.trim().to_string();
        let (claims, _) =
            Lease::unverified(&token).map_err(|e| format!("{}: {e}", lease.display()))?;
        let named = claims.node.map(PathBuf::from);
        let path = self.node.clone().or(named).ok_or_else(|| {
            format!("{}: names no node; say which with --node PATH", lease.display())
        })?;
        let grant = Grant { token, holder: read_secret(key)? };
        Ok((Node::connect(&path)?, grant))
    }

    /// Says why a job did not end by itself, and prints its bill.
    fn report(&self, end: &End) -> Result<(), CliError> {
        use leasehold_node::sandbox::Reason;
        if end.record.reason != Reason::Exited {
            let reason = serde_json::to_string(&end.record.reason)?;
            let _ = writeln!(io::stderr(), "leasehold: job ended: {}", reason.trim_matches('"'));
        }
        for output in &end.record.outputs {
            if let Err(why) = &output.result {
                let _ = writeln!(io::stderr(), "leasehold: output {}: {why}", output.name);
            }
        }
        let Some(receipt) = &end.receipt else {
            let _ = writeln!(
                io::stderr(),
                "leasehold: the node has gone; job {} is settled when it is back, see its ledger",
                end.job
            );
            return Ok(());
        };
        if self.no_bill {
            return Ok(());
        }
        let record: Record = serde_json::from_str(&receipt.record)?;
        let mut sum = Bill::new(Of::Job(end.job.parse::<Uuid>()?));
        sum.add(&record);
        let mut rows = bill::describe(&sum);
        rows.insert(1, ("device", end.device.clone()));
        crate::print(&format!("\n{}", table(&rows)))
    }
}

/// A program that cannot run, with a shell's exit code for it.
#[derive(Debug)]
struct NoProgram {
    why: String,
    code: u8,
}

impl std::fmt::Display for NoProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for NoProgram {}

/// A program by its path, or by its name in PATH.
fn find_program(name: &str) -> Result<PathBuf, CliError> {
    let no = |code, why: String| NoProgram { why: format!("{name}: {why}"), code };
    let path = if name.contains('/') {
        std::path::absolute(name)?
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file());
        let why = "not found in PATH; name a path to run a file";
        found.ok_or_else(|| no(EXIT_NOT_FOUND, why.into()))?
    };
    let meta = path.metadata().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => no(EXIT_NOT_FOUND, e.to_string()),
        _ => no(EXIT_NOT_EXECUTABLE, e.to_string()),
    })?;
    let mode = meta.permissions().mode() & 0o7777;
    if !meta.is_file() || mode & 0o111 == 0 {
        let why = format!("is no executable file (mode {mode:03o})");
        return Err(no(EXIT_NOT_EXECUTABLE, why).into());
    }
    Ok(path)
}

/// Sees that an input is a file or folder that the caller may read.
fn readable(path: &Path) -> Result<(), String> {
    let kind = path.metadata().map_err(|e| e.to_string())?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err("is neither a file nor a folder".into());
    }
    File::open(path).map(drop).map_err(|e| e.to_string())
}

/// A new file for its owner alone.
fn new_file(path: &Path) -> Result<File, CliError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| format!("{}: {e}", path.display()).into())
}

/// Passes signals on to the job. A terminal's Ctrl-C reaches only this process, since the job has a session of its
/// own.
fn forward_signals(jail: JailHandle) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
    let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
    let Ok(mut signals) = signal_hook::iterator::Signals::new(all) else { return };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            jail.signal(signal);
        }
    });
}
