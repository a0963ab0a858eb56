//! Rules of products.

use super::index::entries;
use super::{
    Operands, finite, float, index_dtype, is_dtype, is_scaled, lens, rank, reject, same_dtype,
    shape,
};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::MAX_RANK;
use crate::op::lens::Lens;
use crate::op::{Gate, Group, Matmul, Rule, Scale, Spec};

/// Most elements of K in a product of i8: as many times -128 squared is the most that an i32 holds.
const MAX_K_I8: u64 = i32::MAX as u64 / (128 * 128);

/// Sizes of a product. `n` counts columns of B.
struct Sizes {
    batch: Vec<u64>,
    m: u64,
    n: u64,
    k: u64,
}

pub(super) fn matmul(op: &Matmul, operands: &Operands<'_>) -> Result<()> {
    finite("alpha", op.alpha)?;
    finite("beta", op.beta)?;
    let (a, b, out) = (operands.need("a")?, operands.need("b")?, operands.need("out")?);
    rank("a", a, 2..=MAX_RANK)?;
    let sizes = match op.group {
        Group::None if op.sizes != Lens::Full => {
            return reject(Rule::Groups, Some("sizes"), "sizes", "none without groups");
        }
        Group::None if op.is_indexed() => indexed(op, operands, a, b)?,
        Group::None => batched(a, b)?,
        _ if op.is_indexed() => {
            let name = if op.index_a { "a_index" } else { "b_index" };
            return reject(Rule::Groups, Some(name), "indices with groups", "one of the two");
        }
        _ => grouped(op, operands, a, b)?,
    };
    values(a, b, sizes.k)?;
    scales(op, operands, a.dtype, &sizes)?;
    let columns = match op.gate {
        Gate::Interleaved if !sizes.n.is_multiple_of(2) => {
            return reject(Rule::InnerDim, Some("b"), sizes.n, "an even n of an interleaved gate");
        }
        Gate::Interleaved => sizes.n / 2,
        _ => sizes.n,
    };
    let with = |columns: u64| {
        let mut want = sizes.batch.clone();
        want.extend([sizes.m, columns]);
        want
    };
    let (wide, narrow) = (with(sizes.n), with(columns));
    shape(Rule::OutDims, "out", out, &narrow)?;
    for name in ["bias", "c", "preactivation"] {
        if let Some((name, spec)) = operands.get(name) {
            shape(Rule::SameShape, name, spec, &wide)?;
            float(name, spec)?;
        }
    }
    for name in ["gate", "residual"] {
        if let Some((name, spec)) = operands.get(name) {
            shape(Rule::SameShape, name, spec, &narrow)?;
            float(name, spec)?;
        }
    }
    output(op, operands, out, &narrow)
}

fn batched(a: &Spec, b: &Spec) -> Result<Sizes> {
    let rank_a = a.layout.rank();
    rank("b", b, rank_a..=rank_a)?;
    let (sa, sb) = (a.layout.shape(), b.layout.shape());
    let lead = rank_a - 2;
    if sa[..lead] != sb[..lead] {
        return reject(Rule::Batch, Some("b"), sb, format!("batch {:?}", &sa[..lead]));
    }
    if sa[lead + 1] != sb[lead] {
        return reject(Rule::InnerDim, Some("b"), sb, format!("k = {}", sa[lead + 1]));
    }
    Ok(Sizes { batch: sa[..lead].to_vec(), m: sa[lead], n: sb[lead + 1], k: sa[lead + 1] })
}

/// Batches of which a side, or each, names its matrices by index.
fn indexed(op: &Matmul, operands: &Operands<'_>, a: &Spec, b: &Spec) -> Result<Sizes> {
    let mut batch: Option<Vec<u64>> = None;
    let sides = [("a", a, "a_index", op.index_a, 0), ("b", b, "b_index", op.index_b, 1)];
    for (name, side, index, is_indexed, which) in sides {
        rank(name, side, 2..=MAX_RANK)?;
        let lead = side.layout.rank() - 2;
        let mut of_side = &side.layout.shape()[..lead];
        let mut named = name;
        if is_indexed {
            rank(name, side, 3..=3)?;
            entries(name, of_side[0])?;
            let spec = operands.need(index)?;
            index_dtype(index, spec)?;
            rank(index, spec, 0..=MAX_RANK - 2)?;
            (of_side, named) = (spec.layout.shape(), index);
            if op.scales[which] != Scale::None {
                let asked = format!("scales of an indexed {name}");
                return reject(Rule::Scaled, Some(name), asked, "none");
            }
        }
        match &batch {
            Some(batch) if batch != of_side => {
                let asked = format!("{of_side:?}");
                return reject(Rule::Batch, Some(named), asked, format!("batch {batch:?}"));
            }
            _ => batch = Some(of_side.to_vec()),
        }
    }
    let [sa, sb] = [a, b].map(|side| {
        let (shape, lead) = (side.layout.shape(), side.layout.rank() - 2);
        [shape[lead], shape[lead + 1]]
    });
    if sa[1] != sb[0] {
        return reject(Rule::InnerDim, Some("b"), b.layout.shape(), format!("k = {}", sa[1]));
    }
    Ok(Sizes { batch: batch.unwrap_or_default(), m: sa[0], n: sb[1], k: sa[1] })
}

fn grouped(op: &Matmul, operands: &Operands<'_>, a: &Spec, b: &Spec) -> Result<Sizes> {
    let rank_a = if op.group == Group::Masked { 3 } else { 2 };
    rank("a", a, rank_a..=rank_a)?;
    let rank_b = if op.group == Group::K { 2 } else { 3 };
    rank("b", b, rank_b..=rank_b)?;
    let (sa, sb) = (a.layout.shape(), b.layout.shape());
    let (k, n) = (sa[rank_a - 1], sb[rank_b - 1]);
    if sb[rank_b - 2] != k {
        return reject(Rule::InnerDim, Some("b"), sb, format!("k = {k}"));
    }
    let m = sa[rank_a - 2];
    let (groups, room, batch) = match op.group {
        Group::Contiguous => (sb[0], m, vec![]),
        Group::Masked => (sb[0], m, vec![sb[0]]),
        _ => {
            let groups = match (&op.sizes, operands.get("sizes")) {
                (Lens::Host(list), _) => list.len() as u64,
                (_, Some((_, spec))) => spec.layout.shape().first().copied().unwrap_or(0),
                _ => 0,
            };
            (groups, k, vec![groups])
        }
    };
    if op.group == Group::Masked && sa[0] != groups {
        return reject(Rule::Batch, Some("a"), sa, format!("{groups} groups"));
    }
    if op.sizes == Lens::Full {
        return reject(Rule::Groups, Some("sizes"), "none", "host or device sizes");
    }
    let in_all = if op.group == Group::Masked { u64::MAX } else { room };
    lens("sizes", &op.sizes, operands, groups, room, in_all)?;
    Ok(Sizes { batch, m, n, k })
}

/// Types of A and B: one float type, i8, or fp8 of either kind.
fn values(a: &Spec, b: &Spec, k: u64) -> Result<()> {
    let fp8 = |dtype| matches!(dtype, DType::F8E4M3 | DType::F8E5M2);
    if fp8(a.dtype) && fp8(b.dtype) {
        return Ok(());
    }
    if a.dtype == DType::I8 {
        same_dtype("b", b, a)?;
        if k > MAX_K_I8 {
            return reject(Rule::Limit, Some("a"), format!("k = {k} of i8"), MAX_K_I8);
        }
        return Ok(());
    }
    if !is_scaled(a.dtype) {
        float("a", a)?;
    }
    same_dtype("b", b, a)
}

fn scales(op: &Matmul, operands: &Operands<'_>, dtype: DType, sizes: &Sizes) -> Result<()> {
    let blocks = |n: u64| n.div_ceil(128);
    let Sizes { batch, m, n, k } = sizes;
    // Groups of rows share A and its scales; B has a batch axis of its own then.
    let batch_b = match op.group {
        Group::Contiguous => operands.need("b")?.layout.shape()[..1].to_vec(),
        Group::K => vec![],
        _ => batch.clone(),
    };
    let batch_a = if op.group == Group::K { vec![] } else { batch.clone() };
    let wanted = |scale: Scale, batch: &[u64], of_a: bool| -> Vec<u64> {
        let tail = match (scale, of_a) {
            (Scale::None | Scale::Tensor, _) => return vec![1],
            (Scale::Row, true) => vec![*m],
            (Scale::Row, false) => vec![*n],
            (Scale::Block1x128, true) => vec![*m, blocks(*k)],
            (Scale::Block1x128, false) => vec![blocks(*k), *n],
            (Scale::Block128x128, true) => vec![blocks(*m), blocks(*k)],
            (Scale::Block128x128, false) => vec![blocks(*k), blocks(*n)],
        };
        [batch, &tail].concat()
    };
    let [of_a, of_b] = op.scales;
    for (name, scale, batch, is_a) in
        [("scale_a", of_a, &batch_a, true), ("scale_b", of_b, &batch_b, false)]
    {
        let Some((name, spec)) = operands.get(name) else { continue };
        if !is_scaled(dtype) {
            return reject(Rule::Scaled, Some(name), dtype, "f8e4m3, f8e5m2, i8");
        }
        let by_k = matches!(scale, Scale::Block1x128 | Scale::Block128x128);
        if by_k && op.group == Group::K {
            return reject(Rule::Groups, Some(name), "scales along k", "none with groups along k");
        }
        is_dtype(Rule::StatDType, name, spec, DType::F32)?;
        shape(Rule::ScaleDims, name, spec, &wanted(scale, batch, is_a))?;
    }
    Ok(())
}

/// A float output without scales, or an 8-bit one with them.
fn output(op: &Matmul, operands: &Operands<'_>, out: &Spec, shape_out: &[u64]) -> Result<()> {
    match op.quantize {
        Scale::None => return float("out", out),
        Scale::Tensor | Scale::Block1x128 => {}
        other => {
            let asked = format!("output scales by {other:?}");
            return reject(Rule::Scaled, Some("out"), asked, "by tensor or 1x128");
        }
    }
    if !is_scaled(out.dtype) {
        return reject(Rule::Scaled, Some("out"), out.dtype, "f8e4m3, f8e5m2, i8");
    }
    let mut blocks = shape_out.to_vec();
    if let Some(n) = blocks.last_mut() {
        *n = n.div_ceil(128);
    }
    for (name, want) in [("scale_out", &[1][..]), ("out_scale", &blocks)] {
        if let Some((name, spec)) = operands.get(name) {
            is_dtype(Rule::StatDType, name, spec, DType::F32)?;
            shape(Rule::ScaleDims, name, spec, want)?;
        }
    }
    Ok(())
}
