//! `leasehold bill`: sums over the settled records of a lease or a job, from a ledger that is verified first.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use leasehold_node::keys::read_public;
use leasehold_node::ledger::{self, Bill, Checkpoint, Of};
use uuid::Uuid;

use crate::units::{self, show_bytes, show_ns};
use crate::{CliError, files, table};

/// A checkpoint is a record of the ledger, some 400 bytes.
const CHECKPOINT_BYTES_MAX: u64 = 4096;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("of").required(true))]
pub(crate) struct BillArgs {
    /// The node's ledger.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// All jobs of this lease.
    #[arg(long, value_name = "ID", group = "of", value_parser = units::id)]
    lease: Option<Uuid>,
    /// This job.
    #[arg(long, value_name = "ID", group = "of", value_parser = units::id)]
    job: Option<Uuid>,
    /// A public key of the node, to check its signatures; may be repeated. Without one only the chain is checked.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// A checkpoint of this ledger that was kept elsewhere, as JSON; may be repeated.
    #[arg(long = "checkpoint", value_name = "FILE", requires = "keys")]
    checkpoints: Vec<PathBuf>,
    /// Print the bill as JSON.
    #[arg(long)]
    json: bool,
}

impl BillArgs {
    pub(crate) fn run(self) -> Result<String, CliError> {
        let of = match (self.lease, self.job) {
            (Some(lease), _) => Of::Lease(lease),
            (None, Some(job)) => Of::Job(job),
            (None, None) => return Err("wanted --lease or --job".into()),
        };
        let keys = self.keys.iter().map(|path| read_public(path)).collect::<Result<Vec<_>, _>>()?;
        let kept =
            self.checkpoints.iter().map(|path| checkpoint(path)).collect::<Result<Vec<_>, _>>()?;
        let signed = !keys.is_empty();
        let mut bill = Bill::new(of);
        let chain = ledger::read(&self.ledger, keys, kept, |record| bill.add(&record))?;
        if bill.records.is_empty() {
            let what = match of {
                Of::Lease(id) => format!("lease {id}"),
                Of::Job(id) => format!("job {id}"),
            };
            let (file, size) = (self.ledger.display(), chain.size);
            return Err(format!("{file}: none of its {size} records settles {what}").into());
        }
        if self.json {
            return Ok(serde_json::to_string_pretty(&bill)? + "\n");
        }
        let checked =
            if signed { "chain and signatures" } else { "chain alone: no --key was given" };
        let mut rows = describe(&bill);
        rows.push(("verified", format!("{checked}, {} records", chain.size)));
        Ok(table(&rows))
    }
}

fn checkpoint(path: &Path) -> Result<Checkpoint, CliError> {
    let text = files::read(path, CHECKPOINT_BYTES_MAX)?;
    Ok(serde_json::from_str(&text)
        .map_err(|e| format!("{}: is no checkpoint: {e}", path.display()))?)
}

pub(crate) fn describe(bill: &Bill) -> Vec<(&'static str, String)> {
    let list = |names: &std::collections::BTreeSet<String>| {
        names.iter().map(|n| n.escape_debug().to_string()).collect::<Vec<_>>().join(", ")
    };
    let of = match bill.of {
        Of::Lease(id) => ("lease", id.to_string()),
        Of::Job(id) => ("job", id.to_string()),
    };
    let mut rows = vec![of, ("tenant", list(&bill.tenants))];
    if !bill.skus.is_empty() {
        rows.push(("price", list(&bill.skus)));
    }
    rows.push(("trial", if bill.trial { "yes: nobody pays" } else { "no" }.into()));
    if let (Some(start), Some(end)) = (bill.start, bill.end) {
        rows.push(("interval", format!("{start} to {end}")));
    }
    rows.extend([
        ("jobs", bill.jobs.to_string()),
        ("device busy", show_ns(bill.busy_ns)),
        ("zeroing", show_ns(bill.zeroing_ns)),
        ("device memory", format!("{} byte-seconds", bill.memory_byte_s)),
        ("copied up", show_bytes(bill.bytes_up)),
        ("copied down", show_bytes(bill.bytes_down)),
        ("ops", format!("{} in {} units", bill.ops, bill.units)),
        ("queue wait", show_ns(bill.queue_wait_ns)),
    ]);
    rows
}
