//! The rows of the attention kernels, and what their launches are given: the Rust side of `cuda/attention.h`.

use crate::map::BoxMap;
use bytemuck::{Pod, Zeroable};

/// A tensor of heads: address of the first element, and strides in elements.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Heads {
    /// Address of the first element.
    pub at: u64,
    /// Stride from a batch entry, or a page, to the next.
    pub batch: i64,
    /// Stride from a head to the next.
    pub head: i64,
    /// Stride from a query or key to the next.
    pub row: i64,
    /// Stride along the head dim, or from a key to the next in a mask.
    pub column: i64,
    /// Number of the element type.
    pub dtype: u32,
    /// 1 where the op has the operand; else nothing of it is read.
    pub present: u32,
}

/// A batch entry, in memory that no tenant writes. Its numbers are trusted: counts that a tenant gave are clamped before,
/// rows and keys to the room that the operands have.
///
/// Where rows are packed the list ends with an entry for the rows that no entry owns, with `keys` 0: they become zeros. Its
/// `first_key` is the first of the keys that none owns, where those are packed.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// Its first row where rows are packed.
    pub first_row: u32,
    /// Its query rows.
    pub rows: u32,
    /// Its first key where keys are packed; 0 where they are not, or lie in pages.
    pub first_key: u32,
    /// Its keys.
    pub keys: u32,
    /// Its first tile of a key head where rows are packed: the sum of `(rows * group).div_ceil(tile rows)` of those before.
    pub first_tile: u32,
}

/// The table of pages of every batch entry, in memory that a tenant may write at any time.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Pages {
    /// Address of the first of `[entries, ..]` words, i32 or u32, or 0.
    pub at: u64,
    /// Words from an entry to the next.
    pub entry: i64,
    /// Words from a page of an entry to the next.
    pub step: i64,
    /// Keys of a page.
    pub size: u32,
    /// Pages that K and V have: what a word must be below.
    pub count: u32,
}

/// What a launch of any attention kernel is given.
///
/// A tile is some packed rows of a key head of an entry; the packed rows of an entry are its queries times the query heads of
/// a key head, heads first. Key heads are those of all entries, or where rows are `packed` of all of them together; a section
/// is `heads_at_once` of them. Tiles are numbered through the heads of a section, then from the last tile of a head to its
/// first, then sections. A launch is a range of tiles by a range of keys:
///
/// | row | blocks | tile rows | cut of keys at | `state`, bytes a tile | `partials`, bytes |
/// |---|---|---|---|---|---|
/// | `attention_sm90` | any; tiles are dealt out | 128 | `AttentionSm90::chunk` | `AttentionSm90::state_bytes` | none |
/// | `attention_sm80` | `tiles` | `AttentionSm80::rows` | `AttentionSm80::chunk` | `AttentionSm80::state_bytes` | none |
/// | `attention_paged` | `tiles` times splits | 16 | `split` | none | `part_bytes` a block |
/// | `attention_combine` | `tiles` times rows | 16 | `split` | `AttentionCombine::part_bytes` | as it was left |
///
/// where splits are `key_to.div_ceil(split) - key_from / split`, and rows the most that a tile has. Launches of the same tiles
/// run in order of their keys, those of `attention_sm90` from right to left and all others from left to right, and share one
/// `state`, which needs no first value; a tile whose keys are not cut touches none. `attention_combine` follows each
/// `attention_paged` with the same arguments; their `partials` may be used again after it. Any cut gives equal bits, so
/// `split` alone is part of the order, with the row.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionArgs {
    /// `[batch, heads, rows, d]`. In `attention_sm90` rows are 16-byte aligned and dense; elsewhere they lie anyhow.
    pub q: Heads,
    /// `[batch, kv_heads, keys, d]`, or `[pages, kv_heads, page, d]`.
    pub k: Heads,
    /// `[batch, kv_heads, keys, dv]`, or `[pages, kv_heads, page, dv]`.
    pub v: Heads,
    /// `[batch, heads, rows, keys]`.
    pub mask: Heads,
    /// `[batch, heads, rows, dv]`.
    pub out: Heads,
    /// `[batch, heads, rows]`, f32.
    pub lse: Heads,
    /// Slopes of query heads, f32.
    pub alibi: u64,
    /// Logits without a value, f32.
    pub sinks: u64,
    /// Stride of the slopes.
    pub alibi_step: i64,
    /// Stride of the sinks.
    pub sinks_step: i64,
    /// List of [`Entry`].
    pub entries: u64,
    /// What cut tiles carry, the launch's first tile first.
    pub state: u64,
    /// First tile of the launch.
    pub first_tile: u64,
    /// How many, less than 2^32.
    pub tiles: u64,
    /// Heads of K and V.
    pub kv_heads: u32,
    /// Query heads of each.
    pub group: u32,
    /// Tiles of a key head: of an entry, or where rows are packed of all, as many as there may be.
    pub tiles_per_head: u32,
    /// Batch entries; where rows are packed those of the list, the last one included.
    pub entry_count: u32,
    /// 1: one entry stands for all.
    pub alike: u32,
    /// 1: rows and keys of the entries lie one after another.
    pub packed: u32,
    /// First key of the launch, a multiple of the chunk.
    pub key_from: u32,
    /// End of its keys: a multiple of the chunk too, or at least the keys of every entry.
    pub key_to: u32,
    /// 1: no key is left for a launch after this one, and it writes the output.
    pub last: u32,
    /// Factor of the scores.
    pub scale: f32,
    /// Soft cap; 0 is off.
    pub softcap: f32,
    /// Keys seen before a row's own; `u32::MAX`: all.
    pub left: u32,
    /// Keys seen after it; 0 where causal, `u32::MAX`: all.
    pub right: u32,
    /// Head dim of Q and K.
    pub d: u32,
    /// Head dim of V.
    pub dv: u32,
    /// Keys of a split; 0 where a tile walks all of them.
    pub split: u32,
    /// 1: no launch of these tiles came before this one.
    pub first: u32,
    /// Key heads whose tiles are numbered together, at least 1.
    pub heads_at_once: u32,
    /// Where keys lie in pages; all zeros where they lie in one tensor.
    pub pages: Pages,
    /// Three words: taken, value and bound of the first index out of range. Zeros before; 0 where nothing is indexed.
    pub fault: u64,
    /// What splits of the keys leave for `attention_combine`, or 0.
    pub partials: u64,
}

const _: () = assert!(size_of::<AttentionArgs>() == 6 * 48 + 64 + 72 + 48);

/// What a launch of `attention_sm90` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct AttentionSm90Args {
    /// K as the driver encodes it.
    pub k: BoxMap,
    /// V as the driver encodes it.
    pub v: BoxMap,
    /// All else.
    pub attention: AttentionArgs,
    /// Nothing.
    pub padding: [u32; 10],
}

const _: () = assert!(size_of::<AttentionSm90Args>() == 768);

/// A row of `attention_sm90`. It takes head dims up to its own that are multiples of 8: the maps give zeros beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionSm90 {
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
    /// Largest head dim of Q and K.
    pub d: u32,
    /// Largest head dim of V.
    pub dv: u32,
}

impl AttentionSm90 {
    /// Packed rows of a tile.
    pub const ROWS: u32 = 128;

    /// Every row.
    pub fn all() -> Vec<Self> {
        let dims = [[64, 64], [128, 128], [128, 64], [64, 128], [192, 128], [256, 256]];
        let of = |bf16| dims.into_iter().map(move |[d, dv]| Self { bf16, d, dv });
        [false, true].into_iter().flat_map(of).collect()
    }

    /// Keys of a chunk of the order, at whose multiples launches are cut: what shared memory has room for, twice.
    pub fn chunk(&self) -> u32 {
        if self.d + self.dv > 320 { 80 } else { 128 }
    }

    pub(crate) fn key(&self) -> String {
        let Self { bf16, d, dv } = self;
        format!("attention_sm90_{}_{d}_{dv}", if *bf16 { "bf16" } else { "f16" })
    }

    pub(crate) fn shape(&self) -> String {
        let (Self { bf16, d, dv }, chunk) = (self, self.chunk());
        format!("attention_sm90::Shape<{d}, {dv}, {chunk}, {}>", if *bf16 { "BF16" } else { "F16" })
    }

    pub(crate) fn threads(&self) -> u32 {
        384
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let Self { d, dv, .. } = self;
        2 * (Self::ROWS * d + 2 * self.chunk() * (d + dv)) + 64
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        4 * 256 * (u64::from(self.dv) / 2 + 4)
    }

    /// The box map of keys or values: of `[batch, heads, keys, columns]` with these strides of batch, head and key.
    pub fn map(
        &self,
        at: u64,
        [batch, heads, keys, columns]: [u64; 4],
        strides: [u64; 3],
    ) -> BoxMap {
        let [of_batch, of_head, of_key] = strides.map(|n| 2 * n);
        BoxMap {
            at,
            sizes: [columns, keys, heads, batch, 1],
            strides: [of_key, of_head, of_batch, of_batch],
            boxed: [64, self.chunk(), 1, 1, 1],
            element: 2,
            padding: [0; 6],
        }
    }
}
