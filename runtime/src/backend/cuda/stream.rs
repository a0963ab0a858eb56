//! The one stream of work: copies through page-locked memory, marks, the time between them, and the first bad index that
//! kernels told of. `mod` calls it.

use super::driver::{Context, Event, Stream};
use super::ranges::{Address, Memory, Source, Staging};
use crate::backend::{IndexFault, Mark, Progress};
use crate::error::{Kind, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one of the buffers that copies pass through, and how many there are.
const STAGED: usize = 1 << 22;
const BUFFERS: usize = 2;
/// Bytes of a fault: three words and nothing, as `cuda/tile/fault.h` has them.
const FAULT: usize = 16;
/// Faults that are told apart: one of each launch of a segment.
pub(super) const FAULTS: usize = 256;
/// What work behind other work is predicted to take, at most, before an event says where it ends: an event between two small
/// kernels takes the device about as long as one of them.
const OWED_NS: u64 = 1_000_000;
/// A mark is asked for this long without a pause, then at this pause.
const SPIN: Duration = Duration::from_micros(50);
const PAUSE: Duration = Duration::from_micros(20);

/// A buffer that copies pass through, and the point after the last copy out of it.
struct Buffer {
    staging: Staging,
    sent: Event,
    is_pending: bool,
}

/// The words that kernels tell of the first bad index in; zeros after each mark. The launches of a segment have a fault
/// each, so that it is known whose index was bad; all others have the first.
struct Fault {
    words: Memory,
    /// Faults that work since the last mark can tell of.
    used: usize,
    spare: Vec<Staging>,
}

/// Where a stretch of work begins.
enum Start {
    /// At its own event: the stream may have been idle.
    At(Event),
    /// Where the one before ends: the stream had work all the time.
    Before,
    /// It holds nothing that counts: copies, or nothing.
    Nowhere,
}

/// A stretch of work, and the mark after it if there is one.
struct Stretch {
    start: Start,
    end: Event,
    /// What work before it is taken to be that no event ended.
    guessed_ns: u64,
    mark: Option<Mark>,
    /// Where the faults were copied to, and how many, if any work could tell of one.
    told: Option<(Staging, usize)>,
}

/// The stream of work. What the device was busy with is the sum of its stretches: what the host does between them does not
/// count, and copies do not. The driver's times are of half a microsecond.
///
/// Work behind other work has no event of its own: a mark, a copy, or much work ends the stretch of all of it. Where the
/// stream runs dry before one of these comes, where it did is not known, and that work counts as it was predicted.
pub(super) struct Work {
    pub(super) stream: Stream,
    context: Arc<Context>,
    buffers: VecDeque<Buffer>,
    stretches: VecDeque<Stretch>,
    /// The end of the last one that is no longer in the list.
    before: Option<Event>,
    /// The beginning of the one that is being enqueued, and what it is predicted to take.
    open: Option<(Start, u64)>,
    /// What the work behind the last stretch is predicted to take, which no event ends yet; and what counts by its prediction.
    owed_ns: u64,
    guessed_ns: u64,
    /// Whether copies were enqueued since the last stretch.
    copied: bool,
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
        let source = Source::Driver(Arc::clone(context));
        let asked = (FAULT * FAULTS) as u64;
        let Some(words) = Memory::new(&source, asked)? else {
            return Err(Kind::OutOfMemory { asked, free: source.free_bytes(), quota: 0 }.into());
        };
        let fault = Fault { words, used: 0, spare: Vec::new() };
        stream.zero(fault.address()?, asked)?;
        Ok(Self {
            stream,
            context: Arc::clone(context),
            buffers: (0..BUFFERS).map(|_| buffer()).collect::<Result<_>>()?,
            stretches: VecDeque::new(),
            before: None,
            open: None,
            owed_ns: 0,
            guessed_ns: 0,
            copied: false,
            next: 0,
            spare: Vec::new(),
            fault,
        })
    }

    /// Work that is enqueued next tells of faults, of the first so many; none is asked for by 0.
    pub(super) fn faults(&mut self, used: usize) -> Result<()> {
        // Where they are copied to: once work is enqueued, nothing is short.
        if used > 0 && self.fault.spare.is_empty() {
            self.fault.spare.push(Staging::new(&self.context, FAULT * FAULTS)?);
        }
        self.fault.used = self.fault.used.max(used.min(FAULTS));
        Ok(())
    }

    /// The address of a fault, by its number.
    pub(super) fn fault(&self, number: usize) -> Result<u64> {
        Ok(self.fault.address()?.get() + (FAULT * number.min(FAULTS - 1)) as u64)
    }

    /// Copies the faults to the host and clears them, if work since the last mark could tell of any.
    fn told(&mut self) -> Result<Option<(Staging, usize)>> {
        let used = std::mem::take(&mut self.fault.used);
        if used == 0 {
            return Ok(None);
        }
        let Some(staging) = self.fault.spare.pop() else { return Ok(None) };
        let words = self.fault.address()?;
        self.stream.fetch(words, &staging, FAULT * used)?;
        self.stream.zero(words, (FAULT * used) as u64)?;
        Ok(Some((staging, used)))
    }

    fn event(&mut self) -> Result<Event> {
        let event = match self.spare.pop() {
            Some(event) => event,
            None => Event::new(&self.context)?,
        };
        event.record(&self.stream)?;
        Ok(event)
    }

    /// Work that counts as busy comes next, and [`Work::end`] after it; it is predicted to take so long.
    pub(super) fn begin(&mut self, predicted_ns: u64) -> Result<()> {
        // Events for the beginning, the end and a mark: once work is enqueued, nothing is short.
        while self.spare.len() < 3 {
            self.spare.push(Event::new(&self.context)?);
        }
        let start = match self.is_busy()? {
            true => Start::Before,
            false => {
                self.guessed_ns += std::mem::take(&mut self.owed_ns);
                Start::At(self.event()?)
            }
        };
        self.open = Some((start, predicted_ns.max(1)));
        Ok(())
    }

    /// Whether the stream had work that counts ever since the last of it was enqueued.
    fn is_busy(&self) -> Result<bool> {
        if self.owed_ns > 0 {
            return self.stream.is_done().map(|done| !done);
        }
        let last = self.stretches.back().filter(|_| !self.copied);
        last.map_or(Ok(false), |last| last.end.is_done().map(|done| !done))
    }

    /// The work that counts is enqueued.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some((start, predicted_ns)) = self.open.take() else { return Ok(()) };
        let owed_ns = self.owed_ns.saturating_add(predicted_ns);
        if matches!(start, Start::Before) && owed_ns <= OWED_NS {
            self.owed_ns = owed_ns;
            return Ok(());
        }
        self.stretch(start, None, None)
    }

    /// Ends work that no event ends yet: what is enqueued next is none of it.
    fn close(&mut self) -> Result<()> {
        if self.owed_ns > 0 { self.stretch(Start::Before, None, None) } else { Ok(()) }
    }

    fn stretch(
        &mut self,
        start: Start,
        mark: Option<Mark>,
        told: Option<(Staging, usize)>,
    ) -> Result<()> {
        let (end, guessed_ns) = (self.event()?, std::mem::take(&mut self.guessed_ns));
        self.stretches.push_back(Stretch { start, end, guessed_ns, mark, told });
        (self.owed_ns, self.copied) = (0, false);
        Ok(())
    }

    /// Copies on the device.
    pub(super) fn copy(&mut self, from: Address, to: Address, len: u64) -> Result<()> {
        self.close()?;
        self.copied = true;
        self.stream.copy(from, to, len)
    }

    /// Copies host bytes to the device; `to` has room for them. It returns when they have left `src`.
    pub(super) fn send(
        &mut self,
        src: &[u8],
        mut to: impl FnMut(u64, u64) -> Result<Address>,
    ) -> Result<()> {
        self.close()?;
        self.copied = true;
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
        self.close()?;
        self.copied = true;
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

    /// A point after everything enqueued, beside the marks.
    pub(super) fn point(&mut self) -> Result<Event> {
        self.event()
    }

    /// Waits for the second of two points; nanoseconds of the device between them.
    pub(super) fn between(&mut self, began: Event, ended: Event) -> Result<u64> {
        wait(&ended, None)?;
        let time = ended.since(&began)?;
        self.spare.extend([began, ended]);
        Ok(time)
    }

    pub(super) fn mark(&mut self) -> Result<Mark> {
        self.close()?;
        let told = self.told()?;
        self.copied |= told.is_some();
        let mark = Mark(self.next);
        match self.stretches.back_mut() {
            Some(last) if last.mark.is_none() && !self.copied => last.mark = Some(mark),
            _ => self.stretch(Start::Nowhere, Some(mark), told)?,
        }
        self.next += 1;
        Ok(mark)
    }

    pub(super) fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress> {
        let (mut busy_ns, mut fault) = (0, None);
        let marked = self.stretches.iter().position(|stretch| stretch.mark == Some(mark));
        if let Some(marked) = marked {
            if !wait(&self.stretches[marked].end, timeout)? {
                return Ok(Progress::Pending);
            }
            for Stretch { start, end, guessed_ns, told, .. } in self.stretches.drain(..=marked) {
                busy_ns += guessed_ns;
                busy_ns += match (&start, &self.before) {
                    (Start::At(start), _) => end.since(start)?,
                    (Start::Before, Some(before)) => end.since(before)?,
                    _ => 0,
                };
                let start = if let Start::At(start) = start { Some(start) } else { None };
                self.spare.extend(self.before.replace(end).into_iter().chain(start));
                if let Some((mut staging, used)) = told {
                    fault = fault.or_else(|| found(&staging.bytes()[..FAULT * used]));
                    self.fault.spare.push(staging);
                }
            }
        }
        Ok(Progress::Done { busy_ns, fault })
    }
}

impl Fault {
    fn address(&self) -> Result<Address> {
        let bytes = (FAULT * FAULTS) as u64;
        let bounds = || Kind::Bounds { asked: bytes.to_string(), allowed: "0".into() };
        Ok(self.words.address(0, bytes).ok_or_else(bounds)?)
    }
}

/// The first fault that these words tell of, in the order of launches.
fn found(bytes: &[u8]) -> Option<IndexFault> {
    bytes.chunks_exact(FAULT).zip(0..).find_map(|(words, step)| {
        let [told, value, bound, _]: [u32; 4] = bytemuck::try_pod_read_unaligned(words).ok()?;
        (told != 0).then_some(IndexFault { value, bound, step })
    })
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
