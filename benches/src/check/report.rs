//! What `check` writes: the only statement of the JSON, read back by `summary` and by the test, which refuse a field too
//! many or too few. What was not measured says why in its place; nothing is left out.

use crate::measure::Timing;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Grows when a reader of the last version would misread this one.
pub const SCHEMA: u32 = 3;

/// How the reason of a row begins in which the device was lost, and the reason of one that was begun and never ended.
pub const LOST: &str = "the device is lost";
/// See [`LOST`].
pub const CUT: &str = "cut off here";

/// Everything that one run of `check` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Tiny shapes, to try the program: its numbers judge nobody.
    pub rehearsal: bool,
    /// Of the sources, as `git` or `--commit` says; `-dirty` after it where files differ.
    pub commit: String,
    /// When it began, in seconds since 1970.
    pub began_unix: u64,
    /// Where random shapes, data and pages come from.
    pub seed: u64,
    /// The distribution of operands, and how many bytes of them take turns.
    pub data: String,
    /// What ours ran on.
    pub device: DeviceOf,
    /// What the card's driver says of the card.
    pub card: Maybe<Card>,
    /// What theirs ran on, in the same process.
    pub peers: Maybe<PeersOf>,
    /// The tables, as far as they were asked for.
    pub tables: Vec<Table>,
}

/// Something that is known, or why it is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Maybe<T> {
    /// It.
    Is(T),
    /// Why not.
    Not(NotRun),
}

impl<T> Maybe<T> {
    /// What was not run or asked, and why.
    pub fn not(why: impl ToString) -> Self {
        Self::Not(NotRun { not_run: why.to_string() })
    }

    /// It, where it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Is(it) => Some(it),
            Self::Not(_) => None,
        }
    }

    /// Why it is not known.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Is(_) => None,
            Self::Not(NotRun { not_run }) => Some(not_run),
        }
    }
}

/// Why there is no number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotRun {
    /// The reason.
    pub not_run: String,
}

/// A device as Leasehold sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceOf {
    /// As it was asked for: `cpu`, `cuda:0`, `wgpu:0`.
    pub asked: String,
    /// Its own name.
    pub name: String,
    /// `cpu`, `cuda` or `wgpu`.
    pub backend: String,
    /// The class that orders are keyed by.
    pub arch: String,
    /// Where our times come from.
    pub clock: String,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Whether it is software on the host's cores.
    pub software: bool,
    /// Equal id, equal bits.
    pub numerics: String,
}

/// A card as `nvidia-smi` sees it before anything is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// The driver's version.
    pub driver: String,
    /// Most MHz of its multiprocessors.
    pub most_sm_mhz: f64,
    /// Watts that it may draw.
    pub limit_w: f64,
}

/// Clocks, power and heat while a row was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// Samples.
    pub samples: usize,
    /// Median MHz of the multiprocessors, and the least.
    pub sm_mhz: [f64; 2],
    /// Median MHz of the memory.
    pub memory_mhz: f64,
    /// Median watts, and the most.
    pub power_w: [f64; 2],
    /// Most degrees Celsius.
    pub celsius: f64,
}

/// The peers' side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersOf {
    /// PyTorch's version.
    pub torch: String,
    /// The device that it computes on.
    pub device: String,
    /// Where their times come from.
    pub clock: String,
    /// Versions of what else is called: `cuda`, `cudnn`, `cublas`.
    pub libraries: Vec<String>,
}

/// One table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// As `--table` takes it.
    pub name: String,
    /// What it holds, and whose shapes they are.
    pub about: String,
    /// Seconds that it took.
    pub seconds: f64,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// One line of a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What was done, for people.
    pub what: String,
    /// The same as sizes, where it is one op.
    pub problem: Option<Value>,
    /// The plan that ours followed, where it is one op.
    pub plan: Option<String>,
    /// Ours.
    pub ours: Maybe<Number>,
    /// Theirs.
    pub peers: Vec<Peer>,
    /// Ours over the best peer's that ran: above 1 we are better.
    pub ratio: Option<f64>,
    /// The card meanwhile.
    pub card: Maybe<Watched>,
}

/// A peer's number.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What was called.
    pub name: String,
    /// Which of its ways it took, where it has several.
    pub how: Option<String>,
    /// What it came to.
    pub number: Maybe<Number>,
    /// No part of the ratio: printed elsewhere, of another card, or doing less.
    pub beside: bool,
}

/// A number with all that it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Number {
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Whether more is better.
    pub more: bool,
    /// Seconds a run, where it is a speed.
    pub timing: Option<Timing>,
    /// How its results were held against the reference; a proof is nothing else.
    pub check: Maybe<Checked>,
}

/// Results held against the plain formula in f64, by the op's tolerance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// Values compared.
    pub values: u64,
    /// The largest error.
    pub worst: f64,
    /// Empty where all are within the tolerance, else what is not.
    pub wrong: String,
    /// Empty where all that the row asks was looked at, else how far that came: such a row proves less than it says.
    pub left: String,
}

impl Checked {
    /// So many agree.
    pub fn all(values: u64) -> Self {
        Self { values, worst: 0.0, wrong: String::new(), left: String::new() }
    }
}

impl Number {
    /// A speed.
    pub fn speed(value: f64, unit: &str, timing: Timing, check: Maybe<Checked>) -> Self {
        Self { value, unit: unit.into(), more: true, timing: Some(timing), check }
    }

    /// A time, of which less is better.
    pub fn time(value: f64, unit: &str, timing: Timing) -> Self {
        let check = Maybe::not("a time alone");
        Self { value, unit: unit.into(), more: false, timing: Some(timing), check }
    }

    /// What was counted.
    pub fn count(value: f64, unit: &str, check: Checked) -> Self {
        Self { value, unit: unit.into(), more: true, timing: None, check: Maybe::Is(check) }
    }

    /// Whether what it rests on was computed rightly, as far as it was looked at.
    pub fn is_right(&self) -> bool {
        self.check.known().is_none_or(|check| check.wrong.is_empty())
    }

    /// Whether all that the row asks was looked at.
    pub fn is_whole(&self) -> bool {
        self.check.known().is_none_or(|check| check.left.is_empty())
    }
}

impl Peer {
    /// One that was called, or would have been.
    pub fn new(name: impl Into<String>, number: Maybe<Number>) -> Self {
        Self { name: name.into(), how: None, number, beside: false }
    }

    /// Whether its name begins with one of these; any does where there is none.
    pub fn is_named(&self, names: &[&str]) -> bool {
        names.is_empty() || names.iter().any(|name| self.name.starts_with(name))
    }

    /// The same as no part of the ratio.
    pub fn beside(self) -> Self {
        Self { beside: true, ..self }
    }
}

impl Row {
    /// A row and its ratio.
    pub fn new(
        what: impl Into<String>,
        problem: Option<Value>,
        ours: Maybe<Number>,
        peers: Vec<Peer>,
    ) -> Self {
        let card = Maybe::not("not watched");
        let what = what.into();
        let mut row = Self { what, problem, plan: None, ours, peers, ratio: None, card };
        row.ratio = row.ratio_to(&[]);
        row
    }

    /// Ours over the best of the peers that ran and were right, of those whose names begin so; of all where none is named.
    /// What is wrong is no speed, ours either.
    pub fn ratio_to(&self, names: &[&str]) -> Option<f64> {
        let ours = self.ours.known().filter(|ours| ours.is_right())?;
        let theirs = self.peers.iter().filter(|peer| !peer.beside && peer.is_named(names));
        let theirs = theirs.filter_map(|peer| peer.number.known());
        let right = theirs.filter(|n| n.is_right() && n.unit == ours.unit && n.value > 0.0);
        let better =
            |n: &Number| if ours.more { ours.value / n.value } else { n.value / ours.value };
        right.map(better).min_by(f64::total_cmp)
    }
}

impl Report {
    /// The rows that ours did not run, each with the reason.
    pub fn gaps(&self) -> Vec<String> {
        let rows =
            self.tables.iter().flat_map(|table| table.rows.iter().map(move |row| (table, row)));
        let gap = |(table, row): (&Table, &Row)| {
            Some(format!("{}: {}: not run: {}", table.name, row.what, row.ours.why_not()?))
        };
        rows.filter_map(gap).collect()
    }

    /// What is wrong with a report beyond its fields: a table without rows, a row without a number or a reason, a number
    /// that is none, wrong results, a device that was lost, a row that was cut off.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.schema != SCHEMA {
            faults.push(format!("schema {}, this is {SCHEMA}", self.schema));
        }
        for table in &self.tables {
            if table.rows.is_empty() {
                faults.push(format!("{}: no row", table.name));
            }
            for row in &table.rows {
                let numbers = row.peers.iter().map(|peer| (peer.name.as_str(), &peer.number));
                for (who, number) in numbers.chain([("ours", &row.ours)]) {
                    let place = || format!("{}: {}: {who}", table.name, row.what);
                    match number {
                        Maybe::Not(NotRun { not_run }) if not_run.is_empty() => {
                            faults.push(format!("{}: no reason", place()));
                        }
                        Maybe::Not(NotRun { not_run: why })
                            if who == "ours" && (why.starts_with(LOST) || why == CUT) =>
                        {
                            faults.push(format!("{}: {why}", place()));
                        }
                        Maybe::Is(n) if !n.value.is_finite() || n.unit.is_empty() => {
                            faults.push(format!("{}: no number", place()));
                        }
                        Maybe::Is(n) if who == "ours" && !n.is_right() => {
                            let wrong = n.check.known().map_or("", |check| &check.wrong);
                            faults.push(format!("{}: wrong: {wrong}", place()));
                        }
                        _ => {}
                    }
                }
            }
        }
        faults
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn number(value: f64) -> Maybe<Number> {
        let timing = Timing { best_s: 1.0, median_s: 1.0, spread_s: 0.0, runs: 1 };
        Maybe::Is(Number::speed(value, "TFLOP/s", timing, Maybe::not("a test")))
    }

    fn peer(name: &str, number: Maybe<Number>, beside: bool) -> Peer {
        Peer { beside, ..Peer::new(name, number) }
    }

    #[test]
    fn the_ratio_is_to_the_best_peer_that_ran_here_and_was_right() {
        let mut wrong = number(900.0);
        if let Maybe::Is(n) = &mut wrong {
            n.check = Maybe::Is(Checked { wrong: "element 3".into(), ..Checked::all(8) });
        }
        let peers = vec![
            peer("a", number(50.0), false),
            peer("b", number(80.0), false),
            peer("c", Maybe::not("absent"), false),
            peer("d", number(500.0), true),
            peer("e", wrong, false),
        ];
        let row = Row::new("x", None, number(100.0), peers.clone());
        assert_eq!(row.ratio, Some(1.25));
        let mut ours = number(100.0);
        if let Maybe::Is(n) = &mut ours {
            n.check = Maybe::Is(Checked { wrong: "element 3".into(), ..Checked::all(8) });
        }
        let row = Row::new("x", None, ours, peers);
        assert_eq!((row.ratio, row.ratio_to(&["a"])), (None, None), "ours is wrong");
        assert_eq!(Row::new("x", None, Maybe::not("no"), vec![]).ratio, None);
    }

    #[test]
    fn a_field_too_many_or_too_few_is_refused() {
        let text = serde_json::to_string(&number(1.0)).unwrap();
        assert!(serde_json::from_str::<Maybe<Number>>(&text).is_ok());
        let more = text.replacen('{', "{\"further\":1,", 1);
        assert!(serde_json::from_str::<Maybe<Number>>(&more).is_err());
        let fewer = text.replace("\"unit\":\"TFLOP/s\",", "");
        assert!(serde_json::from_str::<Maybe<Number>>(&fewer).is_err(), "{fewer}");
    }
}
