//! One problem, ours and the peers' taking turns: every side is checked against the reference, then batches of runs by each
//! side's own device clock until the time is spent. `tables` calls it for every row of a speed table.

use super::ours::Ours;
use super::problem::{Built, Problem};
use super::report::{Checked, Maybe, Number, Peer, Row};
use super::theirs::Theirs;
use crate::measure::Timing;
use std::time::{Duration, Instant};

/// Bytes of operands that take turns: more than the caches of any card of today hold.
pub(super) const TURNS_BYTES: u64 = 256 << 20;
/// Copies are not more than this.
const COPIES_MAX: u64 = 128;
/// A batch of runs takes about this long, and is of at most so many.
const BATCH_S: f64 = 0.002;
const RUNS_MAX: f64 = 32.0;

/// What is loaded of ours, held against the reference.
///
/// # Errors
/// What the device fails with.
pub(super) fn checked(ours: &mut dyn Ours, built: &Built) -> leasehold::Result<Checked> {
    let parts = built.checked().into_iter();
    let values = parts.map(|(output, at)| Ok((output, ours.values(output, &at)?)));
    Ok(built.judged(&values.collect::<leasehold::Result<Vec<_>>>()?))
}

/// A problem ready to run. Gradients need what forward gives, which is ours and so is there for both sides.
///
/// # Errors
/// A rule that the sizes break, or what forward fails with.
pub(super) fn built(ours: &mut dyn Ours, problem: &Problem, seed: u64) -> leasehold::Result<Built> {
    let built = problem.build(seed)?;
    let Problem::Backward(heads) = problem else { return Ok(built) };
    let loaded = ours.load(&built, 1);
    let results = loaded.and_then(|_| ours.outputs());
    ours.unload();
    heads.backward(&built, results?, seed)
}

/// How long a row may take, and in how many copies its operands lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Of the timed rounds.
    pub(super) time: Duration,
    /// Fewest rounds.
    pub(super) rounds: usize,
    /// Bytes that take turns.
    pub(super) turns: u64,
}

/// One side of a row.
struct Side {
    /// `None` is ours.
    peer: Option<usize>,
    name: String,
    beside: bool,
    /// The plan, or which of its ways a peer takes.
    how: Option<String>,
    runs: u32,
    seconds: Vec<f64>,
    number: Maybe<Number>,
}

/// Both sides of a problem.
pub(super) struct Speed<'a, 'b> {
    /// Ours.
    pub(super) ours: &'a mut dyn Ours,
    /// Theirs.
    pub(super) theirs: &'a mut Theirs<'b>,
    /// Of operands.
    pub(super) seed: u64,
    /// How long.
    pub(super) pace: Pace,
}

impl Speed<'_, '_> {
    /// Measures a problem. `further` peers have their numbers from elsewhere.
    pub(super) fn row(&mut self, problem: &Problem, further: Vec<Peer>) -> Row {
        let sizes = serde_json::to_value(problem).ok();
        let built = match built(self.ours, problem, self.seed) {
            Ok(built) => built,
            Err(why) => return Row::new(problem.label(), sizes, Maybe::not(why), further),
        };
        let each: u64 = built.op.specs().iter().map(|spec| spec.span_bytes() as u64).sum();
        let copies = self.pace.turns.div_ceil(each.max(1)).clamp(1, COPIES_MAX);
        let mut sides = vec![self.our_side(&built, copies)];
        // A device that is lost answers none of the rest, and a hanging one keeps who asks.
        if self.ours.answers().is_ok() {
            sides.extend(self.their_sides(problem, &built, copies));
            self.rounds(&mut sides);
        }
        if self.ours.answers().is_ok() {
            self.ours.unload();
            self.theirs.unload();
        }
        let mut peers = sides.into_iter().map(|side| Peer {
            name: side.name.clone(),
            how: side.how.clone(),
            beside: side.beside,
            number: side.finished(&built),
        });
        let (plan, ours) =
            peers.next().map_or((None, Maybe::not("no side")), |ours| (ours.how, ours.number));
        let row = Row::new(problem.label(), sizes, ours, peers.chain(further).collect());
        Row { plan, ..row }
    }

    fn our_side(&mut self, built: &Built, copies: u64) -> Side {
        let check = |ours: &mut dyn Ours| Ok((ours.load(built, copies)?, checked(ours, built)?));
        let found: leasehold::Result<_> = check(self.ours);
        let (plan, checked) = match found {
            Ok((plan, checked)) => (Some(plan), Ok(checked)),
            Err(error) => (None, Err(error.to_string())),
        };
        Side { how: plan, ..Side::new(None, ("ours".into(), false), checked) }
    }

    fn their_sides(&mut self, problem: &Problem, built: &Built, copies: u64) -> Vec<Side> {
        let offers = match self.theirs.load(problem, built, copies) {
            Ok(offers) => offers,
            Err(why) => return vec![Side::new(Some(0), ("peers".into(), false), Err(why))],
        };
        let parts = built.checked();
        let sides = offers.into_iter().enumerate().map(|(i, offer)| {
            let values = match offer.not_run {
                Some(why) => Err(why),
                None => {
                    let of = |(output, at): &(usize, Vec<u64>)| {
                        Ok((*output, self.theirs.values(i, *output, at)?))
                    };
                    parts.iter().map(of).collect::<Result<Vec<_>, String>>()
                }
            };
            // A plain read or copy of as many bytes has no values to hold against ours.
            let checked = values.map(|values| built.judged(&values));
            Side { how: offer.how, ..Side::new(Some(i), (offer.name, offer.beside), checked) }
        });
        sides.collect()
    }

    /// Batches of every side in turn, the first of each to warm up and to learn how many runs a batch takes.
    fn rounds(&mut self, sides: &mut [Side]) {
        for side in &mut *sides {
            let warm = self.batch(side).and_then(|_| self.batch(side));
            side.runs = match warm {
                Some(seconds) => (BATCH_S / seconds.max(1e-9)).clamp(1.0, RUNS_MAX) as u32,
                None => 0,
            };
        }
        let (began, mut round) = (Instant::now(), 0);
        while round < self.pace.rounds || began.elapsed() < self.pace.time {
            for side in &mut *sides {
                if let Some(seconds) = self.batch(side) {
                    side.seconds.push(seconds);
                }
            }
            if self.ours.answers().is_err() {
                return;
            }
            round += 1;
            if sides.iter().all(|side| side.number.known().is_none()) {
                return;
            }
        }
    }

    /// Seconds a run of one batch; a side that fails is out.
    fn batch(&mut self, side: &mut Side) -> Option<f64> {
        side.number.known()?;
        let runs = side.runs.max(1);
        let seconds = match side.peer {
            None => self.ours.time(runs).map_err(|error| error.to_string()),
            Some(peer) => self.theirs.time(peer, runs),
        };
        match seconds {
            Ok(seconds) => Some(seconds / f64::from(runs)),
            Err(why) => {
                side.number = Maybe::not(why);
                None
            }
        }
    }
}

impl Side {
    fn new(
        peer: Option<usize>,
        (name, beside): (String, bool),
        checked: Result<Checked, String>,
    ) -> Self {
        let number = match checked {
            Ok(checked) => Maybe::Is(Number::count(0.0, "none", checked)),
            Err(why) => Maybe::not(why),
        };
        Self { peer, name, beside, how: None, runs: 1, seconds: Vec::new(), number }
    }

    /// The work of the problem over the median.
    fn finished(self, built: &Built) -> Maybe<Number> {
        let check = match self.number {
            Maybe::Is(number) => number.check,
            Maybe::Not(why) => return Maybe::Not(why),
        };
        let timing = Timing::of(self.seconds);
        if timing.median_s <= 0.0 {
            return Maybe::not(format!("the clock saw no time in {} batches", timing.runs));
        }
        Maybe::Is(Number::speed(built.work / timing.median_s, built.unit, timing, check))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::super::{ours, products::Product};
    use super::*;
    use leasehold::DType;
    use serde_json::{Value, json};

    const PACE: Pace = Pace { time: Duration::ZERO, rounds: 3, turns: 1 << 16 };

    /// A peer that answers what it is asked for from a product of its own, one that answers wrong, and an absent one.
    #[test]
    fn peers_take_turns_are_checked_and_are_named_where_they_fail() {
        let problem = Problem::Matmul(Product {
            batch: 1,
            size: [24, 16, 32],
            dtype: DType::F32,
            out: DType::F32,
            turned: [false, true],
            between: false,
            added: false,
        });
        let mut cpu = ours::open("cpu", None).unwrap();
        let mut operands: Vec<Vec<f64>> = Vec::new();
        let mut asked = Vec::new();
        let mut answer = |request: &str, bytes: &[&[u8]]| {
            let request: Value = serde_json::from_str(request).unwrap();
            asked.push(request["do"].as_str().unwrap().to_string());
            let reply = match request["do"].as_str().unwrap() {
                "hello" => {
                    json!({ "torch": "none", "device": "a test", "clock": "none", "libraries": [] })
                }
                "load" => {
                    let floats = |bytes: &&[u8]| -> Vec<f64> {
                        let words = bytes.chunks_exact(4);
                        words.map(|w| f32::from_le_bytes(w.try_into().unwrap()).into()).collect()
                    };
                    operands = bytes.iter().map(floats).collect();
                    assert_eq!(request["given"][1]["strides"], json!([1, 32]));
                    json!({ "peers": [{ "name": "right", "beside": false, "how": "by hand" }, { "name": "wrong", "beside": false }, { "name": "gone", "beside": false, "not_run": "absent" }] })
                }
                "time" => json!({ "seconds": 0.25 * request["runs"].as_f64().unwrap() }),
                "values" => {
                    let off = request["peer"].as_f64().unwrap();
                    let at = request["at"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|at| at.as_u64().unwrap() as usize);
                    let value = |at: usize| {
                        let (i, j) = (at / 16, at % 16);
                        (0..32)
                            .map(|k| operands[0][i * 32 + k] * operands[1][j * 32 + k])
                            .sum::<f64>()
                            + off
                    };
                    json!({ "values": at.map(value).collect::<Vec<_>>() })
                }
                _ => json!({}),
            };
            Ok(reply.to_string())
        };
        let mut theirs = Theirs::new(Some(Box::new(&mut answer)));
        let mut speed = Speed { ours: cpu.as_mut(), theirs: &mut theirs, seed: 1, pace: PACE };
        let row = speed.row(&problem, Vec::new());
        let ours = row.ours.known().unwrap();
        assert!(ours.is_right() && ours.value > 0.0, "{ours:?}");
        let [right, wrong, gone] = &row.peers[..] else { panic!("{row:?}") };
        let number = right.number.known().unwrap();
        assert!(number.is_right(), "{number:?}");
        assert_eq!(right.how.as_deref(), Some("by hand"));
        assert!(row.plan.as_ref().is_some_and(|plan| !plan.is_empty()), "{row:?}");
        assert_eq!(number.timing.unwrap().median_s, 0.25);
        assert!(!wrong.number.known().unwrap().is_right());
        assert_eq!(gone.number.why_not(), Some("absent"));
        assert_eq!(row.ratio, Some(ours.value / number.value));
        drop(theirs);
        assert_eq!(asked.last().unwrap(), "unload");
    }
}
