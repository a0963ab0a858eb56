//! The CPU as a device: the embedded default and the yardstick of the others. A launch does its work before it
//! returns, on the calling thread and the pool's.

mod attention;
mod attention_backward;
mod batch;
mod bf16;
mod bytes;
mod constants;
mod convert;
mod dot;
mod dots;
mod epilogue;
mod few;
mod few_tiles;
mod flash;
mod flat;
mod geometry;
mod groups;
mod isa;
mod lanes;
mod math;
mod matmul;
mod memory;
mod norm_backward;
mod pack;
mod panels;
mod plain;
mod plan;
mod pool;
mod product;
mod quantize;
mod queries;
mod regions;
mod registers;
mod rope;
mod rows;
mod scatter;
mod scratch;
mod select;
mod shared;
#[cfg(test)]
mod tests;
mod walk;
mod wide;

use super::{Backend, BlockId, Caps, IndexFault, Mark, NoSegment, Place, Progress};
use crate::error::{Error, Kind, Result};
use crate::layout::{Dims, Layout};
use crate::op::{BoundOp, CheckedOp, Group, Matmul, Op, Spec};
use crate::order::{Plan, UNIT_CAP_SLOW_NS, UnitRange};
use constants::Constants;
use dot::Line;
use isa::Isa;
use memory::{Memory, View};
use pool::Pool;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Names and bytes of the sources, each of which can change a result.
const SOURCES: [(&str, &str); 41] = [
    ("attention.rs", include_str!("attention.rs")),
    ("attention_backward.rs", include_str!("attention_backward.rs")),
    ("batch.rs", include_str!("batch.rs")),
    ("bf16.rs", include_str!("bf16.rs")),
    ("bytes.rs", include_str!("bytes.rs")),
    ("constants.rs", include_str!("constants.rs")),
    ("convert.rs", include_str!("convert.rs")),
    ("dot.rs", include_str!("dot.rs")),
    ("dots.rs", include_str!("dots.rs")),
    ("epilogue.rs", include_str!("epilogue.rs")),
    ("few.rs", include_str!("few.rs")),
    ("few_tiles.rs", include_str!("few_tiles.rs")),
    ("flash.rs", include_str!("flash.rs")),
    ("flat.rs", include_str!("flat.rs")),
    ("geometry.rs", include_str!("geometry.rs")),
    ("groups.rs", include_str!("groups.rs")),
    ("isa.rs", include_str!("isa.rs")),
    ("lanes.rs", include_str!("lanes.rs")),
    ("math.rs", include_str!("math.rs")),
    ("matmul.rs", include_str!("matmul.rs")),
    ("memory.rs", include_str!("memory.rs")),
    ("mod.rs", include_str!("mod.rs")),
    ("norm_backward.rs", include_str!("norm_backward.rs")),
    ("pack.rs", include_str!("pack.rs")),
    ("panels.rs", include_str!("panels.rs")),
    ("plain.rs", include_str!("plain.rs")),
    ("plan.rs", include_str!("plan.rs")),
    ("pool.rs", include_str!("pool.rs")),
    ("product.rs", include_str!("product.rs")),
    ("quantize.rs", include_str!("quantize.rs")),
    ("queries.rs", include_str!("queries.rs")),
    ("regions.rs", include_str!("regions.rs")),
    ("registers.rs", include_str!("registers.rs")),
    ("rope.rs", include_str!("rope.rs")),
    ("rows.rs", include_str!("rows.rs")),
    ("scatter.rs", include_str!("scatter.rs")),
    ("scratch.rs", include_str!("scratch.rs")),
    ("select.rs", include_str!("select.rs")),
    ("shared.rs", include_str!("shared.rs")),
    ("walk.rs", include_str!("walk.rs")),
    ("wide.rs", include_str!("wide.rs")),
];

/// Everything that can change a result: sources, order table, compiler, instruction set.
fn ingredients(isa: Isa) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = SOURCES.iter().map(|(_, text)| (*text).into()).collect();
    parts.push(include_bytes!("../../op/rope.rs").to_vec());
    parts.push(plan::order_table().into());
    let versions = [env!("LEASEHOLD_RUSTC"), isa.name()];
    parts.extend(versions.map(Into::into));
    parts
}

/// The first index fault of the launches since the last mark.
type Fault = Mutex<Option<IndexFault>>;

/// Keeps an index that broke its exclusive `bound`, if it is the first. `check` holds bounds to 2^31, and a count's to
/// what fits beside it.
fn report(fault: &Fault, value: u32, bound: u64) {
    let seen = IndexFault { value, bound: bound.min(u32::MAX.into()) as u32, step: 0 };
    fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(seen);
}

/// The CPU backend.
pub struct Cpu {
    caps: Caps,
    isa: Isa,
    pool: Pool,
    memory: Memory,
    /// Where this device keeps what it packs.
    constants: Option<Constants>,
    fault: Fault,
    busy: Duration,
    /// Processor time of this thread and of work items when the last launch ended, and what came between launches.
    ended: Duration,
    between: Duration,
    marks: VecDeque<(u64, Option<IndexFault>)>,
    first_mark: u64,
}

impl Cpu {
    /// The CPU of this machine, with half its memory as budget.
    ///
    /// # Errors
    /// `Environment` for a bad `LEASEHOLD_THREADS`, `System` when threads cannot be started.
    pub fn new() -> Result<Self> {
        Self::with_threads(pool::threads_of_environment()?)
    }

    /// The same on `threads` threads, 1 to 1024, the caller's included.
    ///
    /// # Errors
    /// `System` when threads cannot be started.
    pub fn with_threads(threads: usize) -> Result<Self> {
        Self::of_class(Isa::detect(), threads)
    }

    /// The same running kernels of a class that this processor has.
    fn of_class(isa: Isa, threads: usize) -> Result<Self> {
        Ok(Self {
            caps: Caps { arch: isa.name(), ..Self::caps_of_host() },
            isa,
            pool: Pool::new(threads)?,
            memory: Memory::default(),
            constants: None,
            fault: Mutex::new(None),
            busy: Duration::ZERO,
            ended: Duration::ZERO,
            between: Duration::ZERO,
            marks: VecDeque::new(),
            first_mark: 0,
        })
    }

    /// The same for this process alone: it keeps packed copies of what products mark as constant, within its memory and as
    /// long as there is room, and small blocks share pages. On a device that is lent out both would be on nobody's account.
    #[must_use]
    pub fn unshared(mut self) -> Self {
        self.constants = Some(Constants::default());
        self.memory.regions.shares = true;
        self
    }

    /// The same with at most `bytes` bytes of memory.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.caps.memory = bytes;
        self.caps.max_alloc = bytes;
        self.caps.max_binding = bytes;
        self
    }

    /// What the CPU of this machine is, without starting anything.
    pub fn caps_of_host() -> Caps {
        let memory = host_memory() / 2;
        Caps {
            backend: "cpu",
            name: host_name(),
            arch: Isa::detect().name(),
            software: true,
            max_alloc: memory,
            max_binding: memory,
            memory,
            unit_cap_ns: UNIT_CAP_SLOW_NS,
            clock: "cpu time",
        }
    }

    fn out_of_memory(&self, asked: u64) -> Error {
        let quota = self.caps.memory;
        Kind::OutOfMemory { asked, free: quota.saturating_sub(self.memory.used), quota }.into()
    }

    fn views(&self, op: &CheckedOp, places: &[Place]) -> Result<Vec<View>> {
        let pairs = op.specs().iter().zip(places);
        pairs.map(|(spec, place)| self.view(spec, *place)).collect()
    }

    fn view(&self, spec: &Spec, place: Place) -> Result<View> {
        self.memory.view(spec, place).ok_or_else(|| lost_block(place))
    }

    /// The block changes: what was packed of it is of no use.
    fn forget(&mut self, block: BlockId) {
        if let Some(constants) = &mut self.constants {
            constants.forget(block.0, &mut self.memory);
        }
    }

    /// The block of a packed copy of the op's B, where this device keeps one. A launch of some units packs for itself.
    fn constant(
        &mut self,
        op: &CheckedOp,
        whole: bool,
        views: &[View],
        places: &[Place],
    ) -> Option<u64> {
        let constants = self.constants.as_mut().filter(|_| whole)?;
        let Op::Matmul(Matmul { constant_b: true, group: Group::None, .. }) = op.op() else {
            return None;
        };
        let b = op.position("b")?;
        let bands = matmul::Bands::new(self.isa, op, views, None, &self.fault)?;
        let memory = (&mut self.memory, self.caps.memory);
        constants.get(&bands, &op.specs()[b], places[b], &self.pool, memory)
    }

    /// Counts what was done since these moments as device time: the processor time of all threads over their number.
    fn count(&mut self, wall: Instant, cpu: Duration) {
        let ended = self.pool.cpu_time();
        let shared = ended.saturating_sub(cpu) / self.pool.threads() as u32;
        self.busy += shared.min(wall.elapsed());
        self.between += cpu.saturating_sub(self.ended);
        self.ended = ended;
    }

    /// The carried state as a row of f32.
    fn state(&self, plan: &Plan, place: Option<Place>) -> Result<Option<View>> {
        let Some(place) = place else { return Ok(None) };
        let dims = Dims::from_fn(1, |_| plan.state_bytes / 4);
        let spec = Spec::new(crate::DType::F32, Layout::contiguous(dims), place.offset);
        self.view(&spec, place).map(Some)
    }

    fn compute(
        &self,
        op: &CheckedOp,
        plan: &Plan,
        units: UnitRange,
        views: &[View],
        state: Option<View>,
        constant: Option<u64>,
    ) {
        let constant = constant.and_then(|block| self.memory.all(block));
        // A block may be longer than what was asked for.
        let constant = constant.map(|bytes| bytes.as_chunks::<{ size_of::<Line>() }>().0);
        let constant = constant.and_then(|lines| bytemuck::try_cast_slice(lines).ok());
        let (isa, pool, fault, carried) = (self.isa, &self.pool, &self.fault, state.as_ref());
        for span in plan::spans(units, plan.links) {
            let item_ns = plan.unit_ns.saturating_mul(span.to - span.from);
            match op.op() {
                Op::Matmul(_) => {
                    let mut bands = matmul::Bands::new(isa, op, views, carried, fault);
                    bands.iter_mut().for_each(|bands| bands.run(span, pool, item_ns, constant));
                }
                Op::Attention(_) => {
                    let tiles = attention::Tiles::new(isa, op, views, carried, fault);
                    tiles.iter().for_each(|tiles| tiles.run(span, pool, item_ns));
                }
                Op::AttentionBackward(_) => {
                    let tiles = attention_backward::Backward::new(isa, op, views, carried, fault);
                    tiles.iter().for_each(|tiles| tiles.run(span, pool, item_ns));
                }
                Op::Norm(_) | Op::Softmax(_) | Op::Reduce(_) => {
                    rows::Rows { isa, op, views, state }.run(span, pool, item_ns);
                }
                Op::Map(map) => flat::map(isa, map, views, span, pool, item_ns),
                Op::Gather(_) => flat::gather(views, span, pool, item_ns, fault),
                Op::Copy(_) => flat::copy(views, span, pool, item_ns),
                Op::Rope(rope) => rope::rope(isa, rope, views, span, pool, item_ns),
                Op::ArgMax(_) | Op::TopK(_) => {
                    let select = select::Select::new(isa, op, views, carried);
                    select.iter().for_each(|select| select.run(span, pool, item_ns));
                }
                Op::NormBackward(_) => {
                    let gradient = norm_backward::Gradient::new(isa, op, views, carried);
                    gradient.iter().for_each(|gradient| gradient.run(span, pool, item_ns));
                }
                Op::Quantize(_) => {
                    let quantizer = quantize::Quantizer::new(isa, op, views, carried);
                    quantizer.iter().for_each(|quantizer| quantizer.run(span, pool, item_ns));
                }
                Op::Scatter(_) => scatter::scatter(isa, op, views, span, pool, item_ns, fault),
            }
        }
    }
}

fn lost_block(place: Place) -> Error {
    let asked = format!("block {} from byte {}", place.block.0, place.offset);
    Kind::Bounds { asked, allowed: "a live block".into() }.into()
}

/// Bytes of memory, from `/proc/meminfo` where there is one.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(4 << 30, |kib| kib * 1024)
}

/// The processor's name, from `/proc/cpuinfo` where there is one.
fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.map(|l| l.trim_start_matches([' ', '\t', ':']).to_string());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

impl Backend for Cpu {
    type Prepared = Plan;
    type Segment = NoSegment;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn digest(&self) -> [u8; 32] {
        let parts = ingredients(self.isa);
        super::digest(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn alloc(&mut self, bytes: u64) -> Result<BlockId> {
        if bytes > self.caps.memory.saturating_sub(self.memory.used)
            && let Some(constants) = &mut self.constants
        {
            constants.clear(&mut self.memory);
        }
        let block = self.memory.alloc(bytes, self.caps.memory);
        block.map(BlockId).ok_or_else(|| self.out_of_memory(bytes))
    }

    fn free(&mut self, block: BlockId) {
        self.forget(block);
        self.memory.free(block.0);
    }

    fn zero(&mut self, block: BlockId, offset: u64, len: u64) -> Result<()> {
        let place = Place { block, offset };
        let (wall, cpu) = (Instant::now(), self.pool.cpu_time());
        self.forget(block);
        self.memory.zero(block.0, offset, len).ok_or_else(|| lost_block(place))?;
        self.count(wall, cpu);
        Ok(())
    }

    fn upload(&mut self, block: BlockId, offset: u64, src: &[u8]) -> Result<()> {
        self.forget(block);
        let bytes = self.memory.bytes(block.0, offset, src.len() as u64);
        bytes.ok_or_else(|| lost_block(Place { block, offset }))?.copy_from_slice(src);
        Ok(())
    }

    fn download(&mut self, block: BlockId, offset: u64, dst: &mut [u8]) -> Result<()> {
        let bytes = self.memory.bytes(block.0, offset, dst.len() as u64);
        dst.copy_from_slice(bytes.ok_or_else(|| lost_block(Place { block, offset }))?);
        Ok(())
    }

    fn copy(&mut self, src: Place, dst: Place, len: u64) -> Result<()> {
        self.forget(dst.block);
        self.memory.copy(src, dst, len).ok_or_else(|| lost_block(src))
    }

    fn candidates(&self, op: &CheckedOp) -> Result<Vec<Plan>> {
        Ok(vec![plan::plan(op, self.isa)?])
    }

    fn prepare(&mut self, _op: &CheckedOp, plan: &Plan) -> Result<Plan> {
        Ok(*plan)
    }

    fn launch(
        &mut self,
        plan: &mut Plan,
        units: UnitRange,
        op: &BoundOp,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<()> {
        let views = self.views(op.op(), places)?;
        for (role, place) in op.op().roles().iter().zip(places) {
            if role.access.writes() {
                self.memory.wrote(place.block.0);
                self.forget(place.block);
            }
        }
        state.iter().for_each(|place| self.memory.wrote(place.block.0));
        let state = self.state(plan, state)?;
        let (wall, cpu) = (Instant::now(), self.pool.cpu_time());
        let whole = units.start == 0 && u128::from(units.end) == plan.units();
        let constant = self.constant(op.op(), whole, &views, places);
        self.compute(op.op(), plan, units, &views, state, constant);
        self.count(wall, cpu);
        Ok(())
    }

    fn idle_ns(&self) -> u64 {
        let all = self.between + self.pool.waited();
        (all / self.pool.threads() as u32).as_nanos() as u64
    }

    fn replay(&mut self, segment: &NoSegment) -> Result<()> {
        match *segment {}
    }

    fn mark(&mut self) -> Result<Mark> {
        let fault = self.fault.get_mut().unwrap_or_else(|e| e.into_inner()).take();
        let busy = std::mem::take(&mut self.busy);
        self.marks.push_back((busy.as_nanos() as u64, fault));
        Ok(Mark(self.first_mark + self.marks.len() as u64 - 1))
    }

    fn poll(&mut self, mark: Mark, _timeout: Option<Duration>) -> Result<Progress> {
        let mut done = Progress::Done { busy_ns: 0, fault: None };
        while self.first_mark <= mark.0 {
            let Some((busy_ns, fault)) = self.marks.pop_front() else { break };
            self.first_mark += 1;
            done = Progress::Done { busy_ns, fault };
        }
        Ok(done)
    }
}
