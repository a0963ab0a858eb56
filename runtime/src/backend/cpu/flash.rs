//! Attention on lanes (`queries.rs`): a block of query rows stays side by side while the keys pass in chunks, left to
//! right. Scores, weights and weighted values are lines of a block, and never leave the caches. `attention` calls it for
//! a tile of many blocks, so that what is packed of a chunk (`pack.rs`) serves them all.

use super::attention::{Tile, Tiles};
use super::dot::{self, Line, TILE};
use super::isa::Kernel;
use super::math;
use super::memory::View;
use super::queries::{KEYS, Lanes, ROWS};
use std::f32::consts::{LN_2, LOG2_E};

/// What a thread keeps from tile to tile.
#[derive(Default)]
pub(super) struct Buffers {
    /// Queries of the tile, turned: a line for each of their columns, block after block.
    pub(super) queries: Vec<Line>,
    /// Exponents, sums and weighted values of each block.
    run: Vec<Line>,
    scores: Vec<Line>,
    /// A chunk of keys and of values, packed or widened.
    keys: Vec<Line>,
    values: Vec<Line>,
    wide: [Vec<f32>; 2],
    /// Rows of the mask, or of the result.
    pub(super) rows: Vec<f32>,
    /// Where the rows of a chunk begin; `None` where a page is not.
    starts: Vec<Option<u64>>,
}

/// A tile and what its blocks share.
pub(super) struct Flash<'a> {
    pub(super) of: &'a Tiles<'a>,
    pub(super) tile: Tile,
    lanes: Lanes,
    pub(super) pairs: bool,
    /// Registers of a line, and query rows of a block.
    pub(super) width: usize,
    pub(super) block: usize,
    /// Head dims, the second padded to whole rows of products.
    pub(super) d: usize,
    pub(super) dv: usize,
    pub(super) padded: usize,
}

/// Nothing seen, nothing there.
pub(super) const NONE: Line = Line([0; TILE]);

/// Runs a range of the chunks of a tile: reads the state before it and writes the one after, where these are asked for.
pub(super) fn run(
    of: &Tiles<'_>,
    tile: Tile,
    pairs: bool,
    chunks: impl Iterator<Item = [u64; 2]>,
    [resume, pause]: [Option<&View>; 2],
    buffers: &mut Buffers,
) {
    let Some(lanes) = Lanes::of(of.isa, pairs) else { return };
    let width = Lanes::width(pairs);
    let [d, dv] = [of.q, of.v].map(|view| view.shape[3] as usize);
    let padded = dv.next_multiple_of(ROWS[usize::from(pairs)].max(TILE));
    let flash = Flash { of, tile, lanes, pairs, width, block: width * TILE, d, dv, padded };
    let blocks = (tile.rows as usize).div_ceil(flash.block);
    buffers.run.resize(blocks * flash.run_lines(), NONE);
    match resume {
        Some(state) => flash.resume(state, &mut buffers.run),
        None => flash.begin(&mut buffers.run),
    }
    flash.pack_queries(buffers);
    for chunk in chunks {
        flash.chunk(chunk, buffers);
    }
    match pause {
        Some(state) => flash.pause(state, &buffers.run),
        None => flash.finish(buffers),
    }
}

impl Flash<'_> {
    /// Lines that a block carries.
    fn run_lines(&self) -> usize {
        self.width * (2 + self.padded)
    }

    /// Lines of a block's queries.
    pub(super) fn query_lines(&self) -> usize {
        let steps = if self.pairs { self.d.div_ceil(2 * TILE) * TILE } else { self.d };
        steps.next_multiple_of(TILE) * self.width
    }

    /// Nothing seen yet but the sink.
    fn begin(&self, run: &mut [Line]) {
        let sink = self.of.sinks.filter(|_| self.tile.entry.owned);
        let (exponent, sum) = match sink {
            Some(sinks) => (self.of.of_head(sinks, self.tile) * LOG2_E, 1f32),
            None => (f32::NEG_INFINITY, 0.0),
        };
        for run in run.chunks_exact_mut(self.run_lines()) {
            run[..self.width].fill(Line([exponent.to_bits(); TILE]));
            run[self.width..2 * self.width].fill(Line([sum.to_bits(); TILE]));
            run[2 * self.width..].fill(NONE);
        }
    }

    /// Loads the state: what the blocks carry, without padding.
    fn resume(&self, state: &View, run: &mut [Line]) {
        let carried = self.width * (2 + self.dv);
        let mut at = 0;
        for run in run.chunks_exact_mut(self.run_lines()) {
            for line in &mut run[..carried] {
                let mut floats = [0.0; TILE];
                state.load(self.of.isa, at, 1, &mut floats);
                *line = Line(floats.map(f32::to_bits));
                at += TILE as u64;
            }
            run[carried..].fill(NONE);
        }
    }

    /// Stores the state.
    fn pause(&self, state: &View, run: &[Line]) {
        let mut at = 0;
        for run in run.chunks_exact(self.run_lines()) {
            for line in &run[..self.width * (2 + self.dv)] {
                state.store(self.of.isa, at, 1, &line.0.map(f32::from_bits));
                at += TILE as u64;
            }
        }
    }

    /// One chunk of keys, for every block that sees some of it.
    fn chunk(&self, [key, keys]: [u64; 2], buffers: &mut Buffers) {
        let Buffers { queries, run, scores, keys: k, values: v, wide: [wide_k, wide_v], .. } =
            buffers;
        let (of, tile) = (self.of, self.tile);
        let (k, v) = if self.pairs {
            // Keys last: they are read first.
            let v = self.pack_values([key, keys], v, &mut buffers.starts);
            (self.pack_keys([key, keys], k, &mut buffers.starts), v)
        } else {
            let k = of.panel(of.k, tile, [key, keys], wide_k);
            (k, of.panel(of.v, tile, [key, keys], wide_v).t())
        };
        scores.resize((keys as usize).next_multiple_of(ROWS[1]) * self.width, NONE);
        let blocks =
            queries.chunks_exact(self.query_lines()).zip(run.chunks_exact_mut(self.run_lines()));
        for (first, (queries, run)) in (0..).step_by(self.block).zip(blocks) {
            let last = (first + self.block as u64).min(tile.rows) - 1;
            let seen = of.seen(tile, first).start..of.seen(tile, last).end.min(key + keys);
            if seen.end <= key || seen.start >= key + keys {
                continue;
            }
            let keys = (seen.end - key) as usize;
            let padded = keys.next_multiple_of(if self.pairs { ROWS[1] } else { KEYS });
            let used = ((last - first) as usize + 1).div_ceil(TILE);
            let scores = &mut scores[..padded.next_multiple_of(ROWS[0]) * self.width];
            let (k_rows, v_depth) = if self.pairs { (padded, padded / 2) } else { (keys, keys) };
            self.lanes.product(k.t().narrow(k_rows).t(), queries, scores, used, false);
            let scores = &mut scores[..padded * self.width];
            let factor =
                self.functions([first, last], [key, keys as u64], scores, &mut buffers.rows);
            scores[keys * self.width..].fill(Line([f32::NEG_INFINITY.to_bits(); TILE]));
            self.lanes.weigh(scores, used, factor, run);
            let values = &mut run[2 * self.width..];
            self.lanes.product(v.narrow(v_depth), scores, values, used, true);
        }
    }
}

/// Scores of a chunk and what becomes of them.
impl Flash<'_> {
    /// Applies the functions of the scores of rows `first` to `last` and hides what a row does not see; the factor that
    /// is left for the exponent of a power of 2.
    fn functions(
        &self,
        [first, last]: [u64; 2],
        [key, keys]: [u64; 2],
        scores: &mut [Line],
        mask_row: &mut Vec<f32>,
    ) -> f32 {
        let (of, tile, width) = (self.of, self.tile, self.width);
        let (op, scale) = (of.op, of.op.scores.scale.abs());
        let more = op.scores.softcap > 0.0 || of.alibi.is_some() || of.mask.is_some();
        let mut factor = scale * LOG2_E;
        if more || !factor.is_normal() {
            factor = LOG2_E;
            let slope = of.alibi.map_or(0.0, |slopes| of.of_head(slopes, tile));
            let ahead = of.position(tile, first) - key as i64;
            let cap = op.scores.softcap;
            of.isa.run(Functions { scores: &mut *scores, width, scale, cap, slope, ahead });
        }
        if let Some(mask) = of.mask {
            mask_row.resize(keys as usize, 0.0);
            for (lane, row) in (first..=last).enumerate() {
                let at = of.at(mask, tile, row) + key * mask.row_stride();
                mask.load(of.isa, at, mask.row_stride(), mask_row);
                for (line, m) in scores.chunks_exact_mut(width).zip(&*mask_row) {
                    let score = &mut line[lane / TILE].0[lane % TILE];
                    *score = (f32::from_bits(*score) + m).to_bits();
                }
            }
        }
        if of.seen(tile, last).start > key || of.seen(tile, first).end < key + keys {
            let (mut starts, mut ends) = ([0; LANES], [i32::MAX; LANES]);
            for (lane, row) in (first..=last).enumerate() {
                let seen = of.seen(tile, row);
                // Counted from the chunk's first key, and no further than its last.
                starts[lane] = seen.start.saturating_sub(key).min(keys) as i32;
                ends[lane] = seen.end.saturating_sub(key).min(keys) as i32;
            }
            of.isa.run(Hide { scores, width, starts, ends });
        }
        factor
    }

    /// Divides the weighted values by their sums and writes them, a row each.
    fn finish(&self, buffers: &mut Buffers) {
        let (of, width) = (self.of, self.width);
        let rows = &mut buffers.rows;
        rows.resize(TILE * self.padded, 0.0);
        for first in (0..self.tile.rows).step_by(TILE) {
            let run = &buffers.run[first as usize / self.block * self.run_lines()..];
            let lane = first as usize % self.block / TILE;
            let [exponents, sums] = [lane, width + lane].map(|at| run[at].0.map(f32::from_bits));
            let inverse = sums.map(|sum| if sum == 0.0 { 0.0 } else { 1.0 / sum });
            let values = &run[2 * width + lane..];
            for x in (0..self.padded).step_by(TILE) {
                let mut tile: dot::Tile =
                    std::array::from_fn(|i| values[((x + i) * width).min(values.len() - 1)]);
                dot::transpose(of.isa, &mut tile);
                for (row, line) in rows.chunks_exact_mut(self.padded).zip(&tile) {
                    let place = row[x..x + TILE].iter_mut().zip(line.0);
                    place.for_each(|(place, value)| *place = f32::from_bits(value));
                }
            }
            let count = (self.tile.rows - first).min(TILE as u64);
            for (i, r) in (first..first + count).enumerate() {
                let row = &mut rows[i * self.padded..][..self.dv];
                row.iter_mut().for_each(|x| *x *= inverse[i]);
                let at = of.at(of.out, self.tile, r);
                of.out.store(of.isa, at, of.out.row_stride(), row);
                if let Some(lse) = of.lse {
                    let y = exponents[i] * LN_2 + math::ln::<false>(sums[i]);
                    let y = if sums[i] == 0.0 { f32::NEG_INFINITY } else { y };
                    lse.store(of.isa, of.at(lse, self.tile, r), 1, &[y]);
                }
            }
        }
    }
}

/// Most query rows of a block.
const LANES: usize = 3 * TILE;

/// The scale, the soft cap and the distances.
struct Functions<'a> {
    scores: &'a mut [Line],
    width: usize,
    scale: f32,
    /// 0: none.
    cap: f32,
    slope: f32,
    /// Keys from the chunk's first to the first row's own.
    ahead: i64,
}

impl Kernel for Functions<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { scores, width, scale, cap, slope, ahead } = self;
        for (key, line) in (0..).zip(scores.chunks_exact_mut(width)) {
            for (lane, part) in (0..).step_by(TILE).zip(line) {
                let ahead = ahead - key + lane;
                for (ahead, bits) in (ahead..).zip(&mut part.0) {
                    let mut score = scale * f32::from_bits(*bits);
                    if cap > 0.0 {
                        score = cap * math::tanh::<F>(score / cap);
                    }
                    *bits = (score - slope * ahead.unsigned_abs() as f32).to_bits();
                }
            }
        }
    }
}

/// Keys that a row does not see.
struct Hide<'a> {
    scores: &'a mut [Line],
    width: usize,
    /// The keys that each row sees.
    starts: [i32; LANES],
    ends: [i32; LANES],
}

impl Kernel for Hide<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { scores, width, starts, ends } = self;
        let (starts, ends) = (starts.as_chunks::<TILE>().0, ends.as_chunks::<TILE>().0);
        for (key, line) in (0..).zip(scores.chunks_exact_mut(width)) {
            for ((part, starts), ends) in line.iter_mut().zip(starts).zip(ends) {
                for i in 0..TILE {
                    let seen = (starts[i] <= key) & (key < ends[i]);
                    part.0[i] = if seen { part.0[i] } else { f32::NEG_INFINITY.to_bits() };
                }
            }
        }
    }
}
