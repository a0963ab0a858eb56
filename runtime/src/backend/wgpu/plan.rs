//! How the wgpu backend runs each op: the order table, the floor rates that predictions come from, and the cut of
//! an op into tiles and links. Pure: shapes, dtypes, the adapter's class and its binding limit.

use crate::error::{Error, Kind, Result, Rule};
use crate::op::{
    CheckedOp, Gate, Group, KeyValue, Lens, Norm, NormKind, Op, OrderClass, Precision,
};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS, UNIT_CAP_SLOW_NS};

/// Keys of a chunk in attention: `CHUNK` of `attention.wgsl`.
const KEY_CHUNK: u64 = 64;
/// Elements of k in a chunk of a product: links are cut between chunks.
const PRODUCT_CHUNK: u64 = 64;
/// A short row costs a workgroup as much as one of this many elements.
const ROW_LEAST: u64 = 128;
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
    /// Query rows of a tile of attention, a multiple of 4.
    pub(super) query_rows: u64,
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
    /// Elements a microsecond in everything else.
    moved: u64,
}

/// Software adapters: Vulkan on the host's cores.
pub(super) static SOFTWARE: Class = Class {
    name: "wgpu-software",
    unit_cap_ns: UNIT_CAP_SLOW_NS,
    family: Family::MulAdd32,
    tile: [64, 64],
    query_rows: 16,
    row_chunk: 1 << 13,
    elements: 1 << 14,
    loops: 60_000,
    dispatch_ns: 50_000,
    product: 1_000,
    attention: 1_000,
    moved: 20,
};

/// Every GPU. A unit keeps a small one busy, not a large one: floor rates are those of integrated GPUs.
pub(super) static GPU: Class = Class {
    name: "wgpu-gpu",
    unit_cap_ns: UNIT_CAP_GPU_NS,
    family: Family::Fma32,
    tile: [256, 256],
    query_rows: 128,
    row_chunk: 1 << 15,
    elements: 1 << 17,
    loops: u64::MAX,
    dispatch_ns: 5_000,
    product: 100_000,
    attention: 50_000,
    moved: 1_000,
};

/// The whole order table as text, for the numerics id.
pub(super) fn order_table() -> String {
    let line = |c: &Class| {
        let Class { name, tile, query_rows, row_chunk, family, .. } = c;
        format!("{name} {tile:?} {PRODUCT_CHUNK} {query_rows} {KEY_CHUNK} {row_chunk} {family:?}\n")
    };
    line(&SOFTWARE) + &line(&GPU)
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
        Op::Matmul(_) => make("matmul", class.tile, PRODUCT_CHUNK, class.family),
        Op::Attention(_) => make("attention", [class.query_rows, 0], KEY_CHUNK, class.family),
        Op::Norm(_) => rows("norm"),
        Op::Softmax(_) => rows("softmax"),
        Op::Reduce(_) => rows("reduce"),
        Op::Map(_) => flat("map", Family::Scalar),
        Op::Gather(_) => flat("gather", Family::Move),
        _ => flat("copy", Family::Move),
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
        Op::Attention(op) => &[
            (op.window.is_some(), "a window"),
            (op.softcap != 0.0, "a soft cap"),
            (op.alibi, "ALiBi"),
            (op.sinks, "sinks"),
            (op.rows != Lens::Full, "packed rows"),
            (op.lens.on_device(), "device lengths"),
            (op.key_value != KeyValue::Dense, "paged keys"),
            (op.order != OrderClass::Fixed, "an order other than fixed"),
        ],
        Op::Norm(_) | Op::Softmax(_) | Op::Map(_) | Op::Gather(_) | Op::Reduce(_) | Op::Copy(_) => {
            &[]
        }
        Op::AttentionBackward(_) => &[(true, "attention_backward")],
        Op::NormBackward(_) => &[(true, "norm_backward")],
        Op::Rope(_) => &[(true, "rope")],
        Op::Scatter(_) => &[(true, "scatter")],
        Op::ArgMax(_) => &[(true, "arg_max")],
        Op::TopK(_) => &[(true, "top_k")],
        Op::Quantize(_) => &[(true, "quantize")],
    };
    let first = asked.iter().find(|(asked, _)| *asked).map(|&(_, what)| what);
    first.or(narrow.then_some("8-bit values"))
}

/// The one plan of an op: all others would have another order.
///
/// # Errors
/// `Unsupported` for an operand that spans more than `max_binding` bytes or an axis of 2^31 and more, `Time`
/// when the units do not fit 64 bits or one is over the cap.
pub(super) fn plan(op: &CheckedOp, class: &Class, max_binding: u64) -> Result<Plan> {
    if let Some(what) = missing(op) {
        let allowed = "the rest of the op".to_string();
        return Err(Kind::Unsupported { asked: what.to_string(), allowed }.into());
    }
    limits(op, max_binding)?;
    let order = order(op.op(), class);
    match op.op() {
        Op::Matmul(_) => {
            let p = Product::of(op, class);
            let [tm, tn] = class.tile;
            finish(class, order, p.tiles(), p.links, p.unit_ns, 4 * tm * tn)
        }
        Op::Attention(_) => {
            let a = Heads::of(op, class);
            let state = 4 * class.query_rows * (a.dv + 2);
            finish(class, order, a.tiles(), a.links, a.unit_ns, state)
        }
        Op::Norm(_) | Op::Softmax(_) | Op::Reduce(_) => {
            let r = Rows::of(op, class);
            finish(class, order, r.count.div_ceil(r.per_tile).into(), r.links(), r.unit_ns, 8)
        }
        _ => {
            let elements = numel(op, "out");
            let unit = elements.min(class.elements.into()) as u64;
            let tiles = elements.div_ceil(class.elements.into());
            finish(class, order, tiles, 1, unit * 1000 / class.moved, 0)
        }
    }
}

/// Kernels count elements in 32 bits, and a binding holds a whole operand.
fn limits(op: &CheckedOp, max_binding: u64) -> Result<()> {
    for (spec, role) in op.specs().iter().zip(op.roles()) {
        let reject = |asked: String, allowed: String| {
            Err(Error::rejected(Rule::Limit, Some(role.name), asked, allowed).in_op(op.op().name()))
        };
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
    Ok(Plan { order, tiles, links, unit_ns, state_bytes })
}

/// Chunks that a link covers, and the links that makes: as few cuts as the caps allow.
fn links(class: &Class, chunks: u64, chunk_ns: u64, chunk_loops: u64) -> (u64, u64) {
    let room = class.unit_cap_ns - class.dispatch_ns;
    let fit = (room / chunk_ns.max(1)).min(class.loops / chunk_loops);
    let per_link = fit.clamp(1, chunks.max(1));
    (chunks.max(1).div_ceil(per_link), per_link)
}

/// Iterations of all loops of an invocation in one link.
pub(super) fn link_loops(op: &CheckedOp, class: &Class) -> u64 {
    match op.op() {
        Op::Matmul(_) => Product::of(op, class).link_k,
        Op::Attention(_) => {
            let heads = Heads::of(op, class);
            heads.per_link * heads.chunk_loops()
        }
        // A chunk in 64 lanes, and their merge.
        _ => class.row_chunk / 64 + 16,
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

/// The geometry of a product.
pub(super) struct Product {
    pub(super) m: u64,
    pub(super) n: u64,
    pub(super) k: u64,
    pub(super) tiles_m: u64,
    pub(super) tiles_n: u64,
    /// Elements of k in a link.
    pub(super) link_k: u64,
    entries: u128,
    links: u64,
    unit_ns: u64,
}

impl Product {
    pub(super) fn of(op: &CheckedOp, class: &Class) -> Self {
        let (m, n, k) = (dim(op, "out", 1), dim(op, "out", 0), dim(op, "a", 0));
        let [tm, tn] = class.tile;
        // Invocations at the edge work on whole blocks of 4 by 4.
        let area = m.min(tm).next_multiple_of(4) * n.min(tn).next_multiple_of(4);
        let rest_ns = area * 20_000 / class.product;
        let chunk_ns = 2 * area * k.min(PRODUCT_CHUNK) * 1000 / class.product;
        let (links, per_link) =
            links(class, k.div_ceil(PRODUCT_CHUNK), chunk_ns + rest_ns, PRODUCT_CHUNK);
        let unit_ns = (chunk_ns + rest_ns) * per_link;
        let entries = numel(op, "out").checked_div(u128::from(m) * u128::from(n)).unwrap_or(0);
        let (tiles_m, tiles_n) = (m.div_ceil(tm), n.div_ceil(tn));
        Self {
            m,
            n,
            k,
            tiles_m,
            tiles_n,
            link_k: per_link * PRODUCT_CHUNK,
            entries,
            links,
            unit_ns,
        }
    }

    fn tiles(&self) -> u128 {
        self.entries * u128::from(self.tiles_m) * u128::from(self.tiles_n)
    }
}

/// The geometry of attention.
pub(super) struct Heads {
    pub(super) heads: u64,
    pub(super) group: u64,
    pub(super) rows: u64,
    pub(super) d: u64,
    pub(super) dv: u64,
    pub(super) chunks: u64,
    /// Tiles of one head.
    pub(super) tiles: u64,
    /// Chunks in a link.
    pub(super) per_link: u64,
    batch: u64,
    links: u64,
    unit_ns: u64,
}

impl Heads {
    pub(super) fn of(op: &CheckedOp, class: &Class) -> Self {
        let [d, rows, heads, batch] = [0, 1, 2, 3].map(|i| dim(op, "q", i));
        let dv = dim(op, "v", 0);
        let group = heads.checked_div(dim(op, "k", 2)).unwrap_or(1);
        let chunks = dim(op, "k", 1).div_ceil(KEY_CHUNK);
        let tile = rows.min(class.query_rows).next_multiple_of(4);
        // Scores, values by whole columns of lanes, and what softmax does.
        let flops = tile * KEY_CHUNK * (2 * (d + dv) + 96);
        let chunk_ns = flops * 1000 / class.attention;
        let tiles = rows.div_ceil(class.query_rows);
        let (links, unit_ns) = (1, 0);
        let uncut =
            Self { heads, group, rows, d, dv, chunks, tiles, per_link: 1, batch, links, unit_ns };
        let (links, per_link) = self::links(class, chunks, chunk_ns, uncut.chunk_loops());
        Self { per_link, links, unit_ns: chunk_ns * per_link, ..uncut }
    }

    /// Iterations of an invocation's loops in a chunk: a score, two passes over scores, each column of values.
    fn chunk_loops(&self) -> u64 {
        let columns = self.dv.div_ceil(KEY_CHUNK);
        self.d + 2 * KEY_CHUNK + columns * (KEY_CHUNK + 1) + 8
    }

    fn tiles(&self) -> u128 {
        u128::from(self.batch) * u128::from(self.heads) * u128::from(self.tiles)
    }
}

/// The geometry of a row op. A row longer than a chunk is a tile of its own, cut into one link a pass and chunk.
pub(super) struct Rows {
    pub(super) count: u64,
    pub(super) n: u64,
    pub(super) chunks: u64,
    pub(super) per_tile: u64,
    /// Links of the statistics, then of the write; for short rows they are one link in all.
    pub(super) fold_links: u64,
    pub(super) write_links: u64,
    unit_ns: u64,
}

impl Rows {
    pub(super) fn of(op: &CheckedOp, class: &Class) -> Self {
        let n = dim(op, "x", 0);
        let shape = op.spec("x").map(|x| *x.layout.shape()).unwrap_or_default();
        let outer = shape.iter().rev().skip(1);
        let count = outer.fold(1u64, |rows, &d| rows.saturating_mul(d));
        // Without elements only a reduction has anything to write.
        let reduces = matches!(op.op(), Op::Reduce(_));
        let count = if n == 0 && !reduces { 0 } else { count };
        let chunks = n.div_ceil(class.row_chunk).max(1);
        let folds = match op.op() {
            Op::Norm(Norm { kind: NormKind::Layer, .. }) | Op::Softmax(_) => 2,
            _ => 1,
        };
        let per_tile = (class.row_chunk / n.max(ROW_LEAST)).max(1);
        let fold_links = folds * chunks;
        let write_links = if reduces { 0 } else { chunks };
        let passes = if chunks > 1 { 1 } else { fold_links + write_links };
        let work = n.clamp(ROW_LEAST, class.row_chunk) * per_tile * passes;
        let unit_ns = work * 1000 / class.moved;
        Self { count, n, chunks, per_tile, fold_links, write_links, unit_ns }
    }

    fn links(&self) -> u64 {
        if self.chunks > 1 { self.fold_links + self.write_links } else { 1 }
    }
}
