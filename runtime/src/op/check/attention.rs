//! Rules of attention and its gradient.

use super::{
    Operands, finite, float, host_lens, index_dtype, is_dtype, lens, rank, reject, same_dtype,
    shape,
};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::lens::Lens;
use crate::op::{Attention, AttentionBackward, KeyValue, Rule, Scores, Spec};

/// Largest head dim of attention.
const MAX_HEAD_DIM: u64 = 256;

/// Sizes of the operands of attention.
struct Sizes {
    batch: u64,
    heads: u64,
    kv_heads: u64,
    /// Rows of Q.
    rows: u64,
    /// Most keys that an entry has room for.
    keys: u64,
    d: u64,
    dv: u64,
}

pub(super) fn attention(op: &Attention, operands: &Operands<'_>) -> Result<()> {
    let sizes = sizes(&op.scores, op.key_value, operands)?;
    scores(&op.scores, &sizes, operands)?;
    let Sizes { heads, rows, dv, .. } = sizes;
    let entries = sizes.entries(&op.scores);
    let out = operands.need("out")?;
    float("out", out)?;
    shape(Rule::OutDims, "out", out, &[entries, heads, rows, dv])?;
    if let Some((name, lse)) = operands.get("lse") {
        is_dtype(Rule::StatDType, name, lse, DType::F32)?;
        shape(Rule::OutDims, name, lse, &[entries, heads, rows])?;
    }
    if let Some((name, sinks)) = operands.get("sinks") {
        is_dtype(Rule::StatDType, name, sinks, DType::F32)?;
        shape(Rule::SameShape, name, sinks, &[heads])?;
    }
    Ok(())
}

pub(super) fn backward(op: &AttentionBackward, operands: &Operands<'_>) -> Result<()> {
    let sizes = sizes(&op.scores, KeyValue::Dense, operands)?;
    scores(&op.scores, &sizes, operands)?;
    let Sizes { heads, rows, dv, .. } = sizes;
    let entries = sizes.entries(&op.scores);
    for name in ["out", "d_out"] {
        let spec = operands.need(name)?;
        float(name, spec)?;
        shape(Rule::SameShape, name, spec, &[entries, heads, rows, dv])?;
    }
    let lse = operands.need("lse")?;
    is_dtype(Rule::StatDType, "lse", lse, DType::F32)?;
    shape(Rule::SameShape, "lse", lse, &[entries, heads, rows])?;
    for (name, like) in [("d_q", "q"), ("d_k", "k"), ("d_v", "v")] {
        let spec = operands.need(name)?;
        float(name, spec)?;
        shape(Rule::OutDims, name, spec, operands.need(like)?.layout.shape())?;
    }
    Ok(())
}

impl Sizes {
    /// Entries of Q's batch axis.
    fn entries(&self, scores: &Scores) -> u64 {
        if scores.rows == Lens::Full { self.batch } else { 1 }
    }
}

/// What is done to scores.
fn scores(scores: &Scores, sizes: &Sizes, operands: &Operands<'_>) -> Result<()> {
    finite("scale", scores.scale)?;
    finite("softcap", scores.softcap)?;
    if scores.softcap < 0.0 {
        return reject(Rule::Finite, Some("softcap"), scores.softcap, "at least 0");
    }
    let &Sizes { batch, heads, rows, keys, .. } = sizes;
    if let Some((name, mask)) = operands.get("mask") {
        if scores.rows != Lens::Full {
            return reject(Rule::Packed, Some(name), "a mask", "none over packed rows");
        }
        float(name, mask)?;
        shape(Rule::SameShape, name, mask, &[batch, heads, rows, keys])?;
    }
    if let Some((name, slopes)) = operands.get("alibi") {
        is_dtype(Rule::StatDType, name, slopes, DType::F32)?;
        shape(Rule::SameShape, name, slopes, &[heads])?;
    }
    Ok(())
}

fn sizes(scores: &Scores, key_value: KeyValue, operands: &Operands<'_>) -> Result<Sizes> {
    let (q, k, v) = (operands.need("q")?, operands.need("k")?, operands.need("v")?);
    let packed = scores.rows != Lens::Full;
    let batched = !packed && key_value == KeyValue::Dense;
    let mut sizes = heads(q, k, v, batched)?;
    if packed {
        if sizes.batch != 1 {
            return reject(Rule::Packed, Some("q"), q.layout, "a batch of 1 over packed rows");
        }
        sizes.batch = match &scores.rows {
            Lens::Host(list) => list.len() as u64,
            _ => count(operands, "rows")?,
        };
        lens("rows", &scores.rows, operands, sizes.batch, sizes.rows, sizes.rows)?;
    }
    let entries = k.layout.shape()[0];
    match key_value {
        KeyValue::Paged { page } => {
            shape(Rule::Pages, "k", k, &[entries, sizes.kv_heads, page.into(), sizes.d])?;
            if page == 0 || entries > 1 << 31 {
                return reject(
                    Rule::Pages,
                    Some("k"),
                    k.layout,
                    "1 to 2^31 pages of 1 or more keys",
                );
            }
            let pages = operands.need("pages")?;
            index_dtype("pages", pages)?;
            rank("pages", pages, 2..=2)?;
            let most = pages.layout.shape()[1];
            shape(Rule::Batch, "pages", pages, &[sizes.batch, most])?;
            if scores.lens == Lens::Full {
                return reject(Rule::Length, Some("lens"), "none", "host or device lengths");
            }
            sizes.keys = most.saturating_mul(page.into());
            limit(sizes.keys)?;
            lens("lens", &scores.lens, operands, sizes.batch, sizes.keys, u64::MAX)?;
        }
        KeyValue::Dense if packed => {
            if entries != 1 {
                return reject(Rule::Packed, Some("k"), k.layout, "a batch of 1 over packed rows");
            }
            if let (Lens::Full, Lens::Host(rows)) = (&scores.lens, &scores.rows) {
                host_lens("rows", rows, sizes.batch, sizes.keys, sizes.keys)?;
            }
            lens("lens", &scores.lens, operands, sizes.batch, sizes.keys, sizes.keys)?;
        }
        KeyValue::Dense => {
            lens("lens", &scores.lens, operands, sizes.batch, sizes.keys, u64::MAX)?;
        }
    }
    Ok(sizes)
}

/// The length of a list of counts in an operand.
fn count(operands: &Operands<'_>, name: &'static str) -> Result<u64> {
    let spec = operands.need(name)?;
    rank(name, spec, 1..=1)?;
    Ok(spec.layout.shape()[0])
}

fn limit(n: u64) -> Result<()> {
    if n <= u64::from(u32::MAX) {
        return Ok(());
    }
    reject(Rule::Limit, Some("k"), n, u32::MAX)
}

/// What Q, K and V agree on: their batch too where they are `batched`.
fn heads(q: &Spec, k: &Spec, v: &Spec, batched: bool) -> Result<Sizes> {
    for (name, spec) in [("q", q), ("k", k), ("v", v)] {
        rank(name, spec, 4..=4)?;
        float(name, spec)?;
        same_dtype(name, spec, q)?;
    }
    let (sq, sk, sv) = (q.layout.shape(), k.layout.shape(), v.layout.shape());
    let (&[batch, heads, rows, d], &[entries, kv_heads, keys, dk]) = (&**sq, &**sk) else {
        return reject(Rule::Rank, Some("q"), sq, 4);
    };
    if batched && entries != batch {
        return reject(Rule::Batch, Some("k"), sk, format!("batch {batch}"));
    }
    if dk != d {
        return reject(Rule::HeadDim, Some("k"), sk, format!("d = {d}"));
    }
    if (heads == 0) != (kv_heads == 0) || (kv_heads != 0 && heads % kv_heads != 0) {
        return reject(Rule::HeadGroups, Some("k"), kv_heads, format!("a divisor of {heads}"));
    }
    let dv = sv[3];
    shape(Rule::SameShape, "v", v, &[entries, kv_heads, keys, dv])?;
    for (name, dim) in [("q", d), ("v", dv)] {
        if dim > MAX_HEAD_DIM {
            return reject(Rule::Limit, Some(name), format!("head dim {dim}"), MAX_HEAD_DIM);
        }
    }
    limit(rows.max(keys))?;
    Ok(Sizes { batch, heads, kv_heads, rows, keys, d, dv })
}
