//! How ops are cut into tiles and links, and what the dearest unit takes: the numbers that planner and kernels share.
//! Pure: shapes, dtypes and the arch class.

use super::batch::{most, packed_tiles};
use super::few::Few;
use super::isa::Isa;
use super::plan::{
    BACKWARD_CHUNK, BAND_ROWS, BYTE_CHUNK, COLUMNS, Class, ELEMENTS, FEW_COLUMNS, FEW_OF_COLUMNS,
    FEW_OF_ROWS, FEW_ROWS_OF_B, LANES_TILE, LAUNCH_NS, LEAST_ROWS, LINK_ENTRIES, MANY_BANDS,
    PACKED_MOST, ROW_CHUNK, ROW_NS, SHARED_MOST, STREAM, STRIDED, WEIGHTS, class,
};
use crate::dtype::DType;
use crate::op::{
    Attention, CheckedOp, Gate, Group, KeyValue, Lens, Mask, Matmul, Op, OrderClass, Quantize,
    QuantizeFormat, Scale, Scores, Spec,
};
use crate::order::UNIT_CAP_SLOW_NS;

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

/// Whether the matrices of an operand are dense or constant along one of their axes.
fn has_lines(op: &CheckedOp) -> impl Fn(&&str) -> bool + '_ {
    |name| {
        let step = |s: &Spec| s.layout.strides().iter().rev().take(2).min().copied().unwrap_or(1);
        op.spec(name).is_none_or(|spec| step(spec) <= 1)
    }
}

/// The kernel that sums a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Multiply-adds, on f32 or what is widened to it.
    Wide,
    /// Dot-product instructions, on bf16.
    Dot,
    /// Few rows beside a B that lies so.
    Few(Few),
}

/// The kernel of a product on a class.
pub(super) fn way(checked: &CheckedOp, class: &Class) -> Way {
    let bf16 = |name: &str| checked.spec(name).is_some_and(|spec| spec.dtype == DType::BF16);
    // Operands that lie dense neither way are gathered, which tiles of dot products are too large for.
    let dot =
        class.dot.is_some() && ["a", "b"].iter().all(|name| bf16(name) && has_lines(checked)(name));
    few(checked, class, dot).map_or(if dot { Way::Dot } else { Way::Wide }, Way::Few)
}

/// Whether a product has so few rows that B is best read where it lies.
fn few(checked: &CheckedOp, class: &Class, dot: bool) -> Option<Few> {
    let Op::Matmul(op) = checked.op() else { return None };
    let (a, b) = (checked.spec("a")?, checked.spec("b")?);
    let [rows, axes] = [a, b].map(|side| side.layout.rank() - 2);
    // Their sums have an order of their own, and there is none for many rows to share.
    if op.order == OrderClass::BatchInvariant {
        return None;
    }
    // A scale that the op finds is of more columns than these tiles have.
    if op.group != Group::None || op.quantize == Scale::Block1x128 || a.dtype.size() == 1 {
        return None;
    }
    let [f32, bf16, f16] = FEW_OF_ROWS;
    let of_rows = match b.dtype {
        DType::F32 => f32,
        DType::BF16 => bf16,
        _ => f16,
    };
    let [floats, halves, vectors, tiles] = FEW_OF_COLUMNS;
    let (form, most) = match (b.layout.strides()[axes], b.layout.strides()[axes + 1]) {
        (1, _) if dot && class.isa == Isa::Amx => (Few::Tiles, tiles),
        (1, _) if dot => (Few::Columns, vectors),
        (1, _) if b.dtype == DType::F32 => (Few::Columns, floats),
        (1, _) => (Few::Columns, halves),
        (_, 1) => (Few::Rows, of_rows),
        _ => return None,
    };
    (a.layout.shape()[rows] <= most).then_some(form)
}

/// Tile and chunk of a product.
pub(super) fn product_tile(op: &CheckedOp, class: &Class) -> ([u32; 2], u32) {
    match (way(op, class), class.dot) {
        (Way::Few(Few::Columns | Few::Tiles), _) => return FEW_COLUMNS,
        (Way::Few(Few::Rows), _) => return FEW_ROWS_OF_B,
        (Way::Dot, Some((tile, _))) => return (tile, class.chunk),
        _ => {}
    }
    let bytes = op.spec("a").is_some_and(|a| a.dtype.size() == 1);
    let chunk = if bytes { BYTE_CHUNK as u32 } else { class.chunk };
    let [rows, cols] = class.tile;
    // Two columns of B make one of the output, and 128 of those have a scale of their own.
    let paired = matches!(op.op(), Op::Matmul(op)
        if op.gate == Gate::Interleaved && op.quantize == Scale::Block1x128);
    let tile = if paired && cols < 256 { [rows * cols / 256, 256] } else { [rows, cols] };
    (tile, chunk)
}

/// The geometry of a product: a tile is a block of rows of one entry or group by columns of B.
pub(super) struct Product {
    /// Rows of an entry of the output, columns of B, and K in all.
    pub(super) m: u64,
    pub(super) n: u64,
    pub(super) k: u64,
    pub(super) tile: [u64; 2],
    pub(super) chunk: u64,
    pub(super) way: Way,
    /// Row blocks of an entry, and column blocks.
    pub(super) tiles_m: u64,
    pub(super) tiles_n: u64,
    pub(super) band_rows: u64,
    /// Whether B is one matrix for all, and its bands share what is packed of it.
    pub(super) one: bool,
    pub(super) shares: bool,
    pub(super) per_link: u64,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
    pub(super) tiles: u128,
}

impl Product {
    pub(super) fn of(checked: &CheckedOp, op: &Matmul, isa: Isa) -> Self {
        let class = class(isa);
        let dims =
            |name, i| checked.spec(name).map_or(0, |s| s.layout.shape()[s.layout.rank() - 2 + i]);
        let (m, n, k) = (dims("out", 0), dims("b", 1), dims("a", 1));
        let (tile, chunk) = product_tile(checked, class);
        let ([tm, tn], chunk) = (tile.map(u64::from), u64::from(chunk));
        // The most of K that a group has.
        let depth = match (&op.group, &op.sizes) {
            (Group::K, Lens::Host(list)) => list.iter().max().map_or(0, |&n| u64::from(n)).min(k),
            (Group::K, Lens::Device { max }) => k.min((*max).into()),
            _ => k,
        };
        let (rows, cols) = (m.min(tm), n.min(tn));
        let chunk_ns = chunk_ns(checked, class, [rows, cols, depth.min(chunk)]);
        let rest_ns = rest_ns(checked, op, class, [rows, cols]);
        let (links, per_link, unit_ns) = links(depth.div_ceil(chunk), chunk_ns, rest_ns);
        let (tiles_m, tiles_n) = (m.div_ceil(tm), n.div_ceil(tn));
        let out = checked.spec("out").map(|s| *s.layout.shape()).unwrap_or_default();
        let entries = out[..out.rank() - 2].iter().fold(1u128, |p, &d| p.saturating_mul(d.into()));
        let blocks = match op.group {
            Group::Contiguous => row_blocks(op, m, groups(checked, op), tm).into(),
            _ => entries.saturating_mul(tiles_m.into()),
        };
        let tiles = blocks.saturating_mul(tiles_n.into());
        let way = way(checked, class);
        let columns = u128::from(tiles_n);
        let bands = |rows: &u64| entries.saturating_mul(u128::from(m.div_ceil(*rows)) * columns);
        let even = |rows: &u64| bands(rows) >= MANY_BANDS || bands(rows).is_multiple_of(4);
        let alone = op.group == Group::None && !op.index_b;
        let one = alone && checked.spec("b").is_some_and(is_one_matrix);
        let meet = |rows: u64| entries.saturating_mul(m.div_ceil(rows).into());
        let [_, middle, least] = BAND_ROWS;
        let (band_rows, shares) = if way == Way::Dot {
            let packed = 1..=PACKED_MOST;
            let fits = n > 0 && packed.contains(&k.saturating_mul(tn));
            // Taller sums do not stay near. A B that few bands meet had better not be written and read again.
            let few = meet(middle) <= 2 && even(&middle);
            let shares = one && fits && meet(least) > 1 && !few;
            (if shares && !even(&middle) { least } else { middle }, shares)
        } else {
            let rows = BAND_ROWS.into_iter().find(even).unwrap_or(least);
            let packed = 1..=SHARED_MOST;
            let shares =
                way == Way::Wide && one && meet(rows) > 2 && packed.contains(&k.saturating_mul(n));
            // A short B stays near from band to band, and so do the sums of a short band.
            (if shares && k <= chunk { least } else { rows }, shares)
        };
        let tile = [tm, tn];
        Self {
            m,
            n,
            k,
            tile,
            chunk,
            way,
            tiles_m,
            tiles_n,
            band_rows,
            one,
            shares,
            per_link,
            links,
            unit_ns,
            tiles,
        }
    }
}

/// Whether all batch entries of an operand are the same matrix.
fn is_one_matrix(spec: &Spec) -> bool {
    let axes = spec.layout.rank() - 2;
    let (shape, strides) = (spec.layout.shape(), spec.layout.strides());
    (0..axes).all(|axis| shape[axis] == 1 || strides[axis] == 0)
}

/// How many counts an op has of a kind, whose device operand has this name; 0 where nothing is counted.
fn count(checked: &CheckedOp, lens: &Lens, name: &str) -> u64 {
    match lens {
        Lens::Full => 0,
        Lens::Host(list) => list.len() as u64,
        Lens::Device { .. } => checked.spec(name).map_or(0, |counts| counts.layout.shape()[0]),
    }
}

/// Groups that have a size; 0 without groups.
pub(super) fn groups(checked: &CheckedOp, op: &Matmul) -> u64 {
    count(checked, &op.sizes, "sizes")
}

/// Batch entries whose rows or keys are counted; 0 where none are.
pub(super) fn counted(checked: &CheckedOp, scores: &Scores) -> u64 {
    count(checked, &scores.rows, "rows").max(count(checked, &scores.lens, "lens"))
}

/// Most row blocks that groups one after another come to, the rows that none owns included.
fn row_blocks(op: &Matmul, m: u64, groups: u64, tile: u64) -> u64 {
    match &op.sizes {
        Lens::Host(list) => {
            let owned: u64 = list.iter().map(|&n| u64::from(n)).sum();
            let blocks: u64 = list.iter().map(|&n| u64::from(n).div_ceil(tile)).sum();
            blocks + m.saturating_sub(owned).div_ceil(tile)
        }
        // At most one partial block a group, and one of the rows that none owns.
        _ => m.div_ceil(tile) + groups + 1,
    }
}

fn chunk_ns(op: &CheckedOp, class: &Class, [rows, cols, depth]: [u64; 3]) -> u64 {
    let way = way(op, class);
    let rate = class.dot.filter(|_| way == Way::Dot).map_or(class.product, |(_, rate)| rate);
    let flops_ns = 2 * rows * cols * depth * 1000 / rate;
    if let Way::Few(_) = way {
        return (2 * flops_ns).max(depth * cols * 4000 / STREAM);
    }
    let panels = rows * depth + depth * cols;
    let dtype = op.spec("a").map_or(DType::F32, |a| a.dtype);
    let dense = dtype == DType::F32
        || rows.min(cols).min(depth) >= 64 && ["a", "b"].iter().all(has_lines(op));
    let panels_ns = if dense { panels * 4000 / STREAM } else { panels * 1000 / STRIDED };
    let promotion = if dtype.size() == 1 { rows * cols * 500 / class.epilogue[0] } else { 0 };
    flops_ns.max(panels_ns) + promotion
}

fn rest_ns(checked: &CheckedOp, op: &Matmul, class: &Class, [rows, cols]: [u64; 2]) -> u64 {
    let ends = ["bias", "c", "gate", "residual", "out", "preactivation"];
    let rate = class.epilogue[usize::from(!ends.iter().all(has_rows(checked)))];
    let bytes = checked.spec("a").is_some_and(|a| a.dtype.size() == 1);
    let more = op.beta != 0.0 || op.preactivation || op.quantize != Scale::None || bytes;
    let sizes_ns = groups(checked, op) * 3;
    LAUNCH_NS + sizes_ns + rows * ROW_NS + (1 + u64::from(more)) * rows * cols * 1000 / rate
}

/// The kernel that mixes values by scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Products of panels.
    Panels,
    /// Query rows on lanes: of f32, or of bf16 as it lies.
    Lanes { pairs: bool },
}

/// Query rows of a tile of attention and keys of a chunk, and the kernel: lanes where the class has them and an entry has
/// rows enough to fill a register, or the order may not tell few rows from many.
pub(super) fn attention_tile(
    checked: &CheckedOp,
    op: &Attention,
    class: &Class,
) -> ([u32; 2], Mix) {
    let bf16 = |name: &&str| checked.spec(name).is_some_and(|spec| spec.dtype == DType::BF16);
    let dim = |name, i: usize| checked.spec(name).map_or(0, |s| s.layout.shape()[i]);
    let entries = count(checked, &op.scores.rows, "rows");
    let sized = op.order == OrderClass::BatchInvariant
        || dim("q", 2) >= LEAST_ROWS.saturating_mul(entries.max(1));
    if !class.lanes || !sized || dim("q", 3) == 0 || dim("v", 3) == 0 {
        return (class.attention_tile, Mix::Panels);
    }
    // Weights are rounded as values are, which an output of more digits would show.
    let pairs = class.dot.is_some() && ["q", "k", "v", "out"].iter().all(bf16);
    (LANES_TILE[usize::from(pairs)], Mix::Lanes { pairs })
}

/// The geometry of attention, shared by the planner and the kernel.
pub(super) struct Heads {
    /// Batch entries that Q has an axis for: all, or one where rows are packed.
    pub(super) batch: u64,
    pub(super) heads: u64,
    /// Tiles of a head, and the most keys that one sees.
    pub(super) blocks: u64,
    pub(super) keys: u64,
    pub(super) links: u64,
    pub(super) per_link: u64,
    pub(super) mix: Mix,
    pub(super) unit_ns: u64,
    pub(super) dv: u64,
}

impl Heads {
    pub(super) fn of(checked: &CheckedOp, op: &Attention, isa: Isa) -> Self {
        let dim = |name, i: usize| checked.spec(name).map_or(0, |s| s.layout.shape()[i]);
        let class = class(isa);
        let (tile, mix) = attention_tile(checked, op, class);
        let [tile, chunk] = tile.map(u64::from);
        let (batch, heads, rows, d, dv) =
            (dim("q", 0), dim("q", 1), dim("q", 2), dim("q", 3), dim("v", 3));
        let room = match op.key_value {
            KeyValue::Dense => dim("k", 2),
            KeyValue::Paged { page } => dim("pages", 1).saturating_mul(page.into()),
        };
        let packed_alone = op.scores.lens == Lens::Full && op.key_value == KeyValue::Dense;
        let keys = most(if packed_alone { &op.scores.rows } else { &op.scores.lens }, room);
        let blocks = match op.scores.rows {
            Lens::Full => rows.div_ceil(tile),
            _ => packed_tiles(&op.scores.rows, rows, dim("rows", 0), tile),
        };
        // Functions of a score take as long as a few dims more.
        let extra = u64::from(op.scores.softcap > 0.0) * 24 + u64::from(op.scores.alibi) * 4;
        let scores = tile * chunk;
        let chunk_ns = match mix {
            Mix::Panels => 2 * scores * (d + dv + 8 + extra) * 1000 / class.attention,
            Mix::Lanes { pairs } => {
                let rate = class.dot.filter(|_| pairs).map_or(class.product, |(_, rate)| rate);
                let masked = u64::from(op.scores.mask != Mask::None) * 8;
                let functions = 2 * scores * (extra + masked) * 1000 / class.attention;
                2 * scores * (d + dv) * 1000 / rate + scores * 1000 / WEIGHTS + functions
            }
        };
        let rest_ns = LAUNCH_NS + tile * (d + dv);
        let (links, per_link, unit_ns) = links(keys.div_ceil(chunk).max(1), chunk_ns, rest_ns);
        Self { batch, heads, blocks, keys, links, per_link, mix, unit_ns, dv }
    }
}

/// The geometry of the gradients of attention: tiles of query rows, then tiles of keys.
pub(super) struct Gradients {
    /// Rows and keys that meet at once.
    pub(super) tile: [u64; 2],
    /// Query heads of a key head, and tiles of rows and of keys of a head.
    pub(super) group: u64,
    pub(super) row_tiles: u64,
    pub(super) key_tiles: u64,
    /// Chunks of the most rows and of the most keys that an entry has.
    pub(super) row_chunks: u64,
    pub(super) key_chunks: u64,
    /// Tiles of query rows, and in all.
    pub(super) of_queries: u128,
    pub(super) tiles: u128,
    pub(super) per_link: u64,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
    /// Elements that a cut tile carries.
    pub(super) carried: u64,
}

impl Gradients {
    pub(super) fn of(op: &CheckedOp, scores: &Scores, isa: Isa) -> Self {
        let class = class(isa);
        let dim = |name, i: usize| op.spec(name).map_or(0, |s| s.layout.shape()[i]);
        let (batch, heads, kv_heads) = (dim("q", 0), dim("q", 1), dim("k", 1));
        let (d, dv) = (dim("q", 3), dim("v", 3));
        let tile = class.backward_tile.map(u64::from);
        let group = heads.checked_div(kv_heads).unwrap_or(1);
        let [rows, keys] = tile;
        // Keys without counts of their own are packed by those of rows.
        let packed = scores.rows != Lens::Full;
        let alone = packed && scores.lens == Lens::Full;
        let key_lens = if alone { &scores.rows } else { &scores.lens };
        let entries = counted(op, scores);
        let of = |lens: &Lens, room: u64, tile: u64| match packed {
            true => packed_tiles(lens, room, entries, tile),
            false => room.div_ceil(tile),
        };
        let (row_tiles, key_tiles) =
            (of(&scores.rows, dim("q", 2), rows), of(key_lens, dim("k", 2), keys));
        let row_chunks = most(&scores.rows, dim("q", 2)).div_ceil(rows);
        let key_chunks = most(key_lens, dim("k", 2)).div_ceil(keys);
        let functions = 12
            + u64::from(scores.softcap > 0.0) * 24
            + u64::from(scores.alibi) * 4
            + u64::from(scores.mask != Mask::None) * 8;
        let chunk_ns = 2 * rows * keys * (2 * d + 2 * dv + functions) * 1000 / class.attention;
        let rest_ns = LAUNCH_NS + (rows + keys) * (d + dv);
        let chain = key_chunks.max(group.saturating_mul(row_chunks));
        let (links, per_link, unit_ns) = links(chain, chunk_ns, rest_ns);
        let tiles = |heads: u64, tiles: u64| {
            u128::from(batch).saturating_mul(u128::from(heads) * u128::from(tiles))
        };
        let of_queries = tiles(heads, row_tiles);
        let tiles = of_queries.saturating_add(tiles(kv_heads, key_tiles));
        let carried = rows.max(keys) * (d + dv);
        Self {
            tile,
            group,
            row_tiles,
            key_tiles,
            row_chunks,
            key_chunks,
            of_queries,
            tiles,
            per_link,
            links,
            unit_ns,
            carried,
        }
    }
}

/// The geometry of a scatter: a tile is a run of columns of every entry, or a head of appended rows.
pub(super) struct Entries {
    /// Entries in all, and elements of each.
    pub(super) count: u64,
    pub(super) inner: u64,
    /// Columns of a tile.
    pub(super) columns: u64,
    pub(super) per_link: u64,
    pub(super) tiles: u64,
    pub(super) links: u64,
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
pub(super) const ROW_LEAST: u64 = 64;

/// Rows of a tile, for rows of length `n`: one when it is long.
pub(super) fn rows_per_tile(n: u64) -> u64 {
    rows_of(ROW_CHUNK, n)
}

/// Rows of a tile of the gradient of a norm.
pub(super) fn backward_rows(n: u64) -> u64 {
    rows_of(BACKWARD_CHUNK, n)
}

pub(super) fn rows_of(chunk: u64, n: u64) -> u64 {
    (chunk / n.max(ROW_LEAST)).max(1)
}

/// The geometry of a quantisation: cells that have a scale each, or, where scales are given or cover more, runs of a
/// row. What covers more is a chain: one pass over its pieces finds the scale, the next writes.
pub(super) struct Cells {
    /// Rows and columns of a matrix of the float tensor, and of a cell.
    pub(super) matrix: [u64; 2],
    pub(super) size: [u64; 2],
    /// Cells down and across a matrix, and in all.
    pub(super) down: u64,
    pub(super) across: u64,
    pub(super) count: u128,
    /// Cells of a tile or of a piece of a chain.
    pub(super) per_piece: u64,
    /// Pieces of a chain.
    pub(super) chain: Option<u64>,
    pub(super) tiles: u128,
    /// Elements of a tile or link that are worked on, and cells.
    pub(super) work: u64,
}

impl Cells {
    pub(super) fn of(checked: &CheckedOp, op: &Quantize) -> Self {
        let wide = checked.spec(if op.inverse { "out" } else { "x" });
        let dims = wide.map(|s| *s.layout.shape()).unwrap_or_default();
        let rank = dims.rank();
        let n = dims.last().copied().unwrap_or(1);
        let m = if rank >= 2 { dims[rank - 2] } else { 1 };
        let matrices =
            dims.iter().rev().skip(2).fold(1u128, |p, &d| p.saturating_mul(u128::from(d)));
        let [h, w] = match op.format {
            QuantizeFormat::Block1x128 => [1, 128],
            QuantizeFormat::Block128x128 => [128, 128],
            QuantizeFormat::Group32 => [1, 32],
            QuantizeFormat::Tensor | QuantizeFormat::Row => [1, n.clamp(1, ROW_CHUNK)],
        };
        let finds_row = op.format == QuantizeFormat::Row && !op.inverse;
        // An empty row has a scale too.
        let across = n.div_ceil(w).max(finds_row.into());
        let down = m.div_ceil(h);
        let rows = matrices.saturating_mul(down.into());
        let count = rows.saturating_mul(across.into());
        let mut per_piece = (ELEMENTS / (h * w.max(ROW_LEAST))).max(1);
        let pieces = count.div_ceil(per_piece.into());
        let (chain, tiles) = match op.format {
            QuantizeFormat::Tensor if !op.inverse => {
                (Some(u64::try_from(pieces.max(1)).unwrap_or(u64::MAX / 2)), 1)
            }
            QuantizeFormat::Row if finds_row && across > 1 => {
                per_piece = 1;
                (Some(across), rows)
            }
            _ => (None, pieces),
        };
        let work = per_piece * h * w.max(ROW_LEAST);
        Self { matrix: [m, n], size: [h, w], down, across, count, per_piece, chain, tiles, work }
    }

    pub(super) fn links(&self) -> u64 {
        self.chain.map_or(1, |pieces| pieces.saturating_mul(2))
    }
}
