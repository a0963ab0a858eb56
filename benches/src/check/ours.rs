//! Our side: a device's backend driven without an engine between, so that times are the device's own: a problem's operands
//! in as many copies as take more than its caches, launched in turns. `speed` times it, `proofs` proves with it.

use super::parity::{self, Count, case::Case};
use super::problem::Built;
use super::repeats::{self, Repeated, Times};
use super::report::DeviceOf;
use leasehold::backend::{
    Backend, BlockId, Caps, Mark, Progress, cpu::Cpu, cuda::Cuda, cuda::Pack, wgpu::Wgpu,
};
use leasehold::exec::Core;
use leasehold::op::{Binding, BoundOp, BufferId};
use leasehold::{DType, Error, Kind, LEASEHOLD_KERNELS, Result, reference};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// Zeroed before a batch of launches on a card, this often: the stream is busy until the host has enqueued them all, so
/// that no gap between two launches is timed.
const HELD_BYTES: u64 = 1 << 27;
const HELD_TIMES: usize = 16;

/// A device that has not reached a mark by then hangs: a batch takes milliseconds, one op at most seconds.
const HANGS: Duration = Duration::from_secs(20);

/// Bytes between two elements that are read in one piece.
const NEAR: u64 = 1 << 14;
/// What blocks and copies are multiples of.
const GRANULE: u64 = 256;

/// A device that problems run on, whatever its backend.
pub(super) trait Ours {
    /// What it is.
    fn about(&self, asked: &str) -> DeviceOf;
    /// Whether the device still does what it is told.
    ///
    /// # Errors
    /// `DeviceLost`, or `Timeout` where it hangs: then it is not asked again.
    fn answers(&mut self) -> Result<()>;
    /// Loads a problem in so many copies, and runs it once. The plan that it follows.
    ///
    /// # Errors
    /// `Unsupported`, no memory, or what the run fails with.
    fn load(&mut self, built: &Built, copies: u64) -> Result<String>;
    /// Seconds of so many runs, each on the next copy.
    ///
    /// # Errors
    /// What a run fails with.
    fn time(&mut self, runs: u32) -> Result<f64>;
    /// Every output of the last problem's first copy.
    ///
    /// # Errors
    /// What the device fails with.
    fn outputs(&mut self) -> Result<Vec<Vec<u8>>>;
    /// Elements of one output of the last problem's first copy, by their places.
    ///
    /// # Errors
    /// What the device fails with.
    fn values(&mut self, output: usize, at: &[u64]) -> Result<Vec<f64>>;
    /// Frees what `load` took.
    fn unload(&mut self);
    /// Cases of the parity suite.
    fn parity(&mut self, cases: &[Case], flops: u64, time: Duration) -> Count;
    /// One case so often, cut anew each time; with the folder of the backend's tuner, by what that chooses.
    ///
    /// # Errors
    /// Why it does not run.
    fn repeat(
        &mut self,
        case: &Case,
        times: Times,
        tuned: Option<&Path>,
    ) -> std::result::Result<Repeated, String>;
}

/// Opens a device by its name, with a tuner where a folder for it is named and the device has one.
///
/// # Errors
/// `NoDevice`, or what opening it fails with.
pub(super) fn open(name: &str, tuned: Option<&Path>) -> Result<Box<dyn Ours>> {
    let number = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
    if name == "cpu" {
        return Ok(Box::new(On::new(Cpu::new()?.unshared(), false)));
    }
    if let Some(index) = number("wgpu:") {
        let wgpu = Wgpu::open(index)?;
        let wgpu = if let Some(folder) = tuned { wgpu.tuned(folder) } else { wgpu };
        return Ok(Box::new(On::new(wgpu, false)));
    }
    if let Some(ordinal) = number("cuda:") {
        let kernels = std::env::var_os(LEASEHOLD_KERNELS).filter(|file| !file.is_empty());
        let cuda = match kernels {
            Some(file) => Cuda::open_with(ordinal as i32, &Pack::read(file.as_ref())?)?,
            None => Cuda::open(ordinal as i32)?,
        };
        let cuda = if let Some(folder) = tuned { cuda.tuned(folder) } else { cuda };
        return Ok(Box::new(On::new(cuda, tuned.is_none())));
    }
    let names: Vec<String> =
        leasehold::Device::list().into_iter().map(|found| found.name).collect();
    Err(Kind::NoDevice { why: format!("{name:?} asked, there are {}", names.join(", ")) }.into())
}

struct On<B: Backend> {
    core: Core<B>,
    /// One a copy.
    copies: Vec<BoundOp>,
    buffers: Vec<BufferId>,
    /// Block, bytes and dtype of each output of the first copy.
    outputs: Vec<(BlockId, u64, DType)>,
    next_buffer: u64,
    next_copy: usize,
    /// What is zeroed to hold the stream; none where launches are not enqueued.
    held: Option<BlockId>,
    /// Why it is not asked any more.
    lost: Option<Error>,
}

impl<B: Backend> On<B> {
    fn new(backend: B, is_held: bool) -> Self {
        let mut core = Core::new(backend);
        let held = if is_held { core.backend().alloc(HELD_BYTES).ok() } else { None };
        Self {
            core,
            copies: Vec::new(),
            buffers: Vec::new(),
            outputs: Vec::new(),
            next_buffer: 1,
            next_copy: 0,
            held,
            lost: None,
        }
    }

    fn buffer(&mut self, bytes: u64) -> Result<BufferId> {
        let id = BufferId(self.next_buffer);
        self.next_buffer += 1;
        self.core.alloc(id, bytes)?;
        self.buffers.push(id);
        Ok(id)
    }

    /// One copy of the operands.
    fn copy(&mut self, built: &Built) -> Result<BoundOp> {
        let mut bindings = Vec::new();
        let specs = built.op.specs();
        for (i, spec) in specs.iter().enumerate() {
            let len = (spec.span_bytes() as u64).max(4).next_multiple_of(GRANULE);
            let buffer = self.buffer(len)?;
            let block = self.core.place(buffer, 0, len)?.block;
            match built.given.get(i) {
                Some(given) => self.core.backend().upload(block, 0, &given.bytes)?,
                None if self.copies.is_empty() => {
                    self.outputs.push((block, spec.span_bytes() as u64, spec.dtype));
                }
                None => {}
            }
            bindings.push(Binding { buffer, offset: 0, len });
        }
        built.op.bind(&bindings)
    }

    fn busy(&mut self) -> Result<u64> {
        let mark = self.core.mark()?;
        self.reached(mark)
    }

    /// Nanoseconds of the device's work up to a mark.
    fn reached(&mut self, mark: Mark) -> Result<u64> {
        match self.core.poll(mark, Some(HANGS))? {
            Progress::Done { busy_ns, .. } => Ok(busy_ns),
            Progress::Pending => {
                let error = Error::from(Kind::Timeout { waited_ms: HANGS.as_millis() as u64 });
                self.lost = Some(error.clone());
                Err(error)
            }
        }
    }

    fn launch(&mut self) -> Result<()> {
        let Some(op) = self.copies.get(self.next_copy).cloned() else { return Ok(()) };
        self.next_copy = (self.next_copy + 1) % self.copies.len();
        let mut run = self.core.begin(op)?;
        let all = run.remaining();
        let stepped = self.core.step(&mut run, all);
        self.core.end(&run);
        stepped.map(drop)
    }
}

impl<B: Backend> Ours for On<B> {
    fn about(&self, asked: &str) -> DeviceOf {
        let Caps { backend, name, arch, software, memory, clock, .. } = self.core.caps().clone();
        DeviceOf {
            asked: asked.into(),
            name,
            backend: backend.into(),
            arch: arch.into(),
            clock: clock.into(),
            memory_bytes: memory,
            software,
            numerics: self.core.numerics().to_string(),
        }
    }

    fn answers(&mut self) -> Result<()> {
        if let Some(error) = &self.lost {
            return Err(error.clone());
        }
        self.busy().map(drop)
    }

    fn load(&mut self, built: &Built, copies: u64) -> Result<String> {
        // What it cannot plan is said before memory is taken.
        let plan = self.core.plan(&built.op)?;
        for _ in 0..copies.max(1) {
            let copy = self.copy(built)?;
            self.copies.push(copy);
        }
        self.launch()?;
        self.busy()?;
        Ok(plan.to_string())
    }

    fn time(&mut self, runs: u32) -> Result<f64> {
        if let Some(held) = self.held {
            for _ in 0..HELD_TIMES {
                self.core.backend().zero(held, 0, HELD_BYTES)?;
            }
            // The mark before the launches; its own time is taken away.
            let before = self.core.mark()?;
            (0..runs).try_for_each(|_| self.launch())?;
            let after = self.core.mark()?;
            self.reached(before)?;
            return Ok(self.reached(after)? as f64 / 1e9);
        }
        (0..runs).try_for_each(|_| self.launch())?;
        Ok(self.busy()? as f64 / 1e9)
    }

    fn outputs(&mut self) -> Result<Vec<Vec<u8>>> {
        let outputs = self.outputs.clone();
        let read = |(block, len, _): (BlockId, u64, DType)| {
            let mut bytes = vec![0; len as usize];
            self.core.backend().download(block, 0, &mut bytes)?;
            Ok(bytes)
        };
        outputs.into_iter().map(read).collect()
    }

    fn values(&mut self, output: usize, at: &[u64]) -> Result<Vec<f64>> {
        let Some(&(block, len, dtype)) = self.outputs.get(output) else { return Ok(Vec::new()) };
        let end = len.max(4).next_multiple_of(GRANULE);
        let mut read = Vec::new();
        for range in near(at, dtype.size()) {
            // Every backend reads whole granules.
            let from = range.start / GRANULE * GRANULE;
            let to = range.end.next_multiple_of(GRANULE).min(end);
            let mut bytes = vec![0; (to - from) as usize];
            self.core.backend().download(block, from, &mut bytes)?;
            read.push((from, bytes));
        }
        let (size, one) = (dtype.size(), super::data::dense(dtype, &[1]).layout);
        let element = |&at: &u64| {
            let from = at * size;
            let part = read.partition_point(|(begin, _)| *begin <= from).saturating_sub(1);
            let (begin, bytes) = &read[part];
            let from = (from - begin) as usize;
            reference::read(dtype, &one, bytes.get(from..from + size as usize).unwrap_or(&[]))[0]
        };
        Ok(at.iter().map(element).collect())
    }

    fn unload(&mut self) {
        self.copies.clear();
        self.outputs.clear();
        self.next_copy = 0;
        for buffer in std::mem::take(&mut self.buffers) {
            self.core.free(buffer);
        }
        if self.held.is_some() {
            // What was freed is kept spare by its size, and a peer on the card could not have it: asking for what nobody
            // has makes it let go of that.
            let _ = self.core.backend().alloc(u64::MAX >> 1);
        }
    }

    fn parity(&mut self, cases: &[Case], flops: u64, time: Duration) -> Count {
        parity::count(self.core.backend(), cases, flops, time)
    }

    fn repeat(
        &mut self,
        case: &Case,
        times: Times,
        tuned: Option<&Path>,
    ) -> std::result::Result<Repeated, String> {
        repeats::repeat(self.core.backend(), case, times, tuned)
    }
}

/// The bytes of some elements as a few ascending ranges.
fn near(at: &[u64], size: u64) -> Vec<Range<u64>> {
    let mut sorted = at.to_vec();
    sorted.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for from in sorted.into_iter().map(|at| at * size) {
        match ranges.last_mut() {
            Some(last) if from <= last.end + NEAR => last.end = from + size,
            _ => ranges.push(from..from + size),
        }
    }
    ranges
}
