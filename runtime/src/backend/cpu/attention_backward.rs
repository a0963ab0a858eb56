//! The gradients of attention, without a sum across threads: tiles of query rows walk the keys and sum `d_q`; tiles of
//! keys walk the rows of every head of their group and sum `d_k` and `d_v`. Both make the weights anew from the
//! log-sum-exp, chunk by chunk, left to right. Chunks that no row sees are skipped. `compute` calls it.

use super::Fault;
use super::batch::{Batch, Bias, Entry, Room, Tiling};
use super::geometry::Gradients;
use super::isa::{Isa, Kernel, fma};
use super::math;
use super::memory::View;
use super::plan::Span;
use super::pool::Pool;
use super::product::{Panel, Target, multiply};
use super::scratch::{with_rows, with_tiles};
use crate::op::{CheckedOp, Lens, Op, Scores};
use std::ops::Range;

/// The gradients on their operands.
pub(super) struct Backward<'a> {
    isa: Isa,
    scores: &'a Scores,
    shape: Gradients,
    entries: Batch,
    /// Of rows, and of keys.
    tilings: [Tiling; 2],
    q: &'a View,
    k: &'a View,
    v: &'a View,
    out: &'a View,
    lse: &'a View,
    d_out: &'a View,
    mask: Option<&'a View>,
    alibi: Option<&'a View>,
    d_q: &'a View,
    d_k: &'a View,
    d_v: &'a View,
    state: Option<&'a View>,
}

/// Query rows and keys of a head of an entry that meet, counted in the entry.
#[derive(Clone, Copy)]
struct Meeting {
    entry: Entry,
    head: u64,
    kv_head: u64,
    row: u64,
    rows: u64,
    key: u64,
    keys: u64,
}

/// Operands of a meeting as f32.
#[derive(Clone, Copy)]
struct Panels<'a> {
    q: Panel<'a>,
    d_out: Panel<'a>,
    k: Panel<'a>,
    v: Panel<'a>,
}

/// What a thread works in: weights and their gradients, then two values a row, a row twice, how fast scores of a row grow,
/// and its mask.
struct Work<'a> {
    weights: &'a mut [f32],
    d_scores: &'a mut [f32],
    lse: &'a mut [f32],
    mean: &'a mut [f32],
    lines: &'a mut [f32],
    growth: &'a mut [f32],
    mask: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn of(buffer: &'a mut Vec<f32>, [rows, keys]: [usize; 2], dv: usize) -> Self {
        buffer.resize(2 * rows * keys + 2 * rows + 2 * dv + 2 * keys, 0.0);
        let (weights, rest) = buffer.split_at_mut(rows * keys);
        let (d_scores, rest) = rest.split_at_mut(rows * keys);
        let (lse, rest) = rest.split_at_mut(rows);
        let (mean, rest) = rest.split_at_mut(rows);
        let (growth, rest) = rest.split_at_mut(keys);
        let (mask, lines) = rest.split_at_mut(keys);
        Self { weights, d_scores, lse, mean, lines, growth, mask }
    }
}

impl<'a> Backward<'a> {
    pub(super) fn new(
        isa: Isa,
        checked: &'a CheckedOp,
        views: &'a [View],
        state: Option<&'a View>,
        fault: &'a Fault,
    ) -> Option<Self> {
        let Op::AttentionBackward(op) = checked.op() else { return None };
        let scores = &op.scores;
        let view = |name| checked.position(name).map(|i| &views[i]);
        let (q, k) = (view("q")?, view("k")?);
        let packed_keys = scores.rows != Lens::Full;
        let room = Room { rows: q.shape[2], keys: k.shape[2], packed_keys };
        let entries = Batch::of(scores, &room, [view("rows"), view("lens")], fault);
        let shape = Gradients::of(checked, scores, isa);
        Some(Self {
            isa,
            scores,
            tilings: [
                entries.tiles(shape.tile[0], |entry| entry.rows),
                entries.tiles(shape.tile[1], |entry| entry.places),
            ],
            shape,
            entries,
            q,
            k,
            v: view("v")?,
            out: view("out")?,
            lse: view("lse")?,
            d_out: view("d_out")?,
            mask: view("mask"),
            alibi: view("alibi"),
            d_q: view("d_q")?,
            d_k: view("d_k")?,
            d_v: view("d_v")?,
            state,
        })
    }

    /// Runs a span of tiles on the pool.
    pub(super) fn run(&self, span: Span, pool: &Pool, item_ns: u64) {
        pool.run(span.tiles, item_ns, |i| {
            let tile = u128::from(span.first + i);
            match tile.checked_sub(self.shape.of_queries) {
                None => self.queries(tile as u64, span.from, span.to),
                Some(tile) => self.keys(tile as u64, span.from, span.to),
            }
        });
    }

    /// Chunks of a chain of `count` that links `from..to` cover.
    fn chunks(&self, from: u64, to: u64, count: u64) -> Range<u64> {
        let at = |link: u64| link.saturating_mul(self.shape.per_link).min(count);
        at(from)..at(to)
    }

    fn queries(&self, tile: u64, from: u64, to: u64) {
        let s = &self.shape;
        let heads = self.q.shape[1];
        let (place, tile) = (tile / s.row_tiles, tile % s.row_tiles);
        let (batch, head) = (place / heads, place % heads);
        let Some((entry, own)) = self.entries.tile(&self.tilings[0], batch, tile) else { return };
        let (row, rows) = (own.start, own.end - own.start);
        let whole = Meeting { entry, head, kv_head: head / s.group, row, rows, key: 0, keys: 0 };
        let (d, dv) = (self.q.shape[3] as usize, self.v.shape[3] as usize);
        with_tiles(|[q, d_out, k, v]| {
            with_rows(|[work, acc]| {
                let mut work = Work::of(work, s.tile.map(|n| n as usize), dv);
                acc.clear();
                acc.resize(rows as usize * d, 0.0);
                self.carry(from > 0, acc, true);
                self.statistics(&whole, &mut work);
                let q = self.rows(self.q, &whole, q);
                let d_out = self.rows(self.d_out, &whole, d_out);
                for chunk in self.chunks(from, to, s.key_chunks) {
                    let key = chunk * s.tile[1];
                    let keys = s.tile[1].min(entry.keys.saturating_sub(key));
                    let meeting = Meeting { key, keys, ..whole };
                    if !self.meets(&meeting) {
                        continue;
                    }
                    let k = self.columns(self.k, &meeting, k);
                    let v = self.columns(self.v, &meeting, v);
                    self.weigh(&meeting, Panels { q, d_out, k, v }, &mut work);
                    let d_scores = self.dense(work.d_scores, &meeting);
                    multiply(self.isa, d_scores, k, &mut Target::dense(acc, d, d), true, 1.0);
                }
                if to < s.links {
                    return self.carry(true, acc, false);
                }
                self.store(self.d_q, self.row_at(self.d_q, &whole), acc, d);
            });
        });
    }

    fn keys(&self, tile: u64, from: u64, to: u64) {
        let s = &self.shape;
        let kv_heads = self.k.shape[1];
        let (place, tile) = (tile / s.key_tiles, tile % s.key_tiles);
        let (batch, kv_head) = (place / kv_heads, place % kv_heads);
        let Some((entry, own)) = self.entries.tile(&self.tilings[1], batch, tile) else { return };
        let (key, keys) = (own.start, own.end - own.start);
        let whole = Meeting { entry, head: 0, kv_head, row: 0, rows: 0, key, keys };
        let (d, dv) = (self.q.shape[3] as usize, self.v.shape[3] as usize);
        with_tiles(|[q, d_out, k, v]| {
            with_rows(|[work, acc]| {
                let mut work = Work::of(work, s.tile.map(|n| n as usize), dv);
                acc.clear();
                acc.resize(keys as usize * (d + dv), 0.0);
                self.carry(from > 0, acc, true);
                let (d_k, d_v) = acc.split_at_mut(keys as usize * d);
                let k = self.columns(self.k, &whole, k);
                let v = self.columns(self.v, &whole, v);
                for chunk in self.chunks(from, to, s.group * s.row_chunks) {
                    let head = kv_head * s.group + chunk / s.row_chunks;
                    let row = chunk % s.row_chunks * s.tile[0];
                    let rows = s.tile[0].min(entry.rows.saturating_sub(row));
                    let meeting = Meeting { head, row, rows, ..whole };
                    if !self.meets(&meeting) {
                        continue;
                    }
                    self.statistics(&meeting, &mut work);
                    let q = self.rows(self.q, &meeting, q);
                    let d_out = self.rows(self.d_out, &meeting, d_out);
                    self.weigh(&meeting, Panels { q, d_out, k, v }, &mut work);
                    let weights = self.dense(work.weights, &meeting).t();
                    multiply(self.isa, weights, d_out, &mut Target::dense(d_v, dv, dv), true, 1.0);
                    let d_scores = self.dense(work.d_scores, &meeting).t();
                    multiply(self.isa, d_scores, q, &mut Target::dense(d_k, d, d), true, 1.0);
                }
                if to < s.links {
                    return self.carry(true, acc, false);
                }
                self.store(self.d_k, self.key_at(self.d_k, &whole), d_k, d);
                self.store(self.d_v, self.key_at(self.d_v, &whole), d_v, dv);
            });
        });
    }

    /// Loads or stores the state where there is one to carry.
    fn carry(&self, carried: bool, acc: &mut [f32], load: bool) {
        match self.state {
            Some(state) if carried && load => state.load(self.isa, 0, 1, acc),
            Some(state) if carried => state.store(self.isa, 0, 1, acc),
            _ => {}
        }
    }

    /// Keys of a meeting that its row `row` sees, counted in it.
    fn seen(&self, m: &Meeting, row: u64) -> Range<usize> {
        let seen = m.entry.seen(self.scores, m.row + row);
        let inside = |key: u64| key.saturating_sub(m.key).min(m.keys) as usize;
        inside(seen.start)..inside(seen.end)
    }

    /// Whether a row may see a key: both ends of what a row sees grow with the row.
    fn meets(&self, m: &Meeting) -> bool {
        m.rows > 0 && self.seen(m, 0).start < self.seen(m, m.rows - 1).end
    }

    /// The batch axis of an entry.
    fn batch(&self, entry: &Entry) -> u64 {
        if self.scores.rows == Lens::Full { entry.batch } else { 0 }
    }

    /// Where the first row of a meeting is in what has Q's shape.
    fn row_at(&self, view: &View, m: &Meeting) -> u64 {
        start(view, [self.batch(&m.entry), m.head, m.entry.first_row + m.row])
    }

    /// Where the first key of a meeting is in what has the shape of K.
    fn key_at(&self, view: &View, m: &Meeting) -> u64 {
        start(view, [self.batch(&m.entry), m.kv_head, m.entry.first_key + m.key])
    }

    fn rows<'b>(&self, view: &'b View, m: &Meeting, buffer: &'b mut Vec<f32>) -> Panel<'b> {
        self.panel(view, self.row_at(view, m), m.rows, buffer)
    }

    fn columns<'b>(&self, view: &'b View, m: &Meeting, buffer: &'b mut Vec<f32>) -> Panel<'b> {
        self.panel(view, self.key_at(view, m), m.keys, buffer)
    }

    fn panel<'b>(&self, view: &'b View, at: u64, rows: u64, buffer: &'b mut Vec<f32>) -> Panel<'b> {
        let steps = [view.strides[2], view.strides[3]];
        Panel::of(self.isa, view, at, steps, [rows, view.shape[3]], buffer)
    }

    /// The rows and keys of a meeting in a buffer of a tile's width.
    fn dense<'b>(&self, buffer: &'b [f32], meeting: &Meeting) -> Panel<'b> {
        let width = self.shape.tile[1] as usize;
        Panel::dense(buffer, meeting.rows as usize, width).narrow(meeting.keys as usize)
    }

    /// Each row's log-sum-exp, and the sum of its output times the gradient of that.
    fn statistics(&self, m: &Meeting, work: &mut Work<'_>) {
        let lse = &mut work.lse[..m.rows as usize];
        self.lse.load(self.isa, self.row_at(self.lse, m), self.lse.row_stride(), lse);
        let (out, d_out) = work.lines.split_at_mut(work.lines.len() / 2);
        for (row, mean) in (0..m.rows).zip(&mut *work.mean) {
            let m = &Meeting { row: m.row + row, ..*m };
            self.out.load(self.isa, self.row_at(self.out, m), self.out.row_stride(), out);
            self.d_out.load(self.isa, self.row_at(self.d_out, m), self.d_out.row_stride(), d_out);
            *mean = self.isa.run(Dot(out, d_out));
        }
    }

    /// Weights of a meeting, and the gradients of its scores.
    fn weigh(&self, m: &Meeting, panels: Panels<'_>, work: &mut Work<'_>) {
        let Panels { q, d_out, k, v } = panels;
        let (keys, width) = (m.keys as usize, self.shape.tile[1] as usize);
        let (isa, scale) = (self.isa, self.scores.scale);
        // Scaled after the sum, as the forward op does.
        multiply(isa, q, k.t(), &mut Target::dense(work.weights, keys, width), false, scale);
        multiply(isa, d_out, v.t(), &mut Target::dense(work.d_scores, keys, width), false, 1.0);
        let slope = self.alibi.map(|slopes| {
            let mut slope = [0.0];
            slopes.load(isa, m.head * slopes.strides[0], 1, &mut slope);
            slope[0]
        });
        let lines = work.weights.chunks_exact_mut(width).zip(work.d_scores.chunks_exact_mut(width));
        let statistics = work.lse.iter().zip(&*work.mean);
        for (row, ((p, ds), (&lse, &mean))) in (0..m.rows).zip(lines.zip(statistics)) {
            // A row that saw nothing has no weights.
            let seen = if lse > f32::NEG_INFINITY { self.seen(m, row) } else { 0..0 };
            for line in [&mut *p, &mut *ds] {
                line[..seen.start].fill(0.0);
                line[seen.end..keys].fill(0.0);
            }
            let (p, ds) = (&mut p[seen.clone()], &mut ds[seen.clone()]);
            let growth = &mut work.growth[..p.len()];
            if self.scores.softcap > 0.0 {
                isa.run(Cap { cap: self.scores.softcap, scores: p, growth });
            }
            let mask = self
                .mask
                .map(|mask| (mask, self.row_at(mask, &Meeting { row: m.row + row, ..*m })));
            let bias = Bias { slope, position: m.entry.position(m.row + row), mask };
            bias.add(isa, m.key + seen.start as u64, p, work.mask);
            isa.run(Weigh { lse, mean, scale, p, ds });
            if self.scores.softcap > 0.0 {
                ds.iter_mut().zip(&*growth).for_each(|(ds, growth)| *ds *= growth);
            }
        }
    }

    fn store(&self, view: &View, at: u64, data: &[f32], width: usize) {
        for (i, line) in (0..).zip(data.chunks_exact(width.max(1))) {
            view.store(self.isa, at + i * view.strides[2], view.row_stride(), line);
        }
    }
}

/// The first element of a row of a head of a batch entry.
fn start(view: &View, at: [u64; 3]) -> u64 {
    at.iter().zip(view.strides.iter()).map(|(i, stride)| i * stride).sum()
}

/// Sum of products in sixteen lanes, then the lanes in order.
struct Dot<'a>(&'a [f32], &'a [f32]);

impl Kernel for Dot<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<const F: bool>(self) -> f32 {
        let Self(x, y) = self;
        let mut lanes = [0f32; 16];
        let ((xs, x), (ys, y)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
        for (x, y) in xs.iter().zip(ys) {
            for i in 0..16 {
                lanes[i] = fma::<F>(x[i], y[i], lanes[i]);
            }
        }
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = fma::<F>(*x, *y, *lane);
        }
        lanes.into_iter().fold(0.0, |a, b| a + b)
    }
}

/// Scores under the soft cap, `c tanh(x / c)`, and how fast each grows with its product.
struct Cap<'a> {
    cap: f32,
    scores: &'a mut [f32],
    growth: &'a mut [f32],
}

impl Kernel for Cap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { cap, scores, growth } = self;
        for (x, growth) in scores.iter_mut().zip(growth) {
            let part = math::tanh::<F>(*x / cap);
            *x = cap * part;
            *growth = fma::<F>(-part, part, 1.0);
        }
    }
}

/// Scores become weights, gradients of weights those of scores.
struct Weigh<'a> {
    lse: f32,
    mean: f32,
    scale: f32,
    p: &'a mut [f32],
    ds: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { lse, mean, scale, p, ds } = self;
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = math::exp::<F>(*p - lse);
            *ds = scale * (*p * (*ds - mean));
        }
    }
}
