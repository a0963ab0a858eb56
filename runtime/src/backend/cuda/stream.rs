//! The one stream of work: copies through page-locked memory, marks, the time between them, and the first bad index that
//! kernels told of. `mod` calls it.

use super::driver::{Address, Context, Event, Memory, Staging, Stream};
use crate::backend::{IndexFault, Mark, Progress};
use crate::error::{Kind, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one of the buffers that copies pass through, and how many there are.
const STAGED: usize = 1 << 22;
const BUFFERS: usize = 2;
/// Bytes of the fault: three words and nothing, as `cuda/tile/fault.h` has them.
const FAULT: usize = 16;
/// A mark is asked for this long without a pause, then at this pause.
const SPIN: Duration = Duration::from_micros(50);
const PAUSE: Duration = Duration::from_micros(20);

/// A buffer that copies pass through, and the point after the last copy out of it.
struct Buffer {
    staging: Staging,
    sent: Event,
    is_pending: bool,
}

/// A stretch of work and the mark after it.
struct Stretch {
    mark: Mark,
    /// Before the first work; `None` where there was none.
    start: Option<Event>,
    end: Event,
    /// Where the fault was copied to, if any work could tell of one.
    told: Option<Staging>,
}

/// The words that kernels tell of the first bad index in; zeros after each mark.
struct Fault {
    words: Memory,
    is_used: bool,
    spare: Vec<Staging>,
}

/// The stream of work.
pub(super) struct Work {
    pub(super) stream: Stream,
    context: Arc<Context>,
    buffers: VecDeque<Buffer>,
    stretches: VecDeque<Stretch>,
    /// Before the first work since the last mark.
    start: Option<Event>,
    next: u64,
    spare: Vec<Event>,
    fault: Fault,
}

impl Work {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        let buffer = || {
            let (staging, sent) = (Staging::new(context, STAGED)?, Event::new(context)?);
            Ok(Buffer { staging, sent, is_pending: false })
        };
        let stream = Stream::new(context)?;
        let Some(words) = Memory::new(context, FAULT as u64)? else {
            let asked = FAULT as u64;
            return Err(Kind::OutOfMemory { asked, free: context.free_bytes(), quota: 0 }.into());
        };
        let fault = Fault { words, is_used: false, spare: Vec::new() };
        stream.zero(fault.address()?, FAULT as u64)?;
        Ok(Self {
            stream,
            context: Arc::clone(context),
            buffers: (0..BUFFERS).map(|_| buffer()).collect::<Result<_>>()?,
            stretches: VecDeque::new(),
            start: None,
            next: 0,
            spare: Vec::new(),
            fault,
        })
    }

    /// The address of the fault, for work that tells of one.
    pub(super) fn fault(&mut self) -> Result<u64> {
        self.fault.is_used = true;
        Ok(self.fault.address()?.get())
    }

    /// Copies the fault to the host and clears it, if work since the last mark could tell of one.
    fn told(&mut self) -> Result<Option<Staging>> {
        if !std::mem::take(&mut self.fault.is_used) {
            return Ok(None);
        }
        let staging = match self.fault.spare.pop() {
            Some(staging) => staging,
            None => Staging::new(&self.context, FAULT)?,
        };
        let words = self.fault.address()?;
        self.stream.fetch(words, &staging, FAULT)?;
        self.stream.zero(words, FAULT as u64)?;
        Ok(Some(staging))
    }

    fn event(&mut self) -> Result<Event> {
        let event = match self.spare.pop() {
            Some(event) => event,
            None => Event::new(&self.context)?,
        };
        event.record(&self.stream)?;
        Ok(event)
    }

    /// Work that counts as busy comes next.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.start.is_none() {
            self.start = Some(self.event()?);
        }
        Ok(())
    }

    /// Copies host bytes to the device; `to` has room for them. It returns when they have left `src`.
    pub(super) fn send(
        &mut self,
        src: &[u8],
        mut to: impl FnMut(u64, u64) -> Result<Address>,
    ) -> Result<()> {
        for (i, part) in src.chunks(STAGED).enumerate() {
            let to = to((i * STAGED) as u64, part.len() as u64)?;
            self.buffers.rotate_left(1);
            let Some(buffer) = self.buffers.front_mut() else { return Ok(()) };
            if buffer.is_pending {
                wait(&buffer.sent, None)?;
            }
            buffer.staging.bytes()[..part.len()].copy_from_slice(part);
            self.stream.send(&buffer.staging, part.len(), to)?;
            buffer.sent.record(&self.stream)?;
            buffer.is_pending = true;
        }
        Ok(())
    }

    /// Copies device bytes to the host, after everything enqueued.
    pub(super) fn fetch(
        &mut self,
        dst: &mut [u8],
        mut from: impl FnMut(u64, u64) -> Result<Address>,
    ) -> Result<()> {
        for (i, part) in dst.chunks_mut(STAGED).enumerate() {
            let from = from((i * STAGED) as u64, part.len() as u64)?;
            let Some(buffer) = self.buffers.front_mut() else { return Ok(()) };
            self.stream.fetch(from, &buffer.staging, part.len())?;
            self.stream.wait()?;
            buffer.is_pending = false;
            part.copy_from_slice(&buffer.staging.bytes()[..part.len()]);
        }
        Ok(())
    }

    pub(super) fn mark(&mut self) -> Result<Mark> {
        let told = self.told()?;
        let end = self.event()?;
        let mark = Mark(self.next);
        self.next += 1;
        let start = self.start.take();
        self.stretches.push_back(Stretch { mark, start, end, told });
        Ok(mark)
    }

    pub(super) fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress> {
        let (mut busy_ns, mut fault) = (0, None);
        while let Some(stretch) = self.stretches.front().filter(|stretch| stretch.mark <= mark) {
            if !wait(&stretch.end, timeout)? {
                return Ok(Progress::Pending);
            }
            if let Some(start) = &stretch.start {
                busy_ns += stretch.end.since(start)?;
            }
            if let Some(Stretch { start, end, told, .. }) = self.stretches.pop_front() {
                self.spare.extend(start.into_iter().chain([end]));
                if let Some(mut staging) = told {
                    fault = fault.or_else(|| found(staging.bytes()));
                    self.fault.spare.push(staging);
                }
            }
        }
        Ok(Progress::Done { busy_ns, fault })
    }
}

impl Fault {
    fn address(&self) -> Result<Address> {
        let bounds = || Kind::Bounds { asked: FAULT.to_string(), allowed: "0".into() };
        Ok(self.words.address(0, FAULT as u64).ok_or_else(bounds)?)
    }
}

/// The fault in its words, if there is one.
fn found(bytes: &[u8]) -> Option<IndexFault> {
    let words: [u32; 4] = bytemuck::try_pod_read_unaligned(bytes.get(..FAULT)?).ok()?;
    (words[0] != 0).then_some(IndexFault { value: words[1], bound: words[2] })
}

/// Waits for an event, at most `timeout`; whether it came.
fn wait(event: &Event, timeout: Option<Duration>) -> Result<bool> {
    let began = Instant::now();
    loop {
        if event.is_done()? {
            return Ok(true);
        }
        let waited = began.elapsed();
        if timeout.is_some_and(|most| waited >= most) {
            return Ok(false);
        }
        if waited < SPIN { std::hint::spin_loop() } else { std::thread::sleep(PAUSE) }
    }
}
