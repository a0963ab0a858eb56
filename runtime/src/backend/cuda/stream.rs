//! The one stream of work: copies through page-locked memory, marks, and the time between them. `mod` calls it.

use super::driver::{Context, Event, Stream};
use super::ranges::{Address, Staging};
use crate::backend::{Mark, Progress};
use crate::error::Result;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one of the buffers that copies pass through, and how many there are.
const STAGED: usize = 1 << 22;
const BUFFERS: usize = 2;
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
}

impl Work {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        let buffer = || {
            let (staging, sent) = (Staging::new(context, STAGED)?, Event::new(context)?);
            Ok(Buffer { staging, sent, is_pending: false })
        };
        Ok(Self {
            stream: Stream::new(context)?,
            context: Arc::clone(context),
            buffers: (0..BUFFERS).map(|_| buffer()).collect::<Result<_>>()?,
            stretches: VecDeque::new(),
            start: None,
            next: 0,
            spare: Vec::new(),
        })
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
        let end = self.event()?;
        let mark = Mark(self.next);
        self.next += 1;
        let start = self.start.take();
        self.stretches.push_back(Stretch { mark, start, end });
        Ok(mark)
    }

    pub(super) fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress> {
        let mut busy_ns = 0;
        while let Some(stretch) = self.stretches.front().filter(|stretch| stretch.mark <= mark) {
            if !wait(&stretch.end, timeout)? {
                return Ok(Progress::Pending);
            }
            if let Some(start) = &stretch.start {
                busy_ns += stretch.end.since(start)?;
            }
            if let Some(Stretch { start, end, .. }) = self.stretches.pop_front() {
                self.spare.extend(start.into_iter().chain([end]));
            }
        }
        Ok(Progress::Done { busy_ns, fault: None })
    }
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
