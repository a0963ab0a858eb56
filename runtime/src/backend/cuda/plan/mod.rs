//! How the CUDA backend runs each op: which rows of the kernels' table may, the order that they share, the cut into tiles
//! and links, and what that is predicted to take. Pure: shapes, dtypes, strides, offset classes and the architecture; never
//! what a device says of itself.

mod attention;
mod attention_backward;
mod attention_cut;
mod chain;
mod elements;
mod groups;
mod heads;
mod landing;
mod product;
mod splits;
mod streaming;
mod vendor;
mod walk;
mod waves;

use crate::error::{Error, Kind, Result, Rule};
use crate::op::{CheckedOp, Op, Spec};
use crate::order::{Order, Plan, UNIT_CAP_GPU_NS};
pub(super) use attention_backward::{Gradients, maps as gradient_maps, rows as gradient_rows};
pub(super) use attention_cut::Cut;
pub(super) use chain::parts;
pub(super) use elements::{Elements, side};
pub(super) use groups::{Groups, Over};
pub(super) use heads::Heads;
pub(super) use landing::{Adds, Landing};
use leasehold_kernels::{Row, Streaming, rows};
pub(super) use product::{Product, form, link_k};
pub(super) use splits::Splits;
use std::sync::OnceLock;
pub(super) use streaming::Stream;
pub(super) use vendor::{Call, Matrix};
pub(super) use walk::{Axis, OPERANDS};

/// Nanoseconds of the smallest launch.
const LAUNCH_NS: u64 = 5_000;

/// An architecture and the rates that its slowest members are sure to reach; none has been measured yet.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) arch: &'static str,
    /// Multiprocessors that waves of tiles are counted by.
    pub(super) multiprocessors: u64,
    /// Operations a nanosecond of one multiprocessor in products: of rows of `matmul_sm90` by their columns (256, 128, 64).
    pub(super) sm90: [u64; 3],
    /// Of `matmul_sm90_fp8` by their rows (256, 128, 64).
    pub(super) sm90_fp8: [u64; 3],
    /// Of `matmul_sm80` by their tiles (128, 64), and where elements are gathered.
    pub(super) sm80: [u64; 2],
    pub(super) gathered: u64,
    /// Of `matmul_f32`, and of `matmul_reference`.
    pub(super) fma: u64,
    pub(super) plain: u64,
    /// The same in attention.
    pub(super) attention: u64,
    /// Bytes a nanosecond from memory.
    pub(super) bytes: u64,
    /// Bytes that the L2 cache keeps beside what passes through it.
    pub(super) l2_bytes: u64,
}

/// Every architecture. A third to a half of the peak of H100 PCIe, A30, A10, L4 and their like; of B200 what `mma.sync` is
/// guessed to leave of it.
const CLASSES: [Class; 6] = [
    Class {
        arch: "sm_80",
        multiprocessors: 56,
        sm90: [0; 3],
        sm90_fp8: [0; 3],
        sm80: [1_200, 800],
        gathered: 100,
        fma: 60,
        plain: 5,
        attention: 800,
        bytes: 450,
        l2_bytes: 16 << 20,
    },
    Class {
        arch: "sm_86",
        multiprocessors: 28,
        sm90: [0; 3],
        sm90_fp8: [0; 3],
        sm80: [450, 300],
        gathered: 60,
        fma: 120,
        plain: 5,
        attention: 300,
        bytes: 180,
        l2_bytes: 4 << 20,
    },
    Class {
        arch: "sm_89",
        multiprocessors: 46,
        sm90: [0; 3],
        sm90_fp8: [0; 3],
        sm80: [550, 400],
        gathered: 80,
        fma: 120,
        plain: 5,
        attention: 350,
        bytes: 150,
        l2_bytes: 24 << 20,
    },
    Class {
        arch: "sm_90a",
        multiprocessors: 114,
        sm90: [3_600, 3_000, 1_800],
        sm90_fp8: [5_400, 4_500, 2_400],
        sm80: [1_200, 800],
        gathered: 100,
        fma: 120,
        plain: 5,
        attention: 2_200,
        bytes: 1_000,
        l2_bytes: 32 << 20,
    },
    Class {
        arch: "sm_100",
        multiprocessors: 132,
        sm90: [0; 3],
        sm90_fp8: [0; 3],
        sm80: [1_200, 800],
        gathered: 100,
        fma: 120,
        plain: 5,
        attention: 800,
        bytes: 2_500,
        l2_bytes: 48 << 20,
    },
    Class {
        arch: "sm_120",
        multiprocessors: 36,
        sm90: [0; 3],
        sm90_fp8: [0; 3],
        sm80: [550, 400],
        gathered: 80,
        fma: 120,
        plain: 5,
        attention: 350,
        bytes: 200,
        l2_bytes: 24 << 20,
    },
];

impl Class {
    /// What takes so many nanoseconds on the class takes on a device with so many multiprocessors: a part of a card is
    /// slower as it is smaller, and none is faster.
    pub(super) fn on(&self, multiprocessors: u32, ns: u64) -> u64 {
        let own = u64::from(multiprocessors.max(1));
        let ns = u128::from(ns) * u128::from(self.multiprocessors.max(own));
        u64::try_from(ns.div_ceil(own.into())).unwrap_or(u64::MAX)
    }

    /// Nanoseconds that so many bytes take to be written.
    pub(super) fn written_ns(&self, bytes: u64) -> u64 {
        LAUNCH_NS + bytes / self.bytes
    }

    /// Nanoseconds that one multiprocessor's share of what memory moves takes for so many bytes.
    fn moved(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.multiprocessors).div_ceil(self.bytes)
    }
}

/// The class of an architecture.
pub(super) fn class(arch: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| class.arch == arch)
}

/// The architecture whose machine code a device of this compute capability runs.
pub(super) fn arch_of(capability: [i32; 2]) -> Option<&'static str> {
    Some(match capability {
        [8, 9] => "sm_89",
        [8, 6] => "sm_86",
        [8, _] => "sm_80",
        [9, 0] => "sm_90a",
        [10, _] => "sm_100",
        [12, _] => "sm_120",
        _ => return None,
    })
}

/// The rows by their names, which plans carry.
pub(super) fn row(kernel: &str) -> Option<&'static Row> {
    table().iter().find(|(key, _)| key == kernel).map(|(_, row)| row)
}

/// A row's name, as plans carry it.
fn name(row: &Row) -> &'static str {
    table().iter().find(|(_, other)| other == row).map_or("", |(key, _)| key)
}

fn table() -> &'static [(String, Row)] {
    static TABLE: OnceLock<Vec<(String, Row)>> = OnceLock::new();
    TABLE.get_or_init(|| rows().into_iter().map(|row| (row.key(), row)).collect())
}

/// The whole order table as text, for the numerics id.
pub(super) fn order_table() -> String {
    let archs: Vec<&str> = CLASSES.iter().map(|class| class.arch).collect();
    use product::{F32, REFERENCE, SM80, SM80_BYTES, SM89_FP8, SM90, SM90_FP8, TF32};
    let products =
        [REFERENCE, F32, TF32, SM80, SM80_BYTES, SM89_FP8, SM90, splits::ORDER, SM90_FP8];
    let streams: Vec<Order> = Streaming::all().iter().map(streaming::order).collect();
    let attention = [attention::orders(), attention_backward::ORDERS.to_vec()];
    format!("{archs:?} {products:?} {attention:?} {streams:?}")
}

/// The plans of an op, best first. All have one order; they differ in their rows.
///
/// # Errors
/// `Unsupported` for what no row runs, with the op's name; `Time` when units do not fit 64 bits.
pub(super) fn candidates(op: &CheckedOp, class: &Class) -> Result<Vec<Plan>> {
    if matches!(op.op(), Op::Matmul(_) | Op::Attention(_) | Op::AttentionBackward(_)) {
        limits(op)?;
    }
    let mut plans = match op.op() {
        Op::Matmul(matmul) => product::plans(op, matmul, class)?,
        Op::Attention(attention) => attention::plans(op, attention, class)?,
        Op::AttentionBackward(backward) => attention_backward::plans(op, backward, class)?,
        _ => streaming::plans(op, class)?,
    };
    plans.sort_by_key(Plan::total_ns);
    Ok(plans)
}

/// The same, with the plan of a vendor's library if the op takes any order, that might run it, and there is one.
///
/// # Errors
/// As [`candidates`].
pub(super) fn with_vendor(
    op: &CheckedOp,
    class: &Class,
    has_library: impl FnOnce() -> bool,
) -> Result<Vec<Plan>> {
    let ours = candidates(op, class)?;
    let library = vendor::plan(op, class).filter(|_| has_library());
    let mut plans: Vec<Plan> = library.into_iter().chain(ours).collect();
    plans.sort_by_key(Plan::total_ns);
    Ok(plans)
}

/// What of an op no row runs, and what rows do.
fn missing(op: &CheckedOp, asked: String, allowed: String) -> Error {
    Error::from(Kind::Unsupported { asked, allowed }).in_op(op.op().name())
}

/// Kernels of products and attention count elements along an axis in 32 bits.
fn limits(op: &CheckedOp) -> Result<()> {
    let name = op.op().name();
    for (spec, role) in op.specs().iter().zip(op.roles()) {
        let longest = spec.layout.shape().iter().max().copied().unwrap_or(0);
        if longest > i32::MAX as u64 {
            let asked = format!("an axis of {longest}");
            let error = Error::rejected(Rule::Limit, Some(role.name), asked, i32::MAX);
            return Err(error.in_op(name));
        }
    }
    Ok(())
}

/// What a plan's tiles cost one multiprocessor.
struct Work {
    tiles: u128,
    /// Multiprocessors that a tile takes at a time.
    blocks: u64,
    links: u64,
    /// Nanoseconds of a tile's link on them.
    link_ns: u64,
    state_bytes: u64,
}

/// A plan whose unit is the op's share of its predicted time: waves of tiles over the multiprocessors, the last of which may
/// be nearly empty, or the bytes that memory moves. A slice takes no less than its own waves; where tiles are cut, one of a
/// tile's links is one chain on one multiprocessor, so there a unit is predicted to take all of a link's time.
fn finish(
    op: &CheckedOp,
    class: &Class,
    order: Order,
    kernel: &'static str,
    work: Work,
) -> Result<Plan> {
    let Work { tiles, blocks, links, link_ns, state_bytes } = work;
    let wave = (class.multiprocessors / blocks).max(1);
    let waves = tiles.div_ceil(wave.into());
    let busy = waves.saturating_mul(links.into()).saturating_mul(link_ns.into());
    let moved = op.cost().bytes / u128::from(class.bytes);
    let units = tiles.saturating_mul(links.into());
    // Nothing is launched for an output of nothing, however large the operands.
    let total = if units == 0 { 0 } else { busy.max(moved) }.saturating_add(LAUNCH_NS.into());
    let share = total.div_ceil(units.max(1));
    let unit_ns = if links > 1 { share.max(link_ns.into()) } else { share };
    let time = |asked, allowed: u64| Error::from(Kind::Time { asked, allowed: allowed.into() });
    if units > u64::MAX.into() {
        return Err(time(total, u64::MAX));
    }
    let least_ns = if units == 0 { unit_ns } else { unit_ns.max(link_ns.into()) };
    if least_ns > UNIT_CAP_GPU_NS.into() {
        return Err(time(least_ns, UNIT_CAP_GPU_NS));
    }
    let (tiles, unit_ns) = (tiles as u64, unit_ns as u64);
    let (wave, wave_ns) = if links > 1 { (1, unit_ns) } else { (wave, least_ns as u64) };
    let state_bytes = if links > 1 { state_bytes } else { 0 };
    Ok(Plan { order, kernel, tiles, links, unit_ns, wave, wave_ns, state_bytes })
}

/// Chunks of a link and links of a tile: as few cuts as the cap allows.
fn links(chunks: u64, chunk_ns: u64, end_ns: u64) -> (u64, u64) {
    let room = (UNIT_CAP_GPU_NS - LAUNCH_NS).saturating_sub(end_ns);
    let per_link = (room / chunk_ns.max(1)).clamp(1, chunks.max(1));
    (per_link, chunks.max(1).div_ceil(per_link))
}

/// Size and stride of an axis counted from the end; one of nothing where there is none.
pub(super) fn axis(spec: &Spec, from_end: usize) -> [u64; 2] {
    let (shape, strides) = (spec.layout.shape(), spec.layout.strides());
    let axis = spec.layout.rank().checked_sub(from_end + 1);
    axis.map_or([1, 0], |axis| [shape[axis], strides[axis]])
}

#[cfg(test)]
mod attention_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
