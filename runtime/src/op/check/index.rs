//! Rules of ops that index: gather, scatter, rope.

use super::{
    Operands, axis, finite, float, index_dtype, is_dtype, rank, reject, same_dtype, shape,
};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Dims;
use crate::op::{Gather, Rope, Rule, Scatter, ScatterFn, Spec};

/// Entries that an index may select among: an i32 that is not negative names each.
const MAX_ENTRIES: u64 = 1 << 31;

pub(super) fn entries(name: &'static str, n: u64) -> Result<()> {
    if n <= MAX_ENTRIES {
        return Ok(());
    }
    reject(Rule::Limit, Some(name), format!("{n} entries"), MAX_ENTRIES)
}

/// The shape of the entries that `index` selects along an axis of `table`, of at most the largest rank.
fn selected(name: &'static str, table: &Spec, along: u8, index: &Spec) -> Result<Vec<u64>> {
    let (dims, along) = (table.layout.shape(), usize::from(along));
    let picked = dims[..along].iter().chain(index.layout.shape().iter()).chain(&dims[along + 1..]);
    let picked: Vec<u64> = picked.copied().collect();
    if Dims::new(&picked).is_none() {
        let asked = format!("rank {}", picked.len());
        return reject(Rule::Rank, Some(name), asked, crate::layout::MAX_RANK);
    }
    Ok(picked)
}

pub(super) fn gather(op: &Gather, operands: &Operands<'_>) -> Result<()> {
    let (table, index, out) =
        (operands.need("table")?, operands.need("index")?, operands.need("out")?);
    axis(op.axis, "table", table)?;
    index_dtype("index", index)?;
    same_dtype("out", out, table)?;
    entries("table", table.layout.shape()[usize::from(op.axis)])?;
    shape(Rule::OutDims, "out", out, &selected("out", table, op.axis, index)?)
}

pub(super) fn scatter(op: &Scatter, operands: &Operands<'_>) -> Result<()> {
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    if op.function == ScatterFn::Append {
        return append(op, operands, x, out);
    }
    let index = operands.need("index")?;
    axis(op.axis, "out", out)?;
    index_dtype("index", index)?;
    if op.function == ScatterFn::Add {
        float("x", x)?;
        is_dtype(Rule::StatDType, "out", out, DType::F32)?;
    } else {
        same_dtype("x", x, out)?;
    }
    entries("out", out.layout.shape()[usize::from(op.axis)])?;
    shape(Rule::SameShape, "x", x, &selected("x", out, op.axis, index)?)
}

fn append(op: &Scatter, operands: &Operands<'_>, x: &Spec, out: &Spec) -> Result<()> {
    if op.axis != 0 {
        return reject(Rule::Axis, Some("axis"), op.axis, "0");
    }
    rank("x", x, 4..=4)?;
    rank("out", out, 4..=4)?;
    same_dtype("x", x, out)?;
    let (from, to) = (x.layout.shape(), out.layout.shape());
    if from[1] != to[1] || from[3] != to[3] {
        let allowed = format!("{} heads of {}", to[1], to[3]);
        return reject(Rule::SameShape, Some("x"), from, allowed);
    }
    entries("out", to[0])?;
    let pages = operands.need("pages")?;
    index_dtype("pages", pages)?;
    rank("pages", pages, 2..=2)?;
    let most = pages.layout.shape()[1];
    shape(Rule::Batch, "pages", pages, &[from[0], most])?;
    entries("pages", most.saturating_mul(to[2]))?;
    entries("x", from[2])?;
    let lens = operands.need("lens")?;
    index_dtype("lens", lens)?;
    shape(Rule::Length, "lens", lens, &[from[0]])
}

pub(super) fn rope(op: &Rope, operands: &Operands<'_>) -> Result<()> {
    finite("base", op.base)?;
    if op.base <= 1.0 {
        return reject(Rule::Base, Some("base"), op.base, "above 1");
    }
    let (x, position, out) =
        (operands.need("x")?, operands.need("position")?, operands.need("out")?);
    rank("x", x, 4..=4)?;
    float("x", x)?;
    float("out", out)?;
    shape(Rule::SameShape, "out", out, x.layout.shape())?;
    let &[batch, _, rows, d] = &**x.layout.shape() else {
        return reject(Rule::Rank, Some("x"), x.layout, 4);
    };
    if u64::from(op.dims) > d || !op.dims.is_multiple_of(2) {
        return reject(Rule::HeadDim, Some("dims"), op.dims, format!("even, at most {d}"));
    }
    if d > super::MAX_ROPE_DIM {
        return reject(Rule::Limit, Some("x"), format!("head dim {d}"), super::MAX_ROPE_DIM);
    }
    index_dtype("position", position)?;
    shape(Rule::Batch, "position", position, &[batch, rows])
}
