//! Segments: ops of a program in a row that a backend keeps and enqueues as one. Both engines make them of what their
//! programs consist of, and go on without where there is none. A segment names memory by address, so it goes before a buffer
//! that it uses does; the plans that it names stay in the cache while it lasts.

use super::{Core, Ready, Run, States, Work, is_out_of_memory};
use crate::backend::{Backend, Place, Step};
use crate::error::{Error, Kind, Result};
use crate::op::{BoundOp, BufferId, CheckedOp};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Ops of one segment, and of all that are kept: a device holds something of each.
const SEGMENT_OPS_MAX: usize = 256;
const KEPT_OPS_MAX: usize = 1 << 14;

/// Names a segment of a core and says what it consists of. Its owner gives it back with [`Core::drop_segment`].
#[derive(Clone, Debug)]
pub struct Segment {
    number: u64,
    ops: Arc<[BoundOp]>,
    units: u64,
    ns: u64,
    launches: u64,
    bytes: u64,
    /// The buffer that was lent when it was made, if one was.
    lent: Option<BufferId>,
}

impl Segment {
    /// Its ops in their order.
    pub fn ops(&self) -> &[BoundOp] {
        &self.ops
    }

    /// Launches that it is of.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// Bytes of device memory that it is counted with, as [`Part::bytes`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Units of all its ops, which are launched together.
    pub(super) fn units(&self) -> u64 {
        self.units
    }

    /// Predicted nanoseconds of all.
    pub(super) fn ns(&self) -> u64 {
        self.ns
    }
}

/// Ops of a program in a row, and the segment of them where there is one.
#[derive(Clone, Debug)]
pub struct Part {
    /// How many ops.
    pub len: usize,
    /// All of them as one, once [`Core::keep`] has made it.
    pub segment: Option<Segment>,
    /// Bytes that a segment of them holds; none where there can be no segment.
    wants: Option<u64>,
    /// How often something had been given back when there was last no room for one.
    tried: Option<u64>,
}

impl Part {
    /// So many ops that go one by one.
    pub fn single(len: usize) -> Self {
        Self { len, segment: None, wants: None, tried: None }
    }

    /// Bytes of device memory that a segment of them is counted with: what its ops' plans hold, which other segments that name
    /// them are counted with again, and a state that no owner counts.
    pub fn bytes(&self) -> u64 {
        self.wants.unwrap_or(0)
    }
}

/// All segments of a core, and what they hold.
pub(super) struct Segments<B: Backend> {
    kept: HashMap<u64, Kept<B>>,
    next: u64,
    /// Ops of all.
    ops: usize,
    /// Plans that they name.
    pub(super) plans: usize,
    /// Bytes of device memory that all are counted with.
    pub(super) bytes: u64,
    /// How often something was given back that may make room for one.
    pub(super) freed: u64,
}

impl<B: Backend> Segments<B> {
    pub(super) fn new() -> Self {
        Self { kept: HashMap::new(), next: 0, ops: 0, plans: 0, bytes: 0, freed: 0 }
    }

    /// The plans that they name have moved.
    pub(super) fn moved(&mut self, to: &[Option<usize>]) {
        for place in self.kept.values_mut().flat_map(|kept| &mut kept.plans) {
            // What is named stays.
            *place = to.get(*place).copied().flatten().unwrap_or(*place);
        }
    }
}

/// A segment and what must outlive it.
struct Kept<B: Backend> {
    segment: B::Segment,
    /// The plan of each op, by its place in the cache.
    plans: Vec<usize>,
    /// Buffers that it names, in order.
    buffers: Vec<BufferId>,
    /// What the links of its cut ops hand on. Each op writes it before it reads it.
    state: Option<Place>,
    bytes: u64,
}

impl<B: Backend> Core<B> {
    /// As many of these ops from the first as are predicted to take at most `most_ns` together, and of which a segment would
    /// hold at most `most_bytes`; the first alone where it takes longer, holds more, or cannot be planned. No segment is made
    /// yet, nor is there one of ops that launch nothing.
    pub fn part<'a>(
        &mut self,
        ops: impl IntoIterator<Item = &'a Arc<CheckedOp>>,
        most_ns: u64,
        most_bytes: u64,
    ) -> Part {
        let most_bytes = most_bytes.min(self.held_max());
        let (mut len, mut launches, mut ns) = (0, false, 0u128);
        let (mut named, mut bytes, mut state_bytes) = (BTreeSet::new(), 0, 0);
        let mut forgotten = None;
        let mut ops = ops.into_iter().take(SEGMENT_OPS_MAX).peekable();
        let least = usize::from(ops.peek().is_some());
        for op in ops {
            let Ok(place) = self.ready(op) else { break };
            // Planning this one may have emptied the cache of those before it: their places are others' now.
            if *forgotten.get_or_insert(self.forgotten) != self.forgotten {
                break;
            }
            let Ready { plan, kernel, .. } = &self.ready[place];
            let total = plan.total_ns().saturating_add(ns);
            let state = plan.state_bytes.max(state_bytes);
            let held = bytes + if named.insert(place) { B::prepared_bytes(kernel) } else { 0 };
            if total > most_ns.into() || self.own(state) + held > most_bytes {
                break;
            }
            (len, launches, ns) = (len + 1, launches || plan.units() > 0, total);
            (state_bytes, bytes) = (state, held);
        }
        if len < 2 || !launches {
            return Part::single(len.max(least));
        }
        Part { wants: Some(self.own(state_bytes) + bytes), ..Part::single(len) }
    }

    /// The most that all segments together may be: ops, and bytes of device memory.
    pub fn segments_max(&self) -> (usize, u64) {
        (KEPT_OPS_MAX, self.held_max())
    }

    /// Whether a part has no segment, or none any more, and there is room for one, as far as is known before it is made. Where
    /// there was none, something has been given back since.
    pub fn may_keep(&self, part: &Part) -> bool {
        let Some(bytes) = part.wants else { return false };
        let has_one = part.segment.as_ref().is_some_and(|segment| self.has(segment));
        !has_one
            && part.tried != Some(self.segments.freed)
            && self.segments.ops + part.len <= KEPT_OPS_MAX
            && bytes <= self.held_max().saturating_sub(self.segments.bytes)
    }

    /// Makes the segment of a part, whose ops come first of these, if there may be one. Without one they run one by one, and
    /// fail there if they must.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn keep(&mut self, part: &mut Part, ops: &[BoundOp]) -> Result<()> {
        let may_keep = self.may_keep(part);
        let Some(ops) = ops.get(..part.len).filter(|_| may_keep) else { return Ok(()) };
        part.segment = None;
        let freed = self.segments.freed;
        match self.capture(ops) {
            Ok(Some(segment)) => part.segment = Some(segment),
            // What planning them has thrown out of the cache is room for the next time.
            Err(error) if is_out_of_memory(&error) => part.tried = Some(freed),
            Err(error) if matches!(error.kind(), Kind::DeviceLost { .. }) => return Err(error),
            // The backend has none of these, or refused them: they are not tried again.
            Ok(None) | Err(_) => part.wants = None,
        }
        Ok(())
    }

    fn capture(&mut self, ops: &[BoundOp]) -> Result<Option<Segment>> {
        let (mut places, mut plans, mut state_bytes) = (Vec::new(), Vec::new(), 0);
        let (mut units, mut ns, forgotten) = (0u64, 0u64, self.forgotten);
        for op in ops {
            let place = self.ready(op.op())?;
            let plan = &self.ready[place].plan;
            state_bytes = plan.state_bytes.max(state_bytes);
            // `plan::choose` refused plans whose units exceed 64 bits.
            units = units.saturating_add(u64::try_from(plan.units()).unwrap_or(u64::MAX));
            ns = ns.saturating_add(plan.total_ns() as u64);
            places.push(self.places(op)?);
            plans.push(place);
        }
        let quota = self.held_max();
        let short = |asked, free| Error::from(Kind::OutOfMemory { asked, free, quota });
        // Planning the last may have emptied the cache of the first.
        if self.forgotten != forgotten {
            return Err(short(self.held, 0));
        }
        let named = plans.iter().copied().collect::<BTreeSet<usize>>().into_iter();
        let named = named.map(|place| B::prepared_bytes(&self.ready[place].kernel));
        let (bytes, free) =
            (self.own(state_bytes) + named.sum::<u64>(), quota.saturating_sub(self.segments.bytes));
        if bytes > free {
            return Err(short(bytes, free));
        }
        let state = if state_bytes > 0 { Some(self.state(state_bytes)?) } else { None };
        let steps = ops.iter().zip(&places).zip(&plans).map(|((op, places), place)| {
            let ready = &self.ready[*place];
            let units = 0..ready.plan.units() as u64;
            let state = state.filter(|_| ready.plan.state_bytes > 0);
            Step { prepared: &ready.kernel, units, op, places, state }
        });
        let made = self.backend.segment(&steps.collect::<Vec<_>>());
        let Ok(Some(segment)) = made else {
            state.into_iter().for_each(|state| self.give_state(state));
            return made.map(|_| None);
        };
        let launches = B::launches_of(&segment);
        let lent = self.lent();
        let mut buffers: Vec<BufferId> =
            ops.iter().flat_map(|op| op.bindings()).map(|at| at.buffer).collect();
        buffers.extend(lent.filter(|_| state.is_some()));
        buffers.sort_unstable();
        buffers.dedup();
        let number = self.segments.next;
        self.segments.next += 1;
        self.segments.ops += ops.len();
        self.segments.bytes += bytes;
        plans.iter().for_each(|place| self.name(*place));
        self.segments.kept.insert(number, Kept { segment, plans, buffers, state, bytes });
        Ok(Some(Segment { number, ops: ops.into(), units, ns, launches, bytes, lent }))
    }

    /// A segment's op names a plan, which then stays in the cache.
    fn name(&mut self, place: usize) {
        let ready = &mut self.ready[place];
        ready.named += 1;
        if ready.named == 1 {
            let bytes = B::prepared_bytes(&ready.kernel);
            self.held = self.held.saturating_sub(bytes);
            self.segments.plans += 1;
        }
    }

    fn unname(&mut self, place: usize) {
        let ready = &mut self.ready[place];
        ready.named -= 1;
        if ready.named == 0 {
            let bytes = B::prepared_bytes(&ready.kernel);
            self.held += bytes;
            self.segments.plans -= 1;
        }
    }

    /// Bytes of a segment's state that nobody counts but the core: what is lent is its owner's.
    fn own(&self, state_bytes: u64) -> u64 {
        if matches!(self.states, States::Own(_)) { state_bytes } else { 0 }
    }

    fn lent(&self) -> Option<BufferId> {
        if let States::Lent(buffer) = self.states { buffer } else { None }
    }

    /// Launches the ops of a segment that has gone one by one.
    pub(super) fn launch_ops(&mut self, segment: &Segment) -> Result<()> {
        // What was lent since is another's.
        if let States::Lent(buffer) = &mut self.states {
            *buffer = segment.lent;
        }
        for op in segment.ops() {
            let mut run = self.begin(op.clone())?;
            let all = run.remaining();
            let stepped = self.step(&mut run, all);
            self.end(&run);
            stepped?;
        }
        Ok(())
    }

    /// Whether a segment can still be begun.
    pub fn has(&self, segment: &Segment) -> bool {
        self.segments.kept.contains_key(&segment.number)
    }

    /// The whole of a segment as one run; `None` when it has gone with what it used.
    pub fn begin_segment(&self, segment: &Segment) -> Option<Run> {
        self.has(segment).then(|| Run { work: Work::Segment(segment.clone()), next: 0 })
    }

    /// Forgets a segment; what was launched of it goes on.
    pub fn drop_segment(&mut self, segment: &Segment) {
        self.drop_kept(segment.number);
    }

    pub(super) fn launch_segment(&mut self, segment: &Segment) -> Result<bool> {
        let Some(kept) = self.segments.kept.get(&segment.number) else { return Ok(false) };
        match self.backend.replay(&kept.segment) {
            // Where there is no room for it as a whole, there may be for its ops.
            Err(error) if is_out_of_memory(&error) => {
                self.drop_kept(segment.number);
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    fn drop_kept(&mut self, number: u64) {
        let Some(Kept { plans, state, bytes, .. }) = self.segments.kept.remove(&number) else {
            return;
        };
        self.segments.ops -= plans.len();
        self.segments.bytes = self.segments.bytes.saturating_sub(bytes);
        self.segments.freed += 1;
        plans.into_iter().for_each(|place| self.unname(place));
        state.into_iter().for_each(|state| self.give_state(state));
    }

    /// Forgets all segments that name a buffer.
    pub(super) fn drop_segments_of(&mut self, buffer: BufferId) {
        let of = self.segments.kept.iter();
        let of = of.filter(|(_, kept)| kept.buffers.binary_search(&buffer).is_ok());
        for number in of.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.drop_kept(number);
        }
    }

    pub(super) fn drop_all_segments(&mut self) {
        for number in self.segments.kept.keys().copied().collect::<Vec<_>>() {
            self.drop_kept(number);
        }
    }
}
