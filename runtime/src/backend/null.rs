//! A backend that computes nothing: it counts launches and what they need, checks that every operand lies inside its
//! block, and moves a virtual clock. Tests of rejection, scheduling and time run on it without a device.

use super::{Backend, BlockId, Caps, Mark, Place, Progress, Step};
use crate::error::{Error, Kind, Result};
use crate::op::{BoundOp, CheckedOp, Spec};
use crate::order::{Cost, Family, Order, Plan, UNIT_CAP_GPU_NS, UnitRange};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Predicted rates of the virtual device.
const FLOPS_PER_NS: u128 = 100;
const BYTES_PER_NS: u128 = 10;

/// One launch, as the test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The op's name; `segment` for several ops at once.
    pub op: &'static str,
    /// The units launched.
    pub units: UnitRange,
    /// The virtual time at which it began, in nanoseconds.
    pub at_ns: u64,
}

/// What a test keeps of a [`Null`] that it hands to an engine.
#[derive(Clone, Debug, Default)]
pub struct Log {
    launches: Arc<Mutex<Vec<Launch>>>,
    now_ns: Arc<AtomicU64>,
    prepared: Arc<AtomicU64>,
    segments: Arc<AtomicU64>,
}

impl Log {
    /// Launches so far.
    pub fn launches(&self) -> Vec<Launch> {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The virtual time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    /// How many plans were made launchable so far.
    pub fn prepared(&self) -> u64 {
        self.prepared.load(Relaxed)
    }

    /// How many segments were made so far.
    pub fn segments(&self) -> u64 {
        self.segments.load(Relaxed)
    }
}

/// Ops that are launched as one: what they touch, all their units, and what those are predicted to take.
#[derive(Debug)]
pub struct Segment {
    touched: Vec<(Place, u128)>,
    launches: u64,
    units: u64,
    busy_ns: u64,
}

/// A plan, and the memory that it holds while it is there.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    bytes: u64,
    held: Arc<AtomicU64>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// The backend. Memory is only lengths, so a block may be larger than any machine.
#[derive(Debug)]
pub struct Null {
    caps: Caps,
    blocks: HashMap<u64, u64>,
    next: u64,
    log: Log,
    state_bytes: u64,
    /// What a prepared plan holds, and all of them together.
    prepared_bytes: u64,
    held: Arc<AtomicU64>,
    /// Busy nanoseconds since the last mark, and of the marks not yet polled.
    busy_ns: u64,
    marks: Vec<u64>,
}

impl Null {
    /// A device of `memory` bytes and the log of what it will be asked.
    pub fn new(memory: u64) -> (Self, Log) {
        let log = Log::default();
        let caps = Caps {
            backend: "null",
            name: "null".into(),
            arch: "null",
            software: false,
            max_alloc: memory,
            max_binding: memory,
            memory,
            unit_cap_ns: UNIT_CAP_GPU_NS,
            clock: "virtual",
        };
        let blocks = HashMap::new();
        let null = Self {
            caps,
            blocks,
            next: 0,
            log: log.clone(),
            state_bytes: 0,
            prepared_bytes: 0,
            held: Arc::default(),
            busy_ns: 0,
            marks: Vec::new(),
        };
        (null, log)
    }

    /// The same whose plans hand on so many bytes from unit to unit.
    #[must_use]
    pub fn handing_on(mut self, bytes: u64) -> Self {
        self.state_bytes = bytes;
        self
    }

    /// The same whose prepared plans hold so many bytes each.
    #[must_use]
    pub fn preparing(mut self, bytes: u64) -> Self {
        self.prepared_bytes = bytes;
        self
    }

    /// The same with units that are predicted to take up to `ns`, as those of a part of a card are.
    #[must_use]
    pub fn with_unit_cap(mut self, ns: u64) -> Self {
        self.caps.unit_cap_ns = ns;
        self
    }

    fn log(&mut self, op: &'static str, units: UnitRange, busy_ns: u64) {
        let at_ns = self.log.now_ns.fetch_add(busy_ns, Relaxed);
        self.busy_ns = self.busy_ns.saturating_add(busy_ns);
        let launch = Launch { op, units, at_ns };
        self.log.launches.lock().unwrap_or_else(PoisonError::into_inner).push(launch);
    }

    /// That so many bytes are free.
    fn has(&self, bytes: u64) -> Result<()> {
        let used = self.blocks.values().sum::<u64>() + self.held.load(Relaxed);
        let free = self.caps.memory.saturating_sub(used);
        if bytes <= free {
            return Ok(());
        }
        Err(Kind::OutOfMemory { asked: bytes, free, quota: self.caps.memory }.into())
    }

    fn inside(&self, block: BlockId, offset: u64, len: u128) -> Result<()> {
        let have = self.blocks.get(&block.0).copied().unwrap_or(0);
        let end = u128::from(offset) + len;
        if end <= u128::from(have) {
            return Ok(());
        }
        Err(Kind::Bounds { asked: end.to_string(), allowed: have.to_string() }.into())
    }
}

/// The operands of an op and their bytes.
fn touched(op: &BoundOp, places: &[Place]) -> Vec<(Place, u128)> {
    places.iter().copied().zip(op.op().specs().iter().map(Spec::span_bytes)).collect()
}

impl Backend for Null {
    type Prepared = Prepared;
    type Segment = Segment;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn digest(&self) -> [u8; 32] {
        *blake3::hash(b"null").as_bytes()
    }

    fn alloc(&mut self, bytes: u64) -> Result<BlockId> {
        self.has(bytes)?;
        self.next += 1;
        self.blocks.insert(self.next, bytes);
        Ok(BlockId(self.next))
    }

    fn free(&mut self, block: BlockId) {
        self.blocks.remove(&block.0);
    }

    fn zero(&mut self, block: BlockId, offset: u64, len: u64) -> Result<()> {
        self.inside(block, offset, len.into())
    }

    fn upload(&mut self, block: BlockId, offset: u64, src: &[u8]) -> Result<()> {
        self.inside(block, offset, src.len() as u128)
    }

    fn download(&mut self, block: BlockId, offset: u64, dst: &mut [u8]) -> Result<()> {
        dst.fill(0);
        self.inside(block, offset, dst.len() as u128)
    }

    fn copy(&mut self, src: Place, dst: Place, len: u64) -> Result<()> {
        self.inside(src.block, src.offset, len.into())?;
        self.inside(dst.block, dst.offset, len.into())
    }

    fn candidates(&self, op: &CheckedOp) -> Result<Vec<Plan>> {
        let cost = op.cost();
        let total = (cost.flops / FLOPS_PER_NS).max(cost.bytes / BYTES_PER_NS).max(1);
        // Nothing is launched for nothing, as on other devices.
        let units = match cost {
            Cost { flops: 0, bytes: 0 } => 0,
            _ => total.div_ceil(u128::from(self.caps.unit_cap_ns)),
        };
        let tiles = u64::try_from(units).map_err(|_| -> Error {
            Kind::Time { asked: total, allowed: u128::from(u64::MAX) }.into()
        })?;
        let order = Order { entry: "null", tile: [1, 1], chunk: 0, family: Family::Move };
        let unit_ns = total.div_ceil(units.max(1)) as u64;
        Ok(vec![Plan {
            order,
            kernel: order.entry,
            tiles,
            links: 1,
            unit_ns,
            wave: 1,
            wave_ns: unit_ns,
            state_bytes: self.state_bytes,
        }])
    }

    fn prepare(&mut self, _op: &CheckedOp, plan: &Plan) -> Result<Prepared> {
        self.has(self.prepared_bytes)?;
        self.log.prepared.fetch_add(1, Relaxed);
        self.held.fetch_add(self.prepared_bytes, Relaxed);
        let held = Arc::clone(&self.held);
        Ok(Prepared { plan: *plan, bytes: self.prepared_bytes, held })
    }

    fn prepared_bytes(prepared: &Prepared) -> u64 {
        prepared.bytes
    }

    fn launch(
        &mut self,
        prepared: &mut Prepared,
        units: UnitRange,
        op: &BoundOp,
        places: &[Place],
        _state: Option<Place>,
    ) -> Result<()> {
        for (place, len) in touched(op, places) {
            self.inside(place.block, place.offset, len)?;
        }
        let busy = (units.end - units.start).saturating_mul(prepared.plan.unit_ns);
        self.log(op.op().op().name(), units, busy);
        Ok(())
    }

    fn segment(&mut self, steps: &[Step<'_, Prepared>]) -> Result<Option<Segment>> {
        self.log.segments.fetch_add(1, Relaxed);
        let count = |step: &Step<'_, Prepared>| step.units.end - step.units.start;
        Ok(Some(Segment {
            touched: steps.iter().flat_map(|step| touched(step.op, step.places)).collect(),
            launches: steps.iter().filter(|step| count(step) > 0).count() as u64,
            units: steps.iter().map(count).sum(),
            busy_ns: steps
                .iter()
                .map(|step| count(step).saturating_mul(step.prepared.plan.unit_ns))
                .sum(),
        }))
    }

    fn launches_of(segment: &Segment) -> u64 {
        segment.launches
    }

    fn replay(&mut self, segment: &Segment) -> Result<()> {
        for (place, len) in &segment.touched {
            self.inside(place.block, place.offset, *len)?;
        }
        self.log("segment", 0..segment.units, segment.busy_ns);
        Ok(())
    }

    fn mark(&mut self) -> Result<Mark> {
        self.marks.push(std::mem::take(&mut self.busy_ns));
        Ok(Mark(self.marks.len() as u64 - 1))
    }

    fn poll(&mut self, mark: Mark, _timeout: Option<Duration>) -> Result<Progress> {
        let busy_ns = self.marks.get(mark.0 as usize).copied().unwrap_or(0);
        Ok(Progress::Done { busy_ns, fault: None })
    }
}
