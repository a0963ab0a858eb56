//! Every op as its plain formula in f64, the judge of all backends. It sees op descriptors and host bytes only,
//! and shares no code with any backend. The same formula runs rounded after each step to a low type: what a
//! plain implementation in that type would give, which is the yardstick of tolerances. Parity tests call it.

mod attention;
mod copy;
mod functions;
mod gather;
mod map;
mod matmul;
mod norm;
mod reduce;
mod softmax;

use crate::dtype::DType;
use crate::layout::{Dims, Layout};
use crate::op::{Access, CheckedOp, Op};
use half::{bf16, f16};

/// Outputs of `op` in f64, one a written operand, each row-major. `inputs` are the operands that are read, in
/// binding order, each as the bytes from its first element on; operands that a caller cut short read as zero.
pub fn exact(op: &CheckedOp, inputs: &[&[u8]]) -> Vec<Vec<f64>> {
    run(Exact, op, inputs)
}

/// The same with inputs and every intermediate rounded to `low`; sums run left to right in f32, as does the
/// inside of a function.
pub fn rounded(op: &CheckedOp, inputs: &[&[u8]], low: DType) -> Vec<Vec<f64>> {
    run(Rounded(low), op, inputs)
}

/// The value of `x` in a dtype: the nearest, ties to even. Integers are returned as they are.
pub fn round_to(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::F16 => f16::from_f64(x).to_f64(),
        DType::BF16 => bf16::from_f64(x).to_f64(),
        _ => x,
    }
}

/// The elements of a view as f64, row-major. `bytes` start at its first element.
pub fn read(dtype: DType, layout: &Layout, bytes: &[u8]) -> Vec<f64> {
    offsets(layout)
        .map(|at| {
            let at = at as usize * dtype.size() as usize;
            let word = |n: usize| bytes.get(at..at + n).unwrap_or(&[0; 4][..n]);
            let wide = || u32::from_le_bytes(word(4).try_into().unwrap_or_default());
            let half = || u16::from_le_bytes(word(2).try_into().unwrap_or_default());
            match dtype {
                DType::F32 => f32::from_bits(wide()).into(),
                DType::F16 => f16::from_bits(half()).to_f64(),
                DType::BF16 => bf16::from_bits(half()).to_f64(),
                DType::I32 => (wide() as i32).into(),
                DType::U32 => wide().into(),
                // No op that is built takes 8-bit types.
                _ => f64::NAN,
            }
        })
        .collect()
}

/// Element offsets of a layout in row-major order.
pub fn offsets(layout: &Layout) -> impl Iterator<Item = u64> + '_ {
    let (shape, strides) = (layout.shape(), layout.strides());
    (0..layout.numel() as u64).map(move |mut index| {
        let mut offset = 0;
        for (&size, &stride) in shape.iter().zip(strides.iter()).rev() {
            offset += index % size * stride;
            index /= size;
        }
        offset
    })
}

/// How a formula's steps round.
trait Arithmetic: Copy {
    /// A stored intermediate.
    fn value(self, x: f64) -> f64;
    /// A running sum of a contraction, a statistic, or a step inside a function.
    fn sum(self, x: f64) -> f64;
}

#[derive(Clone, Copy)]
struct Exact;

impl Arithmetic for Exact {
    #[inline(always)]
    fn value(self, x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn sum(self, x: f64) -> f64 {
        x
    }
}

#[derive(Clone, Copy)]
struct Rounded(DType);

impl Arithmetic for Rounded {
    fn value(self, x: f64) -> f64 {
        round_to(self.0, x)
    }
    #[inline(always)]
    fn sum(self, x: f64) -> f64 {
        f64::from(x as f32)
    }
}

/// An operand's values, row-major.
struct Dense {
    shape: Dims,
    data: Vec<f64>,
}

impl Dense {
    /// Size of an axis counted from the end.
    fn dim(&self, from_end: usize) -> usize {
        self.shape.rank().checked_sub(from_end + 1).map_or(1, |axis| self.shape[axis] as usize)
    }

    /// The rows of the last axis; none when it is empty.
    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.data.chunks_exact(self.dim(0).max(1))
    }
}

/// The operands that are read, by name.
struct Inputs(Vec<(&'static str, Dense)>);

impl Inputs {
    fn get(&self, name: &str) -> Option<&Dense> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, dense)| dense)
    }

    /// An operand that the op always has; empty if it were missing.
    fn need(&self, name: &str) -> &Dense {
        static NONE: Dense = Dense { shape: Dims::NONE, data: Vec::new() };
        self.get(name).unwrap_or(&NONE)
    }
}

fn run(arithmetic: impl Arithmetic, op: &CheckedOp, inputs: &[&[u8]]) -> Vec<Vec<f64>> {
    let read_roles =
        op.roles().iter().zip(op.specs()).filter(|(role, _)| role.access != Access::Write);
    let dense = read_roles.zip(inputs).map(|((role, spec), bytes)| {
        let data = read(spec.dtype, &spec.layout, bytes);
        let data = match spec.dtype.is_float() {
            true => data.into_iter().map(|x| arithmetic.value(x)).collect(),
            false => data,
        };
        (role.name, Dense { shape: *spec.layout.shape(), data })
    });
    let inputs = Inputs(dense.collect());
    match op.op() {
        Op::Matmul(op) => vec![matmul::matmul(arithmetic, op, &inputs)],
        Op::Attention(op) => attention::attention(arithmetic, op, &inputs),
        Op::Norm(op) => vec![norm::norm(arithmetic, op, &inputs)],
        Op::Softmax(op) => vec![softmax::softmax(arithmetic, op, &inputs)],
        Op::Map(map) => {
            let integer = op.spec("out").filter(|out| !out.dtype.is_float()).map(|out| out.dtype);
            vec![map::map(arithmetic, map, &inputs, integer)]
        }
        Op::Gather(_) => vec![gather::gather(&inputs)],
        Op::Reduce(op) => {
            let rows = inputs.need("x").shape.iter().rev().skip(1).product::<u64>();
            vec![reduce::reduce(arithmetic, op, &inputs, rows as usize)]
        }
        Op::Copy(_) => vec![copy::copy(&inputs)],
        // `check` lets no other op become a `CheckedOp`.
        _ => Vec::new(),
    }
}
