//! What launches of the ops that stream through memory are given of tensors: the Rust side of `cuda/view.h`.
//!
//! An op's axes are those of its output, in any order that is the same for all operands; a caller may merge neighbours
//! that lie alike in every operand, and does well to end with an axis that is dense in most. The innermost axis stands
//! apart; up to six others are the outer ones. Strides are in elements, of any sign; 0 repeats.

use bytemuck::{Pod, Zeroable};

/// Axes outside the innermost one, the first outermost. Unused ones are at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Axes {
    /// Elements along each, at least 1.
    pub sizes: [u64; 6],
    /// How many there are.
    pub rank: u32,
    /// Nothing.
    pub padding: u32,
}

/// A tensor as an op walks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct View {
    /// Address of the first element, a multiple of the element's size.
    pub at: u64,
    /// Strides along the outer axes.
    pub outer: [i64; 6],
    /// Stride along the innermost axis.
    pub inner: i64,
    /// Number of the element type: f32, f16, bf16, f8e4m3, f8e5m2, i8, i32, u32 from 0.
    pub dtype: u32,
    /// 1 where the op has the operand; else nothing of it is read.
    pub present: u32,
}

/// Elements of an op in row-major order, and those of a launch. Rows are cut into vectors of a kernel's length
/// ([`crate::Streaming::vector`]), the last of a row perhaps a shorter one; units are vectors, and any cut of
/// them gives equal bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Range {
    /// Axes outside the row.
    pub outer: Axes,
    /// Elements of a row, at least 1.
    pub inner: u64,
    /// First vector of the launch.
    pub first: u64,
    /// How many. A grid has [`Range::blocks`] blocks.
    pub count: u64,
}

impl Range {
    /// Vectors of a block.
    pub const PER_BLOCK: u64 = 1024;

    /// Vectors of the whole op.
    pub fn vectors(&self, vector: u32) -> u64 {
        let outer = &self.outer.sizes[..self.outer.rank as usize];
        outer.iter().product::<u64>() * self.inner.div_ceil(vector.into())
    }

    /// Blocks of the launch.
    pub fn blocks(&self) -> u64 {
        self.count.div_ceil(Self::PER_BLOCK)
    }
}

/// Rows of an op along its innermost axis, and those of a launch.
///
/// A row of at most [`crate::Streaming::piece`] elements is one piece, and one launch in pass 0 does all of it:
/// `pieces` and `piece_count` 1, `state` 0. A longer row is cut into pieces of that many elements, and every pass of the
/// op is a launch of its own, in order: all pieces of a row must have passed before the next pass of any. The launch
/// covers pieces `first_piece .. first_piece + piece_count` of each of its rows, and may be cut along rows and along
/// pieces anywhere, with equal bits. `state` then has [`crate::Streaming::state_words`] words of 32 bits a piece: rows
/// from the launch's first on, all pieces of a row side by side; it lives from the first pass to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Rows {
    /// Axes of the rows.
    pub outer: Axes,
    /// Elements of a row; may be 0 where the op says so.
    pub n: u64,
    /// First row of the launch.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Address of what is known of the pieces, or 0.
    pub state: u64,
    /// Pieces of a row, at least 1.
    pub pieces: u32,
    /// First piece of the launch.
    pub first_piece: u32,
    /// How many.
    pub piece_count: u32,
    /// Which pass, from 0.
    pub pass: u32,
}

const _: () = assert!(size_of::<Axes>() == 56 && size_of::<View>() == 72);
const _: () = assert!(size_of::<Range>() == 80 && size_of::<Rows>() == 104);
