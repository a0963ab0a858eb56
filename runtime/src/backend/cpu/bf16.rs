//! Products of bf16 operands by dot-product instructions (`dot.rs`): both are packed into tiles, padded with zeros to
//! whole blocks, and multiplied block by block. `matmul` calls it for classes that have them.

use super::dot::{BLOCK, Dot, Line, TILE, Tile, transpose};
use super::isa::{Isa, Kernel};
use super::product::Source;

/// Elements along K of a tile.
pub(super) const STEP: usize = 2 * TILE;

/// A packed side of a product: `blocks` strips of `steps` tiles, an even number of strips.
#[derive(Default)]
pub(super) struct Packed {
    tiles: Vec<Tile>,
    steps: usize,
}

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

impl Packed {
    /// Packs a matrix for its side of a product.
    pub(super) fn pack(&mut self, isa: Isa, side: Side, source: Source<'_>) {
        self.steps = source.depth.div_ceil(STEP);
        let strips = source.outer.div_ceil(BLOCK) * 2;
        self.tiles.resize(strips * self.steps, [Line([0; TILE]); TILE]);
        isa.run(Pack { isa, side, source, to: self });
    }

    fn strip(&self, i: usize) -> &[Tile] {
        &self.tiles[i * self.steps..(i + 1) * self.steps]
    }

    fn pairs(&self) -> usize {
        self.tiles.len() / (2 * self.steps).max(1)
    }
}

/// `c += a b`, the rows of `c` `ld` floats apart and as many as both sides are padded to.
pub(super) fn multiply(isa: Isa, a: &Packed, b: &Packed, c: &mut [f32], ld: usize) {
    let Some(dot) = Dot::of(isa) else { return };
    for j in 0..b.pairs() {
        let columns = [b.strip(2 * j), b.strip(2 * j + 1)];
        for i in 0..a.pairs() {
            let rows = [a.strip(2 * i), a.strip(2 * i + 1)];
            if let Some(block) = c.get_mut(i * BLOCK * ld + j * BLOCK..) {
                dot.add(rows, columns, block, ld);
            }
        }
    }
}

/// Fills the tiles of one side.
struct Pack<'a, 'b> {
    isa: Isa,
    side: Side,
    source: Source<'a>,
    to: &'b mut Packed,
}

impl Kernel for Pack<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { isa, side, source, to } = self;
        // Lines along K where elements lie dense along it, else across it; turned where the side wants the other way.
        let along = source.depth_step == 1 || source.outer_step != 1;
        let turn = along != (side == Side::A);
        let steps = to.steps.max(1);
        if along {
            for (strip, tiles) in to.tiles.chunks_exact_mut(steps).enumerate() {
                source.rows(strip * TILE, tiles);
                if turn {
                    tiles.iter_mut().for_each(|tile| transpose(isa, tile));
                }
            }
            return;
        }
        for step in 0..steps {
            for pair in 0..TILE {
                source.pairs(step, pair, &mut to.tiles, steps);
            }
            if turn {
                to.tiles.iter_mut().skip(step).step_by(steps).for_each(|t| transpose(isa, t));
            }
        }
    }
}

impl Source<'_> {
    /// Lines of 32 elements along K, one an outer index: read as they lie, row by row.
    #[inline(always)]
    fn rows(&self, first: usize, tiles: &mut [Tile]) {
        for i in 0..TILE {
            let outer = first + i;
            let depth = if outer < self.outer { self.depth } else { 0 };
            let start = self.at([outer, 0]);
            for (step, tile) in tiles.iter_mut().enumerate() {
                let k = step * STEP;
                let at = start + k as u64 * self.depth_step;
                let n = depth.saturating_sub(k);
                tile[i] = Line(bytemuck::cast(self.view.halves::<STEP>(at, self.depth_step, n)));
            }
        }
    }

    /// Lines of 16 outer indices, each a pair along K: both rows are read as they lie.
    #[inline(always)]
    fn pairs(&self, step: usize, pair: usize, tiles: &mut [Tile], steps: usize) {
        let k = step * STEP + 2 * pair;
        let [some, next] = [k, k + 1].map(|k| if k < self.depth { self.outer } else { 0 });
        for (block, tiles) in tiles.chunks_exact_mut(2 * steps).enumerate() {
            let first = block * BLOCK;
            let [n, m] = [some, next].map(|n| n.saturating_sub(first));
            let even = self.view.halves::<BLOCK>(self.at([first, k]), self.outer_step, n);
            let odd = self.view.halves::<BLOCK>(self.at([first, k + 1]), self.outer_step, m);
            for x in 0..TILE {
                tiles[step][pair].0[x] = u32::from(even[x]) | u32::from(odd[x]) << 16;
            }
            for x in 0..TILE {
                let (even, odd) = (even[x + TILE], odd[x + TILE]);
                tiles[steps + step][pair].0[x] = u32::from(even) | u32::from(odd) << 16;
            }
        }
    }
}
