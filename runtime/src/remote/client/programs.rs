//! Programs of a session: kept here, sent with their first replay, and what a node says of an op's plan.

use super::{Client, HANDLES_MAX, Pending};
use crate::engine::{Planned, ProgramId, QueueId, Ticket, program_ops};
use crate::error::{Error, Kind, Result};
use crate::op::{BoundOp, CheckedOp};
use crate::wire::{PLAN_TEXT_BYTES, Record, STEPS_BYTES_MAX, Step};
use std::sync::Arc;

/// A program as this side keeps it.
pub(super) struct Program {
    ops: Arc<[BoundOp]>,
    /// Whether its steps are on their way.
    sent: bool,
    /// Handles of its ops, once sent.
    pub(super) handles: Vec<u32>,
    /// Why the executor refused it.
    pub(super) refused: Option<Error>,
}

impl Client {
    pub(in crate::remote) fn record(&mut self, ops: Vec<BoundOp>) -> Result<ProgramId> {
        let ops = program_ops(ops)?;
        if ops.len() > HANDLES_MAX {
            let asked = format!("a program of {} ops", ops.len());
            return Err(Kind::Unsupported { asked, allowed: HANDLES_MAX.to_string() }.into());
        }
        self.next_program = self.next_program.wrapping_add(1);
        let id = ProgramId(self.next_program.into());
        let program = Program { ops, sent: false, handles: Vec::new(), refused: None };
        self.programs.insert(id, program);
        Ok(id)
    }

    pub(in crate::remote) fn replay(
        &mut self,
        id: ProgramId,
        queue: QueueId,
    ) -> Result<Option<Ticket>> {
        self.tell_erased()?;
        let Some(Program { ops, sent, .. }) = self.programs.get(&id) else {
            let (asked, allowed) = (format!("{id:?}"), "a kept program".to_string());
            return Err(Kind::Bounds { asked, allowed }.into());
        };
        let (ops, sent) = (Arc::clone(ops), *sent);
        if !sent && !self.send_program(id, &ops)? {
            return Ok(None);
        }
        let record = Record::Replay { program: id.0 as u32 };
        self.push(&record, queue, Pending::Replay { program: id, ops })
    }

    /// Defines a program's ops and sends its steps; false while there is no room for them.
    fn send_program(&mut self, id: ProgramId, ops: &[BoundOp]) -> Result<bool> {
        let distinct: std::collections::HashSet<_> = ops.iter().map(BoundOp::op).collect();
        let new = distinct.into_iter().filter(|op| !self.handles.contains_key(*op)).count();
        if !self.room_for_handles(new)? {
            return Ok(false);
        }
        let mut steps = Vec::with_capacity(ops.len());
        for op in ops {
            let Some(handle) = self.handle(op.op())? else { return Ok(false) };
            let bindings = op.bindings().iter().map(|b| self.memory.at(b.buffer, b.offset, 0));
            steps.push(Step { handle, bindings: bindings.collect::<Result<_>>()? });
        }
        let bytes = Step::encode(&steps);
        let len = bytes.len() as u64;
        if len > STEPS_BYTES_MAX {
            let asked = format!("a program of {len} bytes of steps");
            return Err(Kind::Unsupported { asked, allowed: STEPS_BYTES_MAX.to_string() }.into());
        }
        let Some(staging) = self.stage(len.max(1))? else { return Ok(false) };
        self.staging.write(staging, &bytes);
        let record = Record::Record { program: id.0 as u32, steps: [staging, len] };
        let pending = Pending::Record { program: id, staged: [staging, len.max(1)] };
        if self.push(&record, QueueId(0), pending)?.is_none() {
            self.memory.unstage(staging, len.max(1));
            return Ok(false);
        }
        if let Some(program) = self.programs.get_mut(&id) {
            program.sent = true;
            program.handles = steps.iter().map(|step| step.handle).collect();
        }
        Ok(true)
    }

    pub(in crate::remote) fn erase(&mut self, id: ProgramId) {
        if self.programs.remove(&id).is_some_and(|program| program.sent) {
            self.erased.push(id.0 as u32);
            // What the ring has no room for now goes with the next replay.
            let _ = self.tell_erased();
        }
    }

    fn tell_erased(&mut self) -> Result<()> {
        while let Some(&program) = self.erased.last() {
            if self.push(&Record::Erase { program }, QueueId(0), Pending::Plain)?.is_none() {
                break;
            }
            self.erased.pop();
        }
        Ok(())
    }

    /// Asks for the op's plan, defining it first if that is new; `None` while there is no room.
    pub(in crate::remote) fn ask_plan(&mut self, op: &Arc<CheckedOp>) -> Result<Option<Ticket>> {
        if !self.handles.contains_key(op) && !self.room_for_handles(1)? {
            return Ok(None);
        }
        let Some(handle) = self.handle(op)? else { return Ok(None) };
        let Some(staging) = self.stage(PLAN_TEXT_BYTES)? else { return Ok(None) };
        let record = Record::Plan { handle, staging };
        let asked = self.push(&record, QueueId(0), Pending::Plan { handle, staging })?;
        if asked.is_none() {
            self.memory.unstage(staging, PLAN_TEXT_BYTES);
        }
        Ok(asked)
    }

    /// The plan that was asked for, once it is here.
    pub(in crate::remote) fn take_plan(&mut self, ticket: Ticket) -> Result<Option<Planned>> {
        match self.plans.remove(&ticket) {
            Some(answer) => answer.map(Some),
            None => self.over.clone().map_or(Ok(None), Err),
        }
    }

    /// What the executor wrote, as far as it fits; a node's lies about lengths are cut.
    pub(super) fn planned(&mut self, staging: u64, [low, high, len]: [u64; 3]) -> Planned {
        let mut text = vec![0; len.min(PLAN_TEXT_BYTES) as usize];
        self.staging.read(staging, &mut text);
        self.memory.unstage(staging, PLAN_TEXT_BYTES);
        let text = String::from_utf8_lossy(&text).into_owned();
        Planned { text, time_ns: u128::from(high) << 64 | u128::from(low) }
    }
}
