//! Indices that name the matrices of a batch, for the host model: good, repeated and bad ones, and the list that
//! `matmul_indices` makes of them.

use crate::model::{Model, Order, Outcome, address, scratch};
use leasehold_kernels::{Indices, MatmulIndices, MatmulIndicesArgs, MatrixPair, Row};
use std::mem::offset_of;

/// What indices are that name no matrix of a few.
const BAD: [u32; 4] = [u32::MAX, 1 << 31, i32::MAX as u32, 1 << 20];

/// Indices of both sides of entries of a batch of four axes, in words that are apart.
pub(crate) struct Names {
    pub(crate) batch: [u32; 4],
    /// Matrices of each side.
    pub(crate) matrices: [u32; 2],
    pub(crate) words: [Vec<u32>; 2],
    /// Whether a side has indices.
    pub(crate) is_indexed: [bool; 2],
}

impl Names {
    /// Indices that walk through the matrices of each side in steps of its own; every `bad`th is none.
    pub(crate) fn new(batch: [u32; 4], matrices: [u32; 2], bad: usize) -> Self {
        let count = batch.iter().product::<u32>() as usize;
        let side = |side: usize| {
            let word = |i: usize| match (i + 2 * side) % bad {
                1 => BAD[i / bad % BAD.len()],
                _ => ((2 + side) * i + side) as u32 % matrices[side],
            };
            (0..count).map(word).collect()
        };
        Self { batch, matrices, words: [side(0), side(1)], is_indexed: [true; 2] }
    }

    /// The matrices of each entry, if both sides name one.
    pub(crate) fn named(&self) -> Vec<Option<[usize; 2]>> {
        let side = |side: usize, i: usize| match self.is_indexed[side] {
            true => Some(self.words[side][i]).filter(|&word| word < self.matrices[side]),
            false => Some(0),
        };
        let pair = |i| Some([side(0, i)? as usize, side(1, i)? as usize]);
        (0..self.words[0].len()).map(pair).collect()
    }

    /// The list of `count` entries from `first` on, and the fault.
    pub(crate) fn run(
        &self,
        model: &mut Model,
        steps: [u64; 2],
        [first, count]: [u32; 2],
    ) -> Outcome {
        let [_, b, c, d] = self.batch.map(i64::from);
        // Every second word, in the order of the entries.
        let of_side = |side: usize| Indices {
            at: address(side, 0),
            batch: [2 * b * c * d, 2 * c * d, 2 * d, 2],
            step: steps[side],
            matrices: self.matrices[side],
            present: self.is_indexed[side].into(),
        };
        let args = MatmulIndicesArgs {
            a: of_side(0),
            b: of_side(1),
            pairs: address(2, 0),
            fault: address(3, 0),
            batch: self.batch,
            first,
            count,
        };
        let apart = |words: &Vec<u32>| -> Vec<u8> {
            words.iter().flat_map(|&word| [word, 0xffff_fff0]).flat_map(u32::to_le_bytes).collect()
        };
        let guard = vec![0xa5; size_of::<MatrixPair>()];
        let list = [scratch(u64::from(count) * guard.len() as u64), guard].concat();
        let buffers = [apart(&self.words[0]), apart(&self.words[1]), list, vec![0; 12]];
        let (b, c) = (offset_of!(MatmulIndicesArgs, b), offset_of!(MatmulIndicesArgs, pairs));
        let places = [0, b, c, offset_of!(MatmulIndicesArgs, fault)].map(|at| at as u32);
        let row = Row::MatmulIndices(MatmulIndices);
        let blocks = count.div_ceil(row.threads());
        model.run(&row, Order::Late, blocks, (bytemuck::bytes_of(&args), &places), &buffers)
    }
}
