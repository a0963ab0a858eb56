//! Reads of a session: parts that arrive in staging, wait there until they are fetched, and make room for others.
//! The rest of `client` calls it for staging.

use super::{Client, Pending};
use crate::engine::{QueueId, Ticket};
use crate::error::{Error, Kind, Result};
use crate::op::BufferId;
use crate::wire::Record;

/// A read under way. What arrived waits in staging until it is fetched, or until others need the room.
pub(super) struct Reading {
    len: u64,
    pub(super) here: Vec<Part>,
    /// Parts not yet here, the record of the last, and bytes not yet asked for.
    pub(super) parts: usize,
    pub(super) last: u64,
    pub(super) unsent: u64,
    pub(super) error: Option<Error>,
}

/// A part of a read that is here: where its bytes go, how many, and where they are.
pub(super) struct Part {
    pub(super) to: usize,
    pub(super) len: u64,
    pub(super) at: At,
}

pub(super) enum At {
    Staging(u64),
    Spilled(Vec<u8>),
}

/// Spilled parts of reads whose memory is kept, each at most as long as one copy.
const SPARE_MAX: usize = 8;

impl Client {
    /// A region of staging; parts of reads that nobody fetched yet make room. `None` while records in flight have it.
    pub(super) fn stage(&mut self, bytes: u64) -> Result<Option<u64>> {
        loop {
            let region = self.memory.stage(bytes);
            if region.is_some() || !self.spill()? {
                return Ok(region);
            }
        }
    }

    /// Moves a part that is here out of staging; whether there was one.
    fn spill(&mut self) -> Result<bool> {
        let mut parts = self.reads.values_mut().flat_map(|reading| &mut reading.here);
        let Some((part, staging)) = parts.find_map(|part| match part.at {
            At::Staging(staging) => Some((part, staging)),
            At::Spilled(_) => None,
        }) else {
            return Ok(false);
        };
        let len = part.len as usize;
        let spare = self.spare.pop().filter(|bytes| bytes.len() >= len);
        let mut bytes = spare.map_or_else(|| crate::engine::zeroed(len), Ok)?;
        self.staging.read(staging, &mut bytes[..len]);
        part.at = At::Spilled(bytes);
        self.memory.unstage(staging, part.len);
        Ok(true)
    }

    pub(in crate::remote) fn begin_read(
        &mut self,
        buffer: BufferId,
        offset: u64,
        len: u64,
    ) -> Result<Ticket> {
        self.memory.at(buffer, offset, len)?;
        self.next_read += 1;
        let reading =
            Reading { len, here: Vec::new(), parts: 0, last: 0, unsent: len, error: None };
        self.reads.insert(Ticket(self.next_read), reading);
        Ok(Ticket(self.next_read))
    }

    pub(in crate::remote) fn read_part(
        &mut self,
        read: Ticket,
        buffer: BufferId,
        offset: u64,
        to: u64,
        len: u64,
        queue: QueueId,
    ) -> Result<Option<Ticket>> {
        let at = self.memory.at(buffer, offset, len)?;
        let Some(staging) = self.stage(len)? else { return Ok(None) };
        let record = Record::Read { at, staging, len };
        let pending = Pending::Read { read, buffer, staging, len, to: to as usize };
        let pushed = self.push(&record, queue, pending)?;
        match (pushed, self.reads.get_mut(&read)) {
            (Some(part), Some(reading)) => {
                reading.parts += 1;
                reading.last = part.0;
                reading.unsent -= len;
            }
            _ => self.memory.unstage(staging, len),
        }
        Ok(pushed)
    }

    pub(in crate::remote) fn fetch(&mut self, ticket: Ticket, dst: &mut [u8]) -> Result<()> {
        let done = self.reads.get(&ticket).filter(|r| r.parts == 0 && r.unsent == 0);
        let have = done.map_or(0, |reading| reading.len);
        if have != dst.len() as u64 {
            let (asked, allowed) = (dst.len().to_string(), have.to_string());
            return Err(Kind::Bounds { asked, allowed }.into());
        }
        let error = done.and_then(|reading| reading.error.clone());
        self.take(ticket, dst);
        error.map_or(Ok(()), Err)
    }

    pub(in crate::remote) fn forget(&mut self, ticket: Ticket) {
        self.take(ticket, &mut []);
    }

    /// Ends a read: its parts go to where they belong in `dst`, if that reaches so far, and their room is given back.
    fn take(&mut self, ticket: Ticket, dst: &mut [u8]) {
        let Some(reading) = self.reads.remove(&ticket) else { return };
        for Part { to, len, at } in reading.here {
            let dst = dst.get_mut(to..to + len as usize);
            match at {
                At::Staging(staging) => {
                    dst.map(|dst| self.staging.read(staging, dst));
                    self.memory.unstage(staging, len);
                }
                At::Spilled(bytes) => {
                    if let Some(dst) = dst {
                        dst.copy_from_slice(&bytes[..len as usize]);
                    }
                    if self.spare.len() < SPARE_MAX {
                        self.spare.push(bytes);
                    }
                }
            }
        }
    }
}
