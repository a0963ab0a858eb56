//! How the CPU backend runs each op: the order table, the floor rates that predictions come from, and an op's plan.
//! Pure: shapes, dtypes and the arch class, never the number of threads. What tiles and links are is in `geometry`.

use super::few::Few;
use super::geometry::{
    Cells, Entries, Gradients, Heads, Mix, Product, ROW_LEAST, Way, attention_tile, counted,
    groups, product_tile, rows_of, way,
};
use super::isa::Isa;
use crate::dtype::DType;
use crate::error::{Kind, Result};
use crate::op::{
    Attention, AttentionBackward, CheckedOp, Matmul, Norm, NormBackward, NormKind, Op, Quantize,
    Scatter, ScatterFn, TopK,
};
use crate::order::{Family, Order, Plan};
pub(super) use crate::order::{Span, spans};

/// Elements of a row that one contraction chunk of norm, softmax and reduce covers.
pub(super) const ROW_CHUNK: u64 = 1 << 14;
/// The same of the gradient of a norm, which reads three rows and writes two.
pub(super) const BACKWARD_CHUNK: u64 = 1 << 13;
/// Elements that an elementwise unit covers.
pub(super) const ELEMENTS: u64 = 1 << 14;
/// Contraction elements of a chunk of a product of 8-bit values: their f32 sum is promoted, scaled, to the
/// accumulator. Of i8 it is exact and the accumulator is i32.
pub(super) const BYTE_CHUNK: u64 = 128;
/// Most rows of a product that reads B where it lies, measured at 4096 by 4096: of dense columns of B, of f32 and of
/// 16-bit elements in lanes, where dot products by vectors take over, and by tiles; of dense rows of f32, bf16 and f16,
/// which cost more the dearer they are to widen.
pub(super) const FEW_OF_COLUMNS: [u64; 4] = [10, 16, 4, 16];
pub(super) const FEW_OF_ROWS: [u64; 3] = [16, 4, 1];
/// Tile and chunk of such a product: of dense columns and of dense rows of B.
pub(super) const FEW_COLUMNS: ([u32; 2], u32) = ([16, 64], 1024);
pub(super) const FEW_ROWS_OF_B: ([u32; 2], u32) = ([16, 128], 256);
/// Query rows of a tile of attention on lanes and keys of a chunk, of floats and of pairs of bf16: measured at 1024 rows
/// of 64 and 2048 of 128, whose keys and values then stay in the caches while the blocks of a tile pass.
pub(super) const LANES_TILE: [[u32; 2]; 2] = [[192, 64], [384, 128]];
/// Fewest query rows of an entry that lanes are worth it for.
pub(super) const LEAST_ROWS: u64 = 16;
/// Columns of a scatter's tile, and most entries of a link.
pub(super) const COLUMNS: u64 = 256;
pub(super) const LINK_ENTRIES: u64 = 8192;
/// Most groups of a product and batch entries that are counted: they are read for every span.
const MAX_COUNTS: u64 = 1 << 16;
/// A matmul tile is computed in bands of this many rows, each by one thread: the tallest of which there are many, or
/// a multiple of four, so that two or four threads end together. Tall bands pack B less often.
pub(super) const BAND_ROWS: [u64; 3] = [512, 256, 128];
pub(super) const MANY_BANDS: u128 = 16;
/// Most elements of B of bf16 that are packed at once, for all bands: 8 MiB, which the next level of caches holds.
pub(super) const PACKED_MOST: u64 = 1 << 22;
/// Most elements of a B that is packed whole, for all bands: 64 MiB.
pub(super) const SHARED_MOST: u64 = 1 << 24;

/// One class's orders and the rates that it is sure to reach on one core.
pub(super) struct Class {
    pub(super) isa: Isa,
    /// Output tile of a product: 512 by 256 measured best for f32 with AVX-512.
    pub(super) tile: [u32; 2],
    /// The same of products of bf16 by dot-product instructions, where the class has them, and operations a
    /// microsecond.
    pub(super) dot: Option<([u32; 2], u64)>,
    /// Contraction elements of a chunk of a product: what a strip of A and a panel of B keep near.
    pub(super) chunk: u32,
    /// Whether query rows of attention lie on lanes.
    pub(super) lanes: bool,
    /// Query rows of a tile of attention otherwise, and keys of a chunk.
    pub(super) attention_tile: [u32; 2],
    /// Query rows and keys that meet at once in the gradients of attention.
    pub(super) backward_tile: [u32; 2],
    pub(super) family: Family,
    /// f32 operations a microsecond in products.
    pub(super) product: u64,
    /// Elements a microsecond through a product's epilogue: dense rows, others.
    pub(super) epilogue: [u64; 2],
    /// f32 operations a microsecond in attention.
    pub(super) attention: u64,
    /// Elements a microsecond in everything else, a pass.
    pub(super) elements: u64,
}

/// Bytes a microsecond that one core is sure to stream from memory.
pub(super) const STREAM: u64 = 3_000;
/// Scores a microsecond that one core is sure to turn into weights on lanes.
pub(super) const WEIGHTS: u64 = 1_500;
/// Nanoseconds of the smallest launch.
pub(super) const LAUNCH_NS: u64 = 600;
/// Elements a microsecond of 16-bit operands that lie strided or in short rows, and nanoseconds an output row.
pub(super) const STRIDED: u64 = 250;
pub(super) const ROW_NS: u64 = 100;

/// Floor rates: half or less of what the slowest known machine of the class reached.
const V4: Class = Class {
    isa: Isa::V4,
    tile: [512, 256],
    dot: None,
    chunk: 512,
    lanes: true,
    attention_tile: [64, 128],
    backward_tile: [64, 128],
    family: Family::Fma32,
    product: 80_000,
    epilogue: [500, 160],
    attention: 20_000,
    elements: 50,
};

const CLASSES: [Class; 5] = [
    Class { isa: Isa::Amx, dot: Some(([512, 512], 300_000)), ..V4 },
    Class { isa: Isa::Bf16, dot: Some(([256, 256], 50_000)), ..V4 },
    V4,
    Class {
        isa: Isa::V3,
        tile: [512, 256],
        dot: None,
        chunk: 256,
        lanes: false,
        attention_tile: [64, 128],
        backward_tile: [64, 64],
        family: Family::Fma32,
        product: 40_000,
        epilogue: [500, 150],
        attention: 10_000,
        elements: 40,
    },
    Class {
        isa: Isa::Generic,
        tile: [128, 128],
        dot: None,
        chunk: 128,
        lanes: false,
        attention_tile: [32, 64],
        backward_tile: [32, 32],
        family: Family::MulAdd32,
        product: 3_000,
        epilogue: [100, 50],
        attention: 1_500,
        elements: 30,
    },
];

pub(super) fn class(isa: Isa) -> &'static Class {
    CLASSES.iter().find(|class| class.isa == isa).unwrap_or(&CLASSES[4])
}

/// The whole order table as text, for the numerics id.
pub(super) fn order_table() -> String {
    let few = (FEW_OF_COLUMNS, FEW_OF_ROWS, FEW_COLUMNS, FEW_ROWS_OF_B);
    let mut text = format!("{ROW_CHUNK} {BACKWARD_CHUNK} {BYTE_CHUNK} {few:?}\n");
    text += &format!("{BAND_ROWS:?} {MANY_BANDS} {LANES_TILE:?} {LEAST_ROWS}\n");
    for Class { isa, tile, dot, chunk, lanes, attention_tile, backward_tile, family, .. } in
        &CLASSES
    {
        let dot = dot.map(|(tile, _)| tile);
        let tiles = [tile, attention_tile, backward_tile];
        text += &format!("{} {tiles:?} {dot:?} {chunk} {lanes} {family:?}\n", isa.name());
    }
    text
}

/// The order of an op on an arch class.
pub(super) fn order(checked: &CheckedOp, isa: Isa) -> Order {
    let class = class(isa);
    let rows = |entry| Order { entry, tile: [1, 1], chunk: ROW_CHUNK as u32, family: class.family };
    let flat = |entry, family| Order { entry, tile: [1, ELEMENTS as u32], chunk: 0, family };
    match checked.op() {
        Op::Matmul(_) => {
            let (tile, chunk) = product_tile(checked, class);
            let (entry, family) = match (way(checked, class), checked.spec("a").map(|a| a.dtype)) {
                (Way::Dot, _) => ("matmul/dot", Family::Dot16),
                (Way::Few(Few::Tiles), _) => ("matmul/few", Family::Dot16),
                (Way::Few(_), _) => ("matmul/few", class.family),
                (_, Some(DType::I8)) => ("matmul/i8", class.family),
                (_, Some(DType::F8E4M3 | DType::F8E5M2)) => ("matmul/f8", class.family),
                _ => ("matmul", class.family),
            };
            Order { entry, tile, chunk, family }
        }
        Op::Attention(op) => {
            let ([rows, chunk], mix) = attention_tile(checked, op, class);
            let (entry, family) = match mix {
                Mix::Panels => ("attention", class.family),
                Mix::Lanes { pairs: false } => ("attention/lanes", class.family),
                Mix::Lanes { pairs: true } => ("attention/dot", Family::Dot16),
            };
            Order { entry, tile: [rows, 0], chunk, family }
        }
        Op::AttentionBackward(_) => {
            let [rows, keys] = class.backward_tile;
            let entry = "attention_backward";
            Order { entry, tile: [rows, 0], chunk: keys, family: class.family }
        }
        Op::Norm(_) => rows("norm"),
        Op::NormBackward(_) => Order { chunk: BACKWARD_CHUNK as u32, ..rows("norm_backward") },
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
        Op::Quantize(_) => flat("quantize", Family::Scalar),
        _ => flat("copy", Family::Move),
    }
}

/// Passes over a long row: statistics, then the write.
pub(super) fn passes(op: &Op) -> u64 {
    match op {
        Op::NormBackward(NormBackward { kind: NormKind::Layer, .. }) => 4,
        Op::Norm(Norm { kind: NormKind::Layer, .. }) | Op::NormBackward(_) => 3,
        Op::Norm(_) | Op::Softmax(_) => 2,
        _ => 1,
    }
}

/// What of an op this backend does not run, and what it does.
fn missing(op: &CheckedOp) -> Option<(String, String)> {
    let (count, what) = match op.op() {
        Op::Matmul(matmul) => (groups(op, matmul), "groups"),
        Op::Attention(Attention { scores, .. })
        | Op::AttentionBackward(AttentionBackward { scores }) => (counted(op, scores), "counts"),
        _ => return None,
    };
    (count > MAX_COUNTS).then(|| (format!("{count} {what}"), MAX_COUNTS.to_string()))
}

/// The one plan of an op: all others would have another order.
///
/// # Errors
/// `Unsupported` for what is not built, `Time` when its units do not fit 64 bits.
pub(super) fn plan(op: &CheckedOp, isa: Isa) -> Result<Plan> {
    if let Some((asked, allowed)) = missing(op) {
        return Err(Kind::Unsupported { asked, allowed }.into());
    }
    let class = class(isa);
    let order = order(op, isa);
    match op.op() {
        Op::Matmul(matmul) => product(op, matmul, order, class),
        Op::Attention(attention) => self::attention(op, attention, order, class),
        Op::AttentionBackward(backward) => {
            let g = Gradients::of(op, &backward.scores, isa);
            finish(order, g.tiles, g.links, g.unit_ns, 4 * g.carried)
        }
        Op::Norm(_)
        | Op::NormBackward(_)
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::Rope(_)
        | Op::ArgMax(_)
        | Op::TopK(_) => rows(op, order, class),
        Op::Quantize(quantize) => self::quantize(op, quantize, order, class),
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
    let unit_ns = unit_ns.max(1);
    let (wave, wave_ns) = (1, unit_ns);
    Ok(Plan { order, kernel: order.entry, tiles, links, unit_ns, wave, wave_ns, state_bytes })
}

fn product(op: &CheckedOp, matmul: &Matmul, order: Order, class: &Class) -> Result<Plan> {
    let p = Product::of(op, matmul, class.isa);
    let [tm, tn] = p.tile;
    finish(order, p.tiles, p.links, p.unit_ns, 4 * tm * tn)
}

fn attention(checked: &CheckedOp, op: &Attention, order: Order, class: &Class) -> Result<Plan> {
    let h = Heads::of(checked, op, class.isa);
    let tiles = u128::from(h.batch) * u128::from(h.heads) * u128::from(h.blocks);
    finish(order, tiles, h.links, h.unit_ns, 4 * u64::from(order.tile[0]) * (h.dv + 2))
}

fn rows(op: &CheckedOp, order: Order, class: &Class) -> Result<Plan> {
    let Some(x) = op.spec("x") else { return finish(order, 0, 1, 1, 0) };
    let n = x.layout.shape()[x.layout.rank() - 1];
    let outer = x.layout.shape()[..x.layout.rank() - 1].iter();
    let rows = outer.fold(1u128, |p, &d| p.saturating_mul(d.into()));
    let chunk = u64::from(order.chunk);
    let (chunks, per_tile) = (n.div_ceil(chunk).max(1), rows_of(chunk, n));
    let links = if chunks > 1 { chunks * passes(op.op()) } else { 1 };
    let passes = if links > 1 { 1 } else { passes(op.op()) };
    // A long list of kept elements is searched and shifted for each that enters it.
    let k = match op.op() {
        Op::TopK(TopK { k, .. }) => u64::from(*k),
        _ => 1,
    };
    let work = n.clamp(ROW_LEAST, chunk) * per_tile * passes * (1 + k / 128);
    let tiles = rows.div_ceil(per_tile.into());
    finish(order, tiles, links, LAUNCH_NS + work * 1000 / class.elements, 16 * k)
}

fn quantize(op: &CheckedOp, quantize: &Quantize, order: Order, class: &Class) -> Result<Plan> {
    let c = Cells::of(op, quantize);
    // A cell is read twice.
    let passes = if c.chain.is_some() { 1 } else { 2 };
    let unit_ns = LAUNCH_NS + c.per_piece * ROW_NS + passes * c.work * 1000 / class.elements;
    finish(order, c.tiles, c.links(), unit_ns, 4)
}
