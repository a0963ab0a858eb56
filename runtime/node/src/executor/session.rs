//! One session of a tenant: its rings, its handles and blocks, and the piece of work at its head. What a tenant
//! sends is decoded and judged here, on a private copy, against this session's own tables.

use super::blocks::Block;
use super::segments::Held;
use leasehold::exec::{Part, Run};
use leasehold::op::{Binding, BoundOp, BufferId, CheckedOp, check};
use leasehold::order::Plan;
use leasehold::wire::{
    Bad, BlockRef, COMPLETE_BYTES, COPY_MAX, Completion, Consumer, LENS_MAX, Outcome,
    PLAN_TEXT_BYTES, Producer, RECORD_ALIGN, Record, STAGING_BYTES, STEPS_BYTES_MAX, SUBMIT_BYTES,
    Shared, Step, TenantEnd, Wire, awake,
};
use leasehold::{Error, Kind, Result};
use rustix::net::{RecvFlags, SendFlags};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Handles of a session.
const HANDLES_MAX: usize = 4096;
/// Blocks of a session.
const BLOCKS_MAX: usize = 4096;
/// Programs of a session, and their steps in all.
const PROGRAMS_MAX: usize = 256;
const STEPS_MAX: usize = 1 << 16;
/// Bytes of one step of a copy.
pub(super) const COPY_UNIT: u64 = 1 << 20;

/// Work that takes turns.
pub(super) enum Work {
    /// An op, launched unit by unit.
    Run {
        /// Its record.
        ticket: u64,
        /// Where it stands.
        run: Box<Run>,
        /// What follows it under the same record.
        rest: Steps,
    },
    /// A copy between staging and a block.
    Copy(Copying),
}

/// The steps of a program that are still to come; none for an op of its own.
#[derive(Clone, Default)]
pub(super) struct Steps {
    pub(super) program: u32,
    steps: Arc<[(Arc<CheckedOp>, Vec<BlockRef>)]>,
    pub(super) next: usize,
    /// Up to here steps run one by one: no segment is of them.
    pub(super) single: usize,
}

impl Steps {
    pub(super) fn left(&self) -> usize {
        self.steps.len().saturating_sub(self.next)
    }

    /// The ops of those, in order.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &Arc<CheckedOp>> {
        self.steps.iter().skip(self.next).map(|(op, _)| op)
    }
}

/// A copy under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copying {
    pub(super) ticket: u64,
    pub(super) up: bool,
    pub(super) buffer: BufferId,
    pub(super) offset: u64,
    pub(super) staging: u64,
    pub(super) left: u64,
}

impl Copying {
    /// Bytes of the next step.
    pub(super) fn step(&self) -> u64 {
        self.left.min(COPY_UNIT)
    }
}

/// A slot of the session's block table.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    block: Option<Block>,
}

pub(super) struct Session {
    pub(super) job: u64,
    pub(super) socket: OwnedFd,
    submit: Shared,
    pub(super) staging: Shared,
    complete: Shared,
    producer: Producer,
    consumer: Consumer,
    record: Vec<u8>,
    handles: HashMap<u32, Arc<CheckedOp>>,
    programs: HashMap<u32, Steps>,
    /// What programs are launched in, by program and first step.
    pub(super) parts: BTreeMap<(u32, usize), Part>,
    /// What the segments of those are counted with.
    pub(super) kept: Held,
    slots: Vec<Slot>,
    /// What units of its ops hand on: as much as the op that asked for the most.
    pub(super) state: Option<Block>,
    pub(super) head: Option<Work>,
    pub(super) ready_ns: u64,
    /// Records taken and not yet answered, oldest first, with what became of those that are done. Answers go out in
    /// the order of records.
    pending: VecDeque<(u64, Option<Outcome>)>,
    /// Runs whose last units are launched but not done.
    pub(super) finishing: usize,
    /// The first index fault of the run at the front of those in flight.
    pub(super) fault: Option<leasehold::backend::IndexFault>,
}

impl Session {
    /// Maps the executor's side: the completion ring and staging writable, the submit ring not.
    pub(super) fn new(job: u64, end: TenantEnd) -> Result<Self> {
        Ok(Self {
            job,
            submit: end.submit.map(false)?,
            staging: end.staging.map(true)?,
            complete: end.complete.map(true)?,
            socket: end.socket,
            producer: Producer::new(COMPLETE_BYTES),
            consumer: Consumer::new(SUBMIT_BYTES),
            record: Vec::new(),
            handles: HashMap::new(),
            programs: HashMap::new(),
            parts: BTreeMap::new(),
            kept: Held::default(),
            slots: Vec::new(),
            state: None,
            head: None,
            ready_ns: 0,
            pending: VecDeque::new(),
            finishing: 0,
            fault: None,
        })
    }

    /// The next record, if there is one and its completion will have room. A tenant that stops reading replies
    /// stalls here, and only itself.
    pub(super) fn next_record(
        &mut self,
        in_flight: u32,
    ) -> Result<Option<(u64, Result<Record>)>, Bad> {
        self.flush()?;
        let full = self.pending.len() >= in_flight as usize;
        if self.is_stalled() || self.head.is_some() || full {
            return Ok(None);
        }
        if !self.consumer.pop(&self.complete, &self.submit, &mut self.record)? {
            return Ok(None);
        }
        let (ticket, _queue, record) = Record::decode(&self.record);
        self.pending.push_back((ticket, None));
        Ok(Some((ticket, record)))
    }

    /// Whether an answer waits for room in the completion ring.
    fn is_stalled(&self) -> bool {
        matches!(self.pending.front(), Some((_, Some(_))))
    }

    /// Answers a record, once those before it are answered.
    pub(super) fn complete(&mut self, ticket: u64, outcome: Outcome) -> Result<(), Bad> {
        // A tenant may use a ticket twice; the older record is answered first.
        let open = self.pending.iter_mut().find(|(t, o)| *t == ticket && o.is_none());
        if let Some((_, slot)) = open {
            *slot = Some(outcome);
        }
        self.flush()
    }

    /// Says that the session is over, ahead of every answer.
    pub(super) fn farewell(&mut self, kind: Kind) -> Result<(), Bad> {
        self.pending.clear();
        self.pending.push_back((0, Some(Outcome::Failed(kind.into()))));
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Bad> {
        let mut wrote = false;
        while let Some((ticket, Some(outcome))) = self.pending.front() {
            let completion = Completion { ticket: *ticket, outcome: outcome.clone() };
            if !self.producer.push(&self.complete, &self.submit, &completion.encode())? {
                break;
            }
            self.pending.pop_front();
            wrote = true;
        }
        if wrote && self.producer.wakes(&self.submit) {
            // If the socket is full, the tenant has news enough.
            let _ =
                rustix::net::send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        Ok(())
    }

    /// Says what the executor sleeps for, so that the tenant knows when to send a byte: room for the answers that
    /// wait, else the next record. `false` when that or other work is there, or the ring is broken, which a turn
    /// must see.
    pub(super) fn may_sleep(&mut self) -> bool {
        if self.head.is_some() {
            return false;
        }
        let (own, other) = (&self.complete, &self.submit);
        let sleeps = if self.is_stalled() {
            self.producer.sleeps(own, other, RECORD_ALIGN)
        } else {
            self.consumer.sleeps(own, other, RECORD_ALIGN)
        };
        sleeps.unwrap_or(false)
    }

    /// Says that the executor is awake.
    pub(super) fn awake(&self) {
        awake(&self.complete);
    }

    /// Takes wake-up bytes off the socket; whether the tenant is still there. A tenant that sends without end keeps the
    /// executor for a few of them.
    pub(super) fn is_alive(&self) -> bool {
        let mut bytes = [0u8; 64];
        for _ in 0..16 {
            match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return false,
                Ok(_) => {}
                Err(_) => return true,
            }
        }
        true
    }

    /// Checks an op as this session defined it; its lengths are copied out of staging before they are judged.
    pub(super) fn define(
        &self,
        handle: u32,
        op: &Wire,
        specs: &[leasehold::op::Spec],
        lens: [u64; 2],
    ) -> Result<Arc<CheckedOp>> {
        if self.handles.len() >= HANDLES_MAX && !self.handles.contains_key(&handle) {
            let (asked, allowed) = (self.handles.len() as u64 + 1, HANDLES_MAX as u64);
            return Err(Kind::Protocol { what: "handles", asked, allowed }.into());
        }
        let [at, count] = lens;
        if count > LENS_MAX {
            return Err(Kind::Protocol { what: "lengths", asked: count, allowed: LENS_MAX }.into());
        }
        let mut bytes = vec![0; 4 * count as usize];
        if !self.staging.read(at, &mut bytes) {
            let asked = at.saturating_add(4 * count);
            let allowed = STAGING_BYTES;
            return Err(Kind::Protocol { what: "staging", asked, allowed }.into());
        }
        let list = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        check(op.op(list)?, specs).map(Arc::new)
    }

    /// Keeps a checked op under its handle.
    pub(super) fn keep(&mut self, handle: u32, op: Arc<CheckedOp>) {
        self.handles.insert(handle, op);
    }

    pub(super) fn undefine(&mut self, handle: u32) -> Result<()> {
        self.handles.remove(&handle).map(drop).ok_or_else(|| unknown("handle", handle.into()))
    }

    /// A defined op on blocks of this session.
    pub(super) fn bind(&mut self, handle: u32, at: &[BlockRef]) -> Result<BoundOp> {
        let op = Arc::clone(self.defined(handle)?);
        self.bound(&op, at)
    }

    pub(super) fn defined(&self, handle: u32) -> Result<&Arc<CheckedOp>> {
        self.handles.get(&handle).ok_or_else(|| unknown("handle", handle.into()))
    }

    /// Writes what a plan says of itself into staging; predicted nanoseconds, and bytes of text.
    pub(super) fn tell_plan(&self, plan: &Plan, staging: u64) -> Result<[u64; 3]> {
        let end = staging.saturating_add(PLAN_TEXT_BYTES);
        if end > STAGING_BYTES {
            let (asked, allowed) = (end, STAGING_BYTES);
            return Err(Kind::Protocol { what: "staging", asked, allowed }.into());
        }
        let text = plan.to_string();
        let text = &text.as_bytes()[..text.len().min(PLAN_TEXT_BYTES as usize)];
        self.staging.write(staging, text);
        let ns = plan.total_ns();
        Ok([ns as u64, (ns >> 64) as u64, text.len() as u64])
    }

    /// Keeps the steps that a tenant wrote into staging, copied out before they are judged. Each is bound once to see
    /// that it can be; blocks may go before a replay, so each is bound again then.
    pub(super) fn record(&mut self, program: u32, [at, len]: [u64; 2]) -> Result<()> {
        if len > STEPS_BYTES_MAX {
            let (what, asked, allowed) = ("bytes of steps", len, STEPS_BYTES_MAX);
            return Err(Kind::Protocol { what, asked, allowed }.into());
        }
        let mut bytes = vec![0; len as usize];
        if !self.staging.read(at, &mut bytes) {
            let (asked, allowed) = (at.saturating_add(len), STAGING_BYTES);
            return Err(Kind::Protocol { what: "staging", asked, allowed }.into());
        }
        let mut steps = Vec::new();
        for step in Step::decode(&bytes)? {
            let op = Arc::clone(self.defined(step.handle)?);
            self.bound(&op, &step.bindings)?;
            steps.push((op, step.bindings));
        }
        self.programs.remove(&program);
        let kept: usize = self.programs.values().map(|program| program.steps.len()).sum();
        let counts = [
            ("programs", self.programs.len() + 1, PROGRAMS_MAX),
            ("steps", kept + steps.len(), STEPS_MAX),
        ];
        for (what, asked, allowed) in counts.map(|(what, n, max)| (what, n as u64, max as u64)) {
            if asked > allowed {
                return Err(Kind::Protocol { what, asked, allowed }.into());
            }
        }
        // The first replay, which may be the only one, goes step by step.
        let single = steps.len();
        self.programs.insert(program, Steps { program, steps: steps.into(), next: 0, single });
        Ok(())
    }

    /// The steps of a program, from the first, to be replayed.
    pub(super) fn program(&mut self, program: u32) -> Result<Steps> {
        let steps = self.programs.get_mut(&program);
        let steps = steps.ok_or_else(|| unknown("program", program.into()))?;
        Ok(Steps { single: std::mem::take(&mut steps.single), ..steps.clone() })
    }

    pub(super) fn erase(&mut self, program: u32) -> Result<()> {
        self.programs.remove(&program).map(drop).ok_or_else(|| unknown("program", program.into()))
    }

    /// At most `most` of these steps on the session's blocks, up to the first that cannot be bound.
    pub(super) fn ahead(&mut self, rest: &Steps, most: usize) -> Vec<BoundOp> {
        let next = rest.steps.iter().skip(rest.next).take(most);
        next.map_while(|(op, at)| self.bound(op, at).ok()).collect()
    }

    /// The next of these steps on the session's blocks; `None` after the last.
    pub(super) fn step(&mut self, rest: &mut Steps) -> Result<Option<BoundOp>> {
        let Some((op, at)) = rest.steps.get(rest.next) else { return Ok(None) };
        rest.next += 1;
        self.bound(op, at).map(Some)
    }

    /// The op on blocks of this session, which count as written as far as its operands reach.
    fn bound(&mut self, op: &Arc<CheckedOp>, at: &[BlockRef]) -> Result<BoundOp> {
        let bindings = at.iter().map(|at| {
            let block = self.block(*at)?;
            Ok(Binding { buffer: block.id, offset: at.offset, len: block.len })
        });
        let bound = op.bind(&bindings.collect::<Result<Vec<_>>>()?)?;
        for (spec, at) in op.specs().iter().zip(at) {
            // A bound operand lies in its block.
            self.block(*at)?.wrote(at.offset.saturating_add(spec.span_bytes() as u64));
        }
        Ok(bound)
    }

    fn block(&mut self, at: BlockRef) -> Result<&mut Block> {
        let slot = self.slots.get_mut(at.block as usize);
        let slot = slot.filter(|slot| slot.generation == at.generation);
        slot.and_then(|slot| slot.block.as_mut()).ok_or_else(|| unknown("block", at.block.into()))
    }

    /// A copy, its ranges held to staging and to the block.
    pub(super) fn copy(
        &mut self,
        ticket: u64,
        up: bool,
        at: BlockRef,
        staging: u64,
        len: u64,
    ) -> Result<Copying> {
        let block = self.block(at)?;
        let over = |what, asked: u128, allowed: u64| -> Result<()> {
            if asked <= allowed.into() {
                return Ok(());
            }
            let asked = u64::try_from(asked).unwrap_or(u64::MAX);
            Err(Kind::Protocol { what, asked, allowed }.into())
        };
        over("copy", len.into(), COPY_MAX)?;
        over("staging", u128::from(staging) + u128::from(len), STAGING_BYTES)?;
        over("block bytes", u128::from(at.offset) + u128::from(len), block.len)?;
        if up {
            block.wrote(at.offset + len);
        }
        Ok(Copying { ticket, up, buffer: block.id, offset: at.offset, staging, left: len })
    }

    /// Whether another block may be added.
    pub(super) fn may_add_block(&self) -> Result<()> {
        let held = self.blocks().count();
        if held < BLOCKS_MAX {
            return Ok(());
        }
        let (asked, allowed) = (held as u64 + 1, BLOCKS_MAX as u64);
        Err(Kind::Protocol { what: "blocks", asked, allowed }.into())
    }

    /// Puts a block into the table; its number, generation and length.
    pub(super) fn add_block(&mut self, block: Block) -> [u64; 3] {
        let free = self.slots.iter().position(|slot| slot.block.is_none());
        let number = free.unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[number];
        slot.generation = slot.generation.wrapping_add(1);
        slot.block = Some(block);
        [number as u64, slot.generation.into(), block.len]
    }

    /// Takes a block out of the table.
    pub(super) fn remove_block(&mut self, at: BlockRef) -> Result<Block> {
        let block = *self.block(at)?;
        self.slots[at.block as usize].block = None;
        Ok(block)
    }

    /// Every block that the session holds.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.slots.iter().filter_map(|slot| slot.block).chain(self.state)
    }
}

fn unknown(what: &'static str, asked: u64) -> Error {
    Kind::Protocol { what, asked, allowed: 0 }.into()
}
