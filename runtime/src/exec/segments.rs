//! Segments: ops of a program in a row that a backend keeps and enqueues as one. Both engines make them of what their
//! programs consist of, and go on without where there is none. A segment names memory by address, so it goes before a buffer
//! or a kernel that it uses does.

use super::{Core, Run, States, Work};
use crate::backend::{Backend, Place, Step};
use crate::error::{Kind, Result};
use crate::op::{BoundOp, BufferId};
use std::sync::Arc;

/// Ops of one segment, and of all that are kept: a device holds something of each.
pub const SEGMENT_OPS_MAX: usize = 256;
const KEPT_OPS_MAX: usize = 1 << 14;

/// Names a segment of a core and says what it consists of. Its owner gives it back with [`Core::drop_segment`].
#[derive(Clone, Debug)]
pub struct Segment {
    number: u64,
    ops: Arc<[BoundOp]>,
    units: u64,
    ns: u64,
    /// The buffer that was lent when it was made, if one was.
    lent: Option<BufferId>,
}

impl Segment {
    /// Its ops in their order.
    pub fn ops(&self) -> &[BoundOp] {
        &self.ops
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
    /// All of them as one.
    pub segment: Option<Segment>,
}

/// A segment and what must outlive it.
pub(super) struct Kept<B: Backend> {
    segment: B::Segment,
    ops: usize,
    /// Buffers that it names, in order.
    buffers: Vec<BufferId>,
    /// What the links of its cut ops hand on, and its bytes. Each op writes it before it reads it.
    state: Option<(Place, u64)>,
}

impl<B: Backend> Core<B> {
    /// As many of these ops from the first as are predicted to take at most `most_ns` together, as one segment where the
    /// backend has them; the first alone where it takes longer or cannot be planned.
    pub fn part(&mut self, ops: &[BoundOp], most_ns: u64) -> Part {
        let (mut len, mut units, mut ns) = (0, 0u64, 0u128);
        for op in ops.iter().take(SEGMENT_OPS_MAX) {
            let Ok(plan) = self.plan(op.op()) else { break };
            let total = plan.total_ns().saturating_add(ns);
            if total > most_ns.into() {
                break;
            }
            // `plan::choose` refused plans whose units exceed 64 bits.
            let more = u64::try_from(plan.units()).unwrap_or(u64::MAX);
            (len, units, ns) = (len + 1, more.saturating_add(units), total);
        }
        // What launches nothing needs no segment.
        if len < 2 || units == 0 {
            return Part { len: ops.len().min(1), segment: None };
        }
        let ops = &ops[..len];
        // Without a segment they run one by one, and fail there if they must.
        let number = self.keep(ops).ok().flatten();
        let lent = self.lent();
        let segment =
            number.map(|number| Segment { number, ops: ops.into(), units, ns: ns as u64, lent });
        Part { len, segment }
    }

    fn keep(&mut self, ops: &[BoundOp]) -> Result<Option<u64>> {
        let kept: usize = self.segments.values().map(|kept| kept.ops).sum();
        if kept + ops.len() > KEPT_OPS_MAX {
            return Ok(None);
        }
        let (mut places, mut bytes) = (Vec::new(), 0);
        for op in ops {
            bytes = self.plan(op.op())?.state_bytes.max(bytes);
            places.push(self.places(op)?);
        }
        // Planning the last may have emptied the cache of the first.
        let ready = ops.iter().map(|op| self.prepared.get(op.op()).copied());
        let Some(ready) = ready.collect::<Option<Vec<usize>>>() else { return Ok(None) };
        // What is lent is counted by its owner.
        let lent = self.lent();
        let own = if lent.is_some() { 0 } else { bytes };
        if self.held.saturating_add(own) > self.held_max() {
            return Ok(None);
        }
        let state = if bytes > 0 { Some(self.state(bytes)?) } else { None };
        let steps = ops.iter().zip(&places).zip(ready).map(|((op, places), ready)| {
            let ready = &self.ready[ready];
            let units = 0..ready.plan.units() as u64;
            let state = state.filter(|_| ready.plan.state_bytes > 0);
            Step { prepared: &ready.kernel, units, op, places, state }
        });
        let made = self.backend.segment(&steps.collect::<Vec<_>>());
        let Ok(Some(segment)) = made else {
            if let Some(state) = state {
                self.give_state(state);
            }
            return made.map(|_| None);
        };
        let mut buffers: Vec<BufferId> =
            ops.iter().flat_map(|op| op.bindings()).map(|at| at.buffer).collect();
        buffers.extend(lent.filter(|_| state.is_some()));
        buffers.sort_unstable();
        buffers.dedup();
        self.held += own;
        let state = state.map(|place| (place, own));
        self.segments.insert(self.next_segment, Kept { segment, ops: ops.len(), buffers, state });
        self.next_segment += 1;
        Ok(Some(self.next_segment - 1))
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
        self.segments.contains_key(&segment.number)
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
        let Some(kept) = self.segments.get(&segment.number) else { return Ok(false) };
        match self.backend.replay(&kept.segment) {
            // Where there is no room for it as a whole, there may be for its ops.
            Err(error) if matches!(error.kind(), Kind::OutOfMemory { .. }) => {
                self.drop_kept(segment.number);
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    fn drop_kept(&mut self, number: u64) {
        if let Some(Kept { state: Some((state, bytes)), .. }) = self.segments.remove(&number) {
            self.give_state(state);
            self.held = self.held.saturating_sub(bytes);
        }
    }

    /// Forgets all segments that name a buffer.
    pub(super) fn drop_segments_of(&mut self, buffer: BufferId) {
        let of = self.segments.iter();
        let of = of.filter(|(_, kept)| kept.buffers.binary_search(&buffer).is_ok());
        for number in of.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.drop_kept(number);
        }
    }

    pub(super) fn drop_all_segments(&mut self) {
        for number in self.segments.keys().copied().collect::<Vec<_>>() {
            self.drop_kept(number);
        }
    }
}
