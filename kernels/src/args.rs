//! What launches of the kernels that stream through memory are given: the Rust side of `cuda/copy.h`, `cuda/rows.h`,
//! `cuda/index.h` and `cuda/quantize.h`. [`crate::Streaming`] says which row takes which.

use crate::view::{Axes, Range, Rows, View};
use bytemuck::{Pod, Zeroable};

/// What a launch of `copy` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct CopyArgs {
    /// Which elements.
    pub range: Range,
    /// x, out.
    pub views: [View; 2],
}

/// What a launch of `copy` is given where x is dense along an axis that is not out's innermost: rows are that axis, columns
/// the innermost. Units are tiles of 64 by 64, a block each: across, then down, then by the other axes.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct TurnArgs {
    /// The other axes.
    pub outer: Axes,
    /// x, out: strides of the other axes and, after the last of them, that of rows; `inner` that of columns.
    pub views: [View; 2],
    /// Elements along the axis where x is dense.
    pub rows: u64,
    /// Elements along the innermost axis.
    pub columns: u64,
    /// Tiles of rows.
    pub down: u64,
    /// Tiles of columns.
    pub across: u64,
    /// First tile of the launch.
    pub first: u64,
    /// How many: the blocks of the grid.
    pub count: u64,
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

/// What a launch of `norm_backward` is given. Passes of a row in pieces: 0 (of layer alone), 1, 2, 3; four word pairs a
/// piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct NormBackwardArgs {
    /// Which rows.
    pub rows: Rows,
    /// x, d_out, d_x, terms (f32).
    pub views: [View; 4],
    /// A vector of a row's length: its `inner` alone counts.
    pub weight: View,
    /// Added under the root.
    pub epsilon: f32,
    /// 1: mean and variance; 0: root mean square.
    pub layer: u32,
}

/// What a launch of `quantize` is given where a row, or the tensor, has one scale.
///
/// Rows may be empty. Passes of a row in pieces: 0, 1; one word pair a piece. Of the tensor there are always three, each
/// over all rows and pieces: 0, a launch of one piece of one row, clears the word at `state`; 1 finds the largest
/// magnitude; 2 writes.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct QuantizeRowsArgs {
    /// Which rows.
    pub rows: Rows,
    /// x; out; scale, which has no innermost axis, and of the tensor no stride.
    pub views: [View; 3],
    /// 1: the tensor has one scale.
    pub tensor: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `quantize` is given where cells of a row or of a matrix have scales: matrices of `m` by `n`, `m` 1
/// where there is one axis. Units are tiles of 128 by 128, a block each: across, then down, then by matrices.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct QuantizeCellsArgs {
    /// Axes of the matrices.
    pub outer: Axes,
    /// x, out, scale, min (of groups of 32 alone). `outer` has the strides of the matrices and, after the last of them,
    /// that of rows; `inner` that of columns; each in the view's own rows and columns (cells, words).
    pub views: [View; 4],
    /// Rows of a matrix.
    pub m: u64,
    /// Its columns.
    pub n: u64,
    /// Tiles from top to bottom.
    pub down: u64,
    /// Tiles across.
    pub across: u64,
    /// First tile of the launch.
    pub first: u64,
    /// How many: the blocks of the grid.
    pub count: u64,
    /// Number of the format in `QuantizeFormat`: 2, 3 or 4.
    pub format: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `quantize` is given on the way back. Axes are those of out, the last but one not merged.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DequantizeArgs {
    /// Which elements.
    pub range: Range,
    /// x (its innermost axis in its own words where they are of 4-bit groups); scale and min, innermost axis in cells, no
    /// stride along an axis that they lack or that cells cut (rows of blocks of 128 by 128); out. `min` is present in
    /// groups of 32 alone.
    pub views: [View; 4],
    /// Rows of a matrix, at least 1.
    pub m: u64,
    /// Rows of a cell: 128 in blocks of 128 by 128, else 1.
    pub height: u32,
    /// Columns of a cell: 32, 128, or 2^31 where a row has one scale.
    pub width: u32,
    /// The scale's stride from one cell to the next below, where cells have several rows; else 0.
    pub down: i64,
}

const _: () = assert!(size_of::<NormBackwardArgs>() == 104 + 5 * 72 + 8);
const _: () = assert!(size_of::<QuantizeRowsArgs>() == 328);
const _: () = assert!(size_of::<QuantizeCellsArgs>() == 56 + 4 * 72 + 56);
const _: () = assert!(size_of::<DequantizeArgs>() == 80 + 4 * 72 + 24);
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
const _: () = assert!(size_of::<TurnArgs>() == 248);
const _: () = assert!(size_of::<NormArgs>() == 104 + 4 * 72 + 8);
const _: () = assert!(size_of::<SoftmaxArgs>() == 256 && size_of::<ReduceArgs>() == 256);
const _: () = assert!(size_of::<ArgMaxArgs>() == 248 && size_of::<TopKArgs>() == 328);
const _: () = assert!(size_of::<GatherArgs>() == 80 + 3 * 72 + 24);
const _: () = assert!(size_of::<ScatterArgs>() == 80 + 4 * 72 + 72);
const _: () = assert!(size_of::<ScatterAddArgs>() == 80 + 4 * 72 + 56 + 40);
const _: () = assert!(size_of::<RopeArgs>() == 80 + 3 * 72 + 16);
