//! Products of bf16 by dot-product instructions. A band walks K in runs whose sums stay in registers, over rows of A
//! where they lie and columns of B that are packed once for all bands that meet them. `matmul` calls it.

use super::bf16::{STEP, Side, pack, tiles};
use super::dot::{BLOCK, Dot, Rows, Tile};
use super::matmul::{Band, Bands};
use super::plan::{PACKED_MOST, Span};
use super::pool::Pool;
use super::product::Source;
use super::regions::Reused;
use super::scratch::{with_columns, with_packed};
use std::ops::Range;
use std::sync::Mutex;

/// Elements of K that a run has at most: a band's rows of A and a block of B then stay near.
const RUN: usize = 2048;
/// Columns that are packed at a time.
const PANEL: usize = 2 * BLOCK;

/// Columns of B packed for all bands: run after run, and in each a block after the other.
pub(super) struct Packed<'a> {
    tiles: &'a [Tile],
    /// First column, and blocks of a run.
    first: u64,
    blocks: usize,
}

impl Packed<'_> {
    /// The block from a column on, and those behind it, in the run of `steps` from `k` on.
    fn get(&self, k: usize, steps: usize, col: u64) -> Option<&[Tile]> {
        let run = 2 * self.blocks * (k / STEP);
        let block = (col.checked_sub(self.first)?) as usize / BLOCK;
        self.tiles.get(run + 2 * steps * block..run + 2 * steps * self.blocks)
    }
}

/// Sums of a band, padded to whole blocks, `ld` apart.
pub(super) struct Padded<'a> {
    pub(super) acc: &'a mut [f32],
    pub(super) ld: usize,
    /// Whether there is something in them to add to.
    pub(super) add: bool,
}

impl Bands<'_> {
    /// Runs a span of tiles whose bands all meet the same B: packs as many columns of it as there is room for, then
    /// computes the bands under them.
    pub(super) fn run_packed(
        &self,
        span: Span,
        pool: &Pool,
        band_ns: u64,
        constant: Option<&[Tile]>,
    ) {
        let (p, bands) = (self.product(), self.bands());
        let [from, to] = [span.from, span.to].map(|link| (link * p.per_link * p.chunk).min(p.k));
        let most = match constant {
            Some(_) => p.tiles_n.max(1),
            None => (PACKED_MOST / (p.tile[1] * (to - from).max(1))).max(1),
        };
        let blocks = span.first / p.tiles_n..(span.first + span.tiles).div_ceil(p.tiles_n);
        with_columns(|room| {
            for first in (0..p.tiles_n).step_by(most as usize) {
                let columns = first..p.tiles_n.min(first + most);
                let packed = match constant {
                    Some(tiles) => {
                        Packed { tiles, first: 0, blocks: (p.n as usize).div_ceil(BLOCK) }
                    }
                    None => self.pack(span, columns.clone(), from..to, pool, room),
                };
                let across = columns.end - columns.start;
                // All columns of a band, then the next: its rows stay near.
                pool.run((blocks.end - blocks.start) * bands * across, band_ns, |i| {
                    let (line, column) = (i / across, columns.start + i % across);
                    let tile = (blocks.start + line / bands) * p.tiles_n + column;
                    let inside = (span.first..span.first + span.tiles).contains(&tile);
                    if let Some(band) = self.band(tile, line % bands).filter(|_| inside) {
                        self.links(&band, [span.from, span.to], None, Some(&packed));
                    }
                });
            }
        });
    }

    /// Tiles of all of B, for [`Self::pack_columns`].
    pub(super) fn tiles_of_columns(&self) -> usize {
        tiles(self.product().n as usize, self.product().k as usize)
    }

    /// Packs all of B.
    pub(super) fn pack_columns(&self, span: Span, pool: &Pool, room: &mut [Tile]) {
        let p = self.product();
        self.pack_into(span, 0..p.tiles_n, 0..p.k, pool, room);
    }

    /// Packs a run of K of the column tiles that a span meets.
    fn pack<'b>(
        &self,
        span: Span,
        columns: Range<u64>,
        k: Range<u64>,
        pool: &Pool,
        room: &'b mut Reused<Tile>,
    ) -> Packed<'b> {
        let p = self.product();
        let first = columns.start * p.tile[1];
        let width = (p.n.min(columns.end * p.tile[1]) - first) as usize;
        let room = room.grown(tiles(width, (k.end - k.start) as usize));
        self.pack_into(span, columns, k, pool, room);
        Packed { tiles: room, first, blocks: width.div_ceil(BLOCK) }
    }

    /// The same into as many tiles as it takes.
    fn pack_into(
        &self,
        span: Span,
        columns: Range<u64>,
        k: Range<u64>,
        pool: &Pool,
        room: &mut [Tile],
    ) {
        let p = self.product();
        let cols = columns.start * p.tile[1]..p.n.min(columns.end * p.tile[1]);
        let (width, depth) = ((cols.end - cols.start) as usize, (k.end - k.start) as usize);
        let blocks = width.div_ceil(BLOCK);
        let mut parts = Vec::new();
        for run in room.chunks_mut(tiles(width, RUN)) {
            let panel = PANEL / BLOCK * (run.len() / blocks);
            parts.extend(run.chunks_mut(panel).map(Mutex::new));
        }
        let panels = width.div_ceil(PANEL) as u64;
        let first = span.first % p.tiles_n;
        // An element a nanosecond.
        pool.run(parts.len() as u64, (PANEL * RUN.min(depth)) as u64, |i| {
            let (run, col) = (i / panels, cols.start + i % panels * PANEL as u64);
            // A short span meets some columns only.
            if (col / p.tile[1] + p.tiles_n - first) % p.tiles_n >= span.tiles {
                return;
            }
            let start = k.start + run * RUN as u64;
            let run = start..k.end.min(start + RUN as u64);
            let Some(Ok(mut part)) = parts.get(i as usize).map(Mutex::lock) else { return };
            let source = self.columns_of(0, run, col..cols.end.min(col + PANEL as u64));
            pack(self.isa(), Side::B, source, &mut part);
        });
    }

    /// Adds chunks of a band to its sums. Nothing of rows without a group: theirs may lie beyond B.
    pub(super) fn dots(
        &self,
        band: &Band,
        chunks: Range<u64>,
        packed: Option<&Packed<'_>>,
        sums: &mut Padded<'_>,
    ) {
        let (k, chunk) = (&band.block.k, self.product().chunk);
        let [from, to] = [chunks.start, chunks.end].map(|i| k.end.min(k.start + i * chunk));
        let Some(dot) = Dot::of(self.isa()).filter(|_| band.block.owned > 0) else { return };
        with_packed(|[a, b]| {
            for k0 in (from..to).step_by(RUN) {
                let run = k0..to.min(k0 + RUN as u64);
                let steps = ((run.end - k0) as usize).div_ceil(STEP);
                let left = Left::of(self, self.rows_of(band, run.clone()), a);
                for col in (0..band.cols).step_by(PANEL) {
                    let at = band.col + col..band.col + band.cols.min(col + PANEL as u64);
                    let width = (at.end - at.start) as usize;
                    let shared = packed.and_then(|p| p.get((k0 - from) as usize, steps, at.start));
                    let columns = if let Some(columns) = shared {
                        columns
                    } else {
                        let source = self.columns_of(band.block.group, run.clone(), at);
                        let room = b.grown(tiles(width, source.depth));
                        pack(self.isa(), Side::B, source, room);
                        room
                    };
                    left.multiply(&dot, columns, width, col as usize, sums);
                }
                sums.add = true;
            }
        });
    }
}

/// A run of the rows of a band: the first where they lie, the others packed.
struct Left<'a> {
    source: Source<'a>,
    /// Blocks that are read where they lie.
    lying: usize,
    packed: &'a [Tile],
    steps: usize,
}

impl<'a> Left<'a> {
    fn of(bands: &Bands<'_>, source: Source<'a>, room: &'a mut Reused<Tile>) -> Self {
        let steps = source.depth.div_ceil(STEP);
        let mut left = Self { source, lying: 0, packed: &[], steps };
        if source.depth_step == 1
            && source.depth.is_multiple_of(STEP)
            && left.block_lying(0).is_some()
        {
            left.lying = source.outer / BLOCK;
        }
        let before = left.lying * BLOCK;
        let rest = Source { start: source.at([before, 0]), outer: source.outer - before, ..source };
        let room = room.grown(tiles(rest.outer, rest.depth));
        pack(bands.isa(), Side::A, rest, room);
        left.packed = room;
        left
    }

    fn block_lying(&self, block: usize) -> Option<Rows<'a>> {
        let start = self.source.at([block * BLOCK, 0]);
        Rows::lying(self.source.view, start, self.source.outer_step, self.steps)
    }

    /// Adds the products with the blocks of `width` columns, the first of `columns`, to those of the sums from `col` on.
    fn multiply(
        &self,
        dot: &Dot,
        columns: &[Tile],
        width: usize,
        col: usize,
        sums: &mut Padded<'_>,
    ) {
        let (block, ld) = (2 * self.steps, sums.ld);
        for j in 0..width.div_ceil(BLOCK) {
            let (now, next) = columns[j * block..].split_at(block);
            for i in 0..self.source.outer.div_ceil(BLOCK) {
                // Eight blocks of rows together fetch the next columns.
                let ahead = next.get(i * block / 8..).filter(|next| !next.is_empty() && i < 8);
                let c = &mut sums.acc[i * BLOCK * ld + col + j * BLOCK..];
                let rows = if i < self.lying {
                    self.block_lying(i)
                } else {
                    self.packed.chunks_exact(block).nth(i - self.lying).map(Rows::packed)
                };
                if let Some(rows) = rows {
                    dot.add(&rows, now, ahead.unwrap_or(now), c, ld, sums.add);
                }
            }
        }
    }
}
