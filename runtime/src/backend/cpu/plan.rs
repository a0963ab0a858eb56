//! How the CPU backend runs each op: the order table, the floor rates that predictions come from, and the cut of
//! an op into tiles and links. Pure: shapes, dtypes and the arch class, never the number of threads.

use super::isa::Isa;
use crate::dtype::DType;
use crate::error::{Kind, Result};
use crate::op::{
    Attention, CheckedOp, Gate, Group, KeyValue, Lens, Norm, NormKind, Op, OrderClass, Precision,
    Scatter, ScatterFn, Spec, TopK,
};
use crate::order::{Family, Order, Plan, UNIT_CAP_SLOW_NS};
pub(super) use crate::order::{Span, spans};

/// Elements of a row that one contraction chunk of norm, softmax and reduce covers.
pub(super) const ROW_CHUNK: u64 = 1 << 14;
/// Elements that an elementwise unit covers.
pub(super) const ELEMENTS: u64 = 1 << 14;
/// A matmul tile is computed in bands of this many rows, each by one thread. Tall bands pack B less often; the
/// short ones are for products of few bands, so that two or four threads end together.
const BAND_ROWS: [u64; 2] = [256, 128];
const MANY_BANDS: u128 = 16;

/// One class's orders and the rates that it is sure to reach on one core.
struct Class {
    isa: Isa,
    /// Output tile of a product: 512 by 256 measured best for f32 with AVX-512.
    tile: [u32; 2],
    /// Contraction elements of a chunk of a product. `gemm` sums up to 512 in one sweep whatever caches it finds;
    /// beyond, the sizes of the caches would choose the order.
    chunk: u32,
    /// Query rows of a tile of attention, and keys of a chunk.
    attention_tile: [u32; 2],
    family: Family,
    /// f32 operations a microsecond in products.
    product: u64,
    /// Elements a microsecond through a product's epilogue: dense rows, others.
    epilogue: [u64; 2],
    /// f32 operations a microsecond in attention.
    attention: u64,
    /// Elements a microsecond in everything else, a pass.
    elements: u64,
}

/// Bytes a microsecond that one core is sure to stream from memory.
const STREAM: u64 = 3_000;
/// Nanoseconds of the smallest launch.
const LAUNCH_NS: u64 = 600;
/// Elements a microsecond of 16-bit operands that lie strided or in short rows, and nanoseconds an output row.
const STRIDED: u64 = 250;
const ROW_NS: u64 = 100;

/// Floor rates: half or less of what the slowest known machine of the class reached.
const CLASSES: [Class; 3] = [
    Class {
        isa: Isa::V4,
        tile: [512, 256],
        chunk: 512,
        attention_tile: [64, 128],
        family: Family::Fma32,
        product: 80_000,
        epilogue: [500, 160],
        attention: 20_000,
        elements: 50,
    },
    Class {
        isa: Isa::V3,
        tile: [512, 256],
        chunk: 256,
        attention_tile: [64, 128],
        family: Family::Fma32,
        product: 40_000,
        epilogue: [500, 150],
        attention: 10_000,
        elements: 40,
    },
    Class {
        isa: Isa::Generic,
        tile: [128, 128],
        chunk: 128,
        attention_tile: [32, 64],
        family: Family::MulAdd32,
        product: 3_000,
        epilogue: [100, 50],
        attention: 1_500,
        elements: 30,
    },
];

fn class(isa: Isa) -> &'static Class {
    CLASSES.iter().find(|class| class.isa == isa).unwrap_or(&CLASSES[2])
}

/// The whole order table as text, for the numerics id.
pub(super) fn order_table() -> String {
    let mut text = format!("{ROW_CHUNK} {BAND_ROWS:?} {MANY_BANDS}\n");
    for Class { isa, tile, chunk, attention_tile, family, .. } in &CLASSES {
        text += &format!("{} {tile:?} {chunk} {attention_tile:?} {family:?}\n", isa.name());
    }
    text
}

/// The order of an op on an arch class.
pub(super) fn order(op: &Op, isa: Isa) -> Order {
    let class = class(isa);
    let rows = |entry| Order { entry, tile: [1, 1], chunk: ROW_CHUNK as u32, family: class.family };
    let flat = |entry, family| Order { entry, tile: [1, ELEMENTS as u32], chunk: 0, family };
    match op {
        Op::Matmul(_) => {
            Order { entry: "matmul", tile: class.tile, chunk: class.chunk, family: class.family }
        }
        Op::Attention(_) => {
            let [rows, chunk] = class.attention_tile;
            Order { entry: "attention", tile: [rows, 0], chunk, family: class.family }
        }
        Op::Norm(_) => rows("norm"),
        Op::Softmax(_) => rows("softmax"),
        Op::Reduce(_) => rows("reduce"),
        Op::Rope(_) => rows("rope"),
        Op::ArgMax(_) => Order { family: Family::Move, ..rows("arg_max") },
        Op::TopK(_) => Order { family: Family::Move, ..rows("top_k") },
        Op::Scatter(Scatter { function: ScatterFn::Add, .. }) => Order {
            entry: "scatter",
            tile: [1, COLUMNS as u32],
            chunk: 1,
            family: Family::MulAdd32,
        },
        Op::Scatter(_) => flat("scatter", Family::Move),
        Op::Map(_) => flat("map", Family::Scalar),
        Op::Gather(_) => flat("gather", Family::Move),
        _ => flat("copy", Family::Move),
    }
}

/// Passes over a long row: statistics, then the write.
pub(super) fn passes(op: &Op) -> u64 {
    match op {
        Op::Norm(Norm { kind: NormKind::Layer, .. }) => 3,
        Op::Norm(_) | Op::Softmax(_) => 2,
        _ => 1,
    }
}

/// What of an op this backend does not run yet.
fn missing(op: &CheckedOp) -> Option<&'static str> {
    let narrow = op.specs().iter().any(|spec| spec.dtype.size() == 1);
    let asked: &[(bool, &'static str)] = match op.op() {
        Op::Matmul(op) => &[
            (op.beta != 0.0, "beta"),
            (op.gate == Gate::Interleaved, "an interleaved gate"),
            (op.preactivation, "a pre-activation output"),
            (op.precision == Precision::Tf32, "tf32"),
            (op.group != Group::None, "groups"),
            (op.order != OrderClass::Fixed, "an order other than fixed"),
        ],
        Op::Attention(op) => &[(op.order != OrderClass::Fixed, "an order other than fixed")],
        Op::Gather(_) | Op::Copy(_) | Op::Scatter(_) => return None,
        Op::Norm(_)
        | Op::Softmax(_)
        | Op::Map(_)
        | Op::Reduce(_)
        | Op::Rope(_)
        | Op::ArgMax(_)
        | Op::TopK(_) => &[],
        Op::AttentionBackward(_) => &[(true, "attention_backward")],
        Op::NormBackward(_) => &[(true, "norm_backward")],
        Op::Quantize(_) => &[(true, "quantize")],
    };
    let first = asked.iter().find(|(asked, _)| *asked).map(|&(_, what)| what);
    first.or(narrow.then_some("8-bit values"))
}

/// The one plan of an op: all others would have another order.
///
/// # Errors
/// `Unsupported` for what is not built, `Time` when its units do not fit 64 bits.
pub(super) fn plan(op: &CheckedOp, isa: Isa) -> Result<Plan> {
    if let Some(what) = missing(op) {
        let allowed = "the rest of the op".to_string();
        return Err(Kind::Unsupported { asked: what.to_string(), allowed }.into());
    }
    let class = class(isa);
    let order = order(op.op(), isa);
    match op.op() {
        Op::Matmul(_) => product(op, order, class),
        Op::Attention(attention) => self::attention(op, attention, order, class),
        Op::Norm(_)
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::Rope(_)
        | Op::ArgMax(_)
        | Op::TopK(_) => rows(op, order, class),
        Op::Scatter(_) => {
            let e = Entries::of(op);
            let work = e.per_link * (ROW_NS + e.columns * 1000 / class.elements);
            finish(order, e.tiles.into(), e.links, LAUNCH_NS + work, 0)
        }
        _ => {
            let elements = op.spec("out").map_or(0, |out| out.layout.numel());
            let tiles = elements.div_ceil(ELEMENTS.into());
            let unit_ns = LAUNCH_NS + elements.min(ELEMENTS.into()) as u64 * 1000 / class.elements;
            finish(order, tiles, 1, unit_ns, 0)
        }
    }
}

fn finish(order: Order, tiles: u128, links: u64, unit_ns: u64, state: u64) -> Result<Plan> {
    let asked = tiles.saturating_mul(links.into()).saturating_mul(unit_ns.into());
    let tiles = u64::try_from(tiles)
        .map_err(|_| -> crate::Error { Kind::Time { asked, allowed: u64::MAX.into() }.into() })?;
    let state_bytes = if links > 1 { state } else { 0 };
    Ok(Plan { order, tiles, links, unit_ns: unit_ns.max(1), state_bytes })
}

/// The links of a chain, the chunks that each covers, and the time of the dearest: as few cuts as the cap allows.
/// What follows the last chunk has a link of its own where it does not fit beside one.
fn links(chunks: u64, chunk_ns: u64, rest_ns: u64) -> (u64, u64, u64) {
    let (chunks, chunk_ns) = (chunks.max(1), chunk_ns.max(1));
    let fit = |room: u64| (room / chunk_ns).clamp(1, chunks);
    if chunk_ns + rest_ns <= UNIT_CAP_SLOW_NS {
        let per_link = fit(UNIT_CAP_SLOW_NS - rest_ns);
        return (chunks.div_ceil(per_link), per_link, chunk_ns * per_link + rest_ns);
    }
    let per_link = fit(UNIT_CAP_SLOW_NS);
    (chunks.div_ceil(per_link) + 1, per_link, rest_ns.max(chunk_ns * per_link))
}

/// Whether an operand, where the op has it, is dense or constant along its last axis.
fn has_rows(op: &CheckedOp) -> impl Fn(&&str) -> bool + '_ {
    |name| {
        let step = |s: &Spec| s.layout.strides().last().copied().unwrap_or(1);
        op.spec(name).is_none_or(|spec| step(spec) <= 1)
    }
}

/// The geometry of a product, shared by the planner and the kernel.
pub(super) struct Product {
    pub(super) m: u64,
    pub(super) n: u64,
    pub(super) k: u64,
    pub(super) tiles_m: u64,
    pub(super) tiles_n: u64,
    pub(super) band_rows: u64,
    pub(super) per_link: u64,
    pub(super) links: u64,
    unit_ns: u64,
    tiles: u128,
}

impl Product {
    pub(super) fn of(op: &CheckedOp, isa: Isa) -> Self {
        let class = class(isa);
        let dims = |name, i| op.spec(name).map_or(0, |s| s.layout.shape()[s.layout.rank() - 2 + i]);
        let (m, n, k) = (dims("out", 0), dims("out", 1), dims("a", 1));
        let [tm, tn] = class.tile.map(u64::from);
        let (rows, cols) = (m.min(tm), n.min(tn));
        let depth = k.min(class.chunk.into());
        let flops_ns = 2 * rows * cols * depth * 1000 / class.product;
        let panels = rows * depth + depth * cols;
        let wide = op.spec("a").is_some_and(|a| a.dtype == DType::F32);
        let dense = wide || rows.min(cols).min(depth) >= 64 && ["a", "b"].iter().all(has_rows(op));
        let panels_ns = if dense { panels * 4000 / STREAM } else { panels * 1000 / STRIDED };
        let chunk_ns = flops_ns.max(panels_ns);
        let ends = ["bias", "gate", "residual", "out"];
        let rate = class.epilogue[usize::from(!ends.iter().all(has_rows(op)))];
        let rest_ns = LAUNCH_NS + rows * ROW_NS + rows * cols * 1000 / rate;
        let chunks = k.div_ceil(class.chunk.into());
        let (links, per_link, unit_ns) = links(chunks, chunk_ns, rest_ns);
        let (tiles_m, tiles_n) = (m.div_ceil(tm), n.div_ceil(tn));
        let per_entry = u128::from(m) * u128::from(n);
        let elements = op.spec("out").map_or(0, |s| s.layout.numel());
        let entries = elements.checked_div(per_entry).unwrap_or(0);
        let tiles = entries * u128::from(tiles_m) * u128::from(tiles_n);
        let [large, small] = BAND_ROWS;
        let bands = entries * u128::from(m.div_ceil(large)) * u128::from(tiles_n);
        let band_rows = if bands < MANY_BANDS && bands % 4 != 0 { small } else { large };
        Self { m, n, k, tiles_m, tiles_n, band_rows, per_link, links, unit_ns, tiles }
    }
}

fn product(op: &CheckedOp, order: Order, class: &Class) -> Result<Plan> {
    let p = Product::of(op, class.isa);
    let [tm, tn] = order.tile.map(u64::from);
    finish(order, p.tiles, p.links, p.unit_ns, 4 * tm * tn)
}

/// The geometry of attention, shared by the planner and the kernel.
pub(super) struct Heads {
    /// Batch entries that Q has an axis for: all, or one where rows are packed.
    batch: u64,
    heads: u64,
    /// Tiles of a head, and the most keys that one sees.
    pub(super) blocks: u64,
    pub(super) keys: u64,
    pub(super) links: u64,
    pub(super) per_link: u64,
    unit_ns: u64,
    dv: u64,
}

impl Heads {
    pub(super) fn of(checked: &CheckedOp, op: &Attention, isa: Isa) -> Self {
        let dim = |name, i: usize| checked.spec(name).map_or(0, |s| s.layout.shape()[i]);
        let [tile, chunk] = class(isa).attention_tile.map(u64::from);
        let (batch, heads, rows, d, dv) =
            (dim("q", 0), dim("q", 1), dim("q", 2), dim("q", 3), dim("v", 3));
        let room = match op.key_value {
            KeyValue::Dense => dim("k", 2),
            KeyValue::Paged { page } => dim("pages", 1).saturating_mul(page.into()),
        };
        let most = |lens: &Lens| match lens {
            Lens::Full => room,
            Lens::Host(list) => list.iter().max().map_or(0, |&n| n.into()),
            Lens::Device { max } => (*max).into(),
        };
        let packed_alone = op.lens == Lens::Full && op.key_value == KeyValue::Dense;
        let keys = room.min(most(if packed_alone { &op.rows } else { &op.lens }));
        let blocks = match &op.rows {
            Lens::Full => rows.div_ceil(tile),
            Lens::Host(list) => {
                let owned: u64 = list.iter().map(|&n| u64::from(n)).sum();
                let blocks = list.iter().map(|&n| u64::from(n).div_ceil(tile)).sum::<u64>();
                blocks + (rows - owned).div_ceil(tile)
            }
            // At most one partial tile an entry, and one of the rows that none owns.
            Lens::Device { .. } => rows.div_ceil(tile) + dim("rows", 0) + 1,
        };
        let flops = 2 * tile * chunk * (d + dv + 8);
        // Functions of a score take as long as a few dims more.
        let extra = u64::from(op.softcap > 0.0) * 24 + u64::from(op.alibi) * 4;
        let chunk_ns = (flops + 2 * tile * chunk * extra) * 1000 / class(isa).attention;
        let rest_ns = LAUNCH_NS + tile * (d + dv);
        let (links, per_link, unit_ns) = links(keys.div_ceil(chunk).max(1), chunk_ns, rest_ns);
        Self { batch, heads, blocks, keys, links, per_link, unit_ns, dv }
    }
}

fn attention(checked: &CheckedOp, op: &Attention, order: Order, class: &Class) -> Result<Plan> {
    let h = Heads::of(checked, op, class.isa);
    let tiles = u128::from(h.batch) * u128::from(h.heads) * u128::from(h.blocks);
    finish(order, tiles, h.links, h.unit_ns, 4 * u64::from(order.tile[0]) * (h.dv + 2))
}

/// Columns of a scatter's tile, and most entries of a link.
const COLUMNS: u64 = 256;
const LINK_ENTRIES: u64 = 8192;

/// The geometry of a scatter: a tile is a run of columns of every entry, or a head of appended rows.
pub(super) struct Entries {
    /// Entries in all, and elements of each.
    pub(super) count: u64,
    pub(super) inner: u64,
    /// Columns of a tile.
    pub(super) columns: u64,
    pub(super) per_link: u64,
    tiles: u64,
    links: u64,
}

impl Entries {
    pub(super) fn of(op: &CheckedOp) -> Self {
        let shape = |name| op.spec(name).map(|s| *s.layout.shape()).unwrap_or_default();
        let product = |dims: &[u64]| dims.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        let (x, out) = (shape("x"), shape("out"));
        let append = op.position("lens").is_some();
        let (count, inner, columns, tiles) = if append {
            (x[0].saturating_mul(x[2]), x[3], x[3], x[1])
        } else {
            let inner = product(&out[1..]);
            (product(&shape("index")), inner, inner.min(COLUMNS), inner.div_ceil(COLUMNS))
        };
        let per_link = (ELEMENTS / columns.max(1)).clamp(1, LINK_ENTRIES).min(count.max(1));
        let links = count.div_ceil(per_link).max(1);
        Self { count, inner, columns, per_link, tiles, links }
    }
}

/// A shorter row takes as long as one of this many elements.
const ROW_LEAST: u64 = 64;

/// Rows of a tile, for rows of length `n`: one when it is long.
pub(super) fn rows_per_tile(n: u64) -> u64 {
    (ROW_CHUNK / n.max(ROW_LEAST)).max(1)
}

fn rows(op: &CheckedOp, order: Order, class: &Class) -> Result<Plan> {
    let Some(x) = op.spec("x") else { return finish(order, 0, 1, 1, 0) };
    let n = x.layout.shape()[x.layout.rank() - 1];
    let outer = x.layout.shape()[..x.layout.rank() - 1].iter();
    let rows = outer.fold(1u128, |p, &d| p.saturating_mul(d.into()));
    let chunks = n.div_ceil(ROW_CHUNK).max(1);
    let links = if chunks > 1 { chunks * passes(op.op()) } else { 1 };
    let passes = if links > 1 { 1 } else { passes(op.op()) };
    // A long list of kept elements is searched and shifted for each that enters it.
    let k = match op.op() {
        Op::TopK(TopK { k, .. }) => u64::from(*k),
        _ => 1,
    };
    let work = n.clamp(ROW_LEAST, ROW_CHUNK) * rows_per_tile(n) * passes * (1 + k / 128);
    let tiles = rows.div_ceil(rows_per_tile(n).into());
    finish(order, tiles, links, LAUNCH_NS + work * 1000 / class.elements, 16 * k)
}
