//! `attention`: whole rows of scores, softmax, weighted sum of values.

use super::softmax::weights;
use super::{Arithmetic, Inputs, count};
use crate::op::{Attention, KeyValue, Lens};

/// A batch entry: where its rows and keys lie, and how many there are.
struct Entry {
    /// Number of the entry, and its first row and key where rows are packed.
    batch: usize,
    first_row: usize,
    first_key: usize,
    rows: usize,
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

fn entries(op: &Attention, inputs: &Inputs) -> Vec<Entry> {
    let (q, k) = (inputs.need("q"), inputs.need("k"));
    let packed = op.rows != Lens::Full;
    let mut rows = counts(&op.rows, inputs.get("rows"), q.dim(1), q.dim(3));
    let room = match op.key_value {
        KeyValue::Dense => k.dim(1),
        KeyValue::Paged { page } => inputs.need("pages").dim(0) * page as usize,
    };
    let mut keys = match op.lens {
        Lens::Full if packed => rows.clone(),
        _ => counts(&op.lens, inputs.get("lens"), room, rows.len()),
    };
    let dense_packed = packed && op.key_value == KeyValue::Dense;
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
    let (q, k, v) = (inputs.need("q"), inputs.need("k"), inputs.need("v"));
    let (heads, total, dv) = (q.dim(2), q.dim(1), v.dim(0));
    let queries = q.dim(3) * heads * total;
    let mut out = vec![0.0; queries * dv];
    let mut lse = vec![f64::NEG_INFINITY; queries];
    for entry in entries(op, inputs) {
        for (head, row) in (0..heads).flat_map(|h| (0..entry.rows).map(move |r| (h, r))) {
            let batch = if op.rows == Lens::Full { entry.batch } else { 0 };
            let index = (batch * heads + head) * total + entry.first_row + row;
            let kv_head = head / (heads / k.dim(2));
            let at = |key| key_row(op, inputs, &entry, kv_head, key);
            let seen: Vec<usize> =
                (0..entry.keys).filter(|&key| sees(op, &entry, row, key)).collect();
            let mut scores: Vec<f64> = seen
                .iter()
                .map(|&key| score(a, op, inputs, &entry, [index, head, row, key]))
                .collect();
            if let Some(sinks) = inputs.get("sinks") {
                scores.push(sinks.data[head]);
            }
            let (weights, max, sum) = weights(a, &scores);
            let output = &mut out[index * dv..(index + 1) * dv];
            for (&key, weight) in seen.iter().zip(&weights) {
                let Some(at) = at(key) else { continue };
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

/// Position of a row among the keys.
fn position(entry: &Entry, row: usize) -> i64 {
    row as i64 + entry.keys as i64 - entry.rows as i64
}

fn sees(op: &Attention, entry: &Entry, row: usize, key: usize) -> bool {
    let (here, key) = (position(entry, row), key as i64);
    let inside =
        |[left, right]: [u32; 2]| here - i64::from(left) <= key && key <= here + i64::from(right);
    (!op.causal || key <= here) && op.window.is_none_or(inside)
}

/// The row of K and V that holds a key; none in a page that does not exist.
fn key_row(
    op: &Attention,
    inputs: &Inputs,
    entry: &Entry,
    kv_head: usize,
    key: usize,
) -> Option<usize> {
    let k = inputs.need("k");
    match op.key_value {
        KeyValue::Dense => {
            let batch = if op.rows == Lens::Full { entry.batch } else { 0 };
            Some((batch * k.dim(2) + kv_head) * k.dim(1) + entry.first_key + key)
        }
        KeyValue::Paged { page } => {
            let (pages, page) = (inputs.need("pages"), page as usize);
            let index = count(pages.data[entry.batch * pages.dim(0) + key / page]);
            (index < k.dim(3)).then(|| (index * k.dim(2) + kv_head) * page + key % page)
        }
    }
}

fn score(
    a: impl Arithmetic,
    op: &Attention,
    inputs: &Inputs,
    entry: &Entry,
    [index, head, row, key]: [usize; 4],
) -> f64 {
    let (q, k) = (inputs.need("q"), inputs.need("k"));
    let d = q.dim(0);
    let query = &q.data[index * d..(index + 1) * d];
    let kv_head = head / (q.dim(2) / k.dim(2));
    let dot = key_row(op, inputs, entry, kv_head, key).map_or(0.0, |at| {
        let products = query.iter().zip(&k.data[at * d..(at + 1) * d]);
        products.fold(0.0, |sum, (x, y)| a.sum(sum + a.sum(x * y)))
    });
    let mut score = a.value(f64::from(op.scale) * a.value(dot));
    if op.softcap > 0.0 {
        let cap = f64::from(op.softcap);
        score = a.value(cap * a.sum(a.sum(score / cap).tanh()));
    }
    if let Some(slopes) = inputs.get("alibi") {
        let distance = (position(entry, row) - key as i64).abs() as f64;
        score = a.value(score - a.value(slopes.data[head] * distance));
    }
    inputs.get("mask").map_or(score, |mask| a.value(score + mask.data[index * mask.dim(0) + key]))
}
