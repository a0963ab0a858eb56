//! What a [`crate::Device`] holds: the [`Engine`] trait, one implementation local, one remote.

mod local;
mod poison;

pub use local::Local;
pub use poison::Poison;

use crate::backend::Caps;
use crate::error::{Error, Kind, Result};
use crate::numerics::Numerics;
use crate::op::{BoundOp, BufferId, CheckedOp};
use std::sync::Arc;
use std::time::Duration;

/// A point in an engine's work. Tickets of one engine grow; an engine completes them in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One of a device's in-order queues; 0 is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueueId(pub u32);

/// A program that an engine keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub u64);

/// What a plan says of itself, wherever it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The plan for people: its order and units.
    pub text: String,
    /// Predicted nanoseconds in all.
    pub time_ns: u128,
}

/// What to do when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait for room.
    Wait,
    /// Answer `QueueFull`.
    Refuse,
}

/// Memory and ops of one device. Calls return as soon as the work is enqueued; results come back at
/// [`Engine::poll`]. Work that names one buffer happens in call order, whatever the queue.
pub trait Engine: Send + Sync {
    /// What the device is and can do.
    fn caps(&self) -> &Caps;

    /// Equal id, equal bits.
    fn numerics(&self) -> Numerics;

    /// A buffer of `bytes` bytes at an address that is a multiple of 256, contents undefined.
    ///
    /// # Errors
    /// `OutOfMemory`, `Unsupported` over the allocation limit, `DeviceLost`, `Revoked`.
    fn alloc(&self, bytes: u64) -> Result<BufferId>;

    /// Frees a buffer after the work enqueued so far. Never blocks.
    fn free(&self, buffer: BufferId);

    /// Copies host bytes into a buffer. `bytes` is free again on return.
    ///
    /// # Errors
    /// `Bounds`, `DeviceLost`, `Revoked`.
    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8], queue: QueueId) -> Result<Ticket>;

    /// Starts to copy buffer bytes to the host; fetch them with the ticket.
    ///
    /// # Errors
    /// `Bounds`, `DeviceLost`, `Revoked`.
    fn read(&self, buffer: BufferId, offset: u64, len: u64, queue: QueueId) -> Result<Ticket>;

    /// Enqueues an op.
    ///
    /// # Errors
    /// `QueueFull` when asked to refuse; `Unsupported` or `Time` from planning; `DeviceLost`, `Revoked`.
    fn submit(&self, op: BoundOp, queue: QueueId, full: WhenFull) -> Result<Ticket>;

    /// The plan that an op would follow here; nothing of it is run. Waits for work that is under way.
    ///
    /// # Errors
    /// `Unsupported`, `Time`, `DeviceLost`, `Revoked`.
    fn plan(&self, op: &Arc<CheckedOp>) -> Result<Planned>;

    /// Keeps a list of ops to be replayed in its order, as one.
    ///
    /// # Errors
    /// `Unsupported` for more ops than a program may have.
    fn record(&self, ops: Vec<BoundOp>) -> Result<ProgramId>;

    /// Enqueues every op of a program. If one fails, everything that the program writes is marked failed.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    fn replay(&self, program: ProgramId, queue: QueueId, full: WhenFull) -> Result<Ticket>;

    /// Forgets a program after the replays enqueued so far. Never blocks.
    fn erase(&self, program: ProgramId);

    /// Waits at most `timeout` (`None`: as long as it takes); whether the ticket is done.
    ///
    /// # Errors
    /// Of a read: the first cause that made its data unreadable. `DeviceLost`, `Revoked`.
    fn poll(&self, ticket: Ticket, timeout: Option<Duration>) -> Result<bool>;

    /// Takes the bytes of a read that is done; its ticket is then forgotten.
    ///
    /// # Errors
    /// `Bounds` when `dst` has not the read's length or the ticket is not a finished read.
    fn fetch(&self, ticket: Ticket, dst: &mut [u8]) -> Result<()>;

    /// Forgets a read that nobody will fetch. Never blocks.
    fn forget(&self, ticket: Ticket);

    /// Waits for everything enqueued so far and takes the first error since the last call.
    ///
    /// # Errors
    /// `Timeout`, or that first error.
    fn wait(&self, timeout: Option<Duration>) -> Result<()>;
}

/// Most ops of a program.
pub const PROGRAM_OPS_MAX: usize = 4096;

/// The ops of a program, if they are not too many. Equal ones become one, which is then near whenever it is run.
pub(crate) fn program_ops(mut ops: Vec<BoundOp>) -> Result<Arc<[BoundOp]>> {
    if ops.len() <= PROGRAM_OPS_MAX {
        BoundOp::unite(&mut ops);
        return Ok(ops.into());
    }
    let asked = format!("a program of {} ops", ops.len());
    Err(Kind::Unsupported { asked, allowed: PROGRAM_OPS_MAX.to_string() }.into())
}

/// Zeroed host memory for `len` elements, or the error that there is not so much.
pub(crate) fn zeroed<T: bytemuck::Zeroable + Clone>(len: usize) -> Result<Vec<T>> {
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|e| Error::system("allocate", std::io::Error::other(e)))?;
    data.resize(len, T::zeroed());
    Ok(data)
}
