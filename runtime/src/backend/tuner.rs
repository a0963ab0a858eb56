//! The opt-in tuner: times an op's plans on the device when the op is prepared first, and remembers the fastest in a file
//! of the device's. All of them have the chosen plan's order, so the choice changes speed and no bits. Backends that have
//! several plans of one order call it from [`Backend::settle`]; it is for devices of this process, since it times beside
//! what runs.

use super::{Backend, BlockId, Place, digest};
use crate::error::Result;
use crate::op::{Binding, BufferId, CheckedOp, Spec};
use crate::order::Plan;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Times that a plan runs, after once to warm up; its least time counts.
const RUNS: usize = 3;
/// A run ends after the units that are predicted to take this long.
const RUN_NS: u64 = 20_000_000;

/// A backend that can be tuned.
pub(super) trait Tuned: Backend {
    /// What was found before, if the backend is to be tuned.
    fn tuner(&mut self) -> Option<&mut Tuner>;

    /// Nanoseconds that the device takes for what `work` launches, apart from what was launched before.
    ///
    /// # Errors
    /// What `work` fails with, or `DeviceLost`.
    fn timed(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<u64>;
}

/// What was found, by the key of an op: the name of a kernel.
pub(super) struct Tuner {
    file: PathBuf,
    found: BTreeMap<String, String>,
}

impl Tuner {
    /// Reads what was found on a backend's device: of its name, with the digest's kernels. A file that is not whole is no
    /// file.
    pub(super) fn new(folder: &Path, backend: &impl Backend) -> Self {
        let device = digest(&[&backend.digest(), backend.caps().name.as_bytes()]);
        let name = blake3::Hash::from(device).to_hex();
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

/// Bytes from an operand's first element to its last; the engine held them to a binding.
fn span(spec: &Spec) -> u64 {
    spec.span_bytes() as u64
}

/// The plan that the tuner found fastest among those of the order of `plan`; `plan` itself without a tuner or a choice, or
/// where they cannot be timed.
pub(super) fn fastest<B: Tuned>(backend: &mut B, op: &CheckedOp, plan: Plan) -> Plan {
    if backend.tuner().is_none() {
        return plan;
    }
    let cap = backend.caps().unit_cap_ns;
    let mut plans = backend.candidates(op).unwrap_or_default();
    plans.retain(|other| other.order == plan.order && other.launch_ns(1) <= cap);
    if plans.len() < 2 {
        return plan;
    }
    let key = blake3::hash(format!("{op:?}").as_bytes()).to_hex().to_string();
    let known = backend.tuner().and_then(|tuner| tuner.found.get(&key));
    if let Some(known) = plans.iter().find(|other| known.is_some_and(|k| k == other.kernel)) {
        return *known;
    }
    let timed = time_all(backend, op, &plans).unwrap_or_default();
    let Some((_, best)) = timed.into_iter().min_by_key(|&(time, _)| time) else { return plan };
    if let Some(tuner) = backend.tuner() {
        tuner.remember(key, best.kernel);
    }
    best
}

/// The time of each plan on operands of zeros.
///
/// # Errors
/// `OutOfMemory` where there is no room for them; what preparing and launching fail with.
fn time_all<B: Tuned>(
    backend: &mut B,
    op: &CheckedOp,
    plans: &[Plan],
) -> Result<Vec<(u128, Plan)>> {
    let state = plans.iter().map(|plan| plan.state_bytes).max().unwrap_or(0);
    let operands = op.specs().iter().map(|spec| (spec.offset_class.into(), span(spec)));
    let (mut places, mut room) = (Vec::new(), Ok(()));
    for (offset, bytes) in [(0, state)].into_iter().chain(operands) {
        match zeros(backend, offset + bytes) {
            Ok(block) => places.push(Place { block, offset }),
            Err(error) => room = Err(error),
        }
    }
    let timed = match (room, places.split_first()) {
        (Ok(()), Some((state, operands))) => {
            let time = |plan: &Plan| Ok((time(backend, op, plan, operands, *state)?, *plan));
            plans.iter().map(time).collect()
        }
        (room, _) => room.map(|()| Vec::new()),
    };
    places.iter().for_each(|place| backend.free(place.block));
    timed
}

fn zeros(backend: &mut impl Backend, bytes: u64) -> Result<BlockId> {
    let block = backend.alloc(bytes)?;
    match backend.zero(block, 0, bytes) {
        Ok(()) => Ok(block),
        Err(error) => {
            backend.free(block);
            Err(error)
        }
    }
}

/// Nanoseconds of all units of a plan, by those of as many as a run has.
fn time<B: Tuned>(
    backend: &mut B,
    op: &CheckedOp,
    plan: &Plan,
    places: &[Place],
    state: Place,
) -> Result<u128> {
    let bindings = places.iter().zip(op.specs()).map(|(place, spec)| Binding {
        buffer: BufferId(place.block.0),
        offset: place.offset,
        len: place.offset + span(spec),
    });
    let bound = Arc::new(op.clone()).bind(&bindings.collect::<Vec<_>>())?;
    let mut prepared = backend.prepare(op, plan)?;
    let units = u64::try_from(plan.units()).unwrap_or(u64::MAX).min(plan.units_within(RUN_NS));
    let mut least = u64::MAX;
    for run in 0..=RUNS {
        let launch =
            |backend: &mut B| backend.launch(&mut prepared, 0..units, &bound, places, Some(state));
        let time = backend.timed(launch)?;
        least = if run > 0 { least.min(time) } else { least };
    }
    Ok(u128::from(least).saturating_mul(plan.units()) / u128::from(units.max(1)))
}
