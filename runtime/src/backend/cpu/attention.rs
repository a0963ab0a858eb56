//! The attention kernel: a tile of query rows walks the keys in chunks, left to right, with a running maximum
//! and sum (online softmax, Milakov and Gimelshein 2018). Chunks that no row sees are skipped.

use super::isa::{Isa, Kernel, fma};
use super::math;
use super::memory::View;
use super::plan::{Span, attention_links, order};
use super::pool::Pool;
use super::product::{Panel, Target, multiply};
use super::scratch::{with_rows, with_tiles};
use crate::op::{Attention, CheckedOp, Lens, Op};

/// Attention on its operands.
pub(super) struct Tiles<'a> {
    isa: Isa,
    op: &'a Attention,
    q: &'a View,
    k: &'a View,
    v: &'a View,
    mask: Option<&'a View>,
    out: &'a View,
    lse: Option<&'a View>,
    state: Option<&'a View>,
    /// Query rows of a tile, and keys of a chunk: a multiple of 16.
    tile: [usize; 2],
    links: u64,
    per_link: u64,
}

/// A tile of query rows, and what its batch entry and head see.
#[derive(Clone, Copy)]
struct Tile {
    batch: u64,
    head: u64,
    kv_head: u64,
    row: u64,
    rows: u64,
    /// Keys that exist for this batch entry.
    len: u64,
}

/// Running maximum and sum of each row, and the weighted values.
struct Running<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    acc: &'a mut [f32],
}

impl<'a> Tiles<'a> {
    pub(super) fn new(
        isa: Isa,
        checked: &'a CheckedOp,
        views: &'a [View],
        state: Option<&'a View>,
    ) -> Option<Self> {
        let Op::Attention(op) = checked.op() else { return None };
        let view = |name| checked.position(name).map(|i| &views[i]);
        let (q, k, v, out) = (view("q")?, view("k")?, view("v")?, view("out")?);
        let (links, per_link, _) = attention_links(q.shape[3], v.shape[3], k.shape[2], isa);
        let (mask, lse) = (view("mask"), view("lse"));
        let order = order(checked.op(), isa);
        let tile = [order.tile[0], order.chunk].map(|n| n as usize);
        Some(Self { isa, op, q, k, v, mask, out, lse, state, tile, links, per_link })
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        pool.run(span.tiles, item_ns, |i| {
            let tile = self.tile(span.first + i);
            with_tiles(|buffers| self.links(tile, span.from, span.to, buffers));
        });
    }

    fn tile(&self, index: u64) -> Tile {
        let (heads, rows) = (self.q.shape[1], self.q.shape[2]);
        let tile_rows = self.tile[0] as u64;
        let blocks = rows.div_ceil(tile_rows);
        let (entry, block) = (index / blocks, index % blocks);
        let (batch, head) = (entry / heads, entry % heads);
        let row = block * tile_rows;
        let len = match &self.op.lens {
            Lens::Host(list) => list.get(batch as usize).map_or(0, |&len| len.into()),
            _ => self.k.shape[2],
        };
        let kv_head = head / (heads / self.k.shape[1]);
        Tile { batch, head, kv_head, row, rows: tile_rows.min(rows - row), len }
    }

    fn links(&self, tile: Tile, from: u64, to: u64, [q, kv, scores, run]: [&mut Vec<f32>; 4]) {
        let (d, dv) = (self.q.shape[3] as usize, self.v.shape[3] as usize);
        let [tile_rows, tile_keys] = self.tile;
        let chunk_keys = tile_keys as u64;
        let chunks = self.k.shape[2].div_ceil(chunk_keys).max(1);
        let [first, last] = [from, to].map(|link| (link * self.per_link).min(chunks));
        run.clear();
        run.resize(tile_rows * (2 + dv), 0.0);
        let (max, rest) = run.split_at_mut(tile_rows);
        let (sum, acc) = rest.split_at_mut(tile_rows);
        let mut running = Running { max, sum, acc };
        running.max.fill(f32::NEG_INFINITY);
        if let (Some(state), 1..) = (self.state, from) {
            self.carry(state, &mut running, true);
        }
        q.clear();
        q.resize(tile_rows * d, 0.0);
        for r in 0..tile.rows as usize {
            let at = self.at(self.q, tile, tile.head, tile.row + r as u64);
            let row = &mut q[r * d..(r + 1) * d];
            self.q.load(self.isa, at, self.q.row_stride(), row);
            row.iter_mut().for_each(|x| *x *= self.op.scale);
        }
        scores.resize(tile_rows * tile_keys, 0.0);
        for chunk in first..last {
            let key = chunk * chunk_keys;
            let keys = chunk_keys.min(tile.len.saturating_sub(key));
            if keys > 0 && self.sees(tile, tile.row + tile.rows - 1) > key {
                self.chunk(tile, [key, keys], q, [kv, scores], &mut running);
            }
        }
        match self.state {
            Some(state) if to < self.links => self.carry(state, &mut running, false),
            _ => self.finish(tile, &mut running, dv),
        }
    }

    /// Keys before this one are seen by query row `row`.
    fn sees(&self, tile: Tile, row: u64) -> u64 {
        if !self.op.causal {
            return tile.len;
        }
        (row + 1 + tile.len).saturating_sub(self.q.shape[2]).min(tile.len)
    }

    fn at(&self, view: &View, tile: Tile, head: u64, row: u64) -> u64 {
        tile.batch * view.strides[0] + head * view.strides[1] + row * view.strides[2]
    }

    /// One chunk of keys: scores, weights, and the weighted values added.
    fn chunk(
        &self,
        tile: Tile,
        [key, keys]: [u64; 2],
        q: &[f32],
        [kv, scores]: [&mut Vec<f32>; 2],
        running: &mut Running<'_>,
    ) {
        let (d, dv, rows) = (self.q.shape[3], self.v.shape[3], tile.rows as usize);
        let width = self.tile[1];
        let q = Panel::dense(q, rows, d as usize);
        // K as it lies is K transposed to the product: its columns are keys.
        let at = self.at(self.k, tile, tile.kv_head, key);
        let steps = [self.k.strides[3], self.k.strides[2]];
        let keys_panel = Panel::of(self.isa, self.k, at, steps, [d, keys], kv);
        multiply(q, keys_panel, &mut Target::dense(scores, keys as usize, width), false);
        self.mask(tile, key, keys, scores);
        self.isa.run(Online { rows, width, scores, running, dv: dv as usize });
        let weights = Panel::dense(scores, rows, width).narrow(keys as usize);
        let at = self.at(self.v, tile, tile.kv_head, key);
        let steps = [self.v.strides[2], self.v.strides[3]];
        let values = Panel::of(self.isa, self.v, at, steps, [keys, dv], kv);
        let dv = dv as usize;
        multiply(weights, values, &mut Target::dense(running.acc, dv, dv), true);
    }

    /// Adds the mask and hides what a row does not see.
    fn mask(&self, tile: Tile, key: u64, keys: u64, scores: &mut [f32]) {
        with_rows(|[line, _]| {
            for (r, row) in (0..tile.rows).zip(scores.chunks_exact_mut(self.tile[1])) {
                let seen = self.sees(tile, tile.row + r).saturating_sub(key).min(keys) as usize;
                row[seen..].fill(f32::NEG_INFINITY);
                if let (Some(mask), true) = (self.mask, seen > 0) {
                    line.resize(seen, 0.0);
                    let at = self.at(mask, tile, tile.head, tile.row + r);
                    mask.load(self.isa, at + key * mask.row_stride(), mask.row_stride(), line);
                    row.iter_mut().zip(&*line).for_each(|(s, m)| *s += m);
                }
            }
        });
    }

    /// Loads or stores the state: maxima, sums, then accumulators.
    fn carry(&self, state: &View, running: &mut Running<'_>, load: bool) {
        let mut at = 0;
        for data in [&mut *running.max, &mut *running.sum, &mut *running.acc] {
            if load {
                state.load(self.isa, at, 1, data);
            } else {
                state.store(self.isa, at, 1, data);
            }
            at += data.len() as u64;
        }
    }

    fn finish(&self, tile: Tile, running: &mut Running<'_>, dv: usize) {
        for r in 0..tile.rows as usize {
            let (max, sum) = (running.max[r], running.sum[r]);
            let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            let row = &mut running.acc[r * dv..(r + 1) * dv];
            row.iter_mut().for_each(|x| *x *= inverse);
            let at = self.at(self.out, tile, tile.head, tile.row + r as u64);
            self.out.store(self.isa, at, self.out.row_stride(), row);
            if let Some(lse) = self.lse {
                let y = if sum == 0.0 { f32::NEG_INFINITY } else { max + math::ln::<false>(sum) };
                lse.store(self.isa, self.at(lse, tile, tile.head, tile.row + r as u64), 1, &[y]);
            }
        }
    }
}

/// One step of the online softmax: scores become weights, sums and accumulators are rescaled.
struct Online<'a, 'b> {
    rows: usize,
    /// Scores of a row, hidden ones included: a multiple of 16.
    width: usize,
    scores: &'a mut [f32],
    running: &'a mut Running<'b>,
    dv: usize,
}

impl Kernel for Online<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { rows, width, scores, running, dv } = self;
        for r in 0..rows {
            let row = &mut scores[r * width..(r + 1) * width];
            let mut lanes = [f32::NEG_INFINITY; 16];
            for part in row.as_chunks::<16>().0 {
                for i in 0..16 {
                    lanes[i] = math::max(lanes[i], part[i]);
                }
            }
            let max = lanes.into_iter().fold(running.max[r], math::max);
            if max == f32::NEG_INFINITY {
                row.fill(0.0);
                continue;
            }
            let mut lanes = [0f32; 16];
            for part in row.as_chunks_mut::<16>().0 {
                for i in 0..16 {
                    part[i] = math::exp::<F>(part[i] - max);
                    lanes[i] += part[i];
                }
            }
            let sum = lanes.into_iter().fold(0.0, |a, b| a + b);
            if running.max[r] == max {
                running.sum[r] += sum;
                continue;
            }
            let correction = math::exp::<F>(running.max[r] - max);
            running.sum[r] = fma::<F>(running.sum[r], correction, sum);
            running.max[r] = max;
            running.acc[r * dv..(r + 1) * dv].iter_mut().for_each(|x| *x *= correction);
        }
    }
}
