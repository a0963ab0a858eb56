//! Steps of a program that the device takes as one, each no longer than a unit may be, so that the scheduler counts it as one.
//! A segment is of the very blocks that its steps are bound to at each replay, or it is not used: a tenant may have given
//! one back since.

use super::Executor;
use super::session::{Session, Steps};
use leasehold::backend::Backend;
use leasehold::exec::{Core, Run, SEGMENT_OPS_MAX, Segment};
use leasehold::op::BoundOp;
use std::sync::Arc;

/// Ops in the segments of a session: a tenant has no more of what the device keeps of them.
const SESSION_OPS_MAX: usize = 2048;

impl<B: Backend> Executor<B> {
    /// The next steps as one run; `None` where they run one by one.
    pub(super) fn next_segment(&mut self, id: u64, rest: &mut Steps) -> Option<Run> {
        let session = self.sessions.get_mut(&id)?;
        let at = (rest.program, rest.next);
        if rest.next < rest.single || rest.left() < 2 {
            return None;
        }
        let len = match session.parts.get(&at) {
            Some(part) if part.segment.is_none() => {
                rest.single = rest.next + part.len;
                return None;
            }
            // Without room nothing is bound ahead: what is left runs one by one.
            None if session.segment_ops >= SESSION_OPS_MAX => {
                rest.single = rest.next + rest.left();
                return None;
            }
            known => known.map_or(SEGMENT_OPS_MAX, |part| part.len),
        };
        let mut ops = session.ahead(rest, len);
        let known = session.parts.get(&at).and_then(|part| part.segment.as_ref());
        let is_same = |segment: &&Segment| are_same(segment.ops(), &ops);
        let run = known.filter(is_same).and_then(|segment| self.core.begin_segment(segment));
        let run = match run {
            Some(run) => run,
            None => {
                if let Some(segment) = session.parts.remove(&at).and_then(|part| part.segment) {
                    session.segment_ops -= segment.ops().len();
                    self.core.drop_segment(&segment);
                    ops = session.ahead(rest, SEGMENT_OPS_MAX);
                }
                let part = self.core.part(&ops, self.core.caps().unit_cap_ns);
                session.segment_ops += part.segment.as_ref().map_or(0, |of| of.ops().len());
                let run = part.segment.as_ref().and_then(|of| self.core.begin_segment(of));
                rest.single = rest.next + part.len;
                session.parts.insert(at, part);
                run?
            }
        };
        rest.next += run.ops().len();
        Some(run)
    }
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
