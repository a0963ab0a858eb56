//! What an engine runs on: the [`Backend`] trait and the values it speaks in. Engines see this trait only;
//! `device` alone names the backends behind it.

/// The parity suite, for the backends' tests from inside.
#[cfg(all(test, any(feature = "cpu", feature = "wgpu", feature = "cuda")))]
#[path = "../../tests/common/mod.rs"]
mod common;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod null;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod tuner;
#[cfg(feature = "wgpu")]
pub mod wgpu;

use crate::error::Result;
use crate::op::{BoundOp, CheckedOp};
use crate::order::{Plan, UnitRange};
use std::time::Duration;

/// Names a block of device memory within one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId(pub u64);

/// What a backend is and can do.
#[derive(Clone, Debug)]
pub struct Caps {
    /// `cpu`, `wgpu`, `cuda`, `null`.
    pub backend: &'static str,
    /// The device's own name.
    pub name: String,
    /// The arch class that orders and floor rates are keyed by.
    pub arch: &'static str,
    /// Software running on the host's cores: never chosen silently unless it is the CPU backend.
    pub software: bool,
    /// Largest allocation in bytes.
    pub max_alloc: u64,
    /// Largest range of an allocation that one operand may span, in bytes.
    pub max_binding: u64,
    /// Device memory in bytes.
    pub memory: u64,
    /// Predicted nanoseconds that a unit may take (U).
    pub unit_cap_ns: u64,
    /// Where `busy_ns` comes from: `device timestamps`, `device timestamps of 0.5 us`, `host clock`, `cpu time`,
    /// `virtual`.
    pub clock: &'static str,
}

/// A point in the backend's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

/// The first index found out of range since the mark before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFault {
    /// The index, as unsigned.
    pub value: u32,
    /// The exclusive bound it broke.
    pub bound: u32,
    /// Which op of a segment met it; 0 for launches of their own.
    pub step: u32,
}

/// What `poll` saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not there yet.
    Pending,
    /// Everything up to the mark is done.
    Done {
        /// Nanoseconds the device was busy since the mark before.
        busy_ns: u64,
        /// The first index fault since the mark before.
        fault: Option<IndexFault>,
    },
}

/// A launch's operands in the backend's terms: one block and byte offset each, in the order of the op's roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block.
    pub block: BlockId,
    /// Byte offset of the view's first element in the block.
    pub offset: u64,
}

/// The segment of a backend that launches one by one: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSegment {}

/// An op of a segment: what [`Backend::launch`] is given for all its units.
#[derive(Debug)]
pub struct Step<'a, P> {
    /// The op's kernel.
    pub prepared: &'a P,
    /// Every unit of its plan.
    pub units: UnitRange,
    /// The proof that every place is in bounds.
    pub op: &'a BoundOp,
    /// One place per operand.
    pub places: &'a [Place],
    /// What the plan's links hand on.
    pub state: Option<Place>,
}

/// Device memory and kernels. One thread uses a backend at a time; only [`Backend::poll`] waits.
pub trait Backend: Send + 'static {
    /// A kernel ready to launch, with whatever the backend packed for it.
    type Prepared: Send;
    /// Ops kept to be enqueued again as one; of a backend that keeps none, [`NoSegment`].
    type Segment: Send;

    /// What the backend is and can do.
    fn caps(&self) -> &Caps;

    /// BLAKE3 input of everything that can change bits: sources, compilers, drivers, ISA path, order table.
    fn digest(&self) -> [u8; 32];

    /// A block of device memory, its contents undefined.
    ///
    /// # Errors
    /// `OutOfMemory`, or `DeviceLost`.
    fn alloc(&mut self, bytes: u64) -> Result<BlockId>;

    /// Gives a block back once the work launched so far is done with it.
    fn free(&mut self, block: BlockId);

    /// Zeroes a byte range.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn zero(&mut self, block: BlockId, offset: u64, len: u64) -> Result<()>;

    /// Copies host bytes into a block, after the work launched so far.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn upload(&mut self, block: BlockId, offset: u64, src: &[u8]) -> Result<()>;

    /// Copies block bytes to the host, after the work launched so far; waits for it.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn download(&mut self, block: BlockId, offset: u64, dst: &mut [u8]) -> Result<()>;

    /// Copies bytes between blocks; ranges of one block do not overlap.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn copy(&mut self, src: Place, dst: Place, len: u64) -> Result<()>;

    /// Every plan this backend has for the op, best first. Pure: shapes, dtypes, strides and offset classes only.
    ///
    /// # Errors
    /// `Unsupported` with what was asked and the limit.
    fn candidates(&self, op: &CheckedOp) -> Result<Vec<Plan>>;

    /// The plan that the op follows where `plan` was chosen of [`Backend::candidates`]: another one only if that has the
    /// same order. It may run some to time them; what that fails with is no error.
    fn settle(&mut self, _: &CheckedOp, plan: Plan) -> Plan {
        plan
    }

    /// Makes a plan launchable.
    ///
    /// # Errors
    /// `Unsupported`, `OutOfMemory`, or `DeviceLost`.
    fn prepare(&mut self, op: &CheckedOp, plan: &Plan) -> Result<Self::Prepared>;

    /// Bytes of device memory that a prepared plan holds beside its op's operands.
    fn prepared_bytes(_: &Self::Prepared) -> u64 {
        0
    }

    /// Enqueues units of a prepared plan. `state` holds [`Plan::state_bytes`] between ranges that cut a tile.
    /// `op` is the proof that every place is in bounds; `places` says where, one per operand.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn launch(
        &mut self,
        prepared: &mut Self::Prepared,
        units: UnitRange,
        op: &BoundOp,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<()>;

    /// Keeps ops to be enqueued again as one, in their order; nothing runs yet. It names memory by address: the caller
    /// drops it before it frees a block of it or drops what was prepared for it. `None` where the backend has no such
    /// thing, and never will.
    ///
    /// # Errors
    /// `OutOfMemory` where there is no room for it now, or as [`Backend::launch`].
    fn segment(&mut self, _: &[Step<'_, Self::Prepared>]) -> Result<Option<Self::Segment>> {
        Ok(None)
    }

    /// How many launches a segment is of.
    fn launches_of(_: &Self::Segment) -> u64 {
        1
    }

    /// Enqueues a segment, as its launches one by one would be.
    ///
    /// # Errors
    /// `OutOfMemory`, or `DeviceLost`.
    fn replay(&mut self, segment: &Self::Segment) -> Result<()>;

    /// Nanoseconds that a device made of threads spent so far beside launches and zeroing, as [`Progress`] counts those
    /// in `busy_ns`: spinning, copies, and what the calling thread did between launches. Another device says 0.
    fn idle_ns(&self) -> u64 {
        0
    }

    /// A mark after everything launched so far.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn mark(&mut self) -> Result<Mark>;

    /// Waits for a mark, at most `timeout` (`None`: as long as it takes). Marks are polled in order, each until
    /// it is done.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress>;
}

/// A BLAKE3 over parts that each can change bits, every part with its length, so that no two lists collide.
pub(crate) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    *hash.finalize().as_bytes()
}
