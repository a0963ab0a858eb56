//! Products of few tiles and many terms on Hopper: K in splits of one length, which multiprocessors share, and their sums
//! merged from left to right, which is an order of its own. A plan of one tile: a pass over tiles, each of which leaves its
//! splits' sums in the state, then one that merges them.

use super::chain::{Pass, links};
use super::product::{blocks, chunk_ns, end_ns, form};
use super::{Class, LAUNCH_NS, Product};
use crate::op::{CheckedOp, Group, Matmul, OrderClass};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS};
use leasehold_kernels::{MatmulSm90, Row};

/// As of `matmul_sm90` inside a split; the splits' sums from left to right in f32.
pub(super) const ORDER: Order = Order {
    entry: "matmul_sm90_split",
    tile: [1, 1],
    chunk: Splits::LENGTH,
    family: Family::Matrix16,
};

/// Shapes that are split: K from here on, in so many splits at most, of at most so many tiles of so many rows and columns.
const LEAST_K: u64 = 4_096;
const MOST_SPLITS: u64 = 64;
const FEW: u64 = 64;
const TILE: u64 = 128;
/// Bytes that splits leave at most.
const STATE_BYTES: u64 = 64 << 20;

/// Whether a product that rows of `matmul_sm90` may run is split: shapes decide.
pub(super) fn is_split(product: &Product, matmul: &Matmul) -> bool {
    let splits = product.k.div_ceil(Splits::LENGTH.into());
    let [down, across] = [product.m, product.n].map(|size| size.div_ceil(TILE));
    let tiles = product.entries(matmul).saturating_mul((down * across).into());
    matmul.group == Group::None
        && !matmul.is_indexed()
        && matmul.order != OrderClass::BatchInvariant
        && product.k >= LEAST_K
        && splits <= MOST_SPLITS
        && (1..=u128::from(FEW)).contains(&tiles)
        && tiles * u128::from(splits * TILE * TILE * 4) <= STATE_BYTES.into()
}

/// How a row runs a product that is split.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Splits {
    /// Splits of K.
    pub(in super::super) count: u32,
    /// Over tiles to multiply, and over tiles to merge.
    pub(in super::super) passes: [Pass; 2],
    /// Bytes that a tile's splits leave.
    pub(in super::super) tile_bytes: u64,
    unit_ns: u64,
}

impl Splits {
    /// Elements of k of each but the last.
    pub(in super::super) const LENGTH: u32 = 1_024;

    /// `None` where the product is not split, or the row's tiles would leave too much.
    pub(in super::super) fn of(
        op: &CheckedOp,
        product: &Product,
        matmul: &Matmul,
        row: &Row,
        class: &Class,
    ) -> Option<Self> {
        let Row::MatmulSm90(sm90) = row else { return None };
        let [down, across] = product.tiles(matmul, row);
        let tiles = u64::try_from(product.entries(matmul)).ok()?.checked_mul(down * across)?;
        let count = product.k.div_ceil(Self::LENGTH.into()) as u32;
        if !is_split(product, matmul) || sm90.part_bytes(1, count).checked_mul(tiles)? > STATE_BYTES
        {
            return None;
        }
        let (_, chunk, _) = form(row)?;
        let split_ns = u64::from(Self::LENGTH / chunk) * chunk_ns(matmul, row, class)
            + end_ns(product, matmul, row);
        let side_by_side = class.multiprocessors / blocks(row);
        // Where each multiprocessor has little to multiply, what memory moves is not behind it.
        let moved = (op.cost().bytes / u128::from(class.bytes)) as u64;
        let ns = |tiles_of: u64| {
            (tiles_of * u64::from(count)).div_ceil(side_by_side) * split_ns
                + (moved * tiles_of).div_ceil(tiles.max(1))
                + LAUNCH_NS
        };
        let step = (1..=tiles).rev().find(|&step| ns(step) <= UNIT_CAP_GPU_NS)?;
        let tile_bytes = sm90.part_bytes(1, count);
        let merge_ns = tiles * tile_bytes / class.bytes + LAUNCH_NS;
        let passes = [Pass { items: tiles, step }, Pass { items: tiles, step: tiles }];
        Some(Self { count, passes, tile_bytes, unit_ns: ns(step).max(merge_ns) })
    }

    pub(super) fn plan(&self, row: &Row) -> Plan {
        Plan {
            order: ORDER,
            kernel: super::name(row),
            tiles: 1,
            links: links(&self.passes),
            unit_ns: self.unit_ns,
            wave: 1,
            wave_ns: self.unit_ns,
            state_bytes: self.passes[0].items * self.tile_bytes,
        }
    }
}

const _: () = assert!(Splits::LENGTH.is_multiple_of(MatmulSm90::CHUNK));
