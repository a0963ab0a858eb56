//! The rows of `matmul_sm90_fp8`, and what their launches are given: the Rust side of `cuda/matmul_sm90_fp8.cu`.

use crate::map::BoxMap;
use crate::matmul_scaled::{MatmulScaledArgs, MatmulScaling};
use crate::matmul_sm90::{self, Side};
use bytemuck::{Pod, Zeroable};

/// Elements of k of a chunk of the order: what a scale along K covers, and what launches are cut at multiples of.
const CHUNK: u32 = 128;

/// What a launch of `matmul_sm90_fp8` is given. Its tiles may be walked by any number of clusters; a launch that is cut
/// along K has one tile, and `state` for it. Groups along K are none of its: their ends lie inside boxes.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct MatmulSm90Fp8Args {
    /// A as the driver encodes it, by [`MatmulSm90Fp8::map`].
    pub a: BoxMap,
    /// B likewise.
    pub b: BoxMap,
    /// The output likewise, where [`MatmulSm90Fp8::out`] has a map.
    pub out: BoxMap,
    /// All else. Of A and B themselves nothing is read.
    pub scaled: MatmulScaledArgs,
    /// As of [`MatmulSm90Args`](crate::MatmulSm90Args). The first axis of four is 1.
    pub spread_a: u32,
    /// The same of B.
    pub spread_b: u32,
    /// 1 where `out` is a map: the copy engine takes the output.
    pub stores_boxes: u32,
    /// Nothing.
    pub padding: u32,
}

const _: () = assert!(size_of::<MatmulSm90Fp8Args>() == 1216);

/// An 8-bit float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// Of 4 bits of exponent.
    E4m3,
    /// Of 5.
    E5m2,
}

impl Fp8 {
    const BOTH: [Self; 2] = [Self::E4m3, Self::E5m2];

    fn name(self) -> &'static str {
        match self {
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
        }
    }

    fn constant(self) -> &'static str {
        match self {
            Self::E4m3 => "F8E4M3",
            Self::E5m2 => "F8E5M2",
        }
    }
}

/// A row of `matmul_sm90_fp8`: both operands dense along K, as [`BoxMap`] wants them. All have one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSm90Fp8 {
    /// Type of A.
    pub a: Fp8,
    /// Type of B.
    pub b: Fp8,
    /// Rows and columns of a tile: of all blocks of a cluster.
    pub tile: [u32; 2],
    /// Blocks that compute a tile: each has its columns, and they bring A once for all. A grid is a multiple of it.
    pub cluster: u32,
    /// Whether scales of B cover a single column and 128 of k (`covers` 2, `shift` 0). Only then.
    pub by_columns: bool,
}

impl MatmulSm90Fp8 {
    /// Elements of k in a chunk of the order, and of a box.
    pub const CHUNK: u32 = CHUNK;

    /// Every row: the tile of 128 by 128 for all types; of the types that models have larger ones for much work, with a
    /// cluster where the L2 cache would be the bound, and a small one for few rows.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for (a, b) in Fp8::BOTH.into_iter().flat_map(|a| Fp8::BOTH.map(|b| (a, b))) {
            for by_columns in [false, true] {
                all.push(Self { a, b, tile: [128, 128], cluster: 1, by_columns });
            }
        }
        let (a, b) = (Fp8::E4m3, Fp8::E4m3);
        let others = [([256, 256], 2), ([256, 128], 1), ([64, 64], 1)];
        all.extend(others.map(|(tile, cluster)| Self { a, b, tile, cluster, by_columns: false }));
        all
    }

    pub(crate) fn key(&self) -> String {
        let (a, b, [m, n]) = (self.a.name(), self.b.name(), self.tile);
        let columns = if self.by_columns { "_columns" } else { "" };
        let cluster = if self.cluster > 1 { "_by2" } else { "" };
        format!("matmul_sm90_{a}_{b}_{m}x{n}{columns}{cluster}")
    }

    /// Warpgroups that multiply, times 64 rows that each has, and stages: as many as shared memory has room for, beside
    /// the sums on their way out.
    fn form(&self) -> [u32; 3] {
        match self.tile[0] {
            256 => [2, 2, 4],
            128 => [2, 1, 6],
            _ => [1, 1, 13],
        }
    }

    /// Columns of a block.
    fn columns(&self) -> u32 {
        self.tile[1] / self.cluster
    }

    pub(crate) fn shape(&self) -> String {
        let ([consumers, waves, stages], n, cluster) = (self.form(), self.columns(), self.cluster);
        let (a, b, by) = (self.a.constant(), self.b.constant(), self.by_columns);
        format!(
            "matmul_sm90_fp8::Shape<{consumers}, {waves}, {n}, {stages}, {cluster}, {a}, {b}, {by}>"
        )
    }

    pub(crate) fn threads(&self) -> u32 {
        128 * (1 + self.form()[0])
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let ([consumers, _, stages], m, n) = (self.form(), self.tile[0], self.columns());
        stages * ((m + n) * CHUNK + 16) + consumers * 4 * 8 * (n + 8) * 4
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        4 * u64::from(self.tile[0]) * u64::from(self.tile[1])
    }

    /// The box map of a side: `outer` rows of A or columns of B by `k`, `step` from one to the next, and the sizes and
    /// strides of the batch's last three axes, all in elements; a repeated axis has size 1.
    pub fn map(
        &self,
        side: Side,
        at: u64,
        [outer, k]: [u64; 2],
        step: u64,
        batch: [[u64; 2]; 3],
    ) -> BoxMap {
        let [first, second, third] = batch;
        BoxMap {
            at,
            sizes: [k, outer, third[0], second[0], first[0]],
            strides: [step, third[1], second[1], first[1]],
            // Blocks of a cluster bring their part of A's rows each, and columns of their own.
            boxed: [CHUNK, self.tile[usize::from(side == Side::B)] / self.cluster, 1, 1, 1],
            element: 1,
            padding: [0; 6],
        }
    }

    /// The box map of the output of a launch, as of [`MatmulSm90`](crate::MatmulSm90): where it has no scale, and none covers
    /// all of k.
    pub fn out(&self, args: &MatmulScaledArgs) -> Option<BoxMap> {
        let MatmulScaling { a, b, quantize, .. } = args.scaling;
        let is_plain = quantize == 0 && a.covers != 1 && b.covers != 1;
        is_plain.then(|| matmul_sm90::out(&args.matmul, matmul_sm90::BOX)).flatten()
    }
}
