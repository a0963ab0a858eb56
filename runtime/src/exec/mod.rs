//! Runs bound ops on a backend: the table of buffers, the cache of prepared plans, and runs that advance by
//! whole units. The local engine passes a run's whole range to one launch; a node's executor advances it by
//! slices, with other tenants' work between. Neither clock nor policy is here.

mod segments;

use crate::backend::{Backend, BlockId, Caps, Mark, Place, Progress};
use crate::error::{Error, Kind, Result};
use crate::numerics::Numerics;
use crate::op::{BoundOp, BufferId, CheckedOp};
use crate::order::{Family, Plan, UnitRange};
use crate::plan;
use segments::Segments;
pub use segments::{Part, Segment};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Prepared plans kept beside those that segments name; the cache is emptied of them when they would be more.
const PREPARED_MAX: usize = 4096;
/// Bytes of device memory that prepared plans hold beside their ops' operands, and at most this part of the device's: the
/// same. No tenant counts them, so none can have many. As much again may be what segments name and hold.
const PREPARED_BYTES: u64 = 64 << 20;
const PREPARED_PART: u64 = 16;
/// Ops known by their address; the same.
const SEEN_MAX: usize = 1024;

/// A backend with its buffers and prepared plans. One thread uses it at a time.
pub struct Core<B: Backend> {
    /// They go before what they use.
    segments: Segments<B>,
    backend: B,
    buffers: HashMap<BufferId, Buffer>,
    ready: Vec<Ready<B>>,
    /// Bytes that those in `ready` hold which no segment names.
    held: u64,
    /// How often the cache was emptied of those.
    forgotten: u64,
    /// Places in `ready`.
    prepared: HashMap<Arc<CheckedOp>, usize>,
    /// The same by the address of an op, which is held and so stays its own: the ops of a program are not hashed at
    /// every replay.
    seen: HashMap<usize, (Arc<CheckedOp>, usize)>,
    numerics: Numerics,
    states: States,
}

/// Where what chains carry lies.
enum States {
    /// In blocks of their own, a run's while it lasts.
    Own(HashSet<BlockId>),
    /// In the buffer that was lent last, if it was one.
    Lent(Option<BufferId>),
}

struct Buffer {
    block: BlockId,
    len: u64,
}

struct Ready<B: Backend> {
    plan: Plan,
    kernel: B::Prepared,
    /// How many ops of segments name it.
    named: usize,
}

/// An op under way: which units are done and where its operands lie. Or a segment, which is launched whole.
#[derive(Debug)]
pub struct Run {
    work: Work,
    next: u64,
}

#[derive(Debug)]
enum Work {
    Op { op: BoundOp, plan: Plan, places: Vec<Place>, state: Option<Place> },
    Segment(Segment),
}

impl Run {
    /// The op and its bindings; those of a segment in their order.
    pub fn ops(&self) -> &[BoundOp] {
        match &self.work {
            Work::Op { op, .. } => std::slice::from_ref(op),
            Work::Segment(segment) => segment.ops(),
        }
    }

    /// Whether nothing is launched yet.
    pub fn is_new(&self) -> bool {
        self.next == 0
    }

    /// Units not yet launched.
    pub fn remaining(&self) -> u64 {
        self.units() - self.next
    }

    /// Predicted nanoseconds of the least that can be launched: a unit, or a segment.
    pub fn least_ns(&self) -> u64 {
        match &self.work {
            Work::Op { plan, .. } => plan.launch_ns(1),
            Work::Segment(segment) => segment.ns(),
        }
    }

    /// Most units whose prediction fits `budget_ns`, but at least the least while any remains.
    pub fn units_within(&self, budget_ns: u64) -> u64 {
        match &self.work {
            Work::Op { plan, .. } => plan.units_within(budget_ns).min(self.remaining()),
            Work::Segment(_) => self.remaining(),
        }
    }

    /// Predicted nanoseconds of so many units.
    pub fn predicted_ns(&self, units: u64) -> u64 {
        match &self.work {
            Work::Op { plan, .. } => plan.launch_ns(units),
            Work::Segment(segment) => segment.ns(),
        }
    }

    fn units(&self) -> u64 {
        match &self.work {
            // `plan::choose` refused plans whose units exceed 64 bits.
            Work::Op { plan, .. } => u64::try_from(plan.units()).unwrap_or(u64::MAX),
            Work::Segment(segment) => segment.units(),
        }
    }
}

impl<B: Backend> Core<B> {
    /// A core without buffers.
    pub fn new(backend: B) -> Self {
        let numerics = Numerics::of(&backend);
        Self {
            segments: Segments::new(),
            backend,
            buffers: HashMap::new(),
            ready: Vec::new(),
            held: 0,
            forgotten: 0,
            prepared: HashMap::new(),
            seen: HashMap::new(),
            numerics,
            states: States::Own(HashSet::new()),
        }
    }

    /// What the backend is and can do.
    pub fn caps(&self) -> &Caps {
        self.backend.caps()
    }

    /// The device's numerics id.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// The backend itself, for copies and zeroing by block.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Allocates `len` bytes under `id`, contents undefined. The caller never uses an id twice. What is held beside buffers
    /// makes room for them.
    ///
    /// # Errors
    /// `Unsupported` over the device's allocation limit, `OutOfMemory`, `DeviceLost`.
    pub fn alloc(&mut self, id: BufferId, len: u64) -> Result<()> {
        let max = self.caps().max_alloc;
        if len > max {
            let asked = format!("an allocation of {len} bytes");
            return Err(Kind::Unsupported { asked, allowed: format!("{max} bytes") }.into());
        }
        let block = match self.backend.alloc(len) {
            Err(error) if self.make_room(&error) => self.backend.alloc(len),
            block => block,
        }?;
        self.buffers.insert(id, Buffer { block, len });
        Ok(())
    }

    /// Frees a buffer; unknown ids are ignored.
    pub fn free(&mut self, id: BufferId) {
        if let Some(buffer) = self.buffers.remove(&id) {
            self.drop_segments_of(id);
            self.backend.free(buffer.block);
            self.segments.freed += 1;
        }
    }

    /// The place of byte `offset` of a buffer, if `len` bytes from there lie inside it.
    ///
    /// # Errors
    /// `Bounds`.
    pub fn place(&self, id: BufferId, offset: u64, len: u64) -> Result<Place> {
        let end = u128::from(offset) + u128::from(len);
        match self.buffers.get(&id) {
            Some(buffer) if end <= u128::from(buffer.len) => {
                Ok(Place { block: buffer.block, offset })
            }
            other => {
                let allowed = other.map_or(0, |buffer| buffer.len);
                Err(Kind::Bounds { asked: end.to_string(), allowed: allowed.to_string() }.into())
            }
        }
    }

    /// The plan that the op will follow here; prepared once and cached.
    ///
    /// # Errors
    /// `Unsupported`, `Time`, `OutOfMemory` or `DeviceLost`.
    pub fn plan(&mut self, op: &Arc<CheckedOp>) -> Result<Plan> {
        let place = self.ready(op)?;
        Ok(self.ready[place].plan)
    }

    /// The place of the op's plan in `ready`.
    fn ready(&mut self, op: &Arc<CheckedOp>) -> Result<usize> {
        let address = Arc::as_ptr(op).addr();
        if let Some((_, place)) = self.seen.get(&address) {
            return Ok(*place);
        }
        let place = match self.prepared.get(op) {
            Some(place) => *place,
            None => self.prepare(op)?,
        };
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(address, (Arc::clone(op), place));
        Ok(place)
    }

    fn prepare(&mut self, op: &Arc<CheckedOp>) -> Result<usize> {
        let named = |e: Error| e.in_op(op.op().name());
        self.binding_limits(op).map_err(named)?;
        let mut candidates = self.backend.candidates(op).map_err(named)?;
        let others = self.ready.len().saturating_sub(self.segments.plans);
        if others >= PREPARED_MAX || self.held >= self.held_max() {
            self.forget();
        }
        let (plan, kernel) = loop {
            let plan = plan::choose(op, &candidates, self.backend.caps())?;
            let plan = self.backend.settle(op, plan);
            match self.backend.prepare(op, &plan) {
                // What a vendor's library has no algorithm or no room for is ours.
                Err(_) if plan.order.family == Family::Vendor => {
                    candidates.retain(|other| other.order.family != Family::Vendor);
                }
                // What the others hold may make room.
                Err(error) if self.make_room(&error) => {
                    break (plan, self.backend.prepare(op, &plan));
                }
                kernel => break (plan, kernel),
            }
        };
        let kernel = kernel.map_err(named)?;
        self.held += B::prepared_bytes(&kernel);
        self.prepared.insert(Arc::clone(op), self.ready.len());
        self.ready.push(Ready { plan, kernel, named: 0 });
        Ok(self.ready.len() - 1)
    }

    fn held_max(&self) -> u64 {
        PREPARED_BYTES.min(self.caps().memory / PREPARED_PART)
    }

    /// Empties the cache of what no segment names, which may be another tenant's; runs under way prepare again.
    fn forget(&mut self) {
        let mut stay = 0..;
        let moved = self.ready.iter().map(|ready| (ready.named > 0).then(|| stay.next()).flatten());
        let moved: Vec<Option<usize>> = moved.collect();
        self.ready.retain(|ready| ready.named > 0);
        self.prepared.retain(|_, place| {
            let to = moved.get(*place).copied().flatten();
            *place = to.unwrap_or(*place);
            to.is_some()
        });
        self.segments.moved(&moved);
        self.seen.clear();
        self.held = 0;
        self.forgotten += 1;
        self.segments.freed += 1;
    }

    /// Gives device memory back that is held beside buffers, but not what holds up another tenant's programs, if that may be
    /// room enough for what failed: plans are every tenant's, and not thrown away for what fails all the same. Whether it did.
    fn make_room(&mut self, failed: &Error) -> bool {
        let Kind::OutOfMemory { asked, free, .. } = *failed.kind() else { return false };
        let is_own = matches!(self.states, States::Own(_));
        let held = self.held + if is_own { self.segments.bytes } else { 0 };
        if held == 0 || free.saturating_add(held) < asked {
            return false;
        }
        if is_own {
            self.drop_all_segments();
        }
        self.forget();
        true
    }

    fn binding_limits(&self, op: &CheckedOp) -> Result<()> {
        let max = self.caps().max_binding;
        let over = op.specs().iter().zip(op.roles()).find(|(s, _)| s.span_bytes() > max.into());
        match over {
            None => Ok(()),
            Some((spec, role)) => {
                let asked = format!("{} of {} bytes", role.name, spec.span_bytes());
                Err(Kind::Unsupported { asked, allowed: format!("{max} bytes") }.into())
            }
        }
    }

    /// Plans the op and finds its operands; nothing is launched yet.
    ///
    /// # Errors
    /// As [`Core::plan`], or `Bounds` when a buffer is gone.
    pub fn begin(&mut self, op: BoundOp) -> Result<Run> {
        let plan = self.plan(op.op())?;
        let places = self.places(&op)?;
        let state = match plan.state_bytes {
            0 => None,
            bytes => Some(self.state(bytes)?),
        };
        Ok(Run { work: Work::Op { op, plan, places, state }, next: 0 })
    }

    fn places(&self, op: &BoundOp) -> Result<Vec<Place>> {
        let specs = op.op().specs().iter();
        specs
            .zip(op.bindings())
            // A checked spec spans fewer than 2^62 bytes.
            .map(|(spec, b)| self.place(b.buffer, b.offset, spec.span_bytes() as u64))
            .collect()
    }

    /// From now on what chains carry lies in buffers that are lent, as their owner's: the runs that begin until the next call
    /// have this one. Of several on one buffer none is stepped before the one that began before it has no more units. What
    /// another owner left in the buffer is gone before it is lent.
    pub fn lend(&mut self, buffer: Option<BufferId>) {
        self.states = States::Lent(buffer);
    }

    /// Room for what a chain carries; where it is not lent, of zeros: counts in device memory may change between slices, and
    /// a slice must then find nothing that another process has left.
    fn state(&mut self, bytes: u64) -> Result<Place> {
        let States::Own(own) = &mut self.states else {
            let States::Lent(Some(buffer)) = self.states else {
                return Err(Kind::OutOfMemory { asked: bytes, free: 0, quota: 0 }.into());
            };
            return self.place(buffer, 0, bytes);
        };
        let block = self.backend.alloc(bytes)?;
        if let Err(error) = self.backend.zero(block, 0, bytes) {
            self.backend.free(block);
            return Err(error);
        }
        own.insert(block);
        Ok(Place { block, offset: 0 })
    }

    /// Launches the run's next `units` units, or all of a segment, and returns the range launched.
    ///
    /// # Errors
    /// `DeviceLost`, or what preparing again can fail with.
    pub fn step(&mut self, run: &mut Run, units: u64) -> Result<UnitRange> {
        let whole = matches!(run.work, Work::Segment(_));
        let units = if whole { run.remaining() } else { units.min(run.remaining()) };
        let range = run.next..run.next + units;
        if range.is_empty() {
            return Ok(range);
        }
        match &run.work {
            Work::Op { op, places, state, .. } => {
                // The cache may have been emptied since the run began.
                let place = self.ready(op.op())?;
                let kernel = &mut self.ready[place].kernel;
                self.backend.launch(kernel, range.clone(), op, places, *state)?;
            }
            Work::Segment(segment) => {
                if !self.launch_segment(segment)? {
                    self.launch_ops(segment)?;
                }
            }
        }
        run.next = range.end;
        Ok(range)
    }

    /// Gives back what a run holds, whether it ended or was dropped half-way.
    pub fn end(&mut self, run: &Run) {
        if let Work::Op { state: Some(state), .. } = &run.work {
            self.give_state(*state);
        }
    }

    /// Gives room back that [`Core::state`] gave, unless it was lent.
    fn give_state(&mut self, state: Place) {
        if let States::Own(own) = &mut self.states
            && own.remove(&state.block)
        {
            self.backend.free(state.block);
        }
    }

    /// A mark after everything launched so far.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn mark(&mut self) -> Result<Mark> {
        self.backend.mark()
    }

    /// Waits for a mark.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress> {
        self.backend.poll(mark, timeout)
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error.kind(), Kind::OutOfMemory { .. })
}
