//! An engine that counts what it is asked for, around one that computes nothing.

use leasehold::backend::Caps;
use leasehold::backend::null::Null;
use leasehold::engine::{Engine, Local, Planned, ProgramId, QueueId, Ticket, WhenFull};
use leasehold::op::{BoundOp, BufferId, CheckedOp};
use leasehold::{Device, Numerics, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub(crate) struct Counting {
    inner: Local<Null>,
    counts: Arc<Counts>,
}

/// How often each call came.
#[derive(Default)]
pub(crate) struct Counts {
    alloc: AtomicU64,
    free: AtomicU64,
    write: AtomicU64,
    submit: AtomicU64,
    replay: AtomicU64,
    read: AtomicU64,
}

impl Counts {
    pub(crate) fn all(&self) -> [(&'static str, u64); 6] {
        let Self { alloc, free, write, submit, replay, read } = self;
        let counts = [
            ("alloc", alloc),
            ("free", free),
            ("write", write),
            ("submit", submit),
            ("replay", replay),
            ("read", read),
        ];
        counts.map(|(name, count)| (name, count.load(Relaxed)))
    }
}

impl Counting {
    /// A device on it, and its counts.
    pub(crate) fn device() -> (Device, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        let inner = Local::new(Null::new(1 << 30).0).unwrap();
        let engine = Self { inner, counts: Arc::clone(&counts) };
        (Device::from_engine(Box::new(engine), "counted".into()), counts)
    }
}

impl Engine for Counting {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn numerics(&self) -> Numerics {
        self.inner.numerics()
    }

    fn alloc(&self, bytes: u64) -> Result<BufferId> {
        self.counts.alloc.fetch_add(1, Relaxed);
        self.inner.alloc(bytes)
    }

    fn free(&self, buffer: BufferId) {
        self.counts.free.fetch_add(1, Relaxed);
        self.inner.free(buffer);
    }

    fn write(&self, buffer: BufferId, offset: u64, bytes: &[u8], queue: QueueId) -> Result<Ticket> {
        self.counts.write.fetch_add(1, Relaxed);
        self.inner.write(buffer, offset, bytes, queue)
    }

    fn read(&self, buffer: BufferId, offset: u64, len: u64, queue: QueueId) -> Result<Ticket> {
        self.counts.read.fetch_add(1, Relaxed);
        self.inner.read(buffer, offset, len, queue)
    }

    fn submit(&self, op: BoundOp, queue: QueueId, full: WhenFull) -> Result<Ticket> {
        self.counts.submit.fetch_add(1, Relaxed);
        self.inner.submit(op, queue, full)
    }

    fn plan(&self, op: &Arc<CheckedOp>) -> Result<Planned> {
        self.inner.plan(op)
    }

    fn record(&self, ops: Vec<BoundOp>) -> Result<ProgramId> {
        self.inner.record(ops)
    }

    fn replay(&self, program: ProgramId, queue: QueueId, full: WhenFull) -> Result<Ticket> {
        self.counts.replay.fetch_add(1, Relaxed);
        self.inner.replay(program, queue, full)
    }

    fn erase(&self, program: ProgramId) {
        self.inner.erase(program);
    }

    fn poll(&self, ticket: Ticket, timeout: Option<Duration>) -> Result<bool> {
        self.inner.poll(ticket, timeout)
    }

    fn fetch(&self, ticket: Ticket, dst: &mut [u8]) -> Result<()> {
        self.inner.fetch(ticket, dst)
    }

    fn forget(&self, ticket: Ticket) {
        self.inner.forget(ticket);
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        self.inner.wait(timeout)
    }
}
