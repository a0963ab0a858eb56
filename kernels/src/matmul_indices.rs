//! The row of `matmul_indices`: the list of the matrices that entries of a batch name, from indices in device memory.

use bytemuck::{Pod, Zeroable};

/// Indices of a side, in memory that a tenant may write at any time.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Indices {
    /// Address of the first i32 or u32 word.
    pub at: u64,
    /// Words from an index to the next along up to four axes of the batch.
    pub batch: [i64; 4],
    /// How far the matrices of the side lie apart: bytes, or 1 where they are an axis of a map.
    pub step: u64,
    /// Matrices that there are: an index that is not below is a fault, and names none.
    pub matrices: u32,
    /// 1 where the side has indices; else nothing is read, and nothing named.
    pub present: u32,
}

/// What a launch of `matmul_indices` is given: a thread an entry.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MatmulIndicesArgs {
    /// Of A.
    pub a: Indices,
    /// Of B.
    pub b: Indices,
    /// The list of [`MatrixPair`] to write: of the launch's entries.
    pub pairs: u64,
    /// Three words: taken, value and bound of one index out of range.
    pub fault: u64,
    /// Sizes of up to four axes of the batch.
    pub batch: [u32; 4],
    /// First entry of the launch.
    pub first: u32,
    /// How many.
    pub count: u32,
}

const _: () = assert!(size_of::<MatmulIndicesArgs>() == 152);

/// How far the matrices that an entry of the batch names lie behind the first ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MatrixPair {
    /// Of A, or [`MatrixPair::NONE`].
    pub a: u64,
    /// Of B, likewise.
    pub b: u64,
}

impl MatrixPair {
    /// What both are where an index of either named no matrix.
    pub const NONE: u64 = u64::MAX;
}

/// The row of `matmul_indices`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulIndices;
