//! NVIDIA GPUs by our own kernels, through the driver, which is opened at run time. `plan` decides, `encode` turns units into
//! arguments, `driver` is the only one that speaks to the driver; `leasehold-kernels` holds the sources and their table.
//! `device` opens it.

mod api;
mod cache;
mod compiler;
mod cublaslt;
mod driver;
mod encode;
mod folder;
mod graph;
mod kernels;
mod memory;
mod pack;
mod plan;
mod ranges;
mod stream;
mod verdict;

use super::tuner::{Tuned, Tuner, fastest};
use super::{Backend, BlockId, Caps, Mark, Place, Progress, Step};
use crate::error::{Kind, Result};
use crate::op::{BoundOp, CheckedOp, Op, Spec};
use crate::order::{Family, Plan, Span, UNIT_CAP_GPU_NS, UnitRange, spans};
use api::TensorMap;
pub use compiler::LEASEHOLD_NVRTC;
use cublaslt::{CublasLt, Product, WORKSPACE};
use driver::{Context, Function, Info, Stream};
use encode::{Addresses, Args, Launch};
use graph::Graph;
use kernels::Kernels;
pub use leasehold_kernels::ARCHS;
use leasehold_kernels::{AttentionBackwardSm90Args, BoxMap, Row};
use memory::{Blocks, Owned};
pub use pack::Pack;
use plan::Class;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stream::{FAULTS, Work};
pub use verdict::Verdict;

/// Tensor maps that are kept.
const MAPS_MAX: usize = 1024;

macro_rules! host {
    ($($path:literal),* $(,)?) => {
        /// The sources that decide what kernels are told, by their names.
        const HOST: &[(&str, &str)] = &[$(($path, include_str!($path))),*];
    };
}

host!(
    "../../op/rope.rs",
    "encode/attention.rs",
    "encode/attention_backward.rs",
    "encode/attention_entries.rs",
    "encode/elements.rs",
    "encode/mod.rs",
    "encode/product.rs",
    "encode/rows.rs",
    "encode/scatter.rs",
    "encode/view.rs",
    "plan/attention.rs",
    "plan/attention_backward.rs",
    "plan/attention_cut.rs",
    "plan/chain.rs",
    "plan/elements.rs",
    "plan/groups.rs",
    "plan/heads.rs",
    "plan/landing.rs",
    "plan/mod.rs",
    "plan/product.rs",
    "plan/splits.rs",
    "plan/streaming.rs",
    "plan/vendor.rs",
    "plan/walk.rs",
    "plan/waves.rs",
);

/// The CUDA backend on one device. Its stream goes first: it waits for the work that uses all else.
pub struct Cuda {
    work: Work,
    kernels: Kernels,
    /// cuBLASLt, once an op asks for it; `None` where none may.
    cublaslt: Option<OnceLock<Option<CublasLt>>>,
    /// What it may write beside outputs, from its first product on.
    workspace: Option<Owned>,
    blocks: Blocks,
    maps: HashMap<[u8; 128], TensorMap>,
    context: Arc<Context>,
    caps: Caps,
    class: &'static Class,
    multiprocessors: u32,
    tuner: Option<Tuner>,
}

/// A plan with what runs it and what that reads beside the op's operands.
pub struct Prepared {
    plan: Plan,
    code: Code,
    made: Option<Owned>,
    is_indexed: bool,
}

/// What runs a plan.
enum Code {
    /// The row of the table that it names, and the kernels of all that its launches are of.
    Ours(Row, Vec<(Row, Function)>),
    CublasLt(Box<Product>),
}

/// Ops kept as a graph, of how many launches that is, what they are predicted to take, and how many faults they tell of.
pub struct Segment {
    graph: Graph,
    launches: u64,
    ns: u64,
    faults: usize,
}

/// What the ranked plans of an op are on an architecture (`sm_80`, `sm_90a`): pure, no device is asked. An op that takes any
/// order may have one of [`Family::Vendor`](crate::order::Family::Vendor) among them, which only a device that is not shared
/// and finds cuBLASLt has.
///
/// # Errors
/// `Value` for an unknown architecture, `Unsupported` for what no kernel runs.
pub fn candidates(op: &CheckedOp, arch: &str) -> Result<Vec<Plan>> {
    let Some(class) = plan::class(arch) else {
        return Err(Kind::Value { asked: arch.into(), allowed: ARCHS.join(", ") }.into());
    };
    plan::with_vendor(op, class, || true)
}

impl Cuda {
    /// Every device that the driver sees and kernels are made for, each with its ordinal. Its memory is all that it has;
    /// one that is opened says what was free.
    ///
    /// # Errors
    /// Why there is none: no driver, or devices without kernels.
    pub fn enumerate() -> Result<Vec<(i32, Caps)>, String> {
        let infos = driver::devices()?;
        let known = infos.iter().filter_map(|info| Some((info.ordinal, caps(info)?)));
        let known: Vec<(i32, Caps)> = known.collect();
        if known.is_empty() {
            let seen = infos.iter().map(|info| format!("{} {:?}", info.name, info.capability));
            let seen: Vec<String> = seen.collect();
            return Err(format!("no device that kernels are made for: [{}]", seen.join(", ")));
        }
        Ok(known)
    }

    /// Opens a device with kernels from the cache or from NVIDIA's compiler.
    ///
    /// # Errors
    /// `NoDevice` when there is no such device or no compiler, `Unsupported` when that refuses a kernel.
    pub fn open(ordinal: i32) -> Result<Self> {
        let (info, caps) = found(ordinal)?;
        let cubins = kernels::compiled(caps.arch)?;
        Self::with(&info, caps, Kernels::new(cubins))
    }

    /// Opens a device with the kernels of a pack and no others.
    ///
    /// # Errors
    /// `NoDevice` when there is no such device, or the pack lacks a kernel of it.
    pub fn open_with(ordinal: i32, pack: &Pack) -> Result<Self> {
        let (info, caps) = found(ordinal)?;
        let cubins = kernels::packed(pack, caps.arch)?;
        Self::with(&info, caps, Kernels::new(cubins))
    }

    fn with(info: &Info, mut caps: Caps, mut kernels: Kernels) -> Result<Self> {
        let context = Context::new(info)?;
        // A driver that is too old for the code says so now, when there is another device to go on to.
        if let Some(row) = pack::of_arch(caps.arch).next() {
            kernels.get(&context, &row).map_err(|error| match error.kind() {
                Kind::Unsupported { .. } => {
                    Kind::NoDevice { why: format!("{}: {error}", info.name) }.into()
                }
                _ => error,
            })?;
        }
        caps.memory = memory::usable(context.free_bytes());
        (caps.max_alloc, caps.max_binding) = (caps.memory, caps.memory);
        let Some(class) = plan::class(caps.arch) else {
            return Err(Kind::NoDevice { why: format!("{}: {}", info.name, caps.arch) }.into());
        };
        caps.unit_cap_ns = class.on(info.multiprocessors, UNIT_CAP_GPU_NS);
        Ok(Self {
            work: Work::new(&context)?,
            kernels,
            cublaslt: None,
            workspace: None,
            blocks: Blocks::new(&context, caps.memory),
            maps: HashMap::new(),
            context,
            caps,
            class,
            multiprocessors: info.multiprocessors,
            tuner: None,
        })
    }

    /// The same with at most `bytes` bytes of memory. No block is there yet.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.caps.memory = self.caps.memory.min(bytes);
        self.blocks = Blocks::new(&self.context, self.caps.memory);
        self
    }

    /// The same with all its memory taken from the driver and zeroed, as executors begin. No block is there yet.
    ///
    /// # Errors
    /// `OutOfMemory` when another process was faster, `Unsupported` when the driver has no virtual memory.
    pub fn taken(mut self) -> Result<Self> {
        // What was there goes first.
        self.work.stream.wait()?;
        self.blocks = Blocks::new(&self.context, self.caps.memory);
        self.blocks = Blocks::taken(&self.context, &self.work.stream, self.caps.memory)?;
        Ok(self)
    }

    /// The same with a tuner that keeps its results in `folder`: an op that several rows can run in one order is timed with
    /// each when it is prepared first. Bits are the same with and without. Not for executors: it runs beside what they serve.
    #[must_use]
    pub fn tuned(mut self, folder: &Path) -> Self {
        self.tuner = Some(Tuner::new(folder, &self));
        self
    }

    /// The same with cuBLASLt, where its library is found, for products whose caller takes any order
    /// ([`OrderClass::Any`](crate::op::OrderClass::Any)) and which fit one unit; it is opened when the first comes. Not for
    /// executors: tenants' values would reach code that is not ours. The numerics id is the same with and without: it promises
    /// nothing of such ops.
    #[must_use]
    pub fn with_cublaslt(mut self) -> Self {
        self.cublaslt = Some(OnceLock::new());
        self
    }

    fn cublaslt(&self) -> Option<&CublasLt> {
        self.cublaslt.as_ref()?.get_or_init(|| CublasLt::open(&self.context)).as_ref()
    }

    /// cuBLASLt's product for an op, and room for what it writes beside.
    fn product(&mut self, op: &CheckedOp) -> Result<Product> {
        if self.workspace.is_none() {
            self.workspace = Some(self.blocks.owned(&self.work.stream, WORKSPACE)?);
        }
        let product = plan::Call::of(op).zip(self.cublaslt()).map(|(call, lt)| lt.product(&call));
        product.unwrap_or_else(|| {
            let (asked, allowed) = (format!("{op:?} by cuBLASLt"), "our kernels".into());
            Err(Kind::Unsupported { asked, allowed }.into())
        })
    }

    /// Enqueues cuBLASLt's product.
    fn launch_product(&mut self, product: &Product, operands: &[u64]) -> Result<()> {
        let (Some(lt), Some(workspace)) = (self.cublaslt(), &self.workspace) else {
            let (asked, allowed) =
                ("a product of cuBLASLt's".into(), "one that was prepared".into());
            return Err(Kind::Unsupported { asked, allowed }.into());
        };
        let workspace = self.blocks.address(workspace.block, 0, WORKSPACE)?;
        lt.enqueue(product, operands, workspace, &self.work.stream)
    }

    /// A map as the driver encodes it.
    fn encoded(&mut self, map: &mut BoxMap) -> Result<()> {
        // Nothing is brought by a map without a size.
        if map.sizes[0] == 0 {
            return Ok(());
        }
        let key: [u8; 128] = bytemuck::cast(*map);
        let made = match self.maps.get(&key) {
            Some(made) => *made,
            None => {
                let made = self.context.tensor_map(map)?;
                if self.maps.len() >= MAPS_MAX {
                    self.maps.clear();
                }
                self.maps.insert(key, made);
                made
            }
        };
        *map = bytemuck::cast(made.0);
        Ok(())
    }

    /// The launches of a span in their order, their maps encoded.
    fn launches(
        &mut self,
        row: &Row,
        op: &CheckedOp,
        span: Span,
        at: &Addresses<'_>,
    ) -> Result<Vec<Launch>> {
        let mut launches = encode::launches(op, row, self.class, span, at, self.multiprocessors);
        // Where its operands lie, a product has no map or no list that its plan had: nothing of it is launched.
        if launches.is_empty() && matches!(op.op(), Op::Matmul(_)) {
            let asked = format!("launches of {} for {span:?} of {op:?}", row.key());
            return Err(
                Kind::Unsupported { asked, allowed: "what its plan asked for".into() }.into()
            );
        }
        for Launch { args, .. } in &mut launches {
            match args {
                Args::Plain(_) => {}
                Args::MatmulSm90(args) => {
                    self.encoded(&mut args.a)?;
                    self.encoded(&mut args.b)?;
                    self.encoded(&mut args.out)?;
                }
                Args::MatmulSm90Fp8(args) => {
                    self.encoded(&mut args.a)?;
                    self.encoded(&mut args.b)?;
                    self.encoded(&mut args.out)?;
                }
                Args::AttentionSm90(args) => {
                    self.encoded(&mut args.k)?;
                    self.encoded(&mut args.v)?;
                }
                Args::AttentionBackwardSm90(args) => {
                    let AttentionBackwardSm90Args { q, k, v, d_out, statistics, .. } = &mut **args;
                    for map in [q, k, v, d_out, statistics] {
                        self.encoded(map)?;
                    }
                }
            }
        }
        Ok(launches)
    }

    /// Where the operands of an op lie, its state, and what was made for it.
    fn addresses(
        &self,
        prepared: &Prepared,
        op: &BoundOp,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<(Vec<u64>, [u64; 2])> {
        let address =
            |place: &Place, len| Ok(self.blocks.address(place.block, place.offset, len)?.get());
        let specs = op.op().specs().iter();
        // A checked spec spans fewer than 2^62 bytes.
        let operands = specs
            .zip(places)
            .map(|(spec, place)| address(place, Spec::span_bytes(spec) as u64))
            .collect::<Result<Vec<u64>>>()?;
        let state = state.as_ref().map_or(Ok(0), |p| address(p, prepared.plan.state_bytes))?;
        let made = prepared.made.as_ref();
        let made = made.map_or(Ok(0), |m| address(&Place { block: m.block, offset: 0 }, 0))?;
        Ok((operands, [state, made]))
    }
}

/// Enqueues launches of a prepared plan.
fn enqueue(stream: &Stream, functions: &[(Row, Function)], launches: &[Launch]) -> Result<()> {
    for Launch { row, args, blocks } in launches {
        let function = functions.iter().find(|(of, _)| of == row);
        let Some((_, function)) = function else {
            let allowed = "kernels that were prepared".into();
            return Err(Kind::Unsupported { asked: row.key(), allowed }.into());
        };
        stream.launch(function, *blocks, args.bytes())?;
    }
    Ok(())
}

/// A device by its ordinal.
fn found(ordinal: i32) -> Result<(Info, Caps)> {
    let no_device = |why| crate::Error::from(Kind::NoDevice { why });
    let infos = driver::devices().map_err(no_device)?;
    let info = infos.iter().find(|info| info.ordinal == ordinal);
    let found = info.and_then(|info| Some((info.clone(), caps(info)?)));
    found.ok_or_else(|| no_device(format!("no device {ordinal} that kernels are made for")))
}

fn caps(info: &Info) -> Option<Caps> {
    Some(Caps {
        backend: "cuda",
        name: info.name.clone(),
        arch: plan::arch_of(info.capability)?,
        software: false,
        max_alloc: info.memory,
        max_binding: info.memory,
        memory: info.memory,
        unit_cap_ns: UNIT_CAP_GPU_NS,
        clock: "device timestamps of 0.5 us",
    })
}

impl Backend for Cuda {
    type Prepared = Prepared;
    type Segment = Segment;

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn digest(&self) -> [u8; 32] {
        let (code, table) = (self.kernels.digest(), plan::order_table());
        let mut parts: Vec<&[u8]> = vec![&code, table.as_bytes()];
        let sources = HOST.iter().chain(leasehold_kernels::TABLE);
        parts.extend(sources.map(|(_, text)| text.as_bytes()));
        super::digest(&parts)
    }

    fn alloc(&mut self, bytes: u64) -> Result<BlockId> {
        self.blocks.alloc(&self.work.stream, bytes)
    }

    fn free(&mut self, block: BlockId) {
        self.blocks.free(block);
    }

    fn zero(&mut self, block: BlockId, offset: u64, len: u64) -> Result<()> {
        let at = self.blocks.address(block, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let ns = self.class.on(self.multiprocessors, self.class.written_ns(len));
        self.work.begin(ns)?;
        self.work.stream.zero(at, len)?;
        self.work.end()
    }

    fn upload(&mut self, block: BlockId, offset: u64, src: &[u8]) -> Result<()> {
        self.blocks.address(block, offset, src.len() as u64)?;
        let blocks = &self.blocks;
        self.work.send(src, |from, len| blocks.address(block, offset + from, len))
    }

    fn download(&mut self, block: BlockId, offset: u64, dst: &mut [u8]) -> Result<()> {
        self.blocks.address(block, offset, dst.len() as u64)?;
        let blocks = &self.blocks;
        self.work.fetch(dst, |from, len| blocks.address(block, offset + from, len))
    }

    fn copy(&mut self, src: Place, dst: Place, len: u64) -> Result<()> {
        let from = self.blocks.address(src.block, src.offset, len)?;
        let to = self.blocks.address(dst.block, dst.offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.work.copy(from, to, len)
    }

    fn candidates(&self, op: &CheckedOp) -> Result<Vec<Plan>> {
        // Opening a library takes long: only for an op that asks.
        let mut plans = plan::with_vendor(op, self.class, || self.cublaslt().is_some())?;
        // All times alike: the order and the choice of plans stay those of the class.
        for plan in &mut plans {
            plan.unit_ns = self.class.on(self.multiprocessors, plan.unit_ns);
            plan.wave_ns = self.class.on(self.multiprocessors, plan.wave_ns);
        }
        Ok(plans)
    }

    fn settle(&mut self, op: &CheckedOp, plan: Plan) -> Plan {
        fastest(self, op, plan)
    }

    fn prepare(&mut self, op: &CheckedOp, plan: &Plan) -> Result<Prepared> {
        if plan.order.family == Family::Vendor {
            let code = Code::CublasLt(Box::new(self.product(op)?));
            return Ok(Prepared { plan: *plan, code, made: None, is_indexed: false });
        }
        let Some(row) = plan::row(plan.kernel) else {
            let allowed = "rows of the kernels' table".into();
            return Err(Kind::Unsupported { asked: plan.kernel.into(), allowed }.into());
        };
        let function = |row: Row| Ok((row, self.kernels.get(&self.context, &row)?));
        let functions = encode::rows(op, row, self.class).into_iter().map(function);
        let functions = functions.collect::<Result<Vec<_>>>()?;
        let bytes = encode::made(op, row, self.class);
        let made = match bytes.is_empty() {
            true => None,
            false => {
                let owned = self.blocks.owned(&self.work.stream, bytes.len() as u64)?;
                self.upload(owned.block, 0, &bytes)?;
                Some(owned)
            }
        };
        let (code, is_indexed) = (Code::Ours(*row, functions), encode::is_indexed(op));
        Ok(Prepared { plan: *plan, code, made, is_indexed })
    }

    fn prepared_bytes(prepared: &Prepared) -> u64 {
        prepared.made.as_ref().map_or(0, |made| made.bytes)
    }

    fn launch(
        &mut self,
        prepared: &mut Prepared,
        units: UnitRange,
        op: &BoundOp,
        places: &[Place],
        state: Option<Place>,
    ) -> Result<()> {
        if units.is_empty() {
            return Ok(());
        }
        let (operands, [state, made]) = self.addresses(prepared, op, places, state)?;
        self.work.faults(prepared.is_indexed.into())?;
        let fault = if prepared.is_indexed { self.work.fault(0)? } else { 0 };
        let at = Addresses { operands: &operands, state, made, fault };
        self.work.begin(prepared.plan.launch_ns(units.end - units.start))?;
        let launched = match &prepared.code {
            Code::CublasLt(product) => self.launch_product(product, &operands),
            Code::Ours(row, functions) => {
                spans(units, prepared.plan.links).into_iter().try_for_each(|span| {
                    let launches = self.launches(row, op.op(), span, &at)?;
                    enqueue(&self.work.stream, functions, &launches)
                })
            }
        };
        // What came before a failure is work too.
        self.work.end()?;
        launched
    }

    fn segment(&mut self, steps: &[Step<'_, Prepared>]) -> Result<Option<Segment>> {
        if steps.len() > FAULTS {
            return Ok(None);
        }
        // All that a capture does not take comes before it.
        let (mut launches, mut ns, mut faults) = (Vec::new(), 0u64, 0);
        for (number, step) in steps.iter().enumerate() {
            let Step { prepared, units, op, places, state } = step;
            // What cuBLASLt does with its workspace is its own: its products are launched one by one.
            let Code::Ours(row, functions) = &prepared.code else { return Ok(None) };
            let (operands, [state, made]) = self.addresses(prepared, op, places, *state)?;
            let fault = if prepared.is_indexed { self.work.fault(number)? } else { 0 };
            faults = if prepared.is_indexed { number + 1 } else { faults };
            let at = Addresses { operands: &operands, state, made, fault };
            ns = ns.saturating_add(prepared.plan.launch_ns(units.end - units.start));
            for span in spans(units.clone(), prepared.plan.links) {
                launches.push((functions, self.launches(row, op.op(), span, &at)?));
            }
        }
        let stream = &self.work.stream;
        let graph = Graph::capture(&self.context, stream, || {
            launches.iter().try_for_each(|(functions, of)| enqueue(stream, functions, of))
        })?;
        let launches = launches.iter().map(|(_, of)| of.len() as u64).sum();
        Ok(graph.map(|graph| Segment { graph, launches, ns, faults }))
    }

    fn launches_of(segment: &Segment) -> u64 {
        segment.launches
    }

    fn replay(&mut self, segment: &Segment) -> Result<()> {
        self.work.faults(segment.faults)?;
        self.work.begin(segment.ns)?;
        let launched = segment.graph.launch(&self.work.stream);
        self.work.end()?;
        launched
    }

    fn mark(&mut self) -> Result<Mark> {
        self.work.mark()
    }

    fn poll(&mut self, mark: Mark, timeout: Option<Duration>) -> Result<Progress> {
        self.work.poll(mark, timeout)
    }
}

impl Tuned for Cuda {
    fn tuner(&mut self) -> Option<&mut Tuner> {
        self.tuner.as_mut()
    }

    fn timed(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<u64> {
        let began = self.work.point()?;
        work(self)?;
        let ended = self.work.point()?;
        self.work.between(began, ended)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_source_that_decides_is_in_the_digest() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/cuda");
        let mut found = Vec::new();
        for folder in ["encode", "plan"] {
            for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.extend((!name.contains("tests")).then(|| format!("{folder}/{name}")));
            }
        }
        found.sort();
        let names = super::HOST.iter().map(|(name, _)| *name);
        let own = names.filter(|name| !name.starts_with("..")).collect::<Vec<_>>();
        assert_eq!(found, own);
    }
}
