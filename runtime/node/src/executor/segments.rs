//! Steps of a program that the device takes as one, each no longer than a unit may be, so that the scheduler counts it as one.
//! A segment is of the very blocks that its steps are bound to at each replay, or it is not used: a tenant may have given
//! one back since. Looking for one and making it is host work that no bill counts: a turn does it once at most as records
//! come, and once for the session whose turn it is, whatever comes of it, and the session's flow owes it. Of what the device
//! keeps of segments each lease has the same part.

use super::Executor;
use super::records::STEP_NS;
use super::session::{Session, Steps};
use crate::sched::SessionId;
use leasehold::Result;
use leasehold::backend::Backend;
use leasehold::exec::{Core, Part, Run, Segment};
use leasehold::op::BoundOp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What making a segment is taken to cost for each of its launches, in nanoseconds of the executor's thread: it is captured and
/// instantiated. Of an attempt that fails, for each of its ops. Not measured on a GPU.
const KEEP_LAUNCH_NS: u64 = 5_000;

/// What a device keeps of segments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    ops: usize,
    bytes: u64,
}

impl Held {
    fn with(self, ops: usize, bytes: u64) -> Self {
        Self { ops: self.ops + ops, bytes: self.bytes + bytes }
    }

    fn fits(self, most: Self) -> bool {
        self.ops <= most.ops && self.bytes <= most.bytes
    }
}

impl<B: Backend> Executor<B> {
    /// The next steps as one run; `None` where they run one by one.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn next_segment(&mut self, id: u64, rest: &mut Steps) -> Result<Option<Run>> {
        let at = (rest.program, rest.next);
        if rest.next < rest.single || rest.left() < 2 {
            return Ok(None);
        }
        let may_try = !self.has_tried;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(None) };
        let mut part = match session.parts.remove(&at) {
            Some(part) => part,
            None if may_try => self.look(id, rest),
            // A later turn looks.
            None => return Ok(None),
        };
        self.renew(id, rest, &mut part, may_try)?;
        let run = part.segment.as_ref().and_then(|segment| self.core.begin_segment(segment));
        let end = rest.next + part.len;
        *(if run.is_some() { &mut rest.next } else { &mut rest.single }) = end;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.parts.insert(at, part);
        }
        Ok(run)
    }

    /// As many of the next steps as may go as one: no more than the lease may have of what the device keeps.
    fn look(&mut self, id: u64, rest: &Steps) -> Part {
        self.has_tried = true;
        // Parts do not overlap: one that is known already may begin amid these.
        let after = (rest.program, rest.next + 1)..=(rest.program, usize::MAX);
        let next = self.sessions.get(&id).and_then(|session| session.parts.range(after).next());
        let most = next.map_or(usize::MAX, |((_, next), _)| next - rest.next);
        let (share, cap) = (self.share(), self.core.caps().unit_cap_ns);
        let part = self.core.part(rest.ahead().take(most.min(share.ops)), cap, share.bytes);
        self.ops.charge(SessionId(id), STEP_NS * part.len as u64);
        part
    }

    /// Leaves a part the segment of the blocks that its steps are bound to, or makes it where there may be one.
    fn renew(&mut self, id: u64, rest: &Steps, part: &mut Part, may_try: bool) -> Result<()> {
        let has_room = |executor: &Self, part: &Part| may_try && executor.may_keep(id, part);
        // Without a segment and room for one nothing is bound ahead.
        if part.segment.is_none() && !has_room(self, part) {
            return Ok(());
        }
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let ops = session.ahead(rest, part.len);
        if let Some(segment) = &part.segment
            && !(self.core.has(segment) && are_same(segment.ops(), &ops))
        {
            session.drop_segment(&mut self.core, part);
        }
        if part.segment.is_some() || !has_room(self, part) {
            return Ok(());
        }
        self.has_tried = true;
        if ops.len() < part.len {
            self.ops.charge(SessionId(id), STEP_NS * ops.len() as u64);
            return Ok(());
        }
        let kept = self.core.keep(part, &ops);
        let launches = part.segment.as_ref().map_or(part.len as u64, Segment::launches);
        self.ops.charge(SessionId(id), KEEP_LAUNCH_NS * launches);
        if let (Some(segment), Some(session)) = (&part.segment, self.sessions.get_mut(&id)) {
            session.kept = session.kept.with(segment.ops().len(), segment.bytes());
        }
        kept
    }

    /// Whether there is room for the segment of a part, on the device and in the part of it that is the lease's.
    fn may_keep(&self, id: u64, part: &Part) -> bool {
        if !self.core.may_keep(part) {
            return false;
        }
        let lease = |job| self.jobs.get(&job).map(|job| job.terms.lease);
        let own = self.sessions.get(&id).and_then(|session| lease(session.job));
        let sessions = self.sessions.values().filter(|session| lease(session.job) == own);
        let held = sessions
            .fold(Held::default(), |held, Session { kept, .. }| held.with(kept.ops, kept.bytes));
        held.with(part.len, part.bytes()).fits(self.share())
    }

    /// What a lease may have of what the device keeps of segments: as much as any other that is here, idle ones too.
    fn share(&self) -> Held {
        let leases: BTreeSet<u64> = self.jobs.values().map(|job| job.terms.lease).collect();
        let (leases, (ops, bytes)) = (leases.len().max(1), self.core.segments_max());
        Held { ops: ops / leases, bytes: bytes / leases as u64 }
    }

    /// A lease has come: those that have more than their part now give the rest back. What would be more by itself is looked
    /// for again, so that it is cut.
    pub(super) fn share_segments(&mut self) {
        let (most, mut held) = (self.share(), BTreeMap::<u64, Held>::new());
        for session in self.sessions.values_mut() {
            let Some(job) = self.jobs.get(&session.job) else { continue };
            let held = held.entry(job.terms.lease).or_default();
            let mut parts = std::mem::take(&mut session.parts);
            parts.retain(|_, part| {
                if let Some(segment) = &part.segment {
                    let with = held.with(segment.ops().len(), segment.bytes());
                    if with.fits(most) {
                        *held = with;
                        return true;
                    }
                    session.drop_segment(&mut self.core, part);
                }
                Held::default().with(part.len, part.bytes()).fits(most)
            });
            session.parts = parts;
        }
    }
}

impl Session {
    /// Forgets what a program is launched in, or every one is.
    pub(super) fn drop_segments<B: Backend>(&mut self, core: &mut Core<B>, program: Option<u32>) {
        let gone = match program {
            // A tenant may erase as often as it likes: that costs what the program has, not all that there is.
            Some(of) => self.parts.extract_if((of, 0)..=(of, usize::MAX), |_, _| true).collect(),
            None => std::mem::take(&mut self.parts),
        };
        gone.into_values().for_each(|mut part| self.drop_segment(core, &mut part));
    }

    /// Gives a part's segment back.
    fn drop_segment<B: Backend>(&mut self, core: &mut Core<B>, part: &mut Part) {
        if let Some(segment) = part.segment.take() {
            self.kept.ops -= segment.ops().len();
            self.kept.bytes -= segment.bytes();
            core.drop_segment(&segment);
        }
    }
}

/// Whether these are the same ops on the same blocks.
fn are_same(a: &[BoundOp], b: &[BoundOp]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a.op(), b.op()) && a.bindings() == b.bindings())
}
