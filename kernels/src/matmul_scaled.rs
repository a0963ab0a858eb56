//! What products with scales are given: the Rust side of `cuda/matmul_scaled.h`.

use crate::matmul::{MatmulArgs, Matrices};
use bytemuck::{Pod, Zeroable};

/// Scales of a side, all f32: of rows of A, or of columns of B.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Scales {
    /// Address of the first.
    pub at: u64,
    /// Strides in elements along up to four axes of the batch.
    pub batch: [i64; 4],
    /// From the scale of an outer index (or of 128 of them) to the next: 0 for one of the tensor.
    pub outer: i64,
    /// From the scale of 128 of k to the next.
    pub depth: i64,
    /// Outer indices that share a scale, as a power of two: 7 for blocks of 128 by 128, else 0.
    pub shift: u32,
    /// 0: no scales, and nothing else here is read. 1: a scale covers all of k (of the tensor, of a row or column), and
    /// multiplies the whole sum. 2: it covers 128 of k, and multiplies their sum.
    pub covers: u32,
}

/// What products of 8-bit values have beside other products.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MatmulScaling {
    /// Of A: `[batch.., m]`, `[batch.., m, k/128]` or `[batch.., m/128, k/128]`.
    pub a: Scales,
    /// Of B: `[batch.., n]`, `[batch.., k/128, n]` or `[batch.., k/128, n/128]`, strides of n being `outer`.
    pub b: Scales,
    /// Of an output of 8 bits: the one that is given, all strides 0, or those that are found, `[batch.., m, n/128]`; f32.
    pub out: Matrices,
    /// 0: the output has no scale. 1: it is given. 2: one is found for each 128 columns of a row: by kernels' rows whose
    /// tile has 128 columns, and where columns do not gate each other.
    pub quantize: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of a product of 8-bit values is given, if its kernel needs no maps.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MatmulScaledArgs {
    /// As of other products; the output may be of 8 bits.
    pub matmul: MatmulArgs,
    /// The scales.
    pub scaling: MatmulScaling,
}

const _: () = assert!(size_of::<Scales>() == 64 && size_of::<MatmulScaling>() == 200);
const _: () = assert!(size_of::<MatmulScaledArgs>() == 816);
