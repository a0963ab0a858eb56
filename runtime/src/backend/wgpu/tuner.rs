//! The opt-in tuner: times an op's kernels on the device when it is prepared first, and remembers the fastest in a file
//! of the adapter's. All of them have the plan's order, so the choice changes speed and no bits. `mod` calls it.

use super::Wgpu;
use crate::backend::{Backend, Place};
use crate::error::Result;
use crate::op::{Binding, BufferId, CheckedOp, Spec};
use crate::order::Plan;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Times that a kernel runs, after once to warm up; its least time counts.
const RUNS: usize = 3;
/// A run ends after the units that are predicted to take this long.
const RUN_NS: u64 = 20_000_000;

/// What was found, by the key of an op: the name of a kernel.
pub(super) struct Tuner {
    file: PathBuf,
    found: BTreeMap<String, String>,
}

impl Tuner {
    /// Reads what was found on an adapter of this digest, which covers its driver and our shaders. A file that is not
    /// whole is no file.
    pub(super) fn new(folder: &Path, digest: [u8; 32]) -> Self {
        let name = blake3::Hash::from(digest).to_hex();
        let file = folder.join(format!("{name}.tuned"));
        let found = std::fs::read_to_string(&file).ok().and_then(|text| parsed(&text));
        Self { file, found: found.unwrap_or_default() }
    }

    /// Adds a result. A file that cannot be written costs the next process its time, nothing else.
    fn remember(&mut self, key: String, kernel: &str) {
        self.found.insert(key, kernel.into());
        let body: String =
            self.found.iter().map(|(key, kernel)| format!("{key} {kernel}\n")).collect();
        let text = format!("{}\n{body}", blake3::hash(body.as_bytes()).to_hex());
        // Written apart and renamed, so that no reader sees half of it.
        let new = self.file.with_extension(format!("{}.new", std::process::id()));
        let written = self.file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = written.and_then(|()| std::fs::write(&new, text));
        let _ = written.and_then(|()| std::fs::rename(&new, &self.file));
    }
}

/// The lines of a file whose first is the hash of the others.
fn parsed(text: &str) -> Option<BTreeMap<String, String>> {
    let (hash, body) = text.split_once('\n')?;
    if blake3::hash(body.as_bytes()).to_hex().as_str() != hash {
        return None;
    }
    body.lines().map(|line| line.split_once(' ').map(|(k, v)| (k.into(), v.into()))).collect()
}

/// Bytes from an operand's first element to its last; the op's plan held them to a binding.
fn span(spec: &Spec) -> u64 {
    spec.span_bytes() as u64
}

impl Wgpu {
    /// The same with a tuner that keeps its results in `folder`: an op that several kernels can run is timed with each
    /// when it is prepared first. Bits are the same with and without.
    #[must_use]
    pub fn tuned(mut self, folder: &Path) -> Self {
        self.tuner = Some(Tuner::new(folder, self.digest()));
        self
    }

    /// The plan with the kernel that the tuner found fastest; the plan itself without a tuner or a choice.
    pub(super) fn fastest(&mut self, op: &CheckedOp, plan: &Plan) -> Result<Plan> {
        let Some(tuner) = &self.tuner else { return Ok(*plan) };
        let mut plans = self.candidates(op)?;
        plans.retain(|other| Plan { kernel: plan.kernel, ..*other } == *plan);
        if plans.len() < 2 {
            return Ok(*plan);
        }
        let key = blake3::hash(format!("{op:?}").as_bytes()).to_hex().to_string();
        let known = tuner.found.get(&key);
        if let Some(known) = plans.iter().find(|other| known.is_some_and(|k| k == other.kernel)) {
            return Ok(*known);
        }
        let timed = self.time_all(op, &plans)?;
        let Some((_, best)) = timed.into_iter().min_by_key(|&(time, _)| time) else {
            return Ok(*plan);
        };
        if let Some(tuner) = &mut self.tuner {
            tuner.remember(key, best.kernel);
        }
        Ok(best)
    }

    /// The time of each plan on operands of zeros; none where there is no memory for them.
    fn time_all(&mut self, op: &CheckedOp, plans: &[Plan]) -> Result<Vec<(Duration, Plan)>> {
        let mut places = Vec::new();
        let operands = op.specs().iter().map(|spec| (spec.offset_class.into(), span(spec)));
        let state_bytes = plans.iter().map(|plan| plan.state_bytes).max().unwrap_or(0);
        for (offset, bytes) in operands.chain([(0, state_bytes)]) {
            match self.alloc_block(offset + bytes) {
                Ok(block) => places.push(Place { block, offset }),
                Err(_) => break,
            }
        }
        let mut timed = Vec::new();
        if places.len() == op.specs().len() + 1 {
            let state = places.last().copied();
            for plan in plans {
                let time = self.time(op, plan, &places[..op.specs().len()], state)?;
                timed.push((time, *plan));
            }
        }
        for place in places {
            self.free(place.block);
        }
        Ok(timed)
    }

    fn time(
        &mut self,
        op: &CheckedOp,
        plan: &Plan,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<Duration> {
        let bindings = places.iter().zip(op.specs()).map(|(place, spec)| Binding {
            buffer: BufferId(place.block.0),
            offset: place.offset,
            len: place.offset + span(spec),
        });
        let bound = Arc::new(op.clone()).bind(&bindings.collect::<Vec<_>>())?;
        let mut prepared = self.prepared(op, plan)?;
        let units = (RUN_NS / plan.unit_ns.max(1)).max(1).min(plan.units() as u64);
        let mut least = Duration::MAX;
        for run in 0..=RUNS {
            self.stream.drain()?;
            let started = Instant::now();
            self.launch(&mut prepared, 0..units, &bound, places, state)?;
            self.stream.drain()?;
            if run > 0 {
                least = least.min(started.elapsed());
            }
        }
        Ok(least)
    }
}
