//! A backend that computes nothing: it counts launches, checks that every operand lies inside its block, and
//! moves a virtual clock. Tests of rejection, scheduling and time run on it without a device.

use super::{Backend, BlockId, Caps, Mark, Place, Progress};
use crate::error::{Error, Kind, Result};
use crate::op::{BoundOp, CheckedOp};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS, UnitRange};
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
    /// The op's name.
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
}

/// The backend. Memory is only lengths, so a block may be larger than any machine.
#[derive(Debug)]
pub struct Null {
    caps: Caps,
    blocks: HashMap<u64, u64>,
    next: u64,
    log: Log,
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
            software: true,
            max_alloc: memory,
            max_binding: memory,
            memory,
            unit_cap_ns: UNIT_CAP_GPU_NS,
            clock: "virtual",
        };
        let blocks = HashMap::new();
        (Self { caps, blocks, next: 0, log: log.clone(), busy_ns: 0, marks: Vec::new() }, log)
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

impl Backend for Null {
    type Prepared = Plan;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn digest(&self) -> [u8; 32] {
        *blake3::hash(b"null").as_bytes()
    }

    fn alloc(&mut self, bytes: u64) -> Result<BlockId> {
        let used: u64 = self.blocks.values().sum();
        let free = self.caps.memory - used;
        if bytes > free {
            return Err(Kind::OutOfMemory { asked: bytes, free, quota: self.caps.memory }.into());
        }
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
        let units = total.div_ceil(u128::from(self.caps.unit_cap_ns));
        let tiles = u64::try_from(units).map_err(|_| -> Error {
            Kind::Time { asked: total, allowed: u128::from(u64::MAX) }.into()
        })?;
        let order = Order { entry: "null", tile: [1, 1], chunk: 0, family: Family::Move };
        let unit_ns = total.div_ceil(units) as u64;
        Ok(vec![Plan { order, kernel: order.entry, tiles, links: 1, unit_ns, state_bytes: 0 }])
    }

    fn prepare(&mut self, _op: &CheckedOp, plan: &Plan) -> Result<Plan> {
        Ok(*plan)
    }

    fn launch(
        &mut self,
        plan: &mut Plan,
        units: UnitRange,
        op: &BoundOp,
        places: &[Place],
        _state: Option<Place>,
    ) -> Result<()> {
        for (spec, place) in op.op().specs().iter().zip(places) {
            self.inside(place.block, place.offset, spec.span_bytes())?;
        }
        let busy = (units.end - units.start).saturating_mul(plan.unit_ns);
        let at_ns = self.log.now_ns.fetch_add(busy, Relaxed);
        self.busy_ns = self.busy_ns.saturating_add(busy);
        let launch = Launch { op: op.op().op().name(), units, at_ns };
        self.log.launches.lock().unwrap_or_else(PoisonError::into_inner).push(launch);
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
