//! The rows of the kernels that stream through memory, and what their launches are given: the Rust side of `cuda/copy.h`
//! and its neighbours. Every block has 256 threads. Operand types are run-time values unless a row's name has a width.

use crate::view::{Axes, Range, Rows, View};
use bytemuck::{Pod, Zeroable};

/// A row of a kernel that streams through memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Streaming {
    /// `copy` of elements of so many bytes: 1, 2, 4. Given [`CopyArgs`].
    Copy(u32),
    /// `map` in f32, by vectors of 8 elements where all types are of 16 bits, else of 4. Given [`MapArgs`].
    Map(u32),
    /// `map` of i32 or u32. Given [`MapArgs`].
    MapIntegers,
    /// `norm` by so many lanes a row: [`Streaming::lanes`]. Given [`NormArgs`].
    Norm(u32),
    /// `softmax` by so many lanes a row. Given [`SoftmaxArgs`].
    Softmax(u32),
    /// `reduce` by so many lanes a row. Given [`ReduceArgs`].
    Reduce(u32),
    /// `reduce` by one lane a row, for rows that lie side by side (the innermost outer axis of x is dense, the row is not) or
    /// have fewer than 32 elements. Given [`ReduceArgs`].
    ReduceAcross,
    /// `gather` of elements of so many bytes. Given [`GatherArgs`].
    Gather(u32),
    /// `scatter` that sets or appends elements of so many bytes. Given [`ScatterArgs`].
    Scatter(u32),
    /// `scatter` that adds. Given [`ScatterAddArgs`].
    ScatterAdd,
    /// `rope`. Given [`RopeArgs`].
    Rope,
    /// `arg_max` by so many lanes a row. Given [`ArgMaxArgs`].
    ArgMax(u32),
    /// `top_k` by so many lanes a row. Given [`TopKArgs`].
    TopK(u32),
}

/// What a launch of `copy` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct CopyArgs {
    /// Which elements.
    pub range: Range,
    /// x, out.
    pub views: [View; 2],
}

/// What a launch of `map` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MapArgs {
    /// Which elements.
    pub range: Range,
    /// x, y, out. Where the function has one input, y is x again and not read.
    pub views: [View; 3],
    /// Number of the function in `MapFn`.
    pub function: u32,
    /// Factor of the result; integers have none.
    pub scale: f32,
    /// Added to the result.
    pub shift: f32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `norm` is given. Passes of a row in pieces: 0 (of layer alone), 1, 2; two word pairs a piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct NormArgs {
    /// Which rows.
    pub rows: Rows,
    /// x, out.
    pub views: [View; 2],
    /// A vector of a row's length: its `inner` alone counts.
    pub weight: View,
    /// Another.
    pub bias: View,
    /// Added under the root.
    pub epsilon: f32,
    /// 1: mean and variance; 0: root mean square.
    pub layer: u32,
}

/// What a launch of `softmax` is given. Passes of a row in pieces: 0, 1; two word pairs a piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SoftmaxArgs {
    /// Which rows.
    pub rows: Rows,
    /// x, out.
    pub views: [View; 2],
    /// Factor of the input.
    pub scale: f32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `reduce` is given. Rows may be empty. Passes of a row in pieces: 0 over the pieces, 1 with
/// `piece_count` 1 and `first_piece` 0; one word pair a piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ReduceArgs {
    /// Which rows.
    pub rows: Rows,
    /// x; out, which has no innermost axis.
    pub views: [View; 2],
    /// Number of the function in `ReduceFn`.
    pub function: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `arg_max` is given. Passes of a row in pieces: 0 over the pieces, 1 with `piece_count` 1 and
/// `first_piece` 0; one word pair a piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ArgMaxArgs {
    /// Which rows, of 1 to 2^31 elements.
    pub rows: Rows,
    /// x; index, which has no innermost axis.
    pub views: [View; 2],
}

/// What a launch of `top_k` is given. A launch takes one piece of its rows (`piece_count` 1), and those of a row run in
/// their order: each but the last leaves `k` word pairs of each row in `state`, rows side by side, for the next. Rows of
/// one piece need no state.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct TopKArgs {
    /// Which rows, of 1 to 2^31 elements.
    pub rows: Rows,
    /// x, value, index.
    pub views: [View; 3],
    /// How many, 1 to 256 and at most a row.
    pub k: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `gather` is given. Axes are those of out.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct GatherArgs {
    /// Which elements.
    pub range: Range,
    /// The table, repeated along the index's axes; the index, repeated along the table's; out.
    pub views: [View; 3],
    /// The table's stride along the axis that indices select, in elements.
    pub step: i64,
    /// Its entries, at most 2^31: an index that is not below gives zeros and a fault.
    pub bound: u32,
    /// Nothing.
    pub padding: u32,
    /// Address of the fault words: taken, value, bound, 32 bits each, zeros before the first launch.
    pub fault: u64,
}

/// What a launch of `scatter` is given where it sets or appends.
///
/// Entries are launched in runs, one after another, each in three passes over all of its entries: 0 clears the claims, 1
/// claims what each entry lands on, 2 moves those that still hold theirs, which are the last to land there. In passes 0
/// and 1 the range is the entries alone: `inner` 1, the axes of the index as outer axes, `per_entry` 1. In pass 2 the axes
/// of the columns follow, the last of them innermost (1 where there is none). A run's claims are its own.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ScatterArgs {
    /// Which entries, or which elements of them.
    pub range: Range,
    /// x; out, repeated along the entries; the index, or the pages (`outer[0]` from a batch entry, `inner` from a page
    /// to the next); of an append `lens` (`outer[0]`), whose `present` says that it is one. Entries of an append are
    /// `[batch, rows]`.
    pub views: [View; 4],
    /// Out's stride from one entry, or page, to the next, in elements.
    pub step: i64,
    /// From one key of a page to the next.
    pub key_step: i64,
    /// Rows of the range that are an entry.
    pub per_entry: u64,
    /// First entry of the run.
    pub first_entry: u64,
    /// Address of a word for each entry of out, or for each key of each page.
    pub claims: u64,
    /// Address of the fault words.
    pub fault: u64,
    /// Entries or pages of out, at most 2^31: an index that is not below drops its entry and is a fault.
    pub bound: u32,
    /// Keys of a page.
    pub page: u32,
    /// Keys of a batch entry, at most 2^31.
    pub room: u32,
    /// Rows that an append brings to a batch entry.
    pub rows: u32,
    /// 0, 1, 2.
    pub pass: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `scatter` is given where it adds. Entries are added in order, so launches of the same columns must
/// run in the order of their entries.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ScatterAddArgs {
    /// Columns: the axes of an entry, in vectors of four, the last axis innermost (1 where there is none).
    pub range: Range,
    /// x and out (f32) along the columns.
    pub columns: [View; 2],
    /// Axes of the entries, those of the index.
    pub entries: Axes,
    /// x and the index along the entries; x's address is that of `columns`.
    pub along: [View; 2],
    /// Out's stride from one entry to the next, in elements.
    pub step: i64,
    /// First entry of the launch.
    pub first_entry: u64,
    /// How many.
    pub entry_count: u64,
    /// Address of the fault words.
    pub fault: u64,
    /// Entries of out, at most 2^31.
    pub bound: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `rope` is given. Axes are batch, heads, rows, and columns of an own count: pairs, rounded up to a
/// multiple of eight, and the elements beyond `dims` ([`RopeArgs::columns`]).
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct RopeArgs {
    /// Which columns.
    pub range: Range,
    /// x, position (repeated along heads and columns), out.
    pub views: [View; 3],
    /// Address of the turns of each pair a position, in 2^-64, 64 bits each (`Rope::turns`).
    pub turns: u64,
    /// Elements of a head that turn.
    pub dims: u32,
    /// 1: pairs are neighbours; 0: halves.
    pub interleaved: u32,
}

impl RopeArgs {
    /// Columns of a head of `d` elements.
    pub fn columns(d: u64, dims: u32) -> u64 {
        u64::from((dims / 2).next_multiple_of(8)) + d - u64::from(dims)
    }
}

const _: () =
    assert!(size_of::<CopyArgs>() == 80 + 2 * 72 && size_of::<MapArgs>() == 80 + 3 * 72 + 16);
const _: () = assert!(size_of::<NormArgs>() == 104 + 4 * 72 + 8);
const _: () = assert!(size_of::<SoftmaxArgs>() == 256 && size_of::<ReduceArgs>() == 256);
const _: () = assert!(size_of::<ArgMaxArgs>() == 248 && size_of::<TopKArgs>() == 328);
const _: () = assert!(size_of::<GatherArgs>() == 80 + 3 * 72 + 24);
const _: () = assert!(size_of::<ScatterArgs>() == 80 + 4 * 72 + 72);
const _: () = assert!(size_of::<ScatterAddArgs>() == 80 + 4 * 72 + 56 + 40);
const _: () = assert!(size_of::<RopeArgs>() == 80 + 3 * 72 + 16);

/// Bytes that an element may have where only bits move.
const WIDTHS: [u32; 3] = [1, 2, 4];
/// Lanes that a row may have.
const LANES: [u32; 3] = [32, 256, 1024];
/// Elements that a lane holds.
const HELD: u32 = 16;

impl Streaming {
    /// Every row, those of a file side by side.
    pub fn all() -> Vec<Self> {
        use Streaming::*;
        let mut all: Vec<Self> = WIDTHS.map(Copy).into();
        all.extend([Map(4), Map(8), MapIntegers]);
        all.extend([Norm, Softmax, Reduce].iter().flat_map(|op| LANES.map(op)));
        all.push(ReduceAcross);
        all.extend([Gather, Scatter].iter().flat_map(|op| WIDTHS.map(op)));
        all.extend([ScatterAdd, Rope]);
        all.extend([ArgMax, TopK].iter().flat_map(|op| LANES.map(op)));
        all
    }

    /// Name of the op and of its source.
    pub fn op(&self) -> &'static str {
        self.names()[0]
    }

    /// Lanes of a row of `n` elements, and with it how the row is added.
    pub fn lanes(n: u64) -> u32 {
        LANES.into_iter().find(|lanes| n <= u64::from(lanes * HELD)).unwrap_or(LANES[2])
    }

    /// Elements that a thread moves at once, where units are vectors of a [`Range`].
    pub fn vector(&self) -> u32 {
        match self {
            Self::Copy(width) | Self::Gather(width) | Self::Scatter(width) => 16 / width,
            Self::Map(vector) => *vector,
            Self::Rope => 8,
            _ => 4,
        }
    }

    /// Lanes of a row, where a row of the table has them.
    fn lanes_of_row(&self) -> Option<u32> {
        match self {
            Self::Norm(lanes) | Self::Softmax(lanes) | Self::Reduce(lanes) => Some(*lanes),
            Self::ArgMax(lanes) | Self::TopK(lanes) => Some(*lanes),
            _ => None,
        }
    }

    /// The most elements of a row, or of a piece of it, where units are [`Rows`].
    pub fn piece(&self) -> u32 {
        self.lanes_of_row().map_or(128, |lanes| lanes * HELD)
    }

    /// Words of 32 bits that are kept of a piece from pass to pass; of `top_k` those of a row.
    pub fn state_words(&self) -> u32 {
        match self {
            Self::Norm(_) | Self::Softmax(_) => 4,
            Self::Reduce(_) | Self::ReduceAcross | Self::ArgMax(_) => 2,
            Self::TopK(_) => 512,
            _ => 0,
        }
    }

    /// Blocks of a launch of rows.
    pub fn row_blocks(&self, rows: &Rows) -> u64 {
        let groups = rows.count * u64::from(rows.piece_count);
        match self {
            Self::ReduceAcross => rows.count.div_ceil(256) * u64::from(rows.piece_count),
            _ if self.lanes_of_row() == Some(32) => groups.div_ceil(8),
            _ => groups,
        }
    }

    /// Blocks of a launch of `scatter` that adds.
    pub fn add_blocks(range: &Range) -> u64 {
        // Each vector of columns is 64 threads': thread s adds the entries whose index is s modulo 64.
        (range.count * 64).div_ceil(256)
    }

    /// Threads of a block.
    pub(crate) fn threads(&self) -> u32 {
        self.lanes_of_row().unwrap_or(256).max(256)
    }

    /// Bytes of shared memory of a block: a word pair of each warp where several meet, and of each of the k.
    pub(crate) fn shared_bytes(&self) -> u32 {
        let lanes = self.lanes_of_row().unwrap_or(32);
        let meet = if lanes > 32 { lanes / 32 * 8 } else { 0 };
        let found =
            if matches!(self, Self::TopK(_)) { self.threads() / lanes * 256 * 8 } else { 0 };
        meet + found
    }

    /// The op, the struct of its launches, and its function.
    fn names(&self) -> [&'static str; 3] {
        match self {
            Self::Copy(_) => ["copy", "CopyArgs", "copy::run"],
            Self::Map(_) | Self::MapIntegers => ["map", "MapArgs", "map::run"],
            Self::Norm(_) => ["norm", "NormArgs", "norm_forward::run"],
            Self::Softmax(_) => ["softmax", "SoftmaxArgs", "softmax::run"],
            Self::Reduce(_) => ["reduce", "ReduceArgs", "reduce::run"],
            Self::ReduceAcross => ["reduce", "ReduceArgs", "reduce::run_across"],
            Self::Gather(_) => ["gather", "GatherArgs", "gather::run"],
            Self::Scatter(_) => ["scatter", "ScatterArgs", "scatter::run"],
            Self::ScatterAdd => ["scatter", "ScatterAddArgs", "scatter::add"],
            Self::ArgMax(_) => ["arg_max", "ArgMaxArgs", "arg_max::run"],
            Self::TopK(_) => ["top_k", "TopKArgs", "top_k::run"],
            Self::Rope => ["rope", "RopeArgs", "rope::run"],
        }
    }

    pub(crate) fn key(&self) -> String {
        let op = self.op();
        match self {
            Self::MapIntegers => "map_integers".into(),
            Self::ReduceAcross => "reduce_across".into(),
            Self::ScatterAdd => "scatter_add".into(),
            Self::Rope => op.into(),
            Self::Copy(n) | Self::Map(n) | Self::Gather(n) | Self::Scatter(n) => {
                format!("{op}_{n}")
            }
            Self::Norm(n) | Self::Softmax(n) | Self::Reduce(n) => format!("{op}_{n}"),
            Self::ArgMax(n) | Self::TopK(n) => format!("{op}_{n}"),
        }
    }

    pub(crate) fn file(&self) -> &'static str {
        match self.op() {
            "copy" => "cuda/copy.cu",
            "map" => "cuda/map.cu",
            "norm" => "cuda/norm.cu",
            "softmax" => "cuda/softmax.cu",
            "gather" => "cuda/gather.cu",
            "scatter" => "cuda/scatter.cu",
            "rope" => "cuda/rope.cu",
            "arg_max" => "cuda/arg_max.cu",
            "top_k" => "cuda/top_k.cu",
            _ => "cuda/reduce.cu",
        }
    }

    pub(crate) fn template(&self) -> (&'static str, String, &'static str) {
        let shape = match self {
            Self::Copy(width) => format!("copy::Shape<{width}>"),
            Self::Map(n) => format!("map::Shape<{n}, false>"),
            Self::MapIntegers => "map::Shape<4, true>".into(),
            Self::Norm(n) | Self::Softmax(n) | Self::Reduce(n) => format!("RowShape<{n}>"),
            Self::ArgMax(n) => format!("RowShape<{n}>"),
            Self::TopK(n) => format!("top_k::Shape<{n}>"),
            Self::ReduceAcross => "reduce::Across".into(),
            Self::Gather(width) => format!("gather::Shape<{width}>"),
            Self::Scatter(width) => format!("scatter::Shape<{width}>"),
            Self::ScatterAdd => "scatter::Adding".into(),
            Self::Rope => "rope::Shape".into(),
        };
        let [_, args, run] = self.names();
        (args, shape, run)
    }
}
