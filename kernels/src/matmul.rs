//! The rows of the matmul kernels, and what their launches are given: the Rust side of `cuda/matmul.h`.

use crate::map::BoxMap;
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
    /// of contiguous ones, whose tiles follow each other down the rows.
    pub group: u32,
    /// How many groups.
    pub group_count: u32,
    /// Nothing.
    pub padding: u32,
    /// The list of [`GroupEntry`]; of contiguous groups with another for the rows that none owns.
    pub groups: u64,
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

/// Elements of k of a stage of `matmul_sm80`: launches are cut at its multiples.
const BLOCK_K: u32 = 32;

/// A row of `matmul_sm80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSm80 {
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
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
        for bf16 in [false, true] {
            for tile in [[128, 128], [64, 64]] {
                all.extend(ways.map(|(a, b)| Self { bf16, a, b, tile }));
            }
        }
        all
    }

    /// Elements of k in a chunk of the order.
    pub const CHUNK: u32 = BLOCK_K;

    pub(crate) fn key(&self) -> String {
        let dtype = if self.bf16 { "bf16" } else { "f16" };
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
        let dtype = if self.bf16 { "BF16" } else { "F16" };
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

/// What a launch of `matmul_sm90` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct MatmulSm90Args {
    /// A as the driver encodes it.
    pub a: BoxMap,
    /// B as the driver encodes it.
    pub b: BoxMap,
    /// The output as the driver encodes it, where [`MatmulSm90::out`] has a map.
    pub out: BoxMap,
    /// All else.
    pub matmul: MatmulArgs,
    /// Bit i: A is not repeated along axis i of the batch's last three.
    pub spread_a: u32,
    /// The same of B.
    pub spread_b: u32,
    /// 1 where `out` is a map: the copy engine takes the output.
    pub stores_boxes: u32,
    /// Nothing.
    pub padding: [u32; 3],
}

const _: () = assert!(size_of::<MatmulSm90Args>() == 1024);

/// A row of `matmul_sm90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSm90 {
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
    /// Whether A is dense along M, not K.
    pub a_outer: bool,
    /// Whether B is dense along N, not K.
    pub b_outer: bool,
    /// Columns of a block's tile of 128 rows.
    pub columns: u32,
}

impl MatmulSm90 {
    /// Rows of a block's tile.
    pub const ROWS: u32 = 128;

    /// Elements of k in a chunk of the order, and of a box along a dense axis.
    pub const CHUNK: u32 = 64;

    /// Every row.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for bf16 in [false, true] {
            for columns in [256, 128, 64] {
                for outer in 0..4 {
                    let (a_outer, b_outer) = (outer & 1 == 1, outer & 2 == 2);
                    all.push(Self { bf16, a_outer, b_outer, columns });
                }
            }
        }
        all
    }

    pub(crate) fn key(&self) -> String {
        let dtype = if self.bf16 { "bf16" } else { "f16" };
        let way = |outer| if outer { 'o' } else { 'k' };
        let (a, b, n) = (way(self.a_outer), way(self.b_outer), self.columns);
        format!("matmul_sm90_{dtype}_{a}{b}_{}x{n}", Self::ROWS)
    }

    /// As many as shared memory has room for, beside what is on its way out.
    fn stages(&self) -> u32 {
        match self.columns {
            256 => 4,
            128 => 6,
            _ => 8,
        }
    }

    pub(crate) fn shape(&self) -> String {
        let Self { bf16, a_outer, b_outer, columns } = self;
        let (stages, dtype) = (self.stages(), if *bf16 { "BF16" } else { "F16" });
        format!("matmul_sm90::Shape<{columns}, {stages}, {a_outer}, {b_outer}, {dtype}>")
    }

    pub(crate) fn threads(&self) -> u32 {
        384
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let stage = (Self::ROWS + self.columns) * Self::CHUNK * 2;
        self.stages() * (stage + 16) + 2 * (16 << 10)
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        4 * u64::from(Self::ROWS) * u64::from(self.columns)
    }

    /// The box map of a side: `outer` rows of A or columns of B by `k`, `outer_step` or `k_step` being 1, and the
    /// sizes and strides of the batch's last three axes, all in elements; a repeated axis has size 1.
    pub fn map(
        &self,
        side: Side,
        at: u64,
        [outer, k]: [u64; 2],
        [outer_step, k_step]: [u64; 2],
        batch: [[u64; 2]; 3],
    ) -> BoxMap {
        let (is_outer, tile) = match side {
            Side::A => (self.a_outer, Self::ROWS),
            Side::B => (self.b_outer, self.columns),
        };
        let [sizes, step, boxed] = if is_outer {
            [[outer, k], [k_step, 0], [Self::CHUNK.into(), Self::CHUNK.into()]]
        } else {
            [[k, outer], [outer_step, 0], [Self::CHUNK.into(), tile.into()]]
        };
        let [first, second, third] = batch;
        BoxMap {
            at,
            sizes: [sizes[0], sizes[1], third[0], second[0], first[0]],
            strides: [step[0], third[1], second[1], first[1]].map(|n| 2 * n),
            boxed: [boxed[0] as u32, boxed[1] as u32, 1, 1, 1],
            element: 2,
            padding: [0; 6],
        }
    }

    /// The box map of the output of a launch, where the copy engine can take it: 16-bit elements, rows dense and aligned, at
    /// most three axes of the batch, no groups, and nothing in the epilogue but alpha.
    pub fn out(&self, args: &MatmulArgs) -> Option<BoxMap> {
        let MatmulArgs { out, batch, m, n, .. } = args;
        let others = [args.bias, args.c, args.gate, args.residual, args.preactivation];
        let is_plain = others.iter().all(|x| x.present == 0)
            && [args.activation, args.interleaved, args.group] == [0; 3];
        let is_narrow = matches!(out.dtype, 1 | 2);
        if !is_plain || !is_narrow || (out.column != 1 && *n > 1) || batch[0] != 1 || m.min(n) == &0
        {
            return None;
        }
        // A stride that nothing follows is any valid one.
        let step = |size: u32, step: i64| if size > 1 { u64::try_from(step).ok() } else { Some(8) };
        let (mut sizes, mut strides) =
            ([u64::from(*n), (*m).into(), 1, 1, 1], [step(*m, out.row)?, 0, 0, 0]);
        for (axis, place) in [(3, 1), (2, 2), (1, 3)] {
            sizes[place + 1] = batch[axis].into();
            strides[place] = step(batch[axis], out.batch[axis])?;
        }
        let map = BoxMap {
            at: out.at,
            sizes,
            strides: strides.map(|n| 2 * n),
            boxed: [Self::CHUNK, 64, 1, 1, 1],
            element: 2,
            padding: [0; 6],
        };
        // Writes of a stride of 0 would meet.
        (map.is_valid() && map.strides.iter().all(|&n| n > 0)).then_some(map)
    }
}

/// A side of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left.
    A,
    /// The right.
    B,
}
