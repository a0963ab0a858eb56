//! One direction of a session: a byte ring whose writer and reader share no writable page. Each publishes its own
//! position in memory that only it writes; each holds the other's to what is possible. A side that sleeps publishes
//! the position that it sleeps for: it is woken for that, once, and for nothing before.

use super::shm::Shared;
use super::{PAGE, RECORD_ALIGN, RECORD_MAX};
use std::sync::atomic::{Ordering::SeqCst, fence};

/// Offset of a ring's own position in its writer's page.
const TAIL: u64 = 0;
/// Offset, in the same side's page, of its position as reader of the other ring.
const HEAD: u64 = 64;
/// Offset of the position of the other ring's writer that this side sleeps for; 0: none.
const FOR_RECORDS: u64 = 128;
/// Offset of the position of this ring's reader that this side sleeps for; 0: none.
const FOR_ROOM: u64 = 136;

/// The other side broke the ring's rules; the session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// A position moved backwards, beyond the ring, or off the alignment.
    #[error("position {position} with {done} done of a ring of {capacity}")]
    Position {
        /// The position read.
        position: u64,
        /// What had been taken so far.
        done: u64,
        /// Bytes of the ring.
        capacity: u64,
    },
    /// A record's length is not a multiple of 64, over the longest, or beyond what was written.
    #[error("record of {asked} bytes, allowed multiples of 64 up to {allowed}")]
    Length {
        /// The length read.
        asked: u64,
        /// The longest that was possible.
        allowed: u64,
    },
}

/// The writing end.
#[derive(Debug)]
pub struct Producer {
    capacity: u64,
    tail: u64,
    head: u64,
    /// The last position that the reader slept for and was woken at.
    woke: u64,
}

impl Producer {
    /// A ring of `capacity` data bytes, behind its writer's page.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, tail: 0, head: 0, woke: 0 }
    }

    /// Writes one record and publishes it; `false` when there is no room. `own` is written here, `other` is where
    /// the reader publishes how far it is.
    ///
    /// # Errors
    /// The reader's position is impossible.
    pub fn push(&mut self, own: &Shared, other: &Shared, record: &[u8]) -> Result<bool, Bad> {
        let len = record.len() as u64;
        if !self.has_room(other, len)? {
            return Ok(false);
        }
        let at = self.tail % self.capacity;
        let first = (self.capacity - at).min(len) as usize;
        own.write(PAGE + at, &record[..first]);
        own.write(PAGE, &record[first..]);
        self.tail += len;
        own.set_position(TAIL, self.tail);
        Ok(true)
    }

    fn has_room(&mut self, other: &Shared, len: u64) -> Result<bool, Bad> {
        if self.tail - self.head + len > self.capacity {
            let head = other.position(HEAD);
            if head < self.head || head > self.tail {
                let (done, capacity) = (self.head, self.capacity);
                return Err(Bad::Position { position: head, done, capacity });
            }
            self.head = head;
        }
        Ok(self.tail - self.head + len <= self.capacity)
    }

    /// After records were pushed: whether the reader sleeps for what is there now and was not yet woken for it.
    pub fn wakes(&mut self, other: &Shared) -> bool {
        due(other.sought(FOR_RECORDS), self.tail, &mut self.woke)
    }

    /// Says that this side will sleep until there is room for `len` bytes; `false` when there is.
    ///
    /// # Errors
    /// The reader's position is impossible.
    pub fn sleeps(&mut self, own: &Shared, other: &Shared, len: u64) -> Result<bool, Bad> {
        own.seek(FOR_ROOM, (self.tail + len).saturating_sub(self.capacity));
        Ok(!self.has_room(other, len)?)
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Consumer {
    capacity: u64,
    head: u64,
    /// The writer's position as last read and found possible.
    tail: u64,
    /// The last position that the writer slept for and was woken at.
    woke: u64,
}

impl Consumer {
    /// A ring of `capacity` data bytes, behind its writer's page.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, head: 0, tail: 0, woke: 0 }
    }

    /// Whether a record waits.
    ///
    /// # Errors
    /// The writer's position is impossible.
    pub fn ready(&mut self, other: &Shared) -> Result<bool, Bad> {
        if self.tail == self.head {
            let position = other.position(TAIL);
            let possible = position >= self.tail
                && position - self.head <= self.capacity
                && position.is_multiple_of(RECORD_ALIGN);
            if !possible {
                let (done, capacity) = (self.head, self.capacity);
                return Err(Bad::Position { position, done, capacity });
            }
            self.tail = position;
        }
        Ok(self.tail > self.head)
    }

    /// Copies the next record into `record`, private memory, and gives its room back; `false` when there is none.
    ///
    /// # Errors
    /// A position or length is impossible.
    pub fn pop(&mut self, own: &Shared, other: &Shared, record: &mut Vec<u8>) -> Result<bool, Bad> {
        if !self.ready(other)? {
            return Ok(false);
        }
        let mut head = [0; RECORD_ALIGN as usize];
        let at = self.head % self.capacity;
        other.read(PAGE + at, &mut head);
        let asked = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        let allowed = RECORD_MAX.min(self.tail - self.head);
        if asked == 0 || asked > allowed || !asked.is_multiple_of(RECORD_ALIGN) {
            return Err(Bad::Length { asked, allowed });
        }
        // The first bytes are kept as copied: the length judged is the length used.
        record.clear();
        record.extend_from_slice(&head);
        record.resize(asked as usize, 0);
        let (mut done, mut from) = (RECORD_ALIGN, at + RECORD_ALIGN);
        while done < asked {
            from %= self.capacity;
            let len = (asked - done).min(self.capacity - from);
            other.read(PAGE + from, &mut record[done as usize..(done + len) as usize]);
            (done, from) = (done + len, from + len);
        }
        self.head += asked;
        own.set_position(HEAD, self.head);
        Ok(true)
    }

    /// Copies a record of known length, for rings whose writer is trusted with it.
    ///
    /// # Errors
    /// A position is impossible.
    pub fn pop_fixed<const N: usize>(
        &mut self,
        own: &Shared,
        other: &Shared,
    ) -> Result<Option<[u8; N]>, Bad> {
        if !self.ready(other)? {
            return Ok(None);
        }
        let mut record = [0; N];
        other.read(PAGE + self.head % self.capacity, &mut record);
        self.head += N as u64;
        own.set_position(HEAD, self.head);
        Ok(Some(record))
    }

    /// After records were taken: whether the writer sleeps for the room that is there now and was not yet woken for it.
    pub fn wakes(&mut self, other: &Shared) -> bool {
        due(other.sought(FOR_ROOM), self.head, &mut self.woke)
    }

    /// Says that this side will sleep until `len` more bytes are there, or half a ring if that is less: a writer that
    /// fills the ring sleeps too. `false` when a record is there.
    ///
    /// # Errors
    /// The writer's position is impossible.
    pub fn sleeps(&mut self, own: &Shared, other: &Shared, len: u64) -> Result<bool, Bad> {
        own.seek(FOR_RECORDS, self.head + len.min(self.capacity / 2));
        Ok(!self.ready(other)?)
    }
}

/// Says that this side is awake.
pub fn awake(own: &Shared) {
    own.set_position(FOR_RECORDS, 0);
    own.set_position(FOR_ROOM, 0);
}

/// Whether a sleeper for position `sought` is to be woken at position `at`. Nobody sleeps for a position that was
/// reached before, so one byte for each is enough.
fn due(sought: u64, at: u64, woke: &mut u64) -> bool {
    let due = sought > *woke && sought <= at;
    if due {
        *woke = sought;
    }
    due
}

// One side publishes what it sleeps for and then looks at the other's position; the other publishes its position
// and then looks at what is slept for. With a fence between, at least one sees what the other wrote.
impl Shared {
    fn seek(&self, offset: u64, position: u64) {
        self.set_position(offset, position);
        fence(SeqCst);
    }

    fn sought(&self, offset: u64) -> u64 {
        fence(SeqCst);
        self.position(offset)
    }
}
