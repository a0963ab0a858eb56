//! Attention's problems: forward, its gradients, and decoding over pages, with windows of single query rows. `problem`
//! builds them.

use super::data::{Given, dense, next};
use super::problem::{BYTES, Built, FLOPS, GIGA, TERA, Window, name, places, window};
use leasehold::op::{Attention, AttentionBackward, KeyValue, Lens, Scores};
use leasehold::{DType, Error, Kind, Result};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// Sizes of attention.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heads {
    /// Entries.
    pub(super) batch: u64,
    /// Query heads and key heads.
    pub(super) heads: [u64; 2],
    /// Query rows and keys of an entry.
    pub(super) length: u64,
    /// Of a head.
    pub(super) dim: u64,
    /// Whether later keys are hidden.
    pub(super) causal: bool,
    /// Of all.
    #[serde(serialize_with = "name")]
    pub(super) dtype: DType,
    /// Lengths of entries that lie packed, one after another, in place of `batch` and `length`.
    pub(super) packed: Vec<u32>,
}

/// A window of one query row: its keys and values, all of them seen.
fn row_window(
    scale: f32,
    dtype: DType,
    [q, k, v]: [Vec<u8>; 3],
    dim: u64,
    first: u64,
) -> Result<Window> {
    let keys = k.len() as u64 / (dim * dtype.size());
    let (row, all) = (vec![1, 1, 1, dim], vec![1, 1, keys, dim]);
    let op = Attention { scores: Scores { scale, ..Scores::default() }, ..Attention::default() };
    let out = dense(dtype, &row);
    let parts = [(dtype, row, q), (dtype, all.clone(), k), (dtype, all, v)];
    window(op.into(), &parts, &[out], (first..first + dim).collect())
}

impl Heads {
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn scores(&self) -> Scores {
        let rows =
            if self.packed.is_empty() { Lens::Full } else { Lens::Host(self.packed.clone()) };
        Scores { scale: self.scale(), causal: self.causal, rows, ..Scores::default() }
    }

    pub(super) fn label(&self) -> String {
        let Self { batch, heads: [q, kv], length, dim, causal, dtype, packed } = self;
        let mask = if *causal { "causal" } else { "full" };
        match packed.is_empty() {
            true => format!("{batch} x {length}, {q} heads on {kv} of {dim}, {mask} {dtype}"),
            false => {
                let (total, longest) =
                    (packed.iter().sum::<u32>(), packed.iter().max().unwrap_or(&0));
                format!(
                    "{} lengths to {longest}, {total} rows, {q} heads on {kv} of {dim}, {mask} {dtype}",
                    packed.len()
                )
            }
        }
    }

    /// Shapes of Q and of K and V.
    fn shapes(&self) -> [[u64; 4]; 2] {
        let (batch, rows) = match self.packed.is_empty() {
            true => (self.batch, self.length),
            false => (1, self.packed.iter().map(|&len| u64::from(len)).sum()),
        };
        self.heads.map(|heads| [batch, heads, rows, self.dim])
    }

    /// The log-sum-exp is an output where its gradients are wanted: `speed` runs it first and then [`Heads::backward`].
    pub(super) fn forward(&self, seed: u64, log_sum_exp: bool) -> Result<Built> {
        let [q, kv] = self.shapes();
        let given = vec![
            Given::normal("q", dense(self.dtype, &q), seed),
            Given::normal("k", dense(self.dtype, &kv), seed),
            Given::normal("v", dense(self.dtype, &kv), seed),
        ];
        let op = Attention { scores: self.scores(), log_sum_exp, ..Attention::default() };
        let mut outs = vec![dense(self.dtype, &q)];
        outs.extend(log_sum_exp.then(|| dense(DType::F32, &q[..3])));
        let mut built = Built::new(op, given, &outs, (self.flops(), FLOPS))?;
        for [entry, head, row] in self.samples() {
            let from =
                self.packed.iter().take(entry as usize).map(|&len| u64::from(len)).sum::<u64>();
            let place =
                if self.packed.is_empty() { [entry, head, row] } else { [0, head, from + row] };
            let at = ((place[0] * q[1] + head) * q[2] + place[2]) * self.dim;
            let parts =
                self.row(&built.given, place, from * u64::from(!self.packed.is_empty()), entry);
            built.windows.push(row_window(self.scale(), self.dtype, parts, self.dim, at)?);
        }
        Ok(built)
    }

    /// Query row `place` with the keys that it sees, which begin at `from` in memory.
    fn row(
        &self,
        given: &[Given],
        [batch, head, row]: [u64; 3],
        from: u64,
        entry: u64,
    ) -> [Vec<u8>; 3] {
        let keys = self.packed.get(entry as usize).map_or(self.length, |&len| u64::from(len));
        let seen = if self.causal { row + 1 } else { from + keys };
        let kv = head / (self.heads[0] / self.heads[1]);
        let one =
            |head: u64, rows: Range<u64>| [batch..batch + 1, head..head + 1, rows, 0..self.dim];
        [
            given[0].cut(&one(head, row..row + 1)),
            given[1].cut(&one(kv, from..seen)),
            given[2].cut(&one(kv, from..seen)),
        ]
    }

    /// Entry, head and row within the entry.
    fn samples(&self) -> [[u64; 3]; 3] {
        let entries = if self.packed.is_empty() { self.batch } else { self.packed.len() as u64 };
        let (heads, entry) = (places(self.heads[0], 1), places(entries, 1));
        [0, 1, 2].map(|i| {
            let entry = entry[i].start;
            let rows = self.packed.get(entry as usize).map_or(self.length, |&len| u64::from(len));
            [entry, heads[i].start, places(rows, 1)[i].start]
        })
    }

    fn flops(&self) -> f64 {
        let lengths: Vec<f64> = match self.packed.is_empty() {
            true => vec![self.length as f64; self.batch as usize],
            false => self.packed.iter().map(|&len| f64::from(len)).collect(),
        };
        let squares: f64 = lengths.iter().map(|len| len * len).sum();
        let half = if self.causal { 0.5 } else { 1.0 };
        4.0 * half * squares * (self.heads[0] * self.dim) as f64 / TERA
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
        let [q, kv] = self.shapes();
        let [out, lse]: [Vec<u8>; 2] = results.try_into().map_err(|_| {
            let asked = "another number of results".into();
            Error::from(Kind::Value { asked, allowed: "out and lse".into() })
        })?;
        let mut given = forward.given.clone();
        given.push(Given { name: "out", spec: dense(self.dtype, &q), bytes: Arc::new(out) });
        given.push(Given { name: "lse", spec: dense(DType::F32, &q[..3]), bytes: Arc::new(lse) });
        given.push(Given::normal("d_out", dense(self.dtype, &q), seed));
        let op = AttentionBackward { scores: self.scores() };
        let outs = [dense(self.dtype, &q), dense(self.dtype, &kv), dense(self.dtype, &kv)];
        let mut built = Built::new(op, given, &outs, (2.5 * self.flops(), FLOPS))?;
        for [batch, head, row] in self.samples() {
            let [one_q, k, v] = self.row(&built.given, [batch, head, row], 0, batch);
            let part = |which: usize, ranges: &[Range<u64>]| built.given[which].cut(ranges);
            let place = [batch..batch + 1, head..head + 1, row..row + 1, 0..self.dim];
            let keys = k.len() as u64 / (self.dim * self.dtype.size());
            let (one, all) = (vec![1, 1, 1, self.dim], vec![1, 1, keys, self.dim]);
            let specs = [dense(self.dtype, &one), dense(self.dtype, &all), dense(self.dtype, &all)];
            let parts = [
                (self.dtype, one.clone(), one_q),
                (self.dtype, all.clone(), k),
                (self.dtype, all, v),
                (self.dtype, one.clone(), part(3, &place)),
                (DType::F32, vec![1, 1, 1], part(4, &place[..3])),
                (self.dtype, one, part(5, &place)),
            ];
            let at = ((batch * q[1] + head) * q[2] + row) * self.dim;
            let op =
                AttentionBackward { scores: Scores { scale: self.scale(), ..Scores::default() } };
            built.windows.push(window(op.into(), &parts, &specs, (at..at + self.dim).collect())?);
        }
        Ok(built)
    }
}

pub(super) fn decode(
    batch: u64,
    [heads, kv]: [u64; 2],
    keys: u64,
    dim: u64,
    page: u64,
    seed: u64,
) -> Result<Built> {
    let dtype = DType::BF16;
    let each = keys.div_ceil(page);
    let count = batch * each;
    // A permutation by Fisher and Yates.
    let (mut pages, mut state) = ((0..count as u32).collect::<Vec<u32>>(), seed);
    for i in (1..pages.len()).rev() {
        pages.swap(i, (next(&mut state) % (i as u64 + 1)) as usize);
    }
    let store = [count, kv, page, dim];
    let given = vec![
        Given::normal("q", dense(dtype, &[batch, heads, 1, dim]), seed),
        Given::normal("k", dense(dtype, &store), seed),
        Given::normal("v", dense(dtype, &store), seed),
        Given::words("lens", &[batch], &vec![keys as u32; batch as usize]),
        Given::words("pages", &[batch, each], &pages),
    ];
    let scale = 1.0 / (dim as f32).sqrt();
    let op = Attention {
        scores: Scores {
            scale,
            causal: true,
            lens: Lens::Device { max: keys as u32 },
            ..Scores::default()
        },
        key_value: KeyValue::Paged { page: page as u32 },
        ..Attention::default()
    };
    // What a step must read: keys and values of every entry, once.
    let bytes = 2 * batch * kv * keys * dim * dtype.size();
    let outs = [dense(dtype, &[batch, heads, 1, dim])];
    let mut built = Built::new(op, given, &outs, (bytes as f64 / GIGA, BYTES))?;
    // Of half a million keys the reference is slow; one window then.
    let windows = if keys > 1 << 16 { 1 } else { 3 };
    for (entry, head) in places(batch, 1).into_iter().zip(places(heads, 1)).take(windows) {
        let (entry, head) = (entry.start, head.start);
        let group = head / (heads / kv);
        let all = |which: usize| {
            let of_page = |i: u64| {
                let at = u64::from(pages[(entry * each + i) as usize]);
                let held = page.min(keys - i * page);
                built.given[which].cut(&[at..at + 1, group..group + 1, 0..held, 0..dim])
            };
            (0..each).flat_map(of_page).collect::<Vec<u8>>()
        };
        let q = built.given[0].cut(&[entry..entry + 1, head..head + 1, 0..1, 0..dim]);
        let (k, v) = (all(1), all(2));
        let at = (entry * heads + head) * dim;
        built.windows.push(row_window(scale, dtype, [q, k, v], dim, at)?);
    }
    Ok(built)
}
