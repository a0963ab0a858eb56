//! `check`: the tables by which a card is judged, as one JSON file, and what continuous integration rehearses with tiny
//! shapes. `leasehold-bench check` runs it with ours alone; `benches/gpu/check/peers.py` runs it as a library, with PyTorch
//! in the same process as the peer. `benches/gpu/check/README.md` tells how and how long.

mod card;
mod data;
mod decode;
mod heads;
mod host;
mod lists;
mod models;
mod ours;
mod parity;
mod problem;
mod products;
mod proofs;
mod repeats;
pub mod report;
mod rows;
mod sanitizer;
mod shapes;
mod speed;
mod stall;
pub mod summary;
mod tables;
mod theirs;

use clap::Parser;
use ours::Ours;
use report::{CUT, LOST, Maybe, Peer, Report, Row, SCHEMA, Table};
use speed::{Pace, Speed};
use stall::{Stall, leave};
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
    /// The first of the table's rows that runs here, with one table: those before it are taken from the file.
    #[arg(long, default_value_t = 0)]
    pub from: usize,
    /// At most so many rows of each table.
    #[arg(long)]
    pub rows: Option<usize>,
    /// A row that ours did not run is as wrong as one whose result is.
    #[arg(long)]
    pub strict: bool,
    /// The file, which is written anew before every row.
    #[arg(long, default_value = "check.json")]
    pub out: PathBuf,
    /// The folder with `leasehold-bench`, `leasehold-node`, `embed` and `generate`; that of this program unless given.
    #[arg(long)]
    pub programs: Option<PathBuf>,
    /// The folder with the examples' models; random ones are made unless given.
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

/// Seconds that a row may take beyond its table's time before it counts as hung, on a card and in software.
const HUNG: [u64; 2] = [45, 600];

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
    /// `--from` without a place that it could mean.
    #[error("--from {asked}: allowed with one --table, whose rows before that are in {}", path.display())]
    From {
        /// The row.
        asked: usize,
        /// The file.
        path: PathBuf,
    },
}

/// A run of `check`: both sides, and what was asked.
pub struct Check<'a> {
    args: &'a Args,
    ours: Box<dyn Ours>,
    theirs: Theirs<'a>,
    report: Report,
    watch: card::Watch,
    stall: Stall,
    /// Of the table that runs.
    budget: Duration,
    began: Instant,
    /// Its rows that are there, and how many there have been places for.
    rows: Vec<Row>,
    places: usize,
    /// The device answers no more: no row of this process can be trusted.
    is_lost: bool,
}

/// Runs `check` with arguments as the command line has them, the program's name first; what is wrong with what it found.
///
/// # Errors
/// The arguments, the device, or a report that cannot be written.
pub fn from_words(
    words: &[String],
    answer: Option<Box<Answer<'_>>>,
) -> Result<Vec<String>, CheckError> {
    let Whole { device, args } = Whole::try_parse_from(words)?;
    let args = Args { device, ..args };
    Ok(faults(&run(&args, answer)?, &args))
}

/// What is wrong with a report that was asked for so.
pub fn faults(report: &Report, args: &Args) -> Vec<String> {
    let gaps = if args.strict { report.gaps() } else { Vec::new() };
    report.faults().into_iter().chain(gaps).collect()
}

/// Runs the tables that are asked for and writes the report before each row and after each table. Where the device is lost or
/// a row hangs, the process ends with status 3: a fault stays with a process, and `--from` goes on in another.
///
/// # Errors
/// The device, `--from`, or a report that cannot be written.
pub fn run(args: &Args, answer: Option<Box<Answer<'_>>>) -> Result<Report, CheckError> {
    let rows = earlier(args)?;
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
    let (budget, began, stall) = (Duration::ZERO, Instant::now(), Stall::watched());
    let (places, is_lost) = (0, false);
    let mut check =
        Check { args, ours, theirs, report, watch, stall, budget, began, rows, places, is_lost };
    let asked =
        |kind: &&Kind| args.table.is_empty() || args.table.iter().any(|name| name == kind.name);
    for kind in ALL.iter().filter(asked) {
        check.table(kind);
        let ran = check.rows.iter().filter(|row| row.ours.known().is_some()).count();
        let (count, seconds) = (check.rows.len(), check.began.elapsed().as_secs_f64());
        eprintln!("check: {}: {ran} of {count} rows in {seconds:.1} s", kind.name);
        let rows = std::mem::take(&mut check.rows);
        check.write(rows)?;
        if check.is_lost {
            leave();
        }
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

/// The rows before `--from`, as the process that was cut off there left them.
fn earlier(args: &Args) -> Result<Vec<Row>, CheckError> {
    let refused = || CheckError::From { asked: args.from, path: args.out.clone() };
    let [name] = &args.table[..] else {
        return if args.from == 0 { Ok(Vec::new()) } else { Err(refused()) };
    };
    if args.from == 0 {
        return Ok(Vec::new());
    }
    let mut tables = read(&args.out)?.tables.into_iter();
    let mut rows = tables.find(|table| table.name == *name).ok_or_else(refused)?.rows;
    if rows.len() < args.from {
        return Err(refused());
    }
    rows.truncate(args.from);
    Ok(rows)
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
        write(&self.args.out, &self.report)
    }

    /// The table's next row, which is told of and kept as cut off before it runs, in case nothing comes after it. None runs
    /// that an earlier process has or that is not asked for, nor any after the device is lost.
    fn row(&mut self, what: &str, run: impl FnOnce(&mut Self) -> Row) {
        let place = self.places;
        self.places += 1;
        let is_asked = self.args.rows.is_none_or(|most| place < most);
        if place < self.rows.len() || self.is_lost || !is_asked {
            return;
        }
        let table = self.report.tables.last().map_or("", |table| &table.name);
        eprintln!("check: {table}: row {place}: {what}");
        let cut = Row::new(what, None, Maybe::not(CUT), Vec::new());
        // A file that cannot be written is told of at the end of the table.
        let _ = self.write(self.rows.iter().cloned().chain([cut]).collect());
        let hung = HUNG[usize::from(self.report.device.software)];
        let limit = Duration::from_secs(hung) + self.budget;
        self.stall.begin(limit);
        self.watch.taken();
        let mut row = run(self);
        if let Err(error) = self.ours.answers() {
            let said = row.ours.why_not().map_or(String::new(), |why| format!("; {why}"));
            row.ours = Maybe::not(format!("{LOST}: {error}{said}"));
            (row.ratio, self.is_lost) = (None, true);
        }
        self.stall.end();
        row.card = self.watch.taken();
        self.rows.push(row);
    }

    fn programs(&self) -> PathBuf {
        let own = || std::env::current_exe().ok()?.parent().map(Path::to_path_buf);
        self.args.programs.clone().or_else(own).unwrap_or_default()
    }

    fn table(&mut self, kind: &Kind) {
        (self.began, self.places) = (Instant::now(), 0);
        let (name, about) = (kind.name.into(), kind.about.into());
        self.report.tables.push(Table { name, about, seconds: 0.0, rows: Vec::new() });
        self.budget = Duration::from_secs(u64::from(self.args.budget * kind.share));
        match kind.rows {
            Rows::Speed(entries) => self.speed(entries(self.args.tiny, self.args.seed)),
            Rows::Made(made) => made(self),
        }
    }

    /// A row for each problem, while there is time.
    fn speed(&mut self, entries: Vec<(problem::Problem, Vec<Peer>)>) {
        let count = entries.len().saturating_sub(self.rows.len()).max(1) as u32;
        // Half of a row's time goes to its data and its check.
        let time = self.budget / (2 * count);
        let pace = match self.args.tiny {
            true => Pace { time: Duration::ZERO, rounds: 3, turns: turns(self.args) },
            false => Pace { time, rounds: 7, turns: turns(self.args) },
        };
        for (problem, further) in entries {
            self.row(&problem.label(), |check| {
                // A rehearsal asks every row, however slow its machine.
                if !check.is_tiny() && check.began.elapsed() > check.budget {
                    let sizes = serde_json::to_value(&problem).ok();
                    let why = format!("the table's {} s were over", check.budget.as_secs());
                    return Row::new(problem.label(), sizes, Maybe::not(why), further);
                }
                let Self { ours, theirs, args, .. } = check;
                let mut speed = Speed { ours: ours.as_mut(), theirs, seed: args.seed, pace };
                speed.row(&problem, further)
            });
        }
    }
}
