//! Steps of a program that the device takes as one, each no longer than a unit may be, so that the scheduler counts it as one.
//! A segment is of the very blocks that its steps are bound to at each replay, or it is not used: a tenant may have given
//! one back since. Making one is host work that no bill counts: a turn makes one at most, and its session's flow owes it. An
//! attempt that fails nobody owes yet.

use super::Executor;
use super::session::{Session, Steps};
use crate::sched::SessionId;
use leasehold::backend::Backend;
use leasehold::exec::{Core, Part, Run};
use leasehold::op::BoundOp;
use std::sync::Arc;

/// Ops in the segments of a session: a tenant has no more of what the device keeps of them.
const SESSION_OPS_MAX: usize = 2048;
/// What making a segment is taken to cost for each of its ops, in nanoseconds of the executor's thread: a launch or a few,
/// captured and instantiated. Not measured on a GPU.
const KEEP_OP_NS: u64 = 5_000;

impl<B: Backend> Executor<B> {
    /// The next steps as one run; `None` where they run one by one.
    pub(super) fn next_segment(&mut self, id: u64, rest: &mut Steps) -> Option<Run> {
        let session = self.sessions.get_mut(&id)?;
        let at = (rest.program, rest.next);
        if rest.next < rest.single || rest.left() < 2 {
            return None;
        }
        let is_free = |session: &Session, core: &Core<B>, part: &Part| {
            let others = session.segment_ops - ops_of(part);
            !self.has_kept && others + part.len <= SESSION_OPS_MAX && core.may_keep(part)
        };
        let known = session.parts.get(&at);
        // Without a segment and room for one nothing is bound ahead.
        let single = known.filter(|part| part.segment.is_none());
        if let Some(part) = single.filter(|part| !is_free(session, &self.core, part)) {
            rest.single = rest.next + part.len;
            return None;
        }
        let cap = self.core.caps().unit_cap_ns;
        let known = session.parts.remove(&at);
        let mut part = known.unwrap_or_else(|| self.core.part(rest.ahead(), cap));
        let ops = session.ahead(rest, part.len);
        if let Some(other) = part.segment.take_if(|segment| !are_same(segment.ops(), &ops)) {
            session.segment_ops -= other.ops().len();
            self.core.drop_segment(&other);
        }
        if is_free(session, &self.core, &part) {
            session.segment_ops -= ops_of(&part);
            if self.core.keep(&mut part, &ops) {
                self.has_kept = true;
                self.ops.charge(SessionId(id), KEEP_OP_NS * part.len as u64);
            }
            session.segment_ops += ops_of(&part);
        }
        let run = part.segment.as_ref().and_then(|segment| self.core.begin_segment(segment));
        let end = rest.next + part.len;
        *(if run.is_some() { &mut rest.next } else { &mut rest.single }) = end;
        session.parts.insert(at, part);
        run
    }
}

/// Ops in the segment of a part.
fn ops_of(part: &Part) -> usize {
    part.segment.as_ref().map_or(0, |segment| segment.ops().len())
}

impl Session {
    /// Forgets what a program is launched in, or every one is.
    pub(super) fn drop_segments<B: Backend>(&mut self, core: &mut Core<B>, program: Option<u32>) {
        self.parts.retain(|(of, _), part| {
            let is_kept = program.is_some_and(|program| program != *of);
            if let Some(segment) = part.segment.as_ref().filter(|_| !is_kept) {
                self.segment_ops -= segment.ops().len();
                core.drop_segment(segment);
            }
            is_kept
        });
    }
}

/// Whether these are the same ops on the same blocks.
fn are_same(a: &[BoundOp], b: &[BoundOp]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a.op(), b.op()) && a.bindings() == b.bindings())
}
