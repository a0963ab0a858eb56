//! Sides of products of bf16, packed for dot-product instructions (`dot.rs`): blocks of tiles, padded with zeros to whole
//! ones. `dots` packs with it.

use super::dot::{BLOCK, Line, TILE, Tile, transpose};
use super::isa::{Isa, Kernel};
use super::product::Source;

/// Elements along K of a tile.
pub(super) const STEP: usize = 2 * TILE;

/// Which way the lines of a tile lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A row of A a line.
    A,
    /// A pair of rows of B a line.
    B,
}

/// Rows and columns that a sum of this size is padded to.
pub(super) fn padded(n: u64) -> usize {
    (n as usize).next_multiple_of(BLOCK)
}

/// Tiles of a side of so many rows or columns by so many elements along K.
pub(super) fn tiles(outer: usize, depth: usize) -> usize {
    2 * outer.div_ceil(BLOCK) * depth.div_ceil(STEP)
}

/// Packs a side into as many tiles as [`tiles`] says: a block after the other, each of two strips whose tiles take turns
/// along K.
pub(super) fn pack(isa: Isa, side: Side, source: Source<'_>, to: &mut [Tile]) {
    isa.run(Pack { isa, side, source, to });
}

/// Fills the tiles of one side.
struct Pack<'a, 'b> {
    isa: Isa,
    side: Side,
    source: Source<'a>,
    to: &'b mut [Tile],
}

impl Kernel for Pack<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { isa, side, source, to } = self;
        // Lines along K where elements lie dense along it, else across it; turned where the side wants the other way.
        let along = source.depth_step == 1 || source.outer_step != 1;
        let turn = along != (side == Side::A);
        let block = 2 * source.depth.div_ceil(STEP).max(1);
        if along {
            for (first, tiles) in (0..).step_by(BLOCK).zip(to.chunks_exact_mut(block)) {
                for (i, tile) in tiles.iter_mut().enumerate() {
                    source.rows([first + i % 2 * TILE, i / 2 * STEP], tile);
                    if turn {
                        transpose(isa, tile);
                    }
                }
            }
            return;
        }
        for step in 0..source.depth.div_ceil(STEP) {
            for pair in 0..TILE {
                source.pairs(step, pair, to, block);
            }
            if turn {
                for tiles in to.chunks_exact_mut(block) {
                    tiles[2 * step..][..2].iter_mut().for_each(|tile| transpose(isa, tile));
                }
            }
        }
    }
}

impl Source<'_> {
    /// A tile of lines of 32 elements along K, one an outer index: read as they lie, row by row.
    #[inline(always)]
    fn rows(&self, [first, k]: [usize; 2], tile: &mut Tile) {
        for (i, line) in tile.iter_mut().enumerate() {
            let outer = first + i;
            let n = if outer < self.outer { self.depth - k } else { 0 };
            let at = self.at([outer, k]);
            *line = Line(bytemuck::cast(self.view.halves::<STEP>(at, self.depth_step, n)));
        }
    }

    /// Lines of 16 outer indices, each a pair along K: both rows are read as they lie.
    #[inline(always)]
    fn pairs(&self, step: usize, pair: usize, tiles: &mut [Tile], block: usize) {
        let k = step * STEP + 2 * pair;
        let [some, next] = [k, k + 1].map(|k| if k < self.depth { self.outer } else { 0 });
        for (first, tiles) in (0..).step_by(BLOCK).zip(tiles.chunks_exact_mut(block)) {
            let [n, m] = [some, next].map(|n| n.saturating_sub(first));
            let even = self.view.halves::<BLOCK>(self.at([first, k]), self.outer_step, n);
            let odd = self.view.halves::<BLOCK>(self.at([first, k + 1]), self.outer_step, m);
            for x in 0..TILE {
                tiles[2 * step][pair].0[x] = u32::from(even[x]) | u32::from(odd[x]) << 16;
            }
            for x in 0..TILE {
                let (even, odd) = (even[x + TILE], odd[x + TILE]);
                tiles[2 * step + 1][pair].0[x] = u32::from(even) | u32::from(odd) << 16;
            }
        }
    }
}
