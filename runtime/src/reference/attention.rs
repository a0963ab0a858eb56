//! `attention`: whole rows of scores, softmax, weighted sum of values. `attention_backward` asks it for entries, for keys
//! that are seen, for scores and for sums of products.

use super::softmax::weights;
use super::{Arithmetic, Dense, Inputs, count};
use crate::op::{Attention, KeyValue, Lens, Scores};

/// A batch entry: where its rows and keys lie, and how many there are.
pub(super) struct Entry {
    /// Number of the entry, and its first row and key where rows are packed.
    batch: usize,
    first_row: usize,
    first_key: usize,
    pub(super) rows: usize,
    keys: usize,
}

/// The counts of an op, one for each entry, held to what there is room for.
fn counts(lens: &Lens, operand: Option<&Dense>, full: usize, entries: usize) -> Vec<usize> {
    match lens {
        Lens::Full => vec![full; entries],
        Lens::Host(list) => list.iter().map(|&n| n as usize).collect(),
        Lens::Device { max } => {
            let words = operand.map_or(&[][..], |o| &o.data);
            words.iter().map(|&n| count(n).min(*max as usize)).collect()
        }
    }
}

pub(super) fn entries(scores: &Scores, key_value: KeyValue, inputs: &Inputs) -> Vec<Entry> {
    let (q, k) = (inputs.need("q"), inputs.need("k"));
    let packed = scores.rows != Lens::Full;
    let mut rows = counts(&scores.rows, inputs.get("rows"), q.dim(1), q.dim(3));
    let room = match key_value {
        KeyValue::Dense => k.dim(1),
        KeyValue::Paged { page } => inputs.need("pages").dim(0) * page as usize,
    };
    let mut keys = match scores.lens {
        Lens::Full if packed => rows.clone(),
        _ => counts(&scores.lens, inputs.get("lens"), room, rows.len()),
    };
    let dense_packed = packed && key_value == KeyValue::Dense;
    let (mut first_row, mut first_key) = (0, 0);
    let mut list = Vec::new();
    for (batch, (rows, keys)) in rows.iter_mut().zip(&mut keys).enumerate() {
        if packed {
            *rows = (*rows).min(q.dim(1) - first_row);
        }
        *keys = (*keys).min(if dense_packed { k.dim(1) - first_key } else { room });
        list.push(Entry { batch, first_row, first_key, rows: *rows, keys: *keys });
        first_row += if packed { *rows } else { 0 };
        first_key += if dense_packed { *keys } else { 0 };
    }
    list
}

/// The output and, where asked for, the log-sum-exp.
pub(super) fn attention(a: impl Arithmetic, op: &Attention, inputs: &Inputs) -> Vec<Vec<f64>> {
    let (q, v) = (inputs.need("q"), inputs.need("v"));
    let (heads, total, dv) = (q.dim(2), q.dim(1), v.dim(0));
    let queries = q.dim(3) * heads * total;
    let mut out = vec![0.0; queries * dv];
    let mut lse = vec![f64::NEG_INFINITY; queries];
    for entry in entries(&op.scores, op.key_value, inputs) {
        for (head, row) in (0..heads).flat_map(|h| (0..entry.rows).map(move |r| (h, r))) {
            let line = Line::new(&op.scores, op.key_value, inputs, &entry, head, row);
            let seen = line.seen();
            let mut scores: Vec<f64> =
                line.scores(a, &seen).into_iter().map(|[score, _]| score).collect();
            if let Some(sinks) = inputs.get("sinks") {
                scores.push(sinks.data[head]);
            }
            let (weights, max, sum) = weights(a, &scores);
            let output = &mut out[line.index * dv..(line.index + 1) * dv];
            for (&(_, at), weight) in seen.iter().zip(&weights) {
                let Some(at) = at else { continue };
                let values = &v.data[at * dv..(at + 1) * dv];
                for (y, value) in output.iter_mut().zip(values) {
                    *y = a.sum(*y + a.sum(weight * value));
                }
            }
            output.iter_mut().for_each(|y| *y = a.value(*y));
            if sum > 0.0 {
                lse[line.index] = a.value(max + sum.ln());
            }
        }
    }
    if op.log_sum_exp { vec![out, lse] } else { vec![out] }
}

/// A key that a row sees, and the row of K and V that holds it; none in a page that does not exist.
pub(super) type Seen = (usize, Option<usize>);

/// A query row of a head of an entry.
pub(super) struct Line<'a> {
    /// Which row of Q it is.
    pub(super) index: usize,
    scores: &'a Scores,
    key_value: KeyValue,
    entry: &'a Entry,
    row: usize,
    head: usize,
    /// Where the batch axes of Q and of dense keys are.
    batch: usize,
    query: &'a [f64],
    heads: usize,
    k: &'a Dense,
    pages: &'a Dense,
    slope: Option<f64>,
    mask: Option<&'a [f64]>,
}

impl<'a> Line<'a> {
    pub(super) fn new(
        scores: &'a Scores,
        key_value: KeyValue,
        inputs: &'a Inputs,
        entry: &'a Entry,
        head: usize,
        row: usize,
    ) -> Self {
        let (q, k) = (inputs.need("q"), inputs.need("k"));
        let batch = if scores.rows == Lens::Full { entry.batch } else { 0 };
        let index = (batch * q.dim(2) + head) * q.dim(1) + entry.first_row + row;
        let row_of = |x: &'a Dense| &x.data[index * x.dim(0)..(index + 1) * x.dim(0)];
        Self {
            index,
            scores,
            key_value,
            entry,
            row,
            head,
            batch,
            query: row_of(q),
            heads: q.dim(2),
            k,
            pages: inputs.need("pages"),
            slope: inputs.get("alibi").map(|slopes| slopes.data[head]),
            mask: inputs.get("mask").map(row_of),
        }
    }

    /// Its place among the keys.
    fn position(&self) -> i64 {
        self.row as i64 + self.entry.keys as i64 - self.entry.rows as i64
    }

    /// Keys of the entry that it sees.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let Scores { causal, window, .. } = *self.scores;
        let here = self.position();
        let is_seen = |key: usize| {
            let key = key as i64;
            let inside = |[left, right]: [u32; 2]| {
                here - i64::from(left) <= key && key <= here + i64::from(right)
            };
            (!causal || key <= here) && window.is_none_or(inside)
        };
        let keys = (0..self.entry.keys).filter(|&key| is_seen(key));
        keys.map(|key| (key, self.at(key))).collect()
    }

    fn at(&self, key: usize) -> Option<usize> {
        let k = self.k;
        let head = self.head / (self.heads / k.dim(2));
        match self.key_value {
            KeyValue::Dense => {
                let first = (self.batch * k.dim(2) + head) * k.dim(1) + self.entry.first_key;
                Some(first + key)
            }
            KeyValue::Paged { page } => {
                let (pages, page) = (self.pages, page as usize);
                let index = count(pages.data[self.entry.batch * pages.dim(0) + key / page]);
                (index < k.dim(3)).then(|| (index * k.dim(2) + head) * page + key % page)
            }
        }
    }

    /// The scores of keys, and how fast each grows with the scaled product: 1, or less by the soft cap.
    pub(super) fn scores(&self, a: impl Arithmetic, seen: &[Seen]) -> Vec<[f64; 2]> {
        let dots = products(a, self.query, &self.k.data, seen);
        seen.iter().zip(dots).map(|(&(key, _), dot)| self.score(a, key, dot)).collect()
    }

    fn score(&self, a: impl Arithmetic, key: usize, dot: f64) -> [f64; 2] {
        let mut score = a.value(f64::from(self.scores.scale) * a.value(dot));
        let mut growth = 1.0;
        if self.scores.softcap > 0.0 {
            let cap = f64::from(self.scores.softcap);
            let part = a.sum(a.sum(score / cap).tanh());
            score = a.value(cap * part);
            growth = a.sum(1.0 - a.sum(part * part));
        }
        if let Some(slope) = self.slope {
            let distance = (self.position() - key as i64).abs() as f64;
            score = a.value(score - a.value(slope * distance));
        }
        if let Some(mask) = self.mask {
            score = a.value(score + mask[key]);
        }
        [score, growth]
    }
}

/// The sums of products of `x` with rows of a matrix: each from left to right, and eight beside one another, since each
/// waits for itself; 0 for a row that does not exist.
pub(super) fn products(a: impl Arithmetic, x: &[f64], rows: &[f64], seen: &[Seen]) -> Vec<f64> {
    const TOGETHER: usize = 8;
    let row = |at: usize| &rows[at * x.len()..(at + 1) * x.len()];
    let mut all = Vec::with_capacity(seen.len());
    for seen in seen.chunks(TOGETHER) {
        let mut together = [x; TOGETHER];
        for (place, (_, at)) in together.iter_mut().zip(seen) {
            *place = at.map_or(x, row);
        }
        let mut sums = [0.0; TOGETHER];
        for (i, x) in x.iter().enumerate() {
            for (sum, row) in sums.iter_mut().zip(&together) {
                *sum = a.sum(*sum + a.sum(x * row[i]));
            }
        }
        all.extend(seen.iter().zip(sums).map(|((_, at), sum)| at.map_or(0.0, |_| sum)));
    }
    all
}
