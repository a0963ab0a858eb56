//! `leasehold lease`: issue, show, verify.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use leasehold_node::keys::{PublicKey, read_public, read_secret};
use leasehold_node::lease::{
    Isolation, JobLimits, KeySet, Latency, Lease, LeaseId, Name, Ops, Priority, TOKEN_BYTES_MAX,
    issue, verify,
};
use leasehold_node::time::Timestamp;

use crate::units::{self, End, show_bytes};
use crate::{CliError, files, table};

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Sign a lease.
    Issue(Box<Issue>),
    /// Show what a lease says, without verifying it.
    Show(Show),
    /// Verify a lease as a node would.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// The issuer's secret key file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The issuer's name, as the node's key set has it.
    #[arg(long, value_name = "NAME")]
    issuer: Name,
    /// Who uses the lease and is billed.
    #[arg(long, value_name = "NAME")]
    tenant: Name,
    /// The holder's public key: a file or its text.
    #[arg(long, value_name = "FILE|KEY")]
    holder: PathBuf,
    /// A node or pool that the lease is good for; may be repeated.
    #[arg(long = "audience", value_name = "NAME", required = true)]
    audience: Vec<Name>,
    /// When it starts [default: now].
    #[arg(long, value_name = "TIME")]
    start: Option<Timestamp>,
    /// When it ends: a time, or a duration after the start.
    #[arg(long, value_name = "TIME|DURATION", default_value = "24h")]
    expires: End,
    /// Whether others share the executor.
    #[arg(long, default_value = "shared-context")]
    isolation: IsolationArg,
    /// Whether the share is the lease's own or lent.
    #[arg(long, default_value = "reserved")]
    priority: PriorityArg,
    /// The share among leases of the same priority, 1 to 1000.
    #[arg(long, default_value_t = 100)]
    weight: u32,
    /// Device time ahead of everyone, such as 500us/10ms.
    #[arg(long, value_name = "BUDGET/PERIOD", value_parser = units::latency)]
    latency: Option<Latency>,
    /// Device memory.
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = units::bytes)]
    memory: u64,
    /// Staging memory shared with the node.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = units::bytes)]
    staging: u64,
    /// Sessions at a time.
    #[arg(long, default_value_t = 16)]
    sessions: u32,
    /// Queues of a session.
    #[arg(long, default_value_t = 8)]
    queues: u32,
    /// Ops submitted and not done, of a session.
    #[arg(long, default_value_t = 1024)]
    in_flight: u32,
    /// Jobs at a time.
    #[arg(long, default_value_t = 1)]
    concurrency: u32,
    /// An op that it may run; may be repeated [default: all].
    #[arg(long = "op", value_name = "NAME")]
    ops: Vec<Name>,
    /// CPUs of a job.
    #[arg(long, value_name = "CPUS", default_value = "1", value_parser = units::cpus)]
    cpus: u32,
    /// Host memory of a job.
    #[arg(long, value_name = "BYTES", default_value = "2GiB", value_parser = units::bytes)]
    job_memory: u64,
    /// The longest run time of a job.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = units::seconds)]
    time: u64,
    /// The price that bills name.
    #[arg(long, value_name = "NAME")]
    sku: Option<Name>,
    /// The node's jobs socket.
    #[arg(long, value_name = "PATH")]
    node: Option<String>,
    /// Nobody pays: bills say `trial`.
    #[arg(long)]
    trial: bool,
    /// Something for people and other programs; may be repeated.
    #[arg(long = "label", value_name = "NAME=TEXT", value_parser = units::label)]
    labels: Vec<(Name, String)>,
    /// Where the lease goes; it must not exist [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum IsolationArg {
    SharedContext,
    OwnContext,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PriorityArg {
    Reserved,
    Spare,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The lease's file.
    file: PathBuf,
    /// Print the claims as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The lease's file.
    file: PathBuf,
    /// The key set that the node trusts, as JSON.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// A name that the node goes by, its own or a pool's; may be repeated.
    #[arg(long = "audience", value_name = "NAME", required = true)]
    audience: Vec<Name>,
    /// The time to verify it at [default: now].
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
}

impl LeaseCommand {
    pub(crate) fn run(self) -> Result<String, CliError> {
        match self {
            Self::Issue(args) => args.run(),
            Self::Show(Show { file, json }) => {
                let (lease, key) = Lease::unverified(&read(&file)?)?;
                if json {
                    return Ok(serde_json::to_string_pretty(&lease)? + "\n");
                }
                let mut rows =
                    vec![("NOT VERIFIED", "what the text says; `lease verify` checks it".into())];
                rows.push(("key", key.to_string()));
                rows.extend(describe(&lease));
                Ok(table(&rows))
            }
            Self::Verify(Verify { file, keys, audience, at }) => {
                let now = at.unwrap_or_else(Timestamp::now);
                let lease = verify(&read(&file)?, &KeySet::read(&keys)?, now, &audience)?;
                let mut rows =
                    vec![("verified", format!("at {now}")), ("key", lease.key().to_string())];
                rows.extend(describe(&lease));
                Ok(table(&rows))
            }
        }
    }
}

impl Issue {
    fn run(self) -> Result<String, CliError> {
        let key = read_secret(&self.key)?;
        let (lease, out) = self.lease()?;
        let text = issue(&lease, &key)? + "\n";
        match out {
            None => Ok(text),
            Some(path) => {
                files::write_new(&path, &text)?;
                Ok(table(&[("lease", lease.id.to_string()), ("file", path.display().to_string())]))
            }
        }
    }

    fn lease(self) -> Result<(Lease, Option<PathBuf>), CliError> {
        let not_before = self.start.unwrap_or_else(Timestamp::now).whole_second();
        let ops = match self.ops.is_empty() {
            true => Ops::All,
            false => Ops::try_from(self.ops.into_iter().map(String::from).collect::<Vec<_>>())?,
        };
        let given = self.labels.len();
        let lease = Lease {
            version: 1,
            id: LeaseId::generate(),
            issuer: self.issuer,
            tenant: self.tenant,
            audience: self.audience,
            holder: holder(&self.holder)?,
            not_before,
            expiry: match self.expires {
                End::At(time) => time,
                End::After(duration) => not_before.after(duration),
            },
            isolation: match self.isolation {
                IsolationArg::SharedContext => Isolation::SharedContext,
                IsolationArg::OwnContext => Isolation::OwnContext,
            },
            priority: match self.priority {
                PriorityArg::Reserved => Priority::Reserved,
                PriorityArg::Spare => Priority::Spare,
            },
            weight: self.weight,
            latency: self.latency,
            memory_bytes: self.memory,
            staging_bytes: self.staging,
            sessions: self.sessions,
            queues: self.queues,
            in_flight: self.in_flight,
            concurrency: self.concurrency,
            ops,
            job: JobLimits {
                cpu_milli: self.cpus,
                memory_bytes: self.job_memory,
                wall_s: self.time,
            },
            sku: self.sku,
            node: self.node,
            trial: self.trial,
            labels: self.labels.into_iter().collect(),
        };
        if lease.labels.len() < given {
            return Err(
                format!("{given} labels are given, but only {} names", lease.labels.len()).into()
            );
        }
        Ok((lease, self.out))
    }
}

/// The holder's key, from its text or its file.
fn holder(given: &Path) -> Result<PublicKey, CliError> {
    match given.to_str() {
        Some(text) if text.starts_with("k4.public.") => Ok(text.parse()?),
        _ => Ok(read_public(given)?),
    }
}

/// A lease's text, without the newline of its file.
fn read(path: &Path) -> Result<String, CliError> {
    let text = files::read(path, TOKEN_BYTES_MAX as u64 + 1)?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).into())
}

fn describe(lease: &Lease) -> Vec<(&'static str, String)> {
    let names = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let Lease { job, .. } = lease;
    let mut rows = vec![
        ("lease", lease.id.to_string()),
        ("issuer", lease.issuer.to_string()),
        ("tenant", lease.tenant.to_string()),
        ("audience", names(&lease.audience)),
        ("holder", lease.holder.to_string()),
        ("from", lease.not_before.to_string()),
        ("until", lease.expiry.to_string()),
        ("isolation", lease.isolation.to_string()),
        ("priority", format!("{}, weight {}", lease.priority, lease.weight)),
        ("memory", show_bytes(lease.memory_bytes)),
        ("staging", show_bytes(lease.staging_bytes)),
        (
            "sessions",
            format!(
                "{} of {} queues, {} ops in flight",
                lease.sessions, lease.queues, lease.in_flight
            ),
        ),
        ("ops", Vec::<String>::from(lease.ops.clone()).join(", ")),
        ("jobs", format!("{} at a time", lease.concurrency)),
        (
            "a job",
            format!(
                "{}.{:03} CPUs, {}",
                job.cpu_milli / 1000,
                job.cpu_milli % 1000,
                show_bytes(job.memory_bytes)
            ),
        ),
        ("run time", units::show_ns(job.wall_s.saturating_mul(1_000_000_000))),
    ];
    if let Some(Latency { budget_us, period_us }) = lease.latency {
        rows.push(("latency", format!("{budget_us} us in each {period_us} us")));
    }
    rows.extend(lease.sku.iter().map(|sku| ("price", sku.to_string())));
    // A path and a label may hold anything; on a terminal they must stay text.
    rows.extend(lease.node.iter().map(|path| ("node", path.escape_debug().to_string())));
    rows.push(("trial", if lease.trial { "yes: nobody pays" } else { "no" }.into()));
    rows.extend(
        lease
            .labels
            .iter()
            .map(|(name, text)| ("label", format!("{name}={}", text.escape_debug()))),
    );
    rows
}
