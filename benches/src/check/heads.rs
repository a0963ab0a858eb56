//! Attention's problems, forward and its gradients, with windows of single query rows and of single keys. `problem` builds
//! them, `shapes` and `lists` name their sizes.

use super::data::{Given, dense};
use super::problem::{Built, FLOPS, TERA, Window, name, spots, window};
use leasehold::op::{Attention, AttentionBackward, Lens, Scores};
use leasehold::{DType, Error, Kind, Result};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// Rows that are checked at places drawn by the seed, beside three that are always there.
const DRAWN: usize = 5;
/// Parts of an entry, by which a row or a key of any is named.
const PARTS: u64 = 1 << 32;

/// Sizes of attention.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heads {
    /// Entries.
    pub(super) batch: u64,
    /// Query heads and key heads.
    pub(super) heads: [u64; 2],
    /// Query rows and keys of an entry.
    pub(super) lengths: [u64; 2],
    /// Of a head's queries and keys, and of its values.
    pub(super) dims: [u64; 2],
    /// Whether later keys are hidden.
    pub(super) causal: bool,
    /// Keys seen to the left and to the right.
    pub(super) window: Option<[u32; 2]>,
    /// The soft cap; 0 is off.
    pub(super) softcap: f32,
    /// Of all.
    #[serde(serialize_with = "name")]
    pub(super) dtype: DType,
    /// Rows and keys of entries that lie packed, one after another, in place of `batch` and `lengths`.
    pub(super) packed: Vec<[u32; 2]>,
}

/// An entry of the batch: where it lies, and its rows and keys.
struct Entry {
    batch: u64,
    first: [u64; 2],
    counts: [u64; 2],
}

/// Keys that row `row` of `rows` sees of `keys`, aligned at the bottom right.
pub(super) fn seen(
    row: u64,
    [rows, keys]: [u64; 2],
    causal: bool,
    window: Option<[u32; 2]>,
) -> Range<u64> {
    let (position, most) = ((row + keys) as i64 - rows as i64, keys as i64);
    let [left, right] = window.map_or([most, most + rows as i64], |sides| sides.map(i64::from));
    let right = if causal { 0 } else { right };
    let held = |key: i64| key.clamp(0, most) as u64;
    let (from, to) = (held(position - left), held(position + right + 1));
    // Before all keys nothing is seen.
    from..to.max(from)
}

/// A window of one query row and the keys that it sees.
pub(super) fn row_window(
    scores: Scores,
    dtype: DType,
    [q, k, v]: [Vec<u8>; 3],
    [dim, value_dim]: [u64; 2],
    first: u64,
) -> Result<Window> {
    let keys = k.len() as u64 / (dim * dtype.size());
    let op = Attention { scores, ..Attention::default() };
    let shape = |rows, dim| vec![1, 1, rows, dim];
    let parts = [
        (dtype, shape(1, dim), q),
        (dtype, shape(keys, dim), k),
        (dtype, shape(keys, value_dim), v),
    ];
    let out = dense(dtype, &shape(1, value_dim));
    window(op.into(), &parts, &[out], (first..first + value_dim).collect())
}

impl Heads {
    pub(super) fn label(&self) -> String {
        let Self { batch, heads: [q, kv], lengths: [rows, keys], dims: [d, dv], .. } = self;
        let both = |a: &u64, b: &u64| if a == b { format!("{a}") } else { format!("{a}/{b}") };
        let mut mask = String::from(if self.causal { "causal" } else { "full" });
        mask += &self.window.map_or_else(String::new, |[l, r]| format!(", window {l}/{r}"));
        mask += &if self.softcap > 0.0 { format!(", cap {}", self.softcap) } else { "".into() };
        let of = format!("{q} heads on {kv} of {}, {mask} {}", both(d, dv), self.dtype);
        if self.packed.is_empty() {
            return format!("{batch} x {}, {of}", both(rows, keys));
        }
        let total = |side: usize| self.packed.iter().map(|counts| u64::from(counts[side])).sum();
        format!("{} lengths, {} rows, {of}", self.packed.len(), both(&total(0), &total(1)))
    }

    /// Shapes of Q, of K, of V and of the output.
    fn shapes(&self) -> [[u64; 4]; 4] {
        let (batch, [rows, keys]) = match self.packed.is_empty() {
            true => (self.batch, self.lengths),
            false => (1, [0, 1].map(|i| self.packed.iter().map(|of| u64::from(of[i])).sum())),
        };
        let ([q, kv], [d, dv]) = (self.heads, self.dims);
        [[batch, q, rows, d], [batch, kv, keys, d], [batch, kv, keys, dv], [batch, q, rows, dv]]
    }

    fn entries(&self) -> u64 {
        if self.packed.is_empty() { self.batch } else { self.packed.len() as u64 }
    }

    fn entry(&self, i: u64) -> Entry {
        let Some(counts) = self.packed.get(i as usize) else {
            return Entry { batch: i, first: [0, 0], counts: self.lengths };
        };
        let before = &self.packed[..i as usize];
        let first = [0, 1].map(|side| before.iter().map(|of| u64::from(of[side])).sum());
        Entry { batch: 0, first, counts: counts.map(u64::from) }
    }

    fn scores(&self) -> Scores {
        let of = |side: usize| Lens::Host(self.packed.iter().map(|of| of[side]).collect());
        let [rows, lens] =
            match (self.packed.is_empty(), self.packed.iter().all(|of| of[0] == of[1])) {
                (true, _) => [Lens::Full, Lens::Full],
                (false, true) => [of(0), Lens::Full],
                (false, false) => [of(0), of(1)],
            };
        let Self { causal, window, .. } = *self;
        Scores { causal, window, rows, lens, ..self.formula() }
    }

    /// How the scores of rows and keys that all see one another are made.
    fn formula(&self) -> Scores {
        let scale = 1.0 / (self.dims[0] as f32).sqrt();
        Scores { scale, softcap: self.softcap, ..Scores::default() }
    }

    /// The log-sum-exp is an output where its gradients are wanted: `speed` runs it first and then [`Heads::backward`].
    pub(super) fn forward(&self, seed: u64, log_sum_exp: bool) -> Result<Built> {
        let [q, k, v, out] = self.shapes();
        let given = [("q", q), ("k", k), ("v", v)];
        let given = given.map(|(name, shape)| Given::normal(name, dense(self.dtype, &shape), seed));
        let op = Attention { scores: self.scores(), log_sum_exp, ..Attention::default() };
        let mut outs = vec![dense(self.dtype, &out)];
        outs.extend(log_sum_exp.then(|| dense(DType::F32, &q[..3])));
        let mut built = Built::new(op, given.into(), &outs, (self.flops(), FLOPS))?;
        for (entry, head, row) in self.samples(seed) {
            let (parts, at) = self.row(&built.given, &entry, head, row);
            built.windows.push(row_window(self.formula(), self.dtype, parts, self.dims, at)?);
        }
        Ok(built)
    }

    /// A query row of an entry with the keys and values that it sees, and where its output begins.
    fn row(&self, given: &[Given], entry: &Entry, head: u64, row: u64) -> ([Vec<u8>; 3], u64) {
        let ([d, dv], [.., out]) = (self.dims, self.shapes());
        let kv = head / (self.heads[0] / self.heads[1]);
        let keys = seen(row, entry.counts, self.causal, self.window);
        let keys = entry.first[1] + keys.start..entry.first[1] + keys.end;
        let row = entry.first[0] + row;
        let box_of = |head: u64, rows: Range<u64>, dim: u64| {
            [entry.batch..entry.batch + 1, head..head + 1, rows, 0..dim]
        };
        let parts = [
            given[0].cut(&box_of(head, row..row + 1, d)),
            given[1].cut(&box_of(kv, keys.clone(), d)),
            given[2].cut(&box_of(kv, keys, dv)),
        ];
        (parts, ((entry.batch * out[1] + head) * out[2] + row) * dv)
    }

    /// Entry, head and row within the entry.
    fn samples(&self, seed: u64) -> Vec<(Entry, u64, u64)> {
        let axes = [(self.entries(), 1), (self.heads[0], 1), (PARTS, 1)];
        let of = |[entry, head, part]: [Range<u64>; 3]| {
            let entry = self.entry(entry.start);
            let row = of_parts(entry.counts[0], part.start)?;
            Some((entry, head.start, row))
        };
        spots(axes, DRAWN, seed).into_iter().filter_map(of).collect()
    }

    fn flops(&self) -> f64 {
        let entries = (0..self.entries()).map(|i| self.entry(i).counts.map(|n| n as f64));
        let pairs: f64 = entries.map(|[rows, keys]| rows * keys).sum();
        let half = if self.causal { 0.5 } else { 1.0 };
        2.0 * half * pairs * (self.heads[0] * (self.dims[0] + self.dims[1])) as f64 / TERA
    }

    /// The gradients, from what forward was given and what it gave.
    ///
    /// # Errors
    /// A rule that the sizes break.
    pub(super) fn backward(
        &self,
        forward: &Built,
        results: Vec<Vec<u8>>,
        seed: u64,
    ) -> Result<Built> {
        let [q, k, v, out_shape] = self.shapes();
        let [out, lse]: [Vec<u8>; 2] = results.try_into().map_err(|_| {
            let asked = "another number of results".into();
            Error::from(Kind::Value { asked, allowed: "out and lse".into() })
        })?;
        let out_spec = dense(self.dtype, &out_shape);
        let mut given = forward.given.clone();
        given.push(Given { name: "out", spec: out_spec, bytes: Arc::new(out) });
        given.push(Given { name: "lse", spec: dense(DType::F32, &q[..3]), bytes: Arc::new(lse) });
        given.push(Given::normal("d_out", out_spec, seed));
        let op = AttentionBackward { scores: self.scores() };
        let outs = [q, k, v].map(|shape| dense(self.dtype, &shape));
        let mut built = Built::new(op, given, &outs, (2.5 * self.flops(), FLOPS))?;
        for (entry, head, row) in self.samples(seed) {
            let keys = seen(row, entry.counts, self.causal, self.window);
            let head = head..head + 1;
            let row = row..row + 1;
            let at = ((entry.batch * q[1] + head.start) * q[2] + entry.first[0] + row.start) * q[3];
            let part = self.part(&built.given, &entry, [head, row, keys])?;
            built.windows.push(part.of(0, (at..at + q[3]).collect()));
        }
        let axes = [(self.entries(), 1), (self.heads[1], 1), (PARTS, 1)];
        for [entry, head, part] in spots(axes, 0, seed) {
            let entry = self.entry(entry.start);
            let Some(key) = of_parts(entry.counts[1], part.start) else { continue };
            let group = self.heads[0] / self.heads[1];
            let heads = head.start * group..(head.start + 1) * group;
            let rows = self.rows_that_see(key, &entry);
            let place = (entry.batch * k[1] + head.start) * k[2] + entry.first[1] + key;
            let part = self.part(&built.given, &entry, [heads, rows, key..key + 1])?;
            for (output, dim) in [(1, k[3]), (2, v[3])] {
                let at = (place * dim..(place + 1) * dim).collect();
                built.windows.push(part.clone().of(output, at));
            }
        }
        Ok(built)
    }

    /// The rows of an entry that see a key: they are next to one another.
    fn rows_that_see(&self, key: u64, entry: &Entry) -> Range<u64> {
        let sees = |row: &u64| seen(*row, entry.counts, self.causal, self.window).contains(&key);
        let first = (0..entry.counts[0]).find(sees).unwrap_or(0);
        first..(first..entry.counts[0]).take_while(sees).last().map_or(first, |last| last + 1)
    }

    /// The gradients that query heads' rows and keys of their group's head give one another, all of which are seen.
    fn part(
        &self,
        given: &[Given],
        entry: &Entry,
        [heads, rows, keys]: [Range<u64>; 3],
    ) -> Result<Window> {
        let ([d, dv], batch) = (self.dims, entry.batch..entry.batch + 1);
        let group = self.heads[0] / self.heads[1];
        let kv = heads.start / group..heads.start / group + 1;
        let from = |range: &Range<u64>, first: u64| first + range.start..first + range.end;
        let (rows, keys) = (from(&rows, entry.first[0]), from(&keys, entry.first[1]));
        let cut = |which: usize, heads: &Range<u64>, rows: &Range<u64>, dim: u64| {
            // The log-sum-exp has no last axis.
            let dims = (dim > 0).then_some(0..dim);
            let ranges: Vec<_> = [&batch, heads, rows].into_iter().cloned().chain(dims).collect();
            let shape: Vec<u64> = ranges.iter().map(|range| range.end - range.start).collect();
            (given[which].spec.dtype, shape, given[which].cut(&ranges))
        };
        let parts = [
            cut(0, &heads, &rows, d),
            cut(1, &kv, &keys, d),
            cut(2, &kv, &keys, dv),
            cut(3, &heads, &rows, dv),
            cut(4, &heads, &rows, 0),
            cut(5, &heads, &rows, dv),
        ];
        let outs = [0, 1, 2].map(|i| dense(self.dtype, &parts[i].1));
        let op = AttentionBackward { scores: self.formula() };
        window(op.into(), &parts, &outs, Vec::new())
    }
}

/// The row or key of `count` that a part of [`PARTS`] names.
fn of_parts(count: u64, part: u64) -> Option<u64> {
    (count > 0).then(|| (u128::from(part) * u128::from(count) / u128::from(PARTS)) as u64)
}
