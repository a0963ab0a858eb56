//! The one place where an op's shapes, dtypes and options are judged: by the tenant's process for good
//! messages, and again by the executor for safety. Each rule is a [`Rule`]; each rejection names it.
//! Where operands lie is judged by [`CheckedOp::bind`], time by the planner.

use super::{
    Access, Attention, CheckedOp, Gather, KeyValue, Lens, Map, Matmul, Norm, Op, OrderClass,
    Precision, Reduce, Rule, Softmax, Spec,
};
use super::{Gate, Group, Scale};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Dims;

/// Largest head dim of attention.
pub(crate) const MAX_HEAD_DIM: u64 = 256;
/// Tensors have fewer elements than this, so that byte offsets fit 64 bits with room to add.
const MAX_ELEMENTS: u128 = 1 << 62;

/// Judges `op` on operands of these specs, given in the order of [`Op::roles`].
///
/// # Errors
/// The first rule broken, with the operand, the value asked and the values allowed.
pub fn check(op: Op, specs: &[Spec]) -> Result<CheckedOp> {
    let name = op.name();
    let roles = op.roles();
    let judge = || -> Result<()> {
        if specs.len() != roles.len() {
            return reject(Rule::OperandCount, None, specs.len(), roles.len());
        }
        for (spec, role) in specs.iter().zip(&roles) {
            judge_operand(spec, role.name, role.access)?;
        }
        let operands = Operands { names: roles.iter().map(|r| r.name).collect(), specs };
        match &op {
            Op::Matmul(op) => matmul(op, &operands),
            Op::Attention(op) => attention(op, &operands),
            Op::Norm(op) => norm(op, &operands),
            Op::Softmax(op) => softmax(op, &operands),
            Op::Map(op) => map(op, &operands),
            Op::Gather(op) => gather(op, &operands),
            Op::Reduce(op) => reduce(op, &operands),
            Op::Copy(_) => copy(&operands),
            Op::AttentionBackward(_)
            | Op::Rope(_)
            | Op::Scatter(_)
            | Op::ArgMax(_)
            | Op::TopK(_)
            | Op::Quantize(_) => {
                unsupported(name, "matmul, attention, norm, softmax, map, gather, reduce, copy")
            }
        }
    };
    judge().map_err(|e| e.in_op(name))?;
    Ok(CheckedOp::new(op, roles, specs.to_vec()))
}

/// The operands by name. Presence was settled by the operand count, so a missing name is a missing option.
struct Operands<'a> {
    names: Vec<&'static str>,
    specs: &'a [Spec],
}

impl<'a> Operands<'a> {
    fn get(&self, name: &str) -> Option<(&'static str, &'a Spec)> {
        let i = self.names.iter().position(|&n| n == name)?;
        Some((self.names[i], &self.specs[i]))
    }

    /// An operand that the op always has; the caller's `check` counted them.
    fn need(&self, name: &'static str) -> Result<&'a Spec> {
        match self.get(name) {
            Some((_, spec)) => Ok(spec),
            None => reject(Rule::OperandCount, Some(name), 0, 1),
        }
    }
}

fn reject<T>(
    rule: Rule,
    operand: Option<&'static str>,
    asked: impl std::fmt::Display,
    allowed: impl std::fmt::Display,
) -> Result<T> {
    Err(Error::rejected(rule, operand, asked, allowed))
}

fn unsupported<T>(asked: impl std::fmt::Display, allowed: impl std::fmt::Display) -> Result<T> {
    reject(Rule::Capability, None, asked, allowed)
}

/// Rules of every operand, whatever the op.
fn judge_operand(spec: &Spec, name: &'static str, access: Access) -> Result<()> {
    if spec.layout.numel() >= MAX_ELEMENTS || spec.span_bytes() >= MAX_ELEMENTS {
        return reject(
            Rule::Elements,
            Some(name),
            spec.layout,
            "fewer than 2^62 elements and bytes",
        );
    }
    if access == Access::Write && !spec.layout.is_injective() {
        return reject(
            Rule::OutInjective,
            Some(name),
            spec.layout,
            "strides that step past smaller axes",
        );
    }
    if !u64::from(spec.offset_class).is_multiple_of(spec.dtype.size()) {
        return reject(Rule::Aligned, Some(name), spec.offset_class, spec.dtype.size());
    }
    Ok(())
}

fn float(name: &'static str, spec: &Spec) -> Result<()> {
    if spec.dtype.is_float() {
        return Ok(());
    }
    reject(Rule::Float, Some(name), spec.dtype, "f32, f16, bf16")
}

fn same_dtype(name: &'static str, spec: &Spec, as_spec: &Spec) -> Result<()> {
    if spec.dtype == as_spec.dtype {
        return Ok(());
    }
    reject(Rule::SameDType, Some(name), spec.dtype, as_spec.dtype)
}

fn rank(name: &'static str, spec: &Spec, allowed: std::ops::RangeInclusive<usize>) -> Result<()> {
    if allowed.contains(&spec.layout.rank()) {
        return Ok(());
    }
    let text = format!("rank {} to {}", allowed.start(), allowed.end());
    reject(Rule::Rank, Some(name), spec.layout.shape(), text)
}

fn shape(rule: Rule, name: &'static str, spec: &Spec, want: &[u64]) -> Result<()> {
    if **spec.layout.shape() == *want {
        return Ok(());
    }
    reject(rule, Some(name), spec.layout.shape(), format!("{want:?}"))
}

fn finite(name: &'static str, value: f32) -> Result<()> {
    // Negative zero would be equal to zero as a cache key and yet give other bits.
    if value.is_finite() && !(value == 0.0 && value.is_sign_negative()) {
        return Ok(());
    }
    reject(Rule::Finite, Some(name), value, "a finite number, zero without sign")
}

/// The last axis, the only one built yet, of a tensor of rank 1 or more.
fn last_axis(axis: u8, x: &Spec) -> Result<()> {
    let rank = x.layout.rank();
    if usize::from(axis) >= rank {
        return reject(Rule::Axis, Some("axis"), axis, format!("below {rank}"));
    }
    if usize::from(axis) != rank - 1 {
        return unsupported(format!("axis {axis}"), format!("the last axis, {}", rank - 1));
    }
    Ok(())
}

fn matmul(op: &Matmul, operands: &Operands<'_>) -> Result<()> {
    matmul_options(op)?;
    let (a, b, out) = (operands.need("a")?, operands.need("b")?, operands.need("out")?);
    rank("a", a, 2..=crate::layout::MAX_RANK)?;
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
    let mut want: Vec<u64> = sa[..=lead].to_vec();
    want.push(sb[lead + 1]);
    shape(Rule::OutDims, "out", out, &want)?;
    float("a", a)?;
    same_dtype("b", b, a)?;
    float("out", out)?;
    for name in ["bias", "c", "gate", "residual"] {
        if let Some((name, spec)) = operands.get(name) {
            shape(Rule::SameShape, name, spec, &want)?;
            float(name, spec)?;
        }
    }
    Ok(())
}

fn matmul_options(op: &Matmul) -> Result<()> {
    finite("alpha", op.alpha)?;
    finite("beta", op.beta)?;
    let missing = [
        (op.beta != 0.0, "beta"),
        (op.gate == Gate::Interleaved, "interleaved gate"),
        (op.preactivation, "preactivation output"),
        (op.precision == Precision::Tf32, "tf32"),
        (op.scales != [Scale::None; 2], "scales"),
        (op.group != Group::None, "groups"),
        (op.order != OrderClass::Fixed, "order other than fixed"),
    ];
    for (asked, name) in missing {
        if asked {
            return unsupported(name, "alpha, bias, activation, tensor gate, residual");
        }
    }
    Ok(())
}

fn attention(op: &Attention, operands: &Operands<'_>) -> Result<()> {
    attention_options(op)?;
    let (q, k, v) = (operands.need("q")?, operands.need("k")?, operands.need("v")?);
    for (name, spec) in [("q", q), ("k", k), ("v", v)] {
        rank(name, spec, 4..=4)?;
        float(name, spec)?;
        same_dtype(name, spec, q)?;
    }
    let (sq, sk, sv) = (q.layout.shape(), k.layout.shape(), v.layout.shape());
    let &[batch, heads, rows, d] = &**sq else { return reject(Rule::Rank, Some("q"), sq, 4) };
    if sk[0] != batch {
        return reject(Rule::Batch, Some("k"), sk, format!("batch {batch}"));
    }
    if sk[3] != d {
        return reject(Rule::HeadDim, Some("k"), sk, format!("d = {d}"));
    }
    if (heads == 0) != (sk[1] == 0) || (sk[1] != 0 && heads % sk[1] != 0) {
        return reject(Rule::HeadGroups, Some("k"), sk[1], format!("a divisor of {heads}"));
    }
    let keys = sk[2];
    shape(Rule::SameShape, "v", v, &[batch, sk[1], keys, sv[3]])?;
    for (name, dim) in [("q", d), ("v", sv[3])] {
        if dim > MAX_HEAD_DIM {
            return reject(Rule::Limit, Some(name), format!("head dim {dim}"), MAX_HEAD_DIM);
        }
    }
    if rows > u64::from(u32::MAX) || keys > u64::from(u32::MAX) {
        return reject(Rule::Limit, Some("k"), rows.max(keys), u32::MAX);
    }
    let out = operands.need("out")?;
    float("out", out)?;
    shape(Rule::OutDims, "out", out, &[batch, heads, rows, sv[3]])?;
    if let Some((name, mask)) = operands.get("mask") {
        float(name, mask)?;
        shape(Rule::SameShape, name, mask, &[batch, heads, rows, keys])?;
    }
    if let Some((name, lse)) = operands.get("lse") {
        if lse.dtype != DType::F32 {
            return reject(Rule::StatDType, Some(name), lse.dtype, DType::F32);
        }
        shape(Rule::OutDims, name, lse, &[batch, heads, rows])?;
    }
    lens(&op.lens, batch, keys)
}

fn attention_options(op: &Attention) -> Result<()> {
    finite("scale", op.scale)?;
    finite("softcap", op.softcap)?;
    let missing = [
        (op.window.is_some(), "window"),
        (op.softcap != 0.0, "softcap"),
        (op.alibi, "alibi"),
        (op.sinks, "sinks"),
        (matches!(op.lens, Lens::Device { .. }), "device lengths"),
        (op.key_value != KeyValue::Dense, "paged keys"),
        (op.order != OrderClass::Fixed, "order other than fixed"),
    ];
    for (asked, name) in missing {
        if asked {
            return unsupported(name, "scale, causal, additive mask, host lengths, log-sum-exp");
        }
    }
    Ok(())
}

fn lens(lens: &Lens, batch: u64, keys: u64) -> Result<()> {
    let Lens::Host(list) = lens else { return Ok(()) };
    if list.len() as u64 != batch {
        return reject(Rule::Length, Some("lens"), format!("{} lengths", list.len()), batch);
    }
    match list.iter().find(|&&len| u64::from(len) > keys) {
        Some(len) => reject(Rule::Length, Some("lens"), len, format!("at most {keys}")),
        None => Ok(()),
    }
}

fn norm(op: &Norm, operands: &Operands<'_>) -> Result<()> {
    if !(op.epsilon.is_finite() && op.epsilon.is_sign_positive()) {
        return reject(Rule::Epsilon, Some("epsilon"), op.epsilon, "finite, at least 0");
    }
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    rank("x", x, 1..=crate::layout::MAX_RANK)?;
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

fn softmax(op: &Softmax, operands: &Operands<'_>) -> Result<()> {
    finite("scale", op.scale)?;
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    rank("x", x, 1..=crate::layout::MAX_RANK)?;
    float("x", x)?;
    float("out", out)?;
    shape(Rule::SameShape, "out", out, x.layout.shape())?;
    last_axis(op.axis, x)
}

fn map(op: &Map, operands: &Operands<'_>) -> Result<()> {
    finite("scale", op.scale)?;
    finite("shift", op.shift)?;
    let out = operands.need("out")?;
    let integer = matches!(out.dtype, DType::I32 | DType::U32);
    if !integer {
        float("out", out)?;
    }
    if integer && !(op.function.for_integers() && op.scale == 1.0 && op.shift == 0.0) {
        let asked = format!("{:?} of {}", op.function, out.dtype);
        return reject(Rule::Arithmetic, Some("out"), asked, "f32, f16, bf16");
    }
    for name in ["x", "y"] {
        if let Some((name, spec)) = operands.get(name) {
            shape(Rule::SameShape, name, spec, out.layout.shape())?;
            if integer { same_dtype(name, spec, out)? } else { float(name, spec)? }
        }
    }
    Ok(())
}

fn gather(op: &Gather, operands: &Operands<'_>) -> Result<()> {
    let (table, index, out) =
        (operands.need("table")?, operands.need("index")?, operands.need("out")?);
    rank("table", table, 1..=crate::layout::MAX_RANK)?;
    if usize::from(op.axis) >= table.layout.rank() {
        return reject(Rule::Axis, Some("axis"), op.axis, format!("below {}", table.layout.rank()));
    }
    if op.axis != 0 {
        return unsupported(format!("axis {}", op.axis), "axis 0");
    }
    if !matches!(index.dtype, DType::I32 | DType::U32) {
        return reject(Rule::IndexDType, Some("index"), index.dtype, "i32, u32");
    }
    if !(table.dtype.is_float() || matches!(table.dtype, DType::I32 | DType::U32)) {
        return unsupported(format!("gather of {}", table.dtype), "f32, f16, bf16, i32, u32");
    }
    same_dtype("out", out, table)?;
    let rows = table.layout.shape()[0];
    if rows > 1 << 31 {
        return reject(Rule::Limit, Some("table"), format!("{rows} rows"), 1u64 << 31);
    }
    let inner = &table.layout.shape()[1..];
    let want: Vec<u64> = index.layout.shape().iter().chain(inner).copied().collect();
    if Dims::new(&want).is_none() {
        let max = crate::layout::MAX_RANK;
        return reject(Rule::Rank, Some("out"), format!("rank {}", want.len()), max);
    }
    shape(Rule::OutDims, "out", out, &want)
}

fn reduce(op: &Reduce, operands: &Operands<'_>) -> Result<()> {
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    rank("x", x, 1..=crate::layout::MAX_RANK)?;
    float("x", x)?;
    float("out", out)?;
    last_axis(op.axis, x)?;
    shape(Rule::OutDims, "out", out, &x.layout.shape()[..x.layout.rank() - 1])
}

fn copy(operands: &Operands<'_>) -> Result<()> {
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    let built = x.dtype.is_float() || matches!(x.dtype, DType::I32 | DType::U32);
    if !built {
        return unsupported(format!("copy of {}", x.dtype), "f32, f16, bf16, i32, u32");
    }
    same_dtype("out", out, x)?;
    shape(Rule::SameShape, "out", out, x.layout.shape())
}
