//! The one queue of work: commands gathered into submissions, marks over them, and what each submission reports
//! when it is done: its busy time and the first index fault.

use super::adapter::has_timestamps;
use super::loss::Loss;
use crate::backend::{IndexFault, Mark, Progress};
use crate::error::{Kind, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::{Duration, Instant};

/// Bytes of one parameter slot: uniform bindings start at multiples of 256.
const SLOT: u64 = 1024;
/// Dispatches of a submission.
const SLOTS: u64 = 512;
/// Submissions are closed when this much work is predicted in them.
const SUBMISSION_NS: u64 = 200_000_000;
/// What a submission reports: two timestamps, then the fault's four words.
const REPORT: u64 = 32;

struct Submission {
    number: u64,
    index: wgpu::SubmissionIndex,
    report: wgpu::Buffer,
    mapped: Arc<AtomicBool>,
    submitted: Instant,
}

/// The queue.
pub(super) struct Stream {
    device: wgpu::Device,
    queue: wgpu::Queue,
    loss: Loss,
    encoder: Option<wgpu::CommandEncoder>,
    /// Parameters of the dispatches encoded, and where the device reads them.
    params: Vec<u8>,
    arena: wgpu::Buffer,
    /// Taken, value, bound of the first index out of range.
    fault: wgpu::Buffer,
    timestamps: Option<(wgpu::QuerySet, wgpu::Buffer)>,
    period: f64,
    predicted_ns: u64,
    submissions: VecDeque<Submission>,
    submitted: u64,
    spare: Vec<wgpu::Buffer>,
    /// For each mark not yet done, the number of the last submission before it.
    marks: VecDeque<(Mark, u64)>,
    next_mark: u64,
    /// Gathered from submissions that are done, for the next mark.
    busy_ns: u64,
    first_fault: Option<IndexFault>,
    last_done: Instant,
}

impl Stream {
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue, loss: &Loss) -> Self {
        use wgpu::BufferUsages as Usage;
        let make = |size, usage| {
            let (label, mapped_at_creation) = (None, false);
            device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation })
        };
        let transfer = Usage::COPY_SRC | Usage::COPY_DST;
        let timestamps = has_timestamps(device).then(|| {
            let ty = wgpu::QueryType::Timestamp;
            let set = wgpu::QuerySetDescriptor { label: None, ty, count: 2 };
            (device.create_query_set(&set), make(256, Usage::QUERY_RESOLVE | transfer))
        });
        Self {
            device: device.clone(),
            queue: queue.clone(),
            loss: loss.clone(),
            encoder: None,
            params: Vec::new(),
            arena: make(SLOT * SLOTS, Usage::UNIFORM | transfer),
            fault: make(256, Usage::STORAGE | transfer),
            timestamps,
            period: queue.get_timestamp_period().into(),
            predicted_ns: 0,
            submissions: VecDeque::new(),
            submitted: 0,
            spare: Vec::new(),
            marks: VecDeque::new(),
            next_mark: 0,
            busy_ns: 0,
            first_fault: None,
            last_done: Instant::now(),
        }
    }

    /// The fault words.
    pub(super) fn fault(&self) -> &wgpu::Buffer {
        &self.fault
    }

    /// The encoder of the submission in the making.
    pub(super) fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        let (device, timestamps) = (&self.device, &self.timestamps);
        self.encoder.get_or_insert_with(|| {
            let mut encoder = device.create_command_encoder(&Default::default());
            if let Some((set, _)) = timestamps {
                encoder.write_timestamp(set, 0);
            }
            encoder
        })
    }

    /// Room for a dispatch's parameters, and the uniform binding that reads them. Submits first when it is full.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn parameters(&mut self, bytes: &[u8]) -> Result<wgpu::BufferBinding<'_>> {
        if self.params.len() as u64 + SLOT > SLOT * SLOTS {
            self.flush()?;
        }
        let offset = self.params.len() as u64;
        self.params.extend_from_slice(bytes);
        self.params.resize((offset + SLOT) as usize, 0);
        let size = wgpu::BufferSize::new(SLOT);
        Ok(wgpu::BufferBinding { buffer: &self.arena, offset, size })
    }

    /// Counts predicted work, and submits what is gathered when it is much.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn predict(&mut self, ns: u64) -> Result<()> {
        self.predicted_ns = self.predicted_ns.saturating_add(ns);
        if self.predicted_ns > SUBMISSION_NS { self.flush() } else { Ok(()) }
    }

    /// Submits what is encoded.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.loss.check()?;
        self.predicted_ns = 0;
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        let report = self.spare.pop().unwrap_or_else(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("report"),
                size: REPORT,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        if let Some((set, resolved)) = &self.timestamps {
            encoder.write_timestamp(set, 1);
            encoder.resolve_query_set(set, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, &report, 0, 16);
        }
        encoder.copy_buffer_to_buffer(&self.fault, 0, &report, 16, 16);
        encoder.clear_buffer(&self.fault, 0, Some(16));
        if !self.params.is_empty() {
            self.queue.write_buffer(&self.arena, 0, &self.params);
            self.params.clear();
        }
        let submitted = Instant::now();
        let index = self.queue.submit([encoder.finish()]);
        let mapped = Arc::new(AtomicBool::new(false));
        let (told, loss) = (Arc::clone(&mapped), self.loss.clone());
        report.map_async(wgpu::MapMode::Read, .., move |result| match result {
            Ok(()) => told.store(true, Release),
            Err(error) => loss.set(error.to_string()),
        });
        self.submitted += 1;
        let number = self.submitted;
        self.submissions.push_back(Submission { number, index, report, mapped, submitted });
        self.loss.check()
    }

    /// A mark after everything encoded so far.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn mark(&mut self) -> Result<Mark> {
        self.flush()?;
        self.next_mark += 1;
        let mark = Mark(self.next_mark);
        self.marks.push_back((mark, self.submitted));
        Ok(mark)
    }

    /// Waits for a mark.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress> {
        let Some(&(_, last)) = self.marks.iter().find(|(m, _)| *m == mark) else {
            self.loss.check()?;
            return Ok(Progress::Done { busy_ns: 0, fault: None });
        };
        if !self.wait(last, timeout)? {
            return Ok(Progress::Pending);
        }
        self.marks.retain(|(m, _)| *m > mark);
        let busy_ns = std::mem::take(&mut self.busy_ns);
        Ok(Progress::Done { busy_ns, fault: self.first_fault.take() })
    }

    /// Waits for everything submitted so far.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.flush()?;
        self.wait(self.submitted, None).map(|_| ())
    }

    /// Waits for the submissions up to number `last` and takes their reports; false when the time was over first.
    fn wait(&mut self, last: u64, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        while let Some(first) = self.submissions.front().filter(|s| s.number <= last) {
            self.loss.check()?;
            if !first.mapped.load(Acquire) {
                let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
                let submission_index = Some(first.index.clone());
                let poll = match left {
                    Some(Duration::ZERO) => wgpu::PollType::Poll,
                    timeout => wgpu::PollType::Wait { submission_index, timeout },
                };
                match self.device.poll(poll) {
                    Ok(_) => {}
                    Err(wgpu::PollError::Timeout) => {}
                    Err(error) => {
                        self.loss.set(error.to_string());
                    }
                }
                self.loss.check()?;
                if !first.mapped.load(Acquire) {
                    if left.is_some_and(|left| left.is_zero()) {
                        return Ok(false);
                    }
                    continue;
                }
            }
            if let Some(done) = self.submissions.pop_front() {
                self.take_report(done)?;
            }
        }
        Ok(true)
    }

    fn take_report(&mut self, done: Submission) -> Result<()> {
        let now = Instant::now();
        let view = done.report.get_mapped_range(..);
        let view = view.map_err(|e| Kind::DeviceLost { why: e.to_string() })?;
        let long = |i: usize| {
            let bytes = view.get(8 * i..8 * i + 8).and_then(|b| b.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let (start, end, head, bound) = (long(0), long(1), long(2), long(3));
        drop(view);
        self.busy_ns += match self.timestamps {
            Some(_) => (end.saturating_sub(start) as f64 * self.period) as u64,
            None => (now - done.submitted.max(self.last_done)).as_nanos() as u64,
        };
        self.last_done = now;
        if head as u32 != 0 {
            let fault = IndexFault { value: (head >> 32) as u32, bound: bound as u32, step: 0 };
            self.first_fault.get_or_insert(fault);
        }
        done.report.unmap();
        self.spare.push(done.report);
        Ok(())
    }
}
