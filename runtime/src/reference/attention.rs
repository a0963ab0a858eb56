//! `attention`: whole rows of scores, softmax, weighted sum of values. `attention_backward` asks it for entries, for keys that
//! are seen and for scores.

use super::softmax::weights;
use super::{Arithmetic, Inputs, count};
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
fn counts(lens: &Lens, operand: Option<&super::Dense>, full: usize, entries: usize) -> Vec<usize> {
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
            let line =
                Line { scores: &op.scores, key_value: op.key_value, entry: &entry, head, row };
            let index = line.index(inputs);
            let seen: Vec<usize> = line.seen().collect();
            let score = |&key: &usize| line.score(a, inputs, key)[0];
            let mut scores: Vec<f64> = seen.iter().map(score).collect();
            if let Some(sinks) = inputs.get("sinks") {
                scores.push(sinks.data[head]);
            }
            let (weights, max, sum) = weights(a, &scores);
            let output = &mut out[index * dv..(index + 1) * dv];
            for (&key, weight) in seen.iter().zip(&weights) {
                let Some(at) = line.key(inputs, key) else { continue };
                let values = &v.data[at * dv..(at + 1) * dv];
                for (y, value) in output.iter_mut().zip(values) {
                    *y = a.sum(*y + a.sum(weight * value));
                }
            }
            output.iter_mut().for_each(|y| *y = a.value(*y));
            if sum > 0.0 {
                lse[index] = a.value(max + sum.ln());
            }
        }
    }
    if op.log_sum_exp { vec![out, lse] } else { vec![out] }
}

/// A query row of a head of an entry.
pub(super) struct Line<'a> {
    pub(super) scores: &'a Scores,
    pub(super) key_value: KeyValue,
    pub(super) entry: &'a Entry,
    pub(super) head: usize,
    pub(super) row: usize,
}

impl Line<'_> {
    /// Which row of Q it is.
    pub(super) fn index(&self, inputs: &Inputs) -> usize {
        let q = inputs.need("q");
        (self.batch() * q.dim(2) + self.head) * q.dim(1) + self.entry.first_row + self.row
    }

    /// Where the batch axes of Q and of dense keys are.
    fn batch(&self) -> usize {
        if self.scores.rows == Lens::Full { self.entry.batch } else { 0 }
    }

    /// Its place among the keys.
    fn position(&self) -> i64 {
        self.row as i64 + self.entry.keys as i64 - self.entry.rows as i64
    }

    /// Keys of the entry that it sees.
    pub(super) fn seen(&self) -> impl Iterator<Item = usize> {
        let Scores { causal, window, .. } = *self.scores;
        let here = self.position();
        (0..self.entry.keys).filter(move |&key| {
            let key = key as i64;
            let inside = |[left, right]: [u32; 2]| {
                here - i64::from(left) <= key && key <= here + i64::from(right)
            };
            (!causal || key <= here) && window.is_none_or(inside)
        })
    }

    /// The row of K and V that holds a key; none in a page that does not exist.
    pub(super) fn key(&self, inputs: &Inputs, key: usize) -> Option<usize> {
        let (q, k) = (inputs.need("q"), inputs.need("k"));
        let head = self.head / (q.dim(2) / k.dim(2));
        match self.key_value {
            KeyValue::Dense => {
                Some((self.batch() * k.dim(2) + head) * k.dim(1) + self.entry.first_key + key)
            }
            KeyValue::Paged { page } => {
                let (pages, page) = (inputs.need("pages"), page as usize);
                let index = count(pages.data[self.entry.batch * pages.dim(0) + key / page]);
                (index < k.dim(3)).then(|| (index * k.dim(2) + head) * page + key % page)
            }
        }
    }

    /// The score of a key, and how fast it grows with the scaled product: 1, or less by the soft cap.
    pub(super) fn score(&self, a: impl Arithmetic, inputs: &Inputs, key: usize) -> [f64; 2] {
        let (q, k) = (inputs.need("q"), inputs.need("k"));
        let (d, index) = (q.dim(0), self.index(inputs));
        let query = &q.data[index * d..(index + 1) * d];
        let dot = self.key(inputs, key).map_or(0.0, |at| {
            let products = query.iter().zip(&k.data[at * d..(at + 1) * d]);
            products.fold(0.0, |sum, (x, y)| a.sum(sum + a.sum(x * y)))
        });
        let mut score = a.value(f64::from(self.scores.scale) * a.value(dot));
        let mut growth = 1.0;
        if self.scores.softcap > 0.0 {
            let cap = f64::from(self.scores.softcap);
            let part = a.sum(a.sum(score / cap).tanh());
            score = a.value(cap * part);
            growth = a.sum(1.0 - a.sum(part * part));
        }
        if let Some(slopes) = inputs.get("alibi") {
            let distance = (self.position() - key as i64).abs() as f64;
            score = a.value(score - a.value(slopes.data[self.head] * distance));
        }
        if let Some(mask) = inputs.get("mask") {
            score = a.value(score + mask.data[index * mask.dim(0) + key]);
        }
        [score, growth]
    }
}
