//! Rules of ops that work along an axis: norm and its gradient, softmax, reduce, arg_max, top_k, quantize.

use super::{
    Operands, axis, finite, float, index_dtype, is_dtype, is_scaled, rank, reject, same_dtype,
    shape,
};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::MAX_RANK;
use crate::op::{
    ArgMax, Norm, NormBackward, Quantize, QuantizeFormat, Reduce, Rule, Softmax, Spec, TopK,
};

/// Most elements that a top-k finds.
const MAX_K: u64 = 256;

fn epsilon(epsilon: f32) -> Result<()> {
    if epsilon.is_finite() && epsilon.is_sign_positive() {
        return Ok(());
    }
    reject(Rule::Epsilon, Some("epsilon"), epsilon, "finite, at least 0")
}

pub(super) fn norm(op: &Norm, operands: &Operands<'_>) -> Result<()> {
    epsilon(op.epsilon)?;
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    rank("x", x, 1..=MAX_RANK)?;
    float("x", x)?;
    float("out", out)?;
    shape(Rule::SameShape, "out", out, x.layout.shape())?;
    let n = x.layout.shape()[x.layout.rank() - 1];
    for name in ["weight", "bias"] {
        if let Some((name, spec)) = operands.get(name) {
            float(name, spec)?;
            shape(Rule::InnerDim, name, spec, &[n])?;
        }
    }
    Ok(())
}

pub(super) fn norm_backward(op: &NormBackward, operands: &Operands<'_>) -> Result<()> {
    epsilon(op.epsilon)?;
    let x = operands.need("x")?;
    rank("x", x, 1..=MAX_RANK)?;
    for name in ["x", "d_out", "d_x"] {
        let spec = operands.need(name)?;
        float(name, spec)?;
        shape(Rule::SameShape, name, spec, x.layout.shape())?;
    }
    let terms = operands.need("terms")?;
    is_dtype(Rule::StatDType, "terms", terms, DType::F32)?;
    shape(Rule::SameShape, "terms", terms, x.layout.shape())?;
    if let Some((name, weight)) = operands.get("weight") {
        float(name, weight)?;
        shape(Rule::InnerDim, name, weight, &x.layout.shape()[x.layout.rank() - 1..])?;
    }
    Ok(())
}

pub(super) fn softmax(op: &Softmax, operands: &Operands<'_>) -> Result<()> {
    finite("scale", op.scale)?;
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    float("x", x)?;
    float("out", out)?;
    shape(Rule::SameShape, "out", out, x.layout.shape())?;
    axis(op.axis, "x", x)
}

pub(super) fn reduce(op: &Reduce, operands: &Operands<'_>) -> Result<()> {
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    float("x", x)?;
    float("out", out)?;
    axis(op.axis, "x", x)?;
    shape(Rule::OutDims, "out", out, &without(x, op.axis))
}

pub(super) fn arg_max(op: &ArgMax, operands: &Operands<'_>) -> Result<()> {
    let (x, index) = (operands.need("x")?, operands.need("index")?);
    float("x", x)?;
    index_dtype("index", index)?;
    axis(op.axis, "x", x)?;
    countable("x", x, op.axis)?;
    shape(Rule::OutDims, "index", index, &without(x, op.axis))
}

pub(super) fn top_k(op: &TopK, operands: &Operands<'_>) -> Result<()> {
    let (x, value, index) = (operands.need("x")?, operands.need("value")?, operands.need("index")?);
    float("x", x)?;
    same_dtype("value", value, x)?;
    index_dtype("index", index)?;
    axis(op.axis, "x", x)?;
    countable("x", x, op.axis)?;
    let n = x.layout.shape()[usize::from(op.axis)];
    if op.k == 0 || u64::from(op.k) > n.min(MAX_K) {
        return reject(Rule::Count, Some("k"), op.k, format!("1 to {}", n.min(MAX_K)));
    }
    let mut want = x.layout.shape().to_vec();
    want[usize::from(op.axis)] = op.k.into();
    shape(Rule::OutDims, "value", value, &want)?;
    shape(Rule::OutDims, "index", index, &want)
}

/// An axis whose places fit an index, and that has one.
fn countable(name: &'static str, x: &Spec, axis: u8) -> Result<()> {
    let n = x.layout.shape()[usize::from(axis)];
    if (1..=1 << 31).contains(&n) {
        return Ok(());
    }
    reject(Rule::Count, Some(name), format!("an axis of {n}"), "1 to 2^31")
}

/// A shape without one of its axes.
fn without(x: &Spec, axis: u8) -> Vec<u64> {
    let mut shape = x.layout.shape().to_vec();
    shape.remove(axis.into());
    shape
}

pub(super) fn quantize(op: &Quantize, operands: &Operands<'_>) -> Result<()> {
    let (x, out, scale) = (operands.need("x")?, operands.need("out")?, operands.need("scale")?);
    let ((wide_name, wide), (coded_name, coded)) =
        if op.inverse { (("out", out), ("x", x)) } else { (("x", x), ("out", out)) };
    float(wide_name, wide)?;
    let least = if op.format == QuantizeFormat::Block128x128 { 2 } else { 1 };
    rank(wide_name, wide, least..=MAX_RANK)?;
    if op.format == QuantizeFormat::Group32 {
        return groups_of_32((wide_name, wide), (coded_name, coded), operands);
    }
    if !is_scaled(coded.dtype) {
        return reject(Rule::Scaled, Some(coded_name), coded.dtype, "f8e4m3, f8e5m2, i8");
    }
    shape(Rule::SameShape, coded_name, coded, wide.layout.shape())?;
    is_dtype(Rule::StatDType, "scale", scale, DType::F32)?;
    let dims = wide.layout.shape();
    let mut want = dims.to_vec();
    let last = want.len() - 1;
    match op.format {
        QuantizeFormat::Tensor => want = vec![1],
        QuantizeFormat::Row => want.truncate(last),
        QuantizeFormat::Block1x128 => want[last] = dims[last].div_ceil(128),
        _ => (last - 1..=last).for_each(|axis| want[axis] = dims[axis].div_ceil(128)),
    }
    shape(Rule::ScaleDims, "scale", scale, &want)
}

fn groups_of_32(
    (wide_name, wide): (&'static str, &Spec),
    (coded_name, coded): (&'static str, &Spec),
    operands: &Operands<'_>,
) -> Result<()> {
    is_dtype(Rule::Scaled, coded_name, coded, DType::U32)?;
    let mut want = wide.layout.shape().to_vec();
    let last = want.len() - 1;
    let n = want[last];
    if !n.is_multiple_of(32) {
        return reject(Rule::InnerDim, Some(wide_name), n, "a multiple of 32");
    }
    want[last] = n / 8;
    shape(Rule::OutDims, coded_name, coded, &want)?;
    want[last] = n / 32;
    for name in ["scale", "min"] {
        let spec = operands.need(name)?;
        float(name, spec)?;
        shape(Rule::ScaleDims, name, spec, &want)?;
    }
    Ok(())
}
