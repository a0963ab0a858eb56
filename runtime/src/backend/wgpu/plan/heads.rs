//! The geometry of attention: tiles of rows, which are the query heads of a key head for each query, and links along
//! the keys.

use super::batch::{Batch, functions};
use super::{Class, OnUnit, dim};
use crate::dtype::DType;
use crate::op::{Attention, CheckedOp, OrderClass};

/// Keys of a chunk, whose partial results are merged left to right: `CHUNK` of `heads.wgsl`.
pub(super) const CHUNK: u64 = 256;

/// The kernel that runs all attention, and those that stage tiles of keys: of 32 rows, and of 8.
const PLAIN: &str = "attention";
const TILED: [&str; 2] = ["attention_tiled_32", "attention_tiled_8"];
/// Rows of a tile that are few for a workgroup of 32, and for one of 64.
const FEW: u64 = 8;
const NOT_MANY: u64 = 32;
/// Lanes of a workgroup that merges.
const LANES: u64 = 64;

/// The geometry of attention.
pub(in super::super) struct Heads {
    pub(in super::super) kv_heads: u64,
    /// Query heads of a key head.
    pub(in super::super) group: u64,
    pub(in super::super) rows: u64,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    pub(in super::super) batch: Batch,
    /// Chunks of the most keys that an entry has, at least one.
    pub(in super::super) chunks: u64,
    /// Rows of a tile, and tiles of one key head.
    pub(in super::super) tile: u64,
    pub(in super::super) tiles: u64,
    /// Chunks in a link.
    pub(in super::super) per_link: u64,
    /// Tiles of all key heads.
    all: u128,
    pub(super) links: u64,
    pub(super) unit_ns: u64,
}

impl Heads {
    pub(in super::super) fn of(checked: &CheckedOp, op: &Attention, class: &Class) -> Self {
        let [d, rows, heads, batch] = [0, 1, 2, 3].map(|i| dim(checked, "q", i));
        let dv = dim(checked, "v", 0);
        let kv_heads = dim(checked, "k", 2);
        let group = heads.checked_div(kv_heads).unwrap_or(1);
        let entries = Batch::of(checked, &op.scores, op.key_value);
        let chunks = entries.most_keys.div_ceil(CHUNK).max(1);
        // Scores, values, and the functions of a score; then the merge of the chunk.
        let functions = functions(&op.scores);
        let row_flops = CHUNK * (2 * (d + dv) + functions) + 4 * dv + 96;
        let chunk_ns = |tile: u64| tile * row_flops * 1000 / class.attention;
        let rest_ns = entries.count_ns(&op.scores);
        let room_ns = class.unit_cap_ns - class.dispatch_ns - rest_ns;
        let packed = |rows: u64| rows.saturating_mul(group);
        let mut tile = packed(rows).clamp(4, class.query_rows).next_multiple_of(4);
        while tile > 4 && chunk_ns(tile) > room_ns {
            tile = (tile / 2).next_multiple_of(4);
        }
        let tiles = entries.tiles(packed(rows), tile);
        let chunk_ns = chunk_ns(tile);
        let (links, per_link) = super::links(class, chunks, chunk_ns, rest_ns, chunk_loops(dv));
        let unit_ns = chunk_ns * per_link + rest_ns;
        Self {
            kv_heads,
            group,
            rows,
            d,
            dv,
            batch: entries,
            chunks,
            tile,
            tiles,
            per_link,
            all: u128::from(batch) * u128::from(kv_heads) * u128::from(tiles),
            links,
            unit_ns,
        }
    }

    /// Iterations of all loops of an invocation in one link: of the merge, the search of its entry included. A chunk
    /// has an invocation of its own, of a few thousand.
    pub(super) fn link_loops(&self) -> u64 {
        self.per_link * chunk_loops(self.dv) + 32
    }

    pub(super) fn tiles(&self) -> u128 {
        self.all
    }

    /// Rows of a key head.
    pub(super) fn packed_rows(&self) -> u64 {
        self.rows.saturating_mul(self.group)
    }

    /// Words of a row of a tile: maximum, sum and values.
    pub(in super::super) fn width(&self) -> u64 {
        self.dv + 2
    }
}

/// Iterations of an invocation that merges a chunk: its columns.
fn chunk_loops(dv: u64) -> u64 {
    dv.div_ceil(LANES) + 1
}

/// Kernels of attention in this class, all of one order, best first: for few rows the one of few.
pub(super) fn kernels(checked: &CheckedOp, op: &Attention, class: &Class) -> Vec<&'static str> {
    let tile = Heads::of(checked, op, class).tile;
    if let Some(unit) = on_unit(checked, op, class) {
        let mut kernels = unit.kernels.to_vec();
        if tile <= NOT_MANY {
            kernels.reverse();
        }
        return kernels;
    }
    match (class.tiled, tile > FEW) {
        (false, _) => vec![PLAIN],
        (true, false) => vec![TILED[1], PLAIN],
        (true, true) => [&TILED[..], &[PLAIN]].concat(),
    }
}

/// How attention runs on the matrix unit, with every option: of f16, and of a tile of rows and columns at least. An
/// output of f32 would show that weights are rounded to f16, and an order that ignores the rows is that of one.
pub(super) fn on_unit(checked: &CheckedOp, op: &Attention, class: &Class) -> Option<OnUnit> {
    let unit = class.unit?;
    let dtype = |name| checked.spec(name).map(|spec| spec.dtype);
    let halves = ["q", "k", "v"].map(dtype) == [Some(DType::F16); 3];
    let [d, heads] = [0, 2].map(|i| dim(checked, "q", i));
    let most = Batch::of(checked, &op.scores, op.key_value).most_rows;
    let group = heads.checked_div(dim(checked, "k", 2)).unwrap_or(1);
    let least = most.saturating_mul(group).min(d).min(dim(checked, "v", 0));
    let runs = halves
        && dtype("out") != Some(DType::F32)
        && least >= unit.edge
        && op.order != OrderClass::BatchInvariant;
    runs.then_some(unit.attention)
}
