//! Ops that stream through memory, which is every one but products and attention: the orders of their rows of the table,
//! what their launches take, and their plans. All multiprocessors run a launch, so a tile is what fills them for a while.

use super::elements::Elements;
use super::groups::Groups;
use super::landing::{Adds, Landing};
use super::walk::Axis;
use super::{Class, LAUNCH_NS, missing, name};
use crate::error::{Error, Kind, Result};
use crate::op::{CheckedOp, Op, Quantize, QuantizeFormat, Scatter, ScatterFn, Spec};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS};
use leasehold_kernels::{Row, Streaming};

/// Nanoseconds that a launch is made for.
pub(super) const RUN_NS: u64 = 100_000;
/// Operations a nanosecond of one multiprocessor that are sure: a third of what its lanes do.
const OPERATIONS: u64 = 40;
/// A block alone moves so many times a multiprocessor's share of what memory moves.
const ALONE: u64 = 4;
/// Bytes that an access to one element moves, where none is beside it.
pub(super) const SECTOR: u64 = 32;

/// What an item of a launch takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// To and from memory.
    pub(super) bytes: u64,
    pub(super) operations: u64,
    /// Items of a block.
    pub(super) per_block: u64,
    /// Nanoseconds that each waits, one load after another.
    pub(super) waits: u64,
}

impl Item {
    /// What a launch of so many takes.
    pub(super) fn ns(&self, items: u64, class: &Class) -> u64 {
        let [items, block] = [items, items.min(self.per_block)].map(u128::from);
        let [bytes, operations] = [self.bytes, self.operations].map(u128::from);
        let [rate, units] = [class.bytes, class.multiprocessors].map(u128::from);
        let each = u128::from(OPERATIONS);
        let all = (items * bytes / rate).max(items * operations / (each * units));
        let alone =
            (block * bytes * units / (rate * u128::from(ALONE))).max(block * operations / each);
        let ns = u128::from(LAUNCH_NS) + all.max(alone) + u128::from(self.waits);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// How many are a launch where there are so many in all: they are dealt out evenly, in whole blocks.
    pub(super) fn step(&self, items: u64, run_ns: u64, class: &Class) -> u64 {
        let moved = run_ns * class.bytes / self.bytes.max(1);
        let done = run_ns * class.multiprocessors * OPERATIONS / self.operations.max(1);
        let most = moved.min(done).max(1);
        let even = items.div_ceil(items.div_ceil(most).max(1)).max(1);
        if even < self.per_block { even } else { even.next_multiple_of(self.per_block) }
    }
}

/// Bytes that elements of an operand move, so many beside each other along an axis.
pub(super) fn moved(spec: &Spec, axis: &Axis, operand: usize, elements: u64) -> u64 {
    let size = spec.dtype.size();
    match axis.steps[operand] {
        0 => size,
        step => elements.saturating_mul(step.saturating_mul(size).min(SECTOR)),
    }
}

/// A plan in tiles of links, and what its dearest unit takes.
pub(super) struct Cut {
    pub(super) row: Streaming,
    pub(super) tiles: u64,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
    pub(super) state_bytes: u64,
}

impl Cut {
    fn plan(self) -> Result<Plan> {
        let Self { row, tiles, links, unit_ns, state_bytes } = self;
        if tiles > 0 && unit_ns > UNIT_CAP_GPU_NS {
            let (asked, allowed) = (unit_ns.into(), UNIT_CAP_GPU_NS.into());
            return Err(Error::from(Kind::Time { asked, allowed }));
        }
        let unit_ns = unit_ns.min(UNIT_CAP_GPU_NS);
        let (order, kernel) = (order(&row), name(&Row::Streaming(row)));
        Ok(Plan { order, kernel, tiles, links, unit_ns, wave: 1, wave_ns: unit_ns, state_bytes })
    }
}

/// The order that a row of the table is. Along rows it is the lanes that share a row out and the pieces of a longer one,
/// both by the row's length alone: `cuda/tile/rows.h` has the sequence.
pub(super) fn order(row: &Streaming) -> Order {
    use Streaming::*;
    let make = |entry, tile, chunk, family| Order { entry, tile, chunk, family };
    let rows = |entry, lanes: u32| make(entry, [1, lanes], row.piece(), Family::Fma32);
    let selects = |entry| make(entry, [1, 1], 0, Family::Move);
    match *row {
        Norm(lanes) => rows("norm", lanes),
        Softmax(lanes) => rows("softmax", lanes),
        Reduce(lanes) => rows("reduce", lanes),
        NormBackward(lanes) => rows("norm_backward", lanes),
        ReduceAcross => rows("reduce_across", 1),
        Rope => make("rope", [1, 1], 0, Family::Fma32),
        ScatterAdd => make("scatter_add", [1, 1], 1, Family::MulAdd32),
        Map(_) | MapIntegers => make("map", [1, 1], 0, Family::Scalar),
        QuantizeRows(_) | QuantizeCells | Dequantize => make("quantize", [1, 1], 0, Family::Scalar),
        Copy(_) | CopyTurned(_) => selects("copy"),
        Gather(_) => selects("gather"),
        Scatter(_) => selects("scatter"),
        ArgMax(_) => selects("arg_max"),
        TopK(_) => selects("top_k"),
    }
}

/// How an op streams.
pub(in super::super) enum Stream {
    Elements(Elements),
    Groups(Groups),
    Landing(Landing),
    Adds(Adds),
}

impl Stream {
    /// The ways of an op, of which each row of the table is one at most; none of an op that does not stream.
    fn all(op: &CheckedOp, class: &Class) -> Vec<Self> {
        match op.op() {
            Op::Copy(_) | Op::Map(_) | Op::Gather(_) | Op::Rope(_) => elements(op, class),
            Op::Quantize(quantize) if by_elements(quantize) => elements(op, class),
            Op::Scatter(Scatter { function: ScatterFn::Add, .. }) => {
                Adds::of(op, class).map(Self::Adds).into_iter().collect()
            }
            Op::Scatter(scatter) => {
                Landing::of(op, scatter, class).map(Self::Landing).into_iter().collect()
            }
            Op::Matmul(_) | Op::Attention(_) | Op::AttentionBackward(_) => Vec::new(),
            _ => Groups::of(op, class).map(Self::Groups).into_iter().collect(),
        }
    }

    /// The way that a row of the table is.
    pub(in super::super) fn of(op: &CheckedOp, row: &Row, class: &Class) -> Option<Self> {
        Self::all(op, class).into_iter().find(|stream| Row::Streaming(stream.cut().row) == *row)
    }

    fn cut(&self) -> Cut {
        match self {
            Self::Elements(elements) => elements.cut(),
            Self::Groups(groups) => groups.cut(),
            Self::Landing(landing) => landing.cut(),
            Self::Adds(adds) => adds.cut(),
        }
    }
}

fn elements(op: &CheckedOp, class: &Class) -> Vec<Stream> {
    Elements::all(op, class).into_iter().map(Stream::Elements).collect()
}

/// Whether a quantisation has no scale of a whole row or tensor to find.
fn by_elements(quantize: &Quantize) -> bool {
    let of_rows = matches!(quantize.format, QuantizeFormat::Tensor | QuantizeFormat::Row);
    quantize.inverse || !of_rows
}

/// The plans of an op that streams.
///
/// # Errors
/// As [`super::candidates`].
pub(super) fn plans(op: &CheckedOp, class: &Class) -> Result<Vec<Plan>> {
    let streams = Stream::all(op, class);
    if streams.is_empty() {
        let allowed = "pieces that 32 bits count".into();
        return Err(missing(op, format!("{:?}", op.specs()), allowed));
    }
    let plans: Result<Vec<Plan>> = streams.iter().map(|stream| stream.cut().plan()).collect();
    plans.map_err(|error| error.in_op(op.op().name()))
}
