//! The attention kernel: a tile of query rows walks the keys in chunks, left to right, with a running maximum
//! and sum (online softmax, Milakov and Gimelshein 2018). Chunks that no row sees are skipped. Few rows, and classes
//! without AVX-512, are products of panels here; others go to `flash`.

use super::batch::{Batch, Bias, Entry, Room, Tiling};
use super::flash;
use super::geometry::{Heads, Mix};
use super::isa::{Isa, Kernel, fma};
use super::math;
use super::memory::View;
use super::plan::{Span, order};
use super::pool::Pool;
use super::product::{Panel, Target, multiply};
use super::scratch::{with_lanes, with_rows, with_tiles};
use super::{Fault, report};
use crate::op::{Attention, CheckedOp, KeyValue, Lens, Op};
use std::ops::Range;

/// Attention on its operands.
pub(super) struct Tiles<'a> {
    pub(super) isa: Isa,
    pub(super) op: &'a Attention,
    pub(super) q: &'a View,
    pub(super) k: &'a View,
    pub(super) v: &'a View,
    pub(super) mask: Option<&'a View>,
    pub(super) alibi: Option<&'a View>,
    pub(super) sinks: Option<&'a View>,
    pages: Option<&'a View>,
    pub(super) out: &'a View,
    pub(super) lse: Option<&'a View>,
    state: Option<&'a View>,
    fault: &'a Fault,
    /// Query rows of a tile, and keys of a chunk: a multiple of 32.
    tile: [usize; 2],
    heads: Heads,
    entries: Batch,
    tiling: Tiling,
}

/// A tile of query rows of a head.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) entry: Entry,
    /// Batch entry of Q, and of dense K and V.
    batch: u64,
    head: u64,
    kv_head: u64,
    /// First row, counted in the entry.
    row: u64,
    pub(super) rows: u64,
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
        fault: &'a Fault,
    ) -> Option<Self> {
        let Op::Attention(op) = checked.op() else { return None };
        let view = |name| checked.position(name).map(|i| &views[i]);
        let order = order(checked, isa);
        let heads = Heads::of(checked, op, isa);
        let (q, k) = (view("q")?, view("k")?);
        let packed_keys = op.scores.rows != Lens::Full && op.key_value == KeyValue::Dense;
        let keys = if packed_keys { k.shape[2] } else { heads.keys };
        let room = Room { rows: q.shape[2], keys, packed_keys };
        let entries = Batch::of(&op.scores, &room, [view("rows"), view("lens")], fault);
        let tile = [order.tile[0], order.chunk].map(|n| n as usize);
        Some(Self {
            isa,
            op,
            q,
            k,
            v: view("v")?,
            mask: view("mask"),
            alibi: view("alibi"),
            sinks: view("sinks"),
            pages: view("pages"),
            out: view("out")?,
            lse: view("lse"),
            state,
            fault,
            tile,
            heads,
            tiling: entries.tiles(tile[0] as u64, |entry| entry.rows),
            entries,
        })
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        pool.run(span.tiles, item_ns, |i| {
            if let Some(tile) = self.tile(span.first + i) {
                self.links(tile, span.from, span.to);
            }
        });
    }

    /// The tile of a number; none where fewer rows came than the plan has room for.
    fn tile(&self, index: u64) -> Option<Tile> {
        let heads = self.q.shape[1];
        let (place, block) = (index / self.heads.blocks, index % self.heads.blocks);
        // What sees most keys comes first, so that threads end together.
        let block = if self.op.scores.causal { self.heads.blocks - 1 - block } else { block };
        let (batch, head) = (place / heads, place % heads);
        let (entry, own) = self.entries.tile(&self.tiling, batch, block)?;
        let kv_head = head / (heads / self.k.shape[1]);
        Some(Tile { entry, batch, head, kv_head, row: own.start, rows: own.end - own.start })
    }

    fn links(&self, tile: Tile, from: u64, to: u64) {
        let chunk_keys = self.tile[1] as u64;
        let chunks = self.heads.keys.div_ceil(chunk_keys).max(1);
        let [first, last] = [from, to].map(|link| (link * self.heads.per_link).min(chunks));
        let seen = self.seen(tile, 0).start..self.seen(tile, tile.rows - 1).end;
        let parts = (first..last).filter_map(|chunk| {
            let key = chunk * chunk_keys;
            let keys = chunk_keys.min(tile.entry.keys.saturating_sub(key));
            (keys > 0 && key < seen.end && seen.start < key + keys).then_some([key, keys])
        });
        let state = [from > 0, to < self.heads.links];
        let state = state.map(|carried| self.state.filter(|_| carried));
        match self.heads.mix {
            Mix::Panels => with_tiles(|buffers| self.panels(tile, parts, state, buffers)),
            Mix::Lanes { pairs } => {
                with_lanes(|buffers| flash::run(self, tile, pairs, parts, state, buffers));
            }
        }
    }

    /// A range of chunks as panels.
    fn panels(
        &self,
        tile: Tile,
        parts: impl Iterator<Item = [u64; 2]>,
        [resume, pause]: [Option<&View>; 2],
        [q, kv, scores, run]: [&mut Vec<f32>; 4],
    ) {
        let [d, dv] = [self.q, self.v].map(|view| view.shape[3] as usize);
        let [tile_rows, tile_keys] = self.tile;
        run.clear();
        run.resize(tile_rows * (2 + dv), 0.0);
        let (max, rest) = run.split_at_mut(tile_rows);
        let (sum, acc) = rest.split_at_mut(tile_rows);
        let mut running = Running { max, sum, acc };
        match resume {
            Some(state) => self.carry(state, &mut running, true),
            None => self.begin(tile, &mut running),
        }
        scores.resize(tile_rows * tile_keys, 0.0);
        q.clear();
        q.resize(tile_rows * d, 0.0);
        for r in 0..tile.rows as usize {
            let at = self.at(self.q, tile, r as u64);
            self.q.load(self.isa, at, self.q.row_stride(), &mut q[r * d..(r + 1) * d]);
        }
        parts.for_each(|part| self.chunk(tile, part, q, [kv, scores], &mut running));
        match pause {
            Some(state) => self.carry(state, &mut running, false),
            None => self.finish(tile, &mut running),
        }
    }

    /// Nothing seen yet but the sink.
    fn begin(&self, tile: Tile, running: &mut Running<'_>) {
        running.max.fill(f32::NEG_INFINITY);
        if let (Some(sinks), true) = (self.sinks, tile.entry.owned) {
            running.max.fill(self.of_head(sinks, tile));
            running.sum.fill(1.0);
        }
    }

    /// The head's own value of an operand with one for each.
    pub(super) fn of_head(&self, view: &View, tile: Tile) -> f32 {
        let mut value = [0.0];
        view.load(self.isa, tile.head * view.strides[0], 1, &mut value);
        value[0]
    }

    /// Place among the keys of the tile's row `row`.
    pub(super) fn position(&self, tile: Tile, row: u64) -> i64 {
        tile.entry.position(tile.row + row)
    }

    /// The keys that the tile's row `row` sees. Both ends grow with the row.
    pub(super) fn seen(&self, tile: Tile, row: u64) -> Range<u64> {
        tile.entry.seen(&self.op.scores, tile.row + row)
    }

    /// The tile's row `row` in Q, or in what has its shape.
    pub(super) fn at(&self, view: &View, tile: Tile, row: u64) -> u64 {
        let row = tile.entry.first_row + tile.row + row;
        tile.batch * view.strides[0] + tile.head * view.strides[1] + row * view.strides[2]
    }

    /// Where the row of a key begins in dense keys or values.
    fn dense(&self, view: &View, tile: Tile, key: u64) -> u64 {
        let batch = if self.op.scores.rows == Lens::Full { tile.entry.batch } else { 0 };
        let row = tile.entry.first_key + key;
        batch * view.strides[0] + tile.kv_head * view.strides[1] + row * view.strides[2]
    }

    /// Where the rows of a chunk's keys or values begin; `None` for those of a page that is not.
    pub(super) fn starts(
        &self,
        view: &View,
        tile: Tile,
        [key, keys]: [u64; 2],
        to: &mut Vec<Option<u64>>,
    ) {
        to.clear();
        let Some(pages) = self.pages else {
            return to.extend((key..key + keys).map(|key| Some(self.dense(view, tile, key))));
        };
        let page = view.shape[2];
        let mut next = key;
        while next < key + keys {
            let count = (page - next % page).min(key + keys - next);
            let start = self.page(view, pages, tile, next / page);
            let slots = (next % page..).take(count as usize);
            to.extend(slots.map(|slot| start.map(|start| start + slot * view.strides[2])));
            next += count;
        }
    }

    /// Where a page of the tile's entry begins, for its head. Only an index that passed forms an address.
    fn page(&self, view: &View, pages: &View, tile: Tile, number: u64) -> Option<u64> {
        let index = pages.word(tile.entry.batch * pages.strides[0] + number * pages.strides[1]);
        if u64::from(index) >= view.shape[0] {
            report(self.fault, index, view.shape[0]);
            return None;
        }
        Some(u64::from(index) * view.strides[0] + tile.kv_head * view.strides[1])
    }

    /// Keys or values of a chunk, a row each.
    pub(super) fn panel<'b>(
        &self,
        view: &'b View,
        tile: Tile,
        [key, keys]: [u64; 2],
        buffer: &'b mut Vec<f32>,
    ) -> Panel<'b> {
        let width = view.shape[3];
        let Some(pages) = self.pages else {
            let steps = [view.strides[2], view.strides[3]];
            let at = self.dense(view, tile, key);
            return Panel::of(self.isa, view, at, steps, [keys, width], buffer);
        };
        let page = view.shape[2];
        let line = width as usize;
        buffer.resize(keys as usize * line, 0.0);
        let mut next = key;
        while next < key + keys {
            let count = (page - next % page).min(key + keys - next);
            let from = (next - key) as usize * line;
            let rows = &mut buffer[from..from + count as usize * line];
            if let Some(start) = self.page(view, pages, tile, next / page) {
                for (slot, row) in (next % page..).zip(rows.chunks_exact_mut(line.max(1))) {
                    view.load(self.isa, start + slot * view.strides[2], view.strides[3], row);
                }
            } else {
                rows.fill(0.0);
            }
            next += count;
        }
        Panel::dense(buffer, keys as usize, line)
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
        let d = self.q.shape[3] as usize;
        let (rows, width, ld) = (tile.rows as usize, self.tile[1], self.v.shape[3] as usize);
        let keys_panel = self.panel(self.k, tile, [key, keys], kv).t();
        // Scaled after the sum: products of 16-bit values are exact, those of a scaled query would not be.
        let target = &mut Target::dense(scores, keys as usize, width);
        multiply(
            self.isa,
            Panel::dense(q, rows, d),
            keys_panel,
            target,
            false,
            self.op.scores.scale,
        );
        self.functions(tile, key, keys, scores);
        self.isa.run(Online { rows, width, scores, running, ld });
        let weights = Panel::dense(scores, rows, width).narrow(keys as usize);
        let values = self.panel(self.v, tile, [key, keys], kv);
        multiply(self.isa, weights, values, &mut Target::dense(running.acc, ld, ld), true, 1.0);
    }

    /// Functions of the scores, then the mask, and what a row does not see is hidden.
    fn functions(&self, tile: Tile, key: u64, keys: u64, scores: &mut [f32]) {
        let slope = self.alibi.map(|slopes| self.of_head(slopes, tile));
        with_rows(|[line, _]| {
            line.resize(self.tile[1], 0.0);
            for (r, row) in (0..tile.rows).zip(scores.chunks_exact_mut(self.tile[1])) {
                let seen = self.seen(tile, r);
                let inside = |at: u64| (at.saturating_sub(key).min(keys)) as usize;
                let (first, last) = (inside(seen.start), inside(seen.end));
                row[last..].fill(f32::NEG_INFINITY);
                row[..first.min(last)].fill(f32::NEG_INFINITY);
                if first >= last {
                    continue;
                }
                let first_key = key + first as u64;
                let visible = &mut row[first..last];
                if self.op.scores.softcap > 0.0 {
                    self.isa.run(Cap(self.op.scores.softcap, &mut *visible));
                }
                let position = self.position(tile, r);
                let mask = self.mask.map(|mask| (mask, self.at(mask, tile, r)));
                Bias { slope, position, mask }.add(self.isa, first_key, visible, line);
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

    fn finish(&self, tile: Tile, running: &mut Running<'_>) {
        let dv = self.v.shape[3] as usize;
        for r in 0..tile.rows as usize {
            let (max, sum) = (running.max[r], running.sum[r]);
            let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            let row = &mut running.acc[r * dv..(r + 1) * dv];
            row.iter_mut().for_each(|x| *x *= inverse);
            let at = self.at(self.out, tile, r as u64);
            self.out.store(self.isa, at, self.out.row_stride(), row);
            if let Some(lse) = self.lse {
                let y = if sum == 0.0 { f32::NEG_INFINITY } else { max + math::ln::<false>(sum) };
                lse.store(self.isa, self.at(lse, tile, r as u64), 1, &[y]);
            }
        }
    }
}

/// The soft cap: `c tanh(x / c)`.
struct Cap<'a>(f32, &'a mut [f32]);

impl Kernel for Cap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let (cap, scores) = (self.0, self.1);
        scores.iter_mut().for_each(|x| *x = cap * math::tanh::<F>(*x / cap));
    }
}

/// One step of the online softmax: scores become weights, sums and accumulators are rescaled.
struct Online<'a, 'b> {
    rows: usize,
    /// Scores of a row, hidden ones included: a multiple of 16.
    width: usize,
    scores: &'a mut [f32],
    running: &'a mut Running<'b>,
    ld: usize,
}

impl Kernel for Online<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { rows, width, scores, running, ld } = self;
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
            running.acc[r * ld..(r + 1) * ld].iter_mut().for_each(|x| *x *= correction);
        }
    }
}
