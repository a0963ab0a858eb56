//! Which rows of a product belong together: blocks of an entry, or of groups whose sizes are read once a launch, held to
//! their bounds, and never trusted. `matmul` asks for the block of each of its tiles.

use super::geometry::Product;
use super::memory::View;
use super::{Fault, report};
use crate::op::{CheckedOp, Group, Lens, Matmul};
use std::ops::Range;

/// Rows of an output that are multiplied with the same B.
#[derive(Clone)]
pub(super) struct Block {
    /// Batch entry of the output, and of A and of B, where they have one.
    pub(super) entry: u64,
    pub(super) of_a: u64,
    pub(super) group: u64,
    /// First row in the entry, how many, and how many of them belong to the group: the first ones.
    pub(super) row: u64,
    pub(super) rows: u64,
    pub(super) owned: u64,
    /// What of K is summed.
    pub(super) k: Range<u64>,
}

/// How the blocks of a product follow each other.
pub(super) enum Blocks {
    /// Every row of every entry.
    Plain,
    /// The first rows of each entry.
    Masked(Vec<u64>),
    /// First row and first block of each group, of the rows that none owns, and of none.
    Contiguous(Vec<[u64; 2]>),
    /// Runs of K.
    K(Vec<Range<u64>>),
}

impl Blocks {
    pub(super) fn of(op: &Matmul, p: &Product, sizes: Option<&View>, fault: &Fault) -> Self {
        match op.group {
            Group::None => Self::Plain,
            Group::Masked => Self::Masked(sizes_of(&op.sizes, sizes, |_| p.m, fault)),
            Group::Contiguous => {
                let mut at = [0, 0];
                let mut starts = vec![at];
                let step = |size: u64, [row, block]: [u64; 2]| {
                    [row + size, block + size.div_ceil(p.tile[0])]
                };
                for size in sizes_of(&op.sizes, sizes, |sum| p.m - sum, fault) {
                    at = step(size, at);
                    starts.push(at);
                }
                starts.push(step(p.m - at[0], at));
                Self::Contiguous(starts)
            }
            Group::K => {
                let mut start = 0;
                let runs = sizes_of(&op.sizes, sizes, |sum| p.k - sum, fault).into_iter();
                let runs = runs.map(|size| {
                    start += size;
                    start - size..start
                });
                Self::K(runs.collect())
            }
        }
    }

    /// The block of a number; none beyond the rows there are.
    pub(super) fn get(&self, p: &Product, index: u64) -> Option<Block> {
        if let Self::Contiguous(starts) = self {
            // The last of those that start there: the others have no block.
            let group = starts.partition_point(|[_, block]| *block <= index).checked_sub(1)?;
            let ([row, block], [end, _]) = (starts[group], *starts.get(group + 1)?);
            let row = row + (index - block) * p.tile[0];
            let rows = p.tile[0].min(end - row);
            // Behind the groups come the rows that none owns.
            let owned = if group + 2 < starts.len() { rows } else { 0 };
            return Some(Block {
                entry: 0,
                of_a: 0,
                group: group as u64,
                row,
                rows,
                owned,
                k: 0..p.k,
            });
        }
        let (entry, row) = (index / p.tiles_m, index % p.tiles_m * p.tile[0]);
        let rows = p.tile[0].min(p.m - row);
        let mut block =
            Block { entry, of_a: entry, group: entry, row, rows, owned: rows, k: 0..p.k };
        match self {
            Self::Masked(sizes) => {
                block.owned = sizes.get(entry as usize)?.saturating_sub(row).min(rows);
            }
            Self::K(runs) => block.k = runs.get(entry as usize)?.clone(),
            _ => {}
        }
        Some(block)
    }
}

/// The indices of a product, where it has some, and the matrices that there are: of A, and of B.
pub(super) struct Indices<'a> {
    sides: [Option<(&'a View, u64)>; 2],
    fault: &'a Fault,
}

impl<'a> Indices<'a> {
    pub(super) fn of(op: &CheckedOp, views: &'a [View], fault: &'a Fault) -> Self {
        let sides = [("a_index", "a"), ("b_index", "b")].map(|(index, side)| {
            let [index, side] = [op.position(index)?, op.position(side)?];
            Some((&views[index], views[side].shape[0]))
        });
        Self { sides, fault }
    }

    /// The block with the matrices that the indices of its entry name; each is read once a band and held to how many
    /// there are, and where one is not below that, there is nothing to sum.
    pub(super) fn resolve(&self, mut block: Block) -> Block {
        let [a, b] = self.sides.map(|side| {
            let (index, matrices) = side?;
            let word = index.word(index.outer_offset(block.entry, index.shape.rank()));
            if u64::from(word) < matrices {
                return Some(u64::from(word));
            }
            report(self.fault, word, matrices);
            block.k = 0..0;
            Some(0)
        });
        block.of_a = a.unwrap_or(block.of_a);
        block.group = b.unwrap_or(block.group);
        block
    }
}

/// The size of each group, held to the stated maximum and to the room that the sum of those before leaves.
fn sizes_of(
    lens: &Lens,
    operand: Option<&View>,
    room: impl Fn(u64) -> u64,
    fault: &Fault,
) -> Vec<u64> {
    let mut sum = 0;
    let mut hold = |size: u32, max: u64| {
        let bound = max.min(room(sum));
        if u64::from(size) > bound {
            report(fault, size, bound + 1);
        }
        let size = u64::from(size).min(bound);
        sum += size;
        size
    };
    match (lens, operand) {
        (Lens::Host(list), _) => list.iter().map(|&size| hold(size, u64::MAX - 1)).collect(),
        (Lens::Device { max }, Some(view)) => (0..view.shape[0])
            .map(|i| hold(view.word(i * view.strides[0]), (*max).into()))
            .collect(),
        _ => Vec::new(),
    }
}
