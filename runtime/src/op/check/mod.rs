//! The one place where an op's shapes, dtypes and options are judged: by the tenant's process for good
//! messages, and again by the executor for safety. Each rule is a [`Rule`]; each rejection names it.
//! Where operands lie is judged by [`CheckedOp::bind`], time by the planner.

mod attention;
mod index;
mod matmul;
mod rows;

use super::lens::Lens;
use super::{
    Access, ArgMax, CheckedOp, Gather, Map, Op, Reduce, Rule, Scatter, Softmax, Spec, TopK,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::MAX_RANK;

/// Largest head dim of a rotary embedding.
const MAX_ROPE_DIM: u64 = 1024;
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
            Op::Matmul(op) => matmul::matmul(op, &operands),
            Op::Attention(op) => attention::attention(op, &operands),
            Op::AttentionBackward(op) => attention::backward(op, &operands),
            Op::Norm(op) => rows::norm(op, &operands),
            Op::NormBackward(op) => rows::norm_backward(op, &operands),
            Op::Softmax(op) => rows::softmax(op, &operands),
            Op::Reduce(op) => rows::reduce(op, &operands),
            Op::ArgMax(op) => rows::arg_max(op, &operands),
            Op::TopK(op) => rows::top_k(op, &operands),
            Op::Quantize(op) => rows::quantize(op, &operands),
            Op::Map(op) => map(op, &operands),
            Op::Rope(op) => index::rope(op, &operands),
            Op::Gather(op) => index::gather(op, &operands),
            Op::Scatter(op) => index::scatter(op, &operands),
            Op::Copy(_) => copy(&operands),
        }
    };
    judge().map_err(|e| e.in_op(name))?;
    let (op, specs) = along_last_axis(op, specs);
    Ok(CheckedOp::new(op, roles, specs))
}

/// Ops along an axis become ops along the last one, and gathers and scatters along another axis ops along the first,
/// on permuted views of the same elements: backends know one axis.
fn along_last_axis(mut op: Op, specs: &[Spec]) -> (Op, Vec<Spec>) {
    let mut specs = specs.to_vec();
    let (axis, to_end) = match &mut op {
        Op::Softmax(Softmax { axis, .. })
        | Op::Reduce(Reduce { axis, .. })
        | Op::ArgMax(ArgMax { axis })
        | Op::TopK(TopK { axis, .. }) => (axis, true),
        Op::Gather(Gather { axis }) | Op::Scatter(Scatter { axis, .. }) => (axis, false),
        _ => return (op, specs),
    };
    let from = usize::from(*axis);
    let rank = specs[0].layout.rank();
    if to_end {
        *axis = rank.saturating_sub(1) as u8;
        for spec in specs.iter_mut().filter(|spec| spec.layout.rank() == rank) {
            spec.layout = spec.layout.move_axes(from, 1, rank - 1);
        }
    } else if from > 0 {
        *axis = 0;
        let (indexed, entries) = match &op {
            Op::Gather(_) => (0, 2),
            _ => (2, 0),
        };
        let count = specs[1].layout.rank();
        specs[indexed].layout = specs[indexed].layout.move_axes(from, 1, 0);
        specs[entries].layout = specs[entries].layout.move_axes(from, count, 0);
    }
    (op, specs)
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
    if access.writes() && !spec.layout.is_injective() {
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

/// An axis of a tensor of rank 1 or more.
fn axis(axis: u8, name: &'static str, x: &Spec) -> Result<()> {
    rank(name, x, 1..=MAX_RANK)?;
    if usize::from(axis) < x.layout.rank() {
        return Ok(());
    }
    reject(Rule::Axis, Some("axis"), axis, format!("below {}", x.layout.rank()))
}

fn index_dtype(name: &'static str, spec: &Spec) -> Result<()> {
    match spec.dtype {
        DType::I32 | DType::U32 => Ok(()),
        other => reject(Rule::IndexDType, Some(name), other, "i32, u32"),
    }
}

fn is_dtype(rule: Rule, name: &'static str, spec: &Spec, dtype: DType) -> Result<()> {
    if spec.dtype == dtype {
        return Ok(());
    }
    reject(rule, Some(name), spec.dtype, dtype)
}

/// Whether values of a dtype stand for multiples of a scale.
fn is_scaled(dtype: DType) -> bool {
    dtype.size() == 1
}

/// Counts, `count` of them, each at most `most`, and at most `room` in all. Those in an operand are held by kernels.
fn lens(
    name: &'static str,
    lens: &Lens,
    operands: &Operands<'_>,
    count: u64,
    most: u64,
    room: u64,
) -> Result<()> {
    match lens {
        Lens::Full => Ok(()),
        Lens::Host(list) => host_lens(name, list, count, most, room),
        Lens::Device { max } => {
            if u64::from(*max) > most {
                return reject(Rule::Length, Some(name), max, format!("at most {most}"));
            }
            let spec = operands.need(name)?;
            index_dtype(name, spec)?;
            shape(Rule::Length, name, spec, &[count])
        }
    }
}

fn host_lens(name: &'static str, list: &[u32], count: u64, most: u64, room: u64) -> Result<()> {
    if list.len() as u64 != count {
        return reject(Rule::Length, Some(name), format!("{} lengths", list.len()), count);
    }
    if let Some(over) = list.iter().find(|&&len| u64::from(len) > most) {
        return reject(Rule::Length, Some(name), over, format!("at most {most}"));
    }
    let sum = list.iter().map(|&len| u64::from(len)).sum::<u64>();
    if sum > room {
        return reject(Rule::Length, Some(name), sum, format!("at most {room} in all"));
    }
    Ok(())
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

fn copy(operands: &Operands<'_>) -> Result<()> {
    let (x, out) = (operands.need("x")?, operands.need("out")?);
    same_dtype("out", out, x)?;
    shape(Rule::SameShape, "out", out, x.layout.shape())
}
