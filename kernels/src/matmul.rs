//! The rows of the matmul kernels, and what their launches are given: the Rust side of `cuda/matmul.h`.

use bytemuck::{Pod, Zeroable};

/// Matrices of a batch: address of the first element, and strides in elements.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Matrices {
    /// Address of the first element.
    pub at: u64,
    /// Strides of up to four axes of the batch.
    pub batch: [i64; 4],
    /// Stride from a row to the next.
    pub row: i64,
    /// Stride from a column to the next.
    pub column: i64,
    /// Number of the element type: f32, f16, bf16, f8e4m3, f8e5m2, i8 from 0.
    pub dtype: u32,
    /// 1 where the op has the operand; else nothing of it is read.
    pub present: u32,
}

/// What a launch of any matmul kernel is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MatmulArgs {
    /// `[batch.., m, k]`.
    pub a: Matrices,
    /// `[batch.., k, n]`.
    pub b: Matrices,
    /// Added before the activation.
    pub bias: Matrices,
    /// Added `beta` times before the activation.
    pub c: Matrices,
    /// Multiplies the activation.
    pub gate: Matrices,
    /// Added last.
    pub residual: Matrices,
    /// `[batch.., m, n]`.
    pub out: Matrices,
    /// Second output: what the activation is given.
    pub preactivation: Matrices,
    /// Accumulators of a cut tile.
    pub state: u64,
    /// First tile of the launch.
    pub first_tile: u64,
    /// How many.
    pub tiles: u64,
    /// Sizes of up to four axes of the batch; 1 where it has fewer.
    pub batch: [u32; 4],
    /// Rows of the output.
    pub m: u32,
    /// Columns of the output.
    pub n: u32,
    /// Elements of the contraction.
    pub k: u32,
    /// Tiles of a column of tiles.
    pub tiles_m: u32,
    /// Columns of tiles.
    pub tiles_n: u32,
    /// First k of this launch.
    pub k_from: u32,
    /// End of the k of this launch.
    pub k_to: u32,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of `c`.
    pub beta: f32,
    /// Number of the activation: none, relu, gelu_erf, gelu_tanh, silu from 0.
    pub activation: u32,
    /// 1: odd columns of B gate the even ones: the output, gate and residual have half of its `n` columns.
    pub interleaved: u32,
    /// Number of the grouping: none, contiguous, masked, along k from 0. Groups are the last axis of the batch, also of a B
    /// of contiguous ones, whose tiles follow each other down the rows. Or [`MatmulArgs::BY_INDEX`].
    pub group: u32,
    /// How many groups.
    pub group_count: u32,
    /// Nothing.
    pub padding: u32,
    /// The list of [`GroupEntry`]; of contiguous groups with another for the rows that none owns. By index the list of
    /// [`MatrixPair`](crate::MatrixPair), one an entry of the batch: those of the launch's entries are there.
    pub groups: u64,
}

impl MatmulArgs {
    /// What `group` is where entries of the batch name their matrices. A side that indices name has no strides along the
    /// batch: what the list says is added to where its first matrix begins.
    pub const BY_INDEX: u32 = 4;

    /// What `group` is where groups follow each other along k. A and B have no batch then.
    pub const ALONG_K: u32 = 3;
}

const _: () = assert!(size_of::<MatmulArgs>() == 616);

/// Of a group of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GroupEntry {
    /// First row of a contiguous group, first k of one along k.
    pub first: u32,
    /// Its rows, or its k.
    pub size: u32,
    /// Its first row of tiles.
    pub tile: u32,
}

/// How an operand's elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// Dense along K, all rows 16-byte aligned.
    K,
    /// Dense along the other axis, 16-byte aligned.
    Outer,
    /// Anyhow.
    Gathered,
}

/// Launches of `matmul_sm80` are cut at multiples of so many elements of k: one stage of 16 bits, two of 32.
const BLOCK_K: u32 = 32;

/// What the operands of a row of `matmul_sm80` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// f16.
    F16,
    /// bf16.
    Bf16,
    /// f32, each element rounded to tf32 where it is multiplied.
    Tf32,
}

/// A row of `matmul_sm80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSm80 {
    /// What operands are.
    pub values: Values,
    /// How A lies.
    pub a: Major,
    /// How B lies.
    pub b: Major,
    /// Rows and columns of a block's tile.
    pub tile: [u32; 2],
}

impl MatmulSm80 {
    /// Every row.
    pub fn all() -> Vec<Self> {
        use Major::{Gathered, K, Outer};
        let ways = [(K, K), (K, Outer), (Outer, K), (Outer, Outer), (Gathered, Gathered)];
        let mut all = Vec::new();
        for values in [Values::F16, Values::Bf16, Values::Tf32] {
            for tile in [[128, 128], [64, 64]] {
                all.extend(ways.map(|(a, b)| Self { values, a, b, tile }));
            }
        }
        all
    }

    /// Elements of k in a chunk of the order.
    pub const CHUNK: u32 = BLOCK_K;

    pub(crate) fn key(&self) -> String {
        let dtype = match self.values {
            Values::F16 => "f16",
            Values::Bf16 => "bf16",
            Values::Tf32 => "tf32",
        };
        let way = |major| match major {
            Major::K => 'k',
            Major::Outer => 'o',
            Major::Gathered => 'g',
        };
        let [m, n] = self.tile;
        format!("matmul_sm80_{dtype}_{}{}_{m}x{n}", way(self.a), way(self.b))
    }

    /// Stages of the ring of copies, and warps down and across a tile.
    fn form(&self) -> [u32; 3] {
        if self.tile[0] == 128 { [4, 2, 4] } else { [4, 2, 2] }
    }

    pub(crate) fn shape(&self) -> String {
        let ([m, n], [stages, down, across]) = (self.tile, self.form());
        let (a, b) = (self.a, self.b);
        let dtype = match self.values {
            Values::F16 => "F16",
            Values::Bf16 => "BF16",
            Values::Tf32 => "F32",
        };
        let major = |x| format!("matmul_sm80::Major::{x:?}");
        let (a, b) = (major(a), major(b));
        format!("matmul_sm80::Shape<{m}, {n}, {stages}, {down}, {across}, {a}, {b}, {dtype}>")
    }

    pub(crate) fn threads(&self) -> u32 {
        let [_, down, across] = self.form();
        32 * down * across
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let ([m, n], [stages, ..]) = (self.tile, self.form());
        let ring = stages * (m + n) * BLOCK_K * 2;
        ring.max(m * (n + 8) * 4)
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        4 * u64::from(self.tile[0]) * u64::from(self.tile[1])
    }
}

/// A row of `matmul_f32`: true f32 on CUDA cores, any strides. Given [`MatmulArgs`], as are the rows above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulF32 {
    /// Rows and columns of a block's tile: 128 or 64.
    pub tile: u32,
}

impl MatmulF32 {
    /// Elements of k in a chunk of the order.
    pub const CHUNK: u32 = 16;

    /// Every row.
    pub fn all() -> Vec<Self> {
        [128, 64].map(|tile| Self { tile }).into()
    }

    pub(crate) fn key(&self) -> String {
        format!("matmul_f32_{0}x{0}", self.tile)
    }

    pub(crate) fn shape(&self) -> String {
        format!("matmul_f32::Shape<{}>", self.tile)
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let (ring, sums) = (4 * Self::CHUNK * (self.tile + 4) * 4, self.tile * (self.tile + 8) * 4);
        ring.max(sums)
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        4 * u64::from(self.tile) * u64::from(self.tile)
    }
}

/// A row of `matmul_reference`: one output a thread, operands of any type and strides, scales, groups, outputs of 8 bits; the
/// same bits as `matmul_f32` where operands are f32. Given [`MatmulScaledArgs`](crate::MatmulScaledArgs). K is cut at
/// multiples of 128, where operands have more than 8 bits anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulReference {
    /// Whether a tile has the 128 columns of the output whose scale is found.
    pub finds: bool,
}

impl MatmulReference {
    /// Elements of k in a chunk of the order.
    pub const CHUNK: u32 = 128;

    /// Bytes that a tile carries; those of a launch's tiles lie one after another.
    pub const STATE_BYTES: u64 = 2 * 4 * 256;

    /// Every row.
    pub fn all() -> Vec<Self> {
        [false, true].map(|finds| Self { finds }).into()
    }

    /// Rows and columns of outputs of a block's tile.
    pub fn tile(&self) -> [u32; 2] {
        if self.finds { [2, 128] } else { [16, 16] }
    }

    pub(crate) fn key(&self) -> String {
        let [m, n] = self.tile();
        format!("matmul_reference_{m}x{n}")
    }

    pub(crate) fn shape(&self) -> String {
        let [m, n] = self.tile();
        format!("matmul_reference::Shape<{m}, {n}>")
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        if self.finds { 32 } else { 0 }
    }
}
