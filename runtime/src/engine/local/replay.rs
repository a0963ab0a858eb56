//! Replays of a device in this process: what a program is launched in, part by part. The driver of the queue calls it.

use super::{Driver, InFlight, ProgramId, Shared, Ticket};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::exec::Part;
use crate::op::BoundOp;
use crate::order::SLICE_GPU_NS;
use std::sync::Arc;

impl<B: Backend> Driver<B> {
    /// Launches a program: its parts as segments, or op by op.
    pub(super) fn replay(
        &mut self,
        shared: &Shared<B>,
        ticket: Ticket,
        id: ProgramId,
        ops: &Arc<[BoundOp]>,
    ) {
        let parts = match self.parts(id, ops) {
            Ok(parts) => parts,
            Err(error) => return self.fail(shared, ticket, ops, ops, error),
        };
        let mut at = 0;
        for part in parts.iter() {
            // Which of its ops would read what failed is found by running them one by one.
            let segment = part.segment.as_ref();
            let segment = segment.filter(|segment| self.inherited(segment.ops()).is_none());
            let run = segment.and_then(|segment| self.core.begin_segment(segment));
            let len = if run.is_some() { part.len } else { 1 };
            let (mut run, end) = (run, at + part.len);
            while at < end {
                let launched = match run.take() {
                    Some(run) => self.launch(run),
                    None => self.launch_op(&ops[at]),
                };
                let failed = &ops[at..at + len];
                at += len;
                let of = if at == ops.len() { ticket } else { Ticket(ticket.0 - 1) };
                match launched {
                    Ok((mark, run)) => {
                        let program = Some(Arc::clone(ops));
                        self.fly(shared, InFlight { ticket: of, mark, run, program });
                    }
                    Err(error) => return self.fail(shared, ticket, ops, failed, error),
                }
            }
        }
        if ops.is_empty() {
            self.finish(shared, ticket, None, None);
        }
    }

    /// These ops of a program failed, and with them all.
    fn fail(
        &mut self,
        shared: &Shared<B>,
        ticket: Ticket,
        ops: &[BoundOp],
        failed: &[BoundOp],
        error: Error,
    ) {
        self.settle(shared, 0);
        let error = self.inherited(failed).unwrap_or(error);
        self.poison.fail_all(ops, &error);
        self.finish(shared, ticket, Some(error), None);
    }

    /// What a program is launched in. The first replay, which may be the only one, goes op by op. Segments are made at the
    /// second, and where one has gone or there had been no room, when there is room again.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn parts(&mut self, id: ProgramId, ops: &[BoundOp]) -> Result<Arc<[Part]>> {
        let Some(known) = self.parts.get(&id).map(Arc::clone) else {
            self.parts.insert(id, [].into());
            return Ok([Part::single(ops.len())].into());
        };
        if !known.is_empty() && !known.iter().any(|part| self.core.may_keep(part)) {
            return Ok(known);
        }
        let (mut parts, mut at) = (Vec::new(), 0);
        while at < ops.len() {
            let known = known.get(parts.len()).cloned();
            let ahead = ops[at..].iter().map(BoundOp::op);
            let mut part = known.unwrap_or_else(|| self.core.part(ahead, SLICE_GPU_NS, u64::MAX));
            self.core.keep(&mut part, &ops[at..])?;
            at += part.len;
            parts.push(part);
        }
        let parts: Arc<[Part]> = parts.into();
        self.parts.insert(id, Arc::clone(&parts));
        Ok(parts)
    }

    /// Forgets what a program is launched in.
    pub(super) fn drop_parts(&mut self, id: ProgramId) {
        let Some(parts) = self.parts.remove(&id) else { return };
        for segment in parts.iter().filter_map(|part| part.segment.as_ref()) {
            self.core.drop_segment(segment);
        }
    }
}
