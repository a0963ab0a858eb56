//! How the wgpu backend runs each op: the order table, the floor rates that predictions come from, and the cut of
//! an op into tiles and links. Pure: shapes, dtypes, the adapter's class and its binding limit.

mod backward;
mod batch;
mod cells;
mod entries;
mod heads;
mod product;
mod rows;

use crate::error::{Error, Kind, Result, Rule};
use crate::op::{CheckedOp, Op, Scatter, ScatterFn, Scores};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS, UNIT_CAP_SLOW_NS};
pub(super) use backward::Backward;
pub(super) use batch::{Batch, counts};
pub(super) use cells::Cells;
pub(super) use entries::Entries;
pub(super) use heads::Heads;
pub(super) use product::Product;
#[cfg(test)]
pub(super) use product::TILED;
pub(super) use rows::{Rows, room};

/// Bytes that one binding may lose to the alignment of its start, and the alignment that bindings keep.
pub(super) const ALIGN: u64 = 256;

/// A class of adapters: its orders, and rates that its slowest members are sure to reach.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) unit_cap_ns: u64,
    /// WGSL's `fma` may round twice, and on llvmpipe it does; what else a driver does is in the numerics id.
    family: Family,
    /// Output tile of a product, a multiple of a workgroup's 32 by 32.
    pub(super) tile: [u64; 2],
    /// Whether operands may be staged in workgroup memory, which software has no use for.
    tiled: bool,
    /// The matrix unit, where there is one.
    pub(super) unit: Option<MatrixUnit>,
    /// Most rows of a tile of attention, a multiple of 16.
    pub(super) query_rows: u64,
    /// Words of partial results that a launch of attention leaves at most; software has few workgroups at a time.
    pub(super) scratch: u64,
    /// Elements of a row in a chunk.
    pub(super) row_chunk: u64,
    /// Elements that an elementwise unit covers; even, so that no tile begins in the middle of a word.
    pub(super) elements: u64,
    /// Iterations of all loops of an invocation together: Mesa's llvmpipe silently leaves its loops after 65 535.
    pub(super) loops: u64,
    /// Nanoseconds to dispatch anything.
    dispatch_ns: u64,
    /// Operations a microsecond in products, and in attention.
    product: u64,
    attention: u64,
    /// Elements a microsecond in everything else, and in `top_k` of few.
    moved: u64,
    sorted: u64,
    /// Entries of a link of a scatter, and nanoseconds that each takes beside its elements.
    entries: u64,
    entry_ns: u64,
}

/// A unit that multiplies square tiles of f16 and sums in f32: the edge of its tiles, and what runs on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixUnit {
    pub(super) edge: u64,
    pub(super) matmul: OnUnit,
    pub(super) attention: OnUnit,
}

/// An op on a matrix unit: the order that it makes, and its kernels, of large tiles first.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnUnit {
    pub(super) entry: &'static str,
    pub(super) kernels: &'static [&'static str],
}

/// Software adapters: Vulkan on the host's cores.
pub(super) static SOFTWARE: Class = Class {
    name: "wgpu-software",
    unit_cap_ns: UNIT_CAP_SLOW_NS,
    family: Family::MulAdd32,
    tile: [64, 64],
    tiled: false,
    unit: None,
    query_rows: 16,
    scratch: 1 << 16,
    row_chunk: 1 << 13,
    elements: 1 << 14,
    loops: 60_000,
    dispatch_ns: 50_000,
    product: 1_000,
    attention: 1_000,
    moved: 20,
    sorted: 10,
    entries: 128,
    entry_ns: 100,
};

/// Every GPU. A unit keeps a small one busy, not a large one: floor rates are those of integrated GPUs.
pub(super) static GPU: Class = ANY_GPU;

const ANY_GPU: Class = Class {
    name: "wgpu-gpu",
    unit_cap_ns: UNIT_CAP_GPU_NS,
    family: Family::Fma32,
    tile: [256, 256],
    tiled: true,
    unit: None,
    query_rows: 128,
    scratch: 1 << 22,
    row_chunk: 1 << 15,
    elements: 1 << 17,
    loops: u64::MAX,
    dispatch_ns: 5_000,
    product: 100_000,
    attention: 50_000,
    moved: 1_000,
    sorted: 100,
    entries: 128,
    entry_ns: 1_000,
};

/// GPUs with a matrix unit of tiles of f16 with sums of f32, by the edge of the tiles.
pub(super) static GPU_COOP16: Class = Class {
    name: "wgpu-gpu-coop16",
    unit: Some(unit_of_16(
        &["matmul_coop16_128x128", "matmul_coop16_64x64"],
        &["attention_coop16_64", "attention_coop16_32"],
    )),
    ..ANY_GPU
};
pub(super) static GPU_COOP8: Class = Class {
    name: "wgpu-gpu-coop8",
    unit: Some(unit_of_8(&["matmul_coop8_64x64"], &["attention_coop8_32"])),
    ..ANY_GPU
};

/// GPUs whose matrix unit is emulated: the same kernels but for the operations on tiles, on any device.
#[cfg(test)]
pub(super) static EMULATED: [Class; 2] = [
    Class {
        name: "emulated",
        unit: Some(unit_of_16(&["matmul_coop16_emulated"], &["attention_coop16_emulated"])),
        ..ANY_GPU
    },
    Class {
        name: "emulated",
        unit: Some(unit_of_8(&["matmul_coop8_emulated"], &["attention_coop8_emulated"])),
        ..ANY_GPU
    },
];

/// A unit by the kernels of products and of attention. The orders of attention say that its weights are rounded to f16.
const fn unit_of_16(
    matmul: &'static [&'static str],
    attention: &'static [&'static str],
) -> MatrixUnit {
    MatrixUnit {
        edge: 16,
        matmul: OnUnit { entry: "matmul_coop16", kernels: matmul },
        attention: OnUnit { entry: "attention_coop16/weights-f16", kernels: attention },
    }
}

const fn unit_of_8(
    matmul: &'static [&'static str],
    attention: &'static [&'static str],
) -> MatrixUnit {
    MatrixUnit {
        edge: 8,
        matmul: OnUnit { entry: "matmul_coop8", kernels: matmul },
        attention: OnUnit { entry: "attention_coop8/weights-f16", kernels: attention },
    }
}

/// The whole order table as text, for the numerics id.
pub(super) fn order_table() -> String {
    let line = |c: &Class| {
        let Class { name, tile, query_rows, row_chunk, family, unit, .. } = c;
        let (k, keys) = ([product::CHUNK, product::CHUNK_BYTES], heads::CHUNK);
        format!("{name} {tile:?} {k:?} {query_rows} {keys} {row_chunk} {family:?} {unit:?}\n")
    };
    [&SOFTWARE, &GPU, &GPU_COOP16, &GPU_COOP8].map(line).concat()
}

/// The order of an op on a class.
fn order(op: &Op, class: &Class) -> Order {
    let make = |entry, tile: [u64; 2], chunk: u64, family| Order {
        entry,
        tile: tile.map(|side| side as u32),
        chunk: chunk as u32,
        family,
    };
    let flat = |entry, family| make(entry, [1, class.elements], 0, family);
    let rows = |entry| make(entry, [1, 1], class.row_chunk, class.family);
    match op {
        Op::Matmul(_) => make("matmul", class.tile, product::CHUNK, class.family),
        Op::Attention(_) => make("attention", [class.query_rows, 0], heads::CHUNK, class.family),
        Op::Norm(_) => rows("norm"),
        Op::Softmax(_) => rows("softmax"),
        Op::Reduce(_) => rows("reduce"),
        Op::NormBackward(_) => make("norm_backward", [1, 1], class.row_chunk / 2, class.family),
        Op::Quantize(quantize) if !quantize.inverse => rows("quantize"),
        Op::Quantize(_) => flat("quantize", Family::Scalar),
        Op::AttentionBackward(_) => {
            make("attention_backward", [class.query_rows / 4, 0], backward::CHUNK, class.family)
        }
        Op::ArgMax(_) => Order { family: Family::Move, ..rows("arg_max") },
        Op::TopK(_) => Order { family: Family::Move, ..rows("top_k") },
        Op::Scatter(Scatter { function: ScatterFn::Add, .. }) => {
            make("scatter", [1, 1], 1, Family::MulAdd32)
        }
        Op::Scatter(_) => flat("scatter", Family::Move),
        Op::Rope(_) => flat("rope", class.family),
        Op::Map(_) => flat("map", Family::Scalar),
        Op::Gather(_) => flat("gather", Family::Move),
        Op::Copy(_) => flat("copy", Family::Move),
    }
}

/// Whether an op goes row by row.
pub(super) fn by_rows(op: &Op) -> bool {
    match op {
        Op::Quantize(quantize) => !quantize.inverse,
        Op::Norm(_)
        | Op::NormBackward(_)
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::TopK(_) => true,
        _ => false,
    }
}

/// The plans of an op, best first. They have one order and one geometry, and differ in their kernels.
///
/// # Errors
/// As [`plan`].
pub(super) fn candidates(op: &CheckedOp, class: &Class, max_binding: u64) -> Result<Vec<Plan>> {
    let plan = plan(op, class, max_binding)?;
    let kernels = match op.op() {
        Op::Matmul(matmul) => product::kernels(op, matmul, class),
        Op::Attention(attention) => heads::kernels(op, attention, class),
        _ => vec![plan.kernel],
    };
    Ok(kernels.into_iter().map(|kernel| Plan { kernel, ..plan }).collect())
}

/// The best plan of an op.
///
/// # Errors
/// `Unsupported` for an operand that spans more than `max_binding` bytes or an axis of 2^31 and more, `Time`
/// when the units do not fit 64 bits or one is over the cap.
pub(super) fn plan(op: &CheckedOp, class: &Class, max_binding: u64) -> Result<Plan> {
    limits(op, max_binding)?;
    let order = order(op.op(), class);
    match op.op() {
        Op::Matmul(matmul) => {
            let p = Product::of(op, matmul, class);
            if matmul.sizes.on_device() && p.groups > product::COUNTED {
                let asked = format!("{} sizes in device memory", p.groups);
                return Err(limit(op, "sizes", asked, product::COUNTED.to_string()));
            }
            let tile = p.tile.map(|side| side as u32);
            let mut order = Order { tile, chunk: p.chunk as u32, ..order };
            if let Some(unit) = product::on_unit(op, matmul, class) {
                order = Order { entry: unit.entry, family: Family::Matrix16, ..order };
            }
            let state = 4 * p.tile[0] * p.tile[1];
            let plan = finish(class, order, p.tiles(), p.links, p.unit_ns, state)?;
            Ok(Plan { kernel: product::kernels(op, matmul, class)[0], ..plan })
        }
        Op::Attention(attention) => {
            let a = Heads::of(op, attention, class);
            countable(op, &attention.scores, &a.batch)?;
            let room = a.batch.room;
            if room > i32::MAX as u64 {
                return Err(limit(op, "pages", format!("{room} keys"), i32::MAX.to_string()));
            }
            if a.packed_rows() > i32::MAX as u64 {
                let asked = format!("{} rows of a key head", a.packed_rows());
                return Err(limit(op, "q", asked, i32::MAX.to_string()));
            }
            let order = match heads::on_unit(op, attention, class) {
                Some(unit) => Order { entry: unit.entry, family: Family::Matrix16, ..order },
                None => order,
            };
            let state = 4 * a.tile * a.width();
            let plan = finish(class, order, a.tiles(), a.links, a.unit_ns, state)?;
            Ok(Plan { kernel: heads::kernels(op, attention, class)[0], ..plan })
        }
        Op::AttentionBackward(attention) => {
            let b = Backward::of(op, attention, class);
            countable(op, &attention.scores, &b.batch)?;
            let state = 4 * b.tile * (b.d + b.dv);
            finish(class, order, b.tiles(), b.links, b.unit_ns, state)
        }
        of_rows if by_rows(of_rows) => {
            let r = Rows::of(op, class);
            finish(class, order, r.tiles().into(), r.links(), r.unit_ns, r.state_bytes)
        }
        Op::Scatter(_) => {
            let e = Entries::of(op, class);
            if e.count > i32::MAX as u128 {
                let asked = format!("{} entries", e.count);
                return Err(limit(op, "x", asked, i32::MAX.to_string()));
            }
            finish(class, order, e.tiles().into(), e.links, e.unit_ns, 0)
        }
        _ => {
            let elements = numel(op, "out");
            let unit = elements.min(class.elements.into()) as u64;
            let tiles = elements.div_ceil(class.elements.into());
            finish(class, order, tiles, 1, unit * 1000 / class.moved, 0)
        }
    }
}

fn limit(op: &CheckedOp, operand: &'static str, asked: String, allowed: String) -> Error {
    Error::rejected(Rule::Limit, Some(operand), asked, allowed).in_op(op.op().name())
}

/// A launch counts all entries before its first tile, so there is an end to them.
fn countable(op: &CheckedOp, scores: &Scores, batch: &Batch) -> Result<()> {
    if !counts(scores) || batch.entries <= batch::COUNTED {
        return Ok(());
    }
    let asked = format!("{} counts in device memory", batch.entries);
    let counted = if scores.lens.on_device() { "lens" } else { "rows" };
    Err(limit(op, counted, asked, batch::COUNTED.to_string()))
}

/// Kernels count elements in 32 bits, and a binding holds a whole operand.
fn limits(op: &CheckedOp, max_binding: u64) -> Result<()> {
    for (spec, role) in op.specs().iter().zip(op.roles()) {
        let reject = |asked, allowed| Err(limit(op, role.name, asked, allowed));
        if spec.span_bytes() > max_binding.into() {
            let asked = format!("{} bytes in one binding", spec.span_bytes());
            return reject(asked, format!("{max_binding} bytes"));
        }
        let longest = spec.layout.shape().iter().max().copied().unwrap_or(0);
        if longest > i32::MAX as u64 {
            return reject(format!("an axis of {longest}"), i32::MAX.to_string());
        }
    }
    Ok(())
}

fn finish(
    class: &Class,
    order: Order,
    tiles: u128,
    links: u64,
    work_ns: u64,
    state: u64,
) -> Result<Plan> {
    let unit_ns = class.dispatch_ns.saturating_add(work_ns);
    let asked = tiles.saturating_mul(links.into()).saturating_mul(unit_ns.into());
    let time = |asked, allowed| Error::from(Kind::Time { asked, allowed });
    let tiles = u64::try_from(tiles).map_err(|_| time(asked, u64::MAX.into()))?;
    if unit_ns > class.unit_cap_ns {
        return Err(time(unit_ns.into(), class.unit_cap_ns.into()));
    }
    let state_bytes = if links > 1 { state } else { 0 };
    Ok(Plan {
        order,
        kernel: order.entry,
        tiles,
        links,
        unit_ns,
        wave: 1,
        wave_ns: unit_ns,
        state_bytes,
    })
}

/// Chunks that a link covers, and the links that makes: as few cuts as the caps allow. `rest_ns` comes once a link.
fn links(class: &Class, chunks: u64, chunk_ns: u64, rest_ns: u64, chunk_loops: u64) -> (u64, u64) {
    let room = (class.unit_cap_ns - class.dispatch_ns).saturating_sub(rest_ns);
    let fit = (room / chunk_ns.max(1)).min(class.loops / chunk_loops);
    let per_link = fit.clamp(1, chunks.max(1));
    (chunks.max(1).div_ceil(per_link), per_link)
}

/// Iterations of all loops of an invocation in one link.
pub(super) fn link_loops(op: &CheckedOp, class: &Class) -> u64 {
    match op.op() {
        Op::Matmul(matmul) => Product::of(op, matmul, class).link_loops(),
        Op::Attention(attention) => Heads::of(op, attention, class).link_loops(),
        Op::Scatter(_) => Entries::of(op, class).link_loops(),
        Op::AttentionBackward(attention) => Backward::of(op, attention, class).link_loops(),
        of_rows if by_rows(of_rows) => Rows::of(op, class).link_loops(of_rows),
        // Axes of four neighbours.
        _ => 64,
    }
}

fn numel(op: &CheckedOp, name: &str) -> u128 {
    op.spec(name).map_or(0, |spec| spec.layout.numel())
}

/// Size of an axis counted from the end; 1 where there is none.
fn dim(op: &CheckedOp, name: &str, from_end: usize) -> u64 {
    let shape = op.spec(name).map(|spec| *spec.layout.shape()).unwrap_or_default();
    shape.rank().checked_sub(from_end + 1).map_or(1, |axis| shape[axis])
}
