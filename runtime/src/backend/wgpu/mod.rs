//! Any GPU through WGSL: Vulkan, Metal or DX12, loaded at run time. `plan` decides, `encode` turns units into
//! dispatches, `stream` submits them and waits; `leasehold-shaders` holds the kernels.

mod adapter;
mod encode;
mod kernels;
mod loss;
mod memory;
mod plan;
mod stream;

use super::tuner::{Tuned, Tuner, fastest};
use super::{Backend, BlockId, Caps, Mark, NoSegment, Place, Progress};
use crate::error::{Kind, Result};
use crate::op::{BoundOp, CheckedOp, Spec};
use crate::order::{Plan, Span, UnitRange, spans};
pub use adapter::Adapter;
use encode::{Dispatch, PARAM_WORDS, STATS_ROWS};
use kernels::{Kernel, Kernels};
use leasehold_shaders::{Binding, SHADERS, VARIANTS, Variant, variant};
use loss::Loss;
use memory::Block;
use plan::{ALIGN, Class};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::Stream;

/// A dimension of the grid has at most this many workgroups on every device.
const GRID: u64 = 65_535;
/// A launch predicted to take longer is split into several submissions.
const LAUNCH_NS: u64 = 200_000_000;

/// The sources that decide what the shaders are told.
const HOST: [&str; 18] = [
    include_str!("encode.rs"),
    include_str!("encode/backward.rs"),
    include_str!("encode/batch.rs"),
    include_str!("encode/cells.rs"),
    include_str!("encode/elements.rs"),
    include_str!("encode/heads.rs"),
    include_str!("encode/product.rs"),
    include_str!("encode/rows.rs"),
    include_str!("encode/scatter.rs"),
    include_str!("kernels.rs"),
    include_str!("plan.rs"),
    include_str!("plan/backward.rs"),
    include_str!("plan/batch.rs"),
    include_str!("plan/cells.rs"),
    include_str!("plan/entries.rs"),
    include_str!("plan/heads.rs"),
    include_str!("plan/product.rs"),
    include_str!("plan/rows.rs"),
];

/// Everything that can change a result: shaders, what is said to them, order table, naga and wgpu, adapter and driver.
fn ingredients(identity: &str) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = SHADERS.iter().map(|shader| shader.source().into()).collect();
    let constants = |v: &Variant| format!("{:?} {}", v.constants, v.source());
    parts.extend(VARIANTS.iter().map(|variant| constants(variant).into()));
    parts.extend(HOST.map(Into::into));
    parts.push(plan::order_table().into());
    parts.extend([env!("LEASEHOLD_WGPU"), identity].map(Into::into));
    parts
}

/// The wgpu backend on one adapter.
pub struct Wgpu {
    caps: Caps,
    class: &'static Class,
    /// What the numerics id says of adapter and driver.
    identity: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
    loss: Loss,
    kernels: Kernels,
    tuner: Option<Tuner>,
    stream: Stream,
    blocks: HashMap<u64, Block>,
    next_block: u64,
    used: u64,
    /// Bytes uploaded since the last submission.
    staged: u64,
    /// Bound where an op lacks an optional operand.
    nothing: wgpu::Buffer,
    /// Statistics of rows within one launch.
    stats: wgpu::Buffer,
    /// Partial results within one launch, from the first op on that leaves any.
    scratch: Option<wgpu::Buffer>,
}

/// A plan with its pipelines and the words that its kernels ask to be made.
pub struct Prepared {
    plan: Plan,
    kernel: Arc<Kernel>,
    made: Option<wgpu::Buffer>,
}

impl Wgpu {
    /// Every adapter of this machine, software ones included and marked; none where there is no driver.
    pub fn enumerate() -> Vec<Adapter> {
        adapter::all().iter().map(adapter::describe).collect()
    }

    /// Opens the adapter of this place in [`Wgpu::enumerate`].
    ///
    /// # Errors
    /// `NoDevice` when there is none or the driver refuses it, `Unsupported` when it lacks what kernels need.
    pub fn open(index: usize) -> Result<Self> {
        let adapters = adapter::all();
        let Some(chosen) = adapters.get(index) else {
            let why = format!("adapter {index} asked, there are {}", adapters.len());
            return Err(Kind::NoDevice { why }.into());
        };
        let loss = Loss::default();
        let (device, queue) = adapter::open(chosen, &loss)?;
        let info = chosen.get_info();
        let stream = Stream::new(&device, &queue, &loss);
        let storage = |size| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let wgpu = Self {
            caps: adapter::describe(chosen).caps,
            class: adapter::class(chosen),
            identity: format!(
                "{:?} {} {:x} {:x} {} {}",
                info.backend, info.name, info.vendor, info.device, info.driver, info.driver_info
            ),
            nothing: storage(ALIGN),
            stats: storage(16 * STATS_ROWS),
            scratch: None,
            kernels: Kernels::default(),
            tuner: None,
            stream,
            blocks: HashMap::new(),
            next_block: 0,
            used: 0,
            staged: 0,
            device,
            queue,
            loss,
        };
        wgpu.loss.check()?;
        Ok(wgpu)
    }

    /// The same with at most `bytes` bytes of memory.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.caps.memory = bytes;
        self
    }

    /// The same with a tuner that keeps its results in `folder`: an op that several kernels can run is timed with each
    /// when it is prepared first. Bits are the same with and without.
    #[must_use]
    pub fn tuned(mut self, folder: &Path) -> Self {
        self.tuner = Some(Tuner::new(folder, &self));
        self
    }

    /// Destroys the device, as a driver that resets does; every later call answers `DeviceLost`.
    pub fn lose(&self) {
        self.device.destroy();
        // The callback runs when somebody polls; the loss is known here already.
        self.loss.set("destroyed".into());
    }

    /// Splits a range of units into runs of at most [`LAUNCH_NS`], whole tiles where they fit; and into runs of
    /// links of one tile where a whole one has more loops than the adapter does.
    fn pieces(
        plan: &Plan,
        units: UnitRange,
        link_loops: u64,
        class: &Class,
    ) -> impl Iterator<Item = UnitRange> {
        let most = (LAUNCH_NS / plan.unit_ns.max(1)).max(1);
        let links = plan.links;
        let whole = links.saturating_mul(link_loops) <= class.loops;
        let UnitRange { mut start, end } = units;
        std::iter::from_fn(move || {
            let stop = if whole && most >= links {
                let step = most / links * links;
                start / step * step + step
            } else {
                let run = if whole { most } else { most.min((class.loops / link_loops).max(1)) };
                (start + run).min(start / links * links + links)
            };
            let stop = stop.min(end);
            let piece = (start < end).then_some(start..stop);
            start = stop;
            piece
        })
    }

    fn launch_span(
        &mut self,
        prepared: &Prepared,
        op: &CheckedOp,
        span: Span,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<()> {
        for dispatch in encode::dispatches(op, self.class, prepared.plan.kernel, span) {
            self.dispatch(prepared, op, &dispatch, places, state)?;
        }
        let units = span.tiles.saturating_mul(span.to - span.from);
        self.stream.predict(units.saturating_mul(prepared.plan.unit_ns))
    }

    fn dispatch(
        &mut self,
        prepared: &Prepared,
        op: &CheckedOp,
        dispatch: &Dispatch,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<()> {
        debug_assert!(dispatch.params.bytes().len() <= 4 * PARAM_WORDS);
        let kernel = &prepared.kernel;
        // Buffers are handles: the clones let the stream be borrowed.
        let mut buffers = Vec::with_capacity(kernel.shader.bindings.len());
        for binding in kernel.shader.bindings {
            buffers.push(self.bound(*binding, prepared, op, dispatch, places, state)?);
        }
        let device = self.device.clone();
        let params = self.stream.parameters(dispatch.params.bytes())?;
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(params),
        }];
        entries.extend((1..).zip(&buffers).map(|(binding, (buffer, offset, size))| {
            let (offset, size) = (*offset, wgpu::BufferSize::new(*size));
            let resource =
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
            wgpu::BindGroupEntry { binding, resource }
        }));
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.shader.op),
            layout: &kernel.layout,
            entries: &entries,
        });
        let mut pass = self.stream.encoder().begin_compute_pass(&Default::default());
        pass.set_pipeline(kernel.pipeline(&device, dispatch.entry));
        pass.set_bind_group(0, &group, &[]);
        let across = dispatch.workgroups.min(GRID);
        // Pieces of at most 200 ms keep the other dimension short.
        let down = dispatch.workgroups.div_ceil(GRID).min(GRID);
        pass.dispatch_workgroups(across as u32, down as u32, 1);
        Ok(())
    }

    /// The buffer, offset and size of a binding.
    fn bound(
        &self,
        binding: Binding,
        prepared: &Prepared,
        op: &CheckedOp,
        dispatch: &Dispatch,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<(wgpu::Buffer, u64, u64)> {
        let whole = |buffer: &wgpu::Buffer| (buffer.clone(), 0, buffer.size());
        let name = match binding {
            Binding::Operand(name) => name,
            Binding::Parts(name) => name,
            Binding::Made => return Ok(whole(prepared.made.as_ref().unwrap_or(&self.nothing))),
            Binding::Scratch => return Ok(whole(self.scratch.as_ref().unwrap_or(&self.nothing))),
            Binding::Fault => return Ok(whole(self.stream.fault())),
            Binding::Stats if !dispatch.cut => return Ok(whole(&self.stats)),
            Binding::State | Binding::Stats => {
                let bytes = prepared.plan.state_bytes;
                let Some(place) = state.filter(|_| bytes > 0) else {
                    return Ok(whole(&self.nothing));
                };
                return self.range(place, bytes);
            }
        };
        // A map of one input reads it as both.
        let name = if name == "y" && op.position("y").is_none() { "x" } else { name };
        let found = op.position(name).and_then(|i| Some((op.specs().get(i)?, places.get(i)?)));
        match found.map(|(spec, place)| (Spec::span_bytes(spec), place)) {
            // A checked op's operands fit a binding.
            Some((bytes, place)) if bytes > 0 => self.range(*place, bytes as u64),
            _ => Ok(whole(&self.nothing)),
        }
    }

    /// A binding that begins at an aligned offset and covers `bytes` from `place` on.
    fn range(&self, place: Place, bytes: u64) -> Result<(wgpu::Buffer, u64, u64)> {
        let buffer = self.block(place, bytes)?.buffer.clone();
        let start = place.offset / ALIGN * ALIGN;
        // Some kernels read sixteen bytes at once. A block's buffer has whole ones.
        Ok((buffer, start, (place.offset + bytes).next_multiple_of(16) - start))
    }
}

impl Backend for Wgpu {
    type Prepared = Prepared;
    type Segment = NoSegment;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn digest(&self) -> [u8; 32] {
        let parts = ingredients(&self.identity);
        super::digest(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn alloc(&mut self, bytes: u64) -> Result<BlockId> {
        self.alloc_block(bytes)
    }

    fn free(&mut self, block: BlockId) {
        // wgpu keeps the buffer until the work that uses it is done.
        if let Some(block) = self.blocks.remove(&block.0) {
            self.used -= block.len;
        }
    }

    fn zero(&mut self, block: BlockId, offset: u64, len: u64) -> Result<()> {
        self.zero_bytes(Place { block, offset }, len)
    }

    fn upload(&mut self, block: BlockId, offset: u64, src: &[u8]) -> Result<()> {
        self.upload_bytes(Place { block, offset }, src)
    }

    fn download(&mut self, block: BlockId, offset: u64, dst: &mut [u8]) -> Result<()> {
        self.download_bytes(Place { block, offset }, dst)
    }

    fn copy(&mut self, src: Place, dst: Place, len: u64) -> Result<()> {
        self.copy_bytes(src, dst, len)
    }

    fn candidates(&self, op: &CheckedOp) -> Result<Vec<Plan>> {
        let mut plans = plan::candidates(op, self.class, self.caps.max_binding)?;
        let room = self.device.limits().max_compute_workgroup_storage_size;
        plans.retain(|plan| variant(plan.kernel).is_none_or(|v| v.memory <= room));
        Ok(plans)
    }

    fn settle(&mut self, op: &CheckedOp, plan: Plan) -> Plan {
        fastest(self, op, plan)
    }

    fn prepare(&mut self, op: &CheckedOp, plan: &Plan) -> Result<Prepared> {
        self.loss.check()?;
        let (constants, entries) =
            (encode::constants(op, plan.kernel), encode::entries(op, plan.kernel));
        let kernel =
            self.kernels.get(&self.device, &self.loss, plan.kernel, constants, &entries)?;
        let bytes = 4 * self.class.scratch;
        let has_room = self.scratch.as_ref().is_some_and(|scratch| scratch.size() >= bytes);
        if !has_room && encode::has_partial(op, self.class) {
            self.scratch = Some(self.buffer(bytes, wgpu::BufferUsages::STORAGE)?);
        }
        let words = encode::made(op, self.class);
        let made = match words.is_empty() {
            true => None,
            false => {
                use wgpu::BufferUsages as Usage;
                let buffer =
                    self.buffer(4 * words.len() as u64, Usage::STORAGE | Usage::COPY_DST)?;
                self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
                Some(buffer)
            }
        };
        Ok(Prepared { plan: *plan, kernel, made })
    }

    fn prepared_bytes(prepared: &Prepared) -> u64 {
        prepared.made.as_ref().map_or(0, wgpu::Buffer::size)
    }

    fn launch(
        &mut self,
        prepared: &mut Prepared,
        units: UnitRange,
        op: &BoundOp,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<()> {
        self.loss.check()?;
        let loops = plan::link_loops(op.op(), self.class);
        for piece in Self::pieces(&prepared.plan, units, loops, self.class) {
            for span in spans(piece, prepared.plan.links) {
                self.launch_span(prepared, op.op(), span, places, state)?;
            }
        }
        self.loss.check()
    }

    fn replay(&mut self, segment: &NoSegment) -> Result<()> {
        match *segment {}
    }

    fn mark(&mut self) -> Result<Mark> {
        self.stream.mark()
    }

    fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress> {
        self.stream.poll(mark, timeout)
    }
}

impl Tuned for Wgpu {
    fn tuner(&mut self) -> Option<&mut Tuner> {
        self.tuner.as_mut()
    }

    /// By the host's clock: not every adapter has timestamps, and reports belong to the marks of those who launched.
    fn timed(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<u64> {
        self.stream.drain()?;
        let started = Instant::now();
        work(self)?;
        self.stream.drain()?;
        Ok(started.elapsed().as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests;
