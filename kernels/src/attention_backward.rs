//! The rows of the kernels of attention's gradients, and what their launches are given: the Rust side of
//! `cuda/attention_backward.h`.

use crate::attention::Heads;
use bytemuck::{Pod, Zeroable};

/// What a launch of any kernel of attention's gradients is given.
///
/// An op is three kinds of launches, in this order: [`AttentionBackwardRows`], then for each [`GradientSide`] a row of
/// [`crate::AttentionBackwardSm90`], [`AttentionBackwardSm80`] or [`AttentionBackwardReference`]; the sides do not need each
/// other. Each has a block for each tile, but rows of [`crate::AttentionBackwardSm90`], whose blocks may be any number. Tiles
/// are numbered through those of a head, of which there are [`gradient_tiles`], then heads, then entries of the batch, or where
/// rows and keys are packed the heads of all together; a launch is a range of tiles by a range of their chunks:
///
/// | row | tiles of | tile | chunk | chunks of a tile | `state`, bytes a tile |
/// |---|---|---|---|---|---|
/// | `attention_backward_rows` | query heads' rows | `AttentionBackwardRows::ROWS` | never cut | 1 | none |
/// | keys | key heads' keys | `tile()` | `chunk()` rows | `group * most_rows.div_ceil(chunk)`, head after head | `state_bytes()` |
/// | queries | query heads' rows | `tile()` | `chunk()` keys | those of the most keys of an entry | `state_bytes()` |
///
/// Launches of the same tiles run in order of their chunks and share one `state`, which needs no first value. A tile without
/// a chunk is one launch of none with `last` 1, which writes zeros; where there are no rows, `attention_backward_rows` has no
/// tile. Any cut gives equal bits, and neither tile nor chunk is part of the order: sums go sixteen rows at a time by the
/// matrix unit, one in the reference.
///
/// The caller sees to it that rows and keys together are less than 2^31.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionBackwardArgs {
    /// `[batch, heads, rows, d]`. All operands lie anyhow.
    pub q: Heads,
    /// `[batch, kv_heads, keys, d]`.
    pub k: Heads,
    /// `[batch, kv_heads, keys, dv]`.
    pub v: Heads,
    /// `[batch, heads, rows, keys]`, of any float type; none over packed rows.
    pub mask: Heads,
    /// `[batch, heads, rows, dv]`, of any float type; only `attention_backward_rows` reads it.
    pub out: Heads,
    /// `[batch, heads, rows]`, f32, of the natural logarithm; minus infinity: the row has no weights.
    pub lse: Heads,
    /// `[batch, heads, rows, dv]`.
    pub d_out: Heads,
    /// `[batch, heads, rows, d]`, of any float type, as all gradients.
    pub d_q: Heads,
    /// `[batch, kv_heads, keys, d]`.
    pub d_k: Heads,
    /// `[batch, kv_heads, keys, dv]`.
    pub d_v: Heads,
    /// Slopes of query heads, f32, or 0.
    pub alibi: u64,
    /// Stride of the slopes.
    pub alibi_step: i64,
    /// List of [`crate::Entry`], of which `first_tile` is not read, or 0: every entry has `rows` and `keys`. Rows and keys are
    /// packed alike.
    pub entries: u64,
    /// Scratch of [`AttentionBackwardRows::bytes`], 16-byte aligned: what the first launches leave for the others.
    pub statistics: u64,
    /// What cut tiles carry, the launch's first tile first.
    pub state: u64,
    /// First tile of the launch.
    pub first_tile: u64,
    /// How many.
    pub tiles: u64,
    /// First chunk of the launch.
    pub from: u64,
    /// End of its chunks.
    pub to: u64,
    /// Heads of K and V.
    pub kv_heads: u32,
    /// Query heads of each.
    pub group: u32,
    /// Query rows of an entry, of all where they are packed.
    pub rows: u32,
    /// Room for keys, likewise.
    pub keys: u32,
    /// The most rows that an entry has.
    pub most_rows: u32,
    /// Entries of the list where rows and keys are packed, the last one included; else 0.
    pub entry_count: u32,
    /// Rows to whole tiles: [`AttentionBackwardRows::room`].
    pub room: u32,
    /// 1: no chunk is left after this launch, and it writes its gradients.
    pub last: u32,
    /// Factor of the scores.
    pub scale: f32,
    /// Soft cap; 0 is off.
    pub softcap: f32,
    /// Keys seen before a row's own, less than 2^31; `i32::MAX`: all.
    pub left: u32,
    /// Keys seen after it, likewise; 0 where causal.
    pub right: u32,
    /// Head dim of Q and K.
    pub d: u32,
    /// Head dim of V.
    pub dv: u32,
}

const _: () = assert!(size_of::<AttentionBackwardArgs>() == 10 * 48 + 72 + 56);

/// Tiles of a head: of so many rows or keys, `tile` at a time. Where entries are packed, of which the list has `packed`, each
/// begins a tile, and some tiles are of nothing.
pub fn gradient_tiles(count: u64, tile: u64, packed: u64) -> u64 {
    if packed > 0 { count / tile + packed } else { count.div_ceil(tile) }
}

/// Which gradients a row gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GradientSide {
    /// Those of K and V.
    Keys,
    /// Those of Q.
    Queries,
}

impl GradientSide {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Keys, Self::Queries];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Queries => "queries",
        }
    }
}

/// The row of `attention_backward_rows`: what both sides need of each query row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionBackwardRows;

impl AttentionBackwardRows {
    /// Rows of a tile.
    pub const ROWS: u32 = 64;

    /// Rows of a head in the scratch that it writes: those of [`gradient_tiles`].
    pub fn room(rows: u64, packed: u64) -> u64 {
        gradient_tiles(rows, Self::ROWS.into(), packed) * u64::from(Self::ROWS)
    }

    /// Bytes of that scratch, for so many query heads.
    pub fn bytes(heads: u64, room: u64) -> u64 {
        heads * 8 * room
    }

    pub(crate) fn shape(self) -> String {
        "attention_backward_rows::Shape".into()
    }

    pub(crate) fn threads(self) -> u32 {
        256
    }
}

/// A row of `attention_backward`, gradients by `mma.sync`. Q, K, V and d_out are of its type. It rounds weights and gradients
/// of scores to that, so that gradients of a finer type are right to its rounding only: `attention_backward_reference` makes
/// those that are to be right in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionBackwardSm80 {
    /// What it gives.
    pub side: GradientSide,
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
    /// The largest head dim, of Q and K and of V.
    pub d: u32,
}

impl AttentionBackwardSm80 {
    /// Every row.
    pub fn all() -> Vec<Self> {
        let of = |side, bf16| [32, 64, 96, 128, 256].map(|d| Self { side, bf16, d });
        GradientSide::ALL
            .into_iter()
            .flat_map(|side| [of(side, false), of(side, true)].concat())
            .collect()
    }

    /// Blocks of sixteen rows of a warp, or of a pair of warps that share keys: as registers have room for.
    fn blocks(&self) -> u32 {
        let most = if self.side == GradientSide::Keys { 128 } else { 64 };
        if self.d > most { 1 } else { 2 }
    }

    fn warps(&self) -> u32 {
        match (self.side, self.d) {
            (GradientSide::Queries, ..=64 | 129..) => 4,
            _ => 8,
        }
    }

    /// Keys or query rows of a tile.
    pub fn tile(&self) -> u32 {
        let sharing = if self.side == GradientSide::Keys { 2 } else { 1 };
        self.warps() / sharing * 16 * self.blocks()
    }

    /// Rows of the other side of a chunk, at whose multiples launches are cut.
    pub fn chunk(&self) -> u32 {
        match (self.side, self.d) {
            // Of wider keys, registers have no room for more scores.
            (GradientSide::Keys, 64..=96) | (GradientSide::Queries, ..=128) => 32,
            _ => 16,
        }
    }

    pub(crate) fn key(&self) -> String {
        let dtype = if self.bf16 { "bf16" } else { "f16" };
        format!("attention_backward_{}_{dtype}_{}", self.side.name(), self.d)
    }

    pub(crate) fn shape(&self) -> String {
        let (d, chunk, blocks, warps) = (self.d, self.chunk(), self.blocks(), self.warps());
        let dtype = if self.bf16 { "BF16" } else { "F16" };
        match self.side {
            GradientSide::Keys => {
                format!("attention_backward::KeysShape<{d}, {chunk}, {blocks}, {dtype}>")
            }
            GradientSide::Queries => {
                format!(
                    "attention_backward::QueriesShape<{d}, {chunk}, {blocks}, {warps}, {dtype}>"
                )
            }
        }
    }

    pub(crate) fn run(&self) -> &'static str {
        match self.side {
            GradientSide::Keys => "attention_backward::run_keys",
            GradientSide::Queries => "attention_backward::run_queries",
        }
    }

    pub(crate) fn threads(&self) -> u32 {
        32 * self.warps()
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        // Two numbers of each row of a chunk, and the tile.
        let numbers = if self.side == GradientSide::Keys { 16 * self.chunk() + 48 } else { 0 };
        4 * self.d * (self.tile() + 2 * self.chunk()) + numbers
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        u64::from(self.blocks() * self.d / 2 * self.threads()) * 4
    }
}

/// A row of `attention_backward_reference`, gradients as they are written down. Every operand and gradient is f32, f16 or bf16
/// by itself; head dims to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionBackwardReference {
    /// What it gives.
    pub side: GradientSide,
}

impl AttentionBackwardReference {
    /// Keys or query rows of a tile.
    pub const TILE: u32 = 16;

    /// Rows of the other side of a chunk.
    pub const CHUNK: u32 = 64;

    /// Bytes that a cut tile carries.
    pub const STATE_BYTES: u64 = 16 * 2 * 256 * 4;

    pub(crate) fn key(self) -> String {
        format!("attention_backward_reference_{}_256", self.side.name())
    }

    pub(crate) fn shape(self) -> String {
        "attention_backward_reference::Shape<256>".into()
    }

    pub(crate) fn run(self) -> &'static str {
        match self.side {
            GradientSide::Keys => "attention_backward_reference::run_keys",
            GradientSide::Queries => "attention_backward_reference::run_queries",
        }
    }

    pub(crate) fn threads(self) -> u32 {
        32 * Self::TILE
    }
}
