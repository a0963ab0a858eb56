//! `check`: the tables by which a card is judged, as one JSON file, and what continuous integration rehearses with tiny
//! shapes. `leasehold-bench check` runs it with ours alone; `benches/gpu/check/peers.py` runs it as a library, with PyTorch
//! in the same process as the peer. `benches/gpu/check/README.md` tells how and how long.

mod card;
mod data;
mod decode;
mod heads;
mod host;
mod lists;
mod ours;
mod parity;
mod problem;
mod products;
mod proofs;
mod repeats;
pub mod report;
mod rows;
mod shapes;
mod speed;
pub mod summary;
mod tables;
mod theirs;

use clap::Parser;
use ours::Ours;
use report::{Maybe, Peer, Report, Row, SCHEMA, Table};
use speed::{Pace, Speed};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use tables::{ALL, Kind, Rows};
pub use theirs::Answer;
use theirs::Theirs;

/// What `check` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Rehearse with tiny shapes: the numbers judge nobody.
    #[arg(long)]
    pub tiny: bool,
    /// Tables, by commas; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = table)]
    pub table: Vec<String>,
    /// Seconds of a share: a table has 1 to 6 of them.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub budget: u32,
    /// Where random shapes, data and pages come from; of the clock unless given.
    #[arg(long, default_value_t = clock_seed())]
    pub seed: u64,
    /// The file, which is written anew after every table.
    #[arg(long, default_value = "check.json")]
    pub out: PathBuf,
    /// The folder with `leasehold-bench`, `leasehold-node`, `embed` and `generate`; that of this program unless given.
    #[arg(long)]
    pub programs: Option<PathBuf>,
    /// The folder with the examples' models.
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// The program `adapter` of `benches/peers`.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// The commit that this was built of; what `git` says unless given.
    #[arg(long)]
    pub commit: Option<String>,
    /// The device, which the program's own argument of this name sets.
    #[arg(skip)]
    pub device: String,
}

/// The arguments where a library is started with them.
#[derive(Parser)]
#[command(name = "check")]
struct Whole {
    /// The device: a name that `leasehold devices` prints.
    #[arg(long)]
    device: String,
    #[command(flatten)]
    args: Args,
}

/// Rows of a table that runs are kept this often.
const KEPT_EVERY: Duration = Duration::from_secs(5);

/// The names of the tables, in the order in which they run.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|kind| kind.name).collect()
}

fn table(name: &str) -> Result<String, String> {
    let names = names();
    match names.contains(&name) {
        true => Ok(name.into()),
        false => Err(format!("allowed: {}", names.join(", "))),
    }
}

fn clock_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |since| since.as_nanos() as u64)
}

/// Why there is no report, or none that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The device.
    #[error(transparent)]
    Device(#[from] leasehold::Error),
    /// The arguments.
    #[error(transparent)]
    Args(#[from] clap::Error),
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system or JSON said.
        source: io::Error,
    },
}

/// A run of `check`: both sides, and what was asked.
pub struct Check<'a> {
    args: &'a Args,
    ours: Box<dyn Ours>,
    theirs: Theirs<'a>,
    report: Report,
    /// Of the table that runs.
    budget: Duration,
    began: Instant,
    /// When the report was written last.
    written: Instant,
}

/// Runs `check` with arguments as the command line has them, the program's name first.
///
/// # Errors
/// The arguments, the device, or a report that cannot be written.
pub fn from_words(words: &[String], answer: Option<Box<Answer<'_>>>) -> Result<Report, CheckError> {
    let Whole { device, args } = Whole::try_parse_from(words)?;
    run(&Args { device, ..args }, answer)
}

/// Runs the tables that are asked for and writes the report after each.
///
/// # Errors
/// The device, or a report that cannot be written.
pub fn run(args: &Args, answer: Option<Box<Answer<'_>>>) -> Result<Report, CheckError> {
    let (ours, theirs) = (ours::open(&args.device, None)?, Theirs::new(answer));
    let card = card::card(&args.device);
    let turns = turns(args) >> 10;
    let report = Report {
        schema: SCHEMA,
        rehearsal: args.tiny,
        commit: args.commit.clone().unwrap_or_else(commit),
        began_unix: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        seed: args.seed,
        data: format!("{}; {turns} KiB of operands take turns", data::DATA),
        device: ours.about(&args.device),
        card: card.clone(),
        peers: theirs.about.clone(),
        tables: Vec::new(),
    };
    eprintln!("check: {} ({}), seed {}", report.device.name, report.device.asked, args.seed);
    let watch = card::Watch::of(&args.device, &card);
    let now = Instant::now();
    let mut check =
        Check { args, ours, theirs, report, budget: Duration::ZERO, began: now, written: now };
    let asked =
        |kind: &&Kind| args.table.is_empty() || args.table.iter().any(|name| name == kind.name);
    for kind in ALL.iter().filter(asked) {
        check.began = Instant::now();
        let (name, about) = (kind.name.into(), kind.about.into());
        check.report.tables.push(Table { name, about, seconds: 0.0, rows: Vec::new() });
        let rows = check.rows(kind, &watch);
        let ran = rows.iter().filter(|row| row.ours.known().is_some()).count();
        let seconds = check.began.elapsed().as_secs_f64();
        eprintln!("check: {}: {ran} of {} rows in {seconds:.1} s", kind.name, rows.len());
        check.write(rows)?;
    }
    Ok(check.report)
}

/// A report from its file.
///
/// # Errors
/// No file, or another schema.
pub fn read(path: &Path) -> Result<Report, CheckError> {
    let file = |source| CheckError::File { path: path.into(), source };
    let text = std::fs::read_to_string(path).map_err(file)?;
    serde_json::from_str(&text).map_err(|error| file(error.into()))
}

/// Whole or not at all: what earlier tables found outlives a later one's crash.
fn write(path: &Path, report: &Report) -> Result<(), CheckError> {
    let file = |source| CheckError::File { path: path.into(), source };
    let text = serde_json::to_string_pretty(report).map_err(|error| file(error.into()))?;
    let part = path.with_extension("part");
    std::fs::write(&part, text + "\n").and_then(|()| std::fs::rename(&part, path)).map_err(file)
}

/// Bytes of operands that take turns.
fn turns(args: &Args) -> u64 {
    if args.tiny { 1 << 16 } else { speed::TURNS_BYTES }
}

fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().into()
        }
        _ => "unknown".into(),
    }
}

impl Check<'_> {
    fn is_tiny(&self) -> bool {
        self.args.tiny
    }

    /// Writes the report with these rows of the table that runs.
    fn write(&mut self, rows: Vec<Row>) -> Result<(), CheckError> {
        if let Some(table) = self.report.tables.last_mut() {
            (table.rows, table.seconds) = (rows, self.began.elapsed().as_secs_f64());
        }
        self.written = Instant::now();
        write(&self.args.out, &self.report)
    }

    /// Keeps the rows that are there, now and then, in case nothing comes after them.
    fn keep(&mut self, rows: &[Row]) {
        if self.written.elapsed() < KEPT_EVERY {
            return;
        }
        let cut = Row::new("the rest", None, Maybe::not("cut off here"), Vec::new());
        // A file that cannot be written is told of at the end of the table.
        let _ = self.write(rows.iter().cloned().chain([cut]).collect());
    }

    fn programs(&self) -> PathBuf {
        let own = || std::env::current_exe().ok()?.parent().map(Path::to_path_buf);
        self.args.programs.clone().or_else(own).unwrap_or_default()
    }

    fn rows(&mut self, kind: &Kind, watch: &card::Watch) -> Vec<Row> {
        watch.taken();
        self.budget = Duration::from_secs(u64::from(self.args.budget * kind.share));
        match kind.rows {
            Rows::Speed(entries) => self.speed(entries(self.args.tiny, self.args.seed), watch),
            Rows::Made(made) => {
                let mut rows = made(self);
                let card = watch.taken();
                rows.iter_mut().for_each(|row| row.card = card.clone());
                rows
            }
        }
    }

    /// A row for each problem, while there is time.
    fn speed(
        &mut self,
        entries: Vec<(problem::Problem, Vec<Peer>)>,
        watch: &card::Watch,
    ) -> Vec<Row> {
        let began = Instant::now();
        let count = entries.len().max(1) as u32;
        // Half of a row's time goes to its data and its check.
        let time = self.budget / (2 * count);
        let pace = match self.args.tiny {
            true => Pace { time: Duration::ZERO, rounds: 3, turns: turns(self.args) },
            false => Pace { time, rounds: 7, turns: turns(self.args) },
        };
        let mut rows = Vec::new();
        for (problem, further) in entries {
            if began.elapsed() > self.budget {
                let sizes = serde_json::to_value(&problem).ok();
                let why = Maybe::not(format!("the table's {} s were over", self.budget.as_secs()));
                rows.push(Row::new(problem.label(), sizes, why, further));
                continue;
            }
            self.keep(&rows);
            let Self { ours, theirs, args, .. } = self;
            let mut speed = Speed { ours: ours.as_mut(), theirs, seed: args.seed, pace };
            let row = speed.row(&problem, further);
            rows.push(Row { card: watch.taken(), ..row });
        }
        rows
    }
}
