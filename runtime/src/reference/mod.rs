//! Every op as its plain formula in f64, the judge of all backends. It sees op descriptors and host bytes only,
//! and shares no code with any backend. The same formula runs rounded after each step to a low type: what a
//! plain implementation in that type would give, which is the yardstick of tolerances. Parity tests call it.

mod arg_max;
mod attention;
mod attention_backward;
mod copy;
mod functions;
mod gather;
mod map;
mod matmul;
mod norm;
mod norm_backward;
mod quantize;
mod reduce;
mod rope;
mod scatter;
mod softmax;
mod top_k;

use crate::dtype::DType;
use crate::layout::{Dims, Layout};
use crate::op::{CheckedOp, Op};
use half::{bf16, f16};

/// Outputs of `op` in f64, one a written operand, each row-major. `inputs` are the operands that are read, in
/// binding order, each as the bytes from its first element on; operands that a caller cut short read as zero.
pub fn exact(op: &CheckedOp, inputs: &[&[u8]]) -> Vec<Vec<f64>> {
    run(Exact, op, inputs)
}

/// What a plain implementation multiplies with, where the instruction's own losses are more than those of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Products in f32, added from left to right.
    #[default]
    Single,
    /// Matrix units of operands of 16 bits, as orders of `Family::Matrix16` name them: they add 8 products at a time to the
    /// sum before, aligned to the largest, of which 25 bits are kept, and cut the sum to f32 where f32 would round (Khattak
    /// and Mikaitis, arXiv 2512.07004, of A100 and Ada; those of H100 and B200 add 16 and keep 26, and lose half as much).
    /// No card of ours has been asked yet.
    Matrix16,
    /// Matrix units of f32 operands, as orders of `Family::MatrixTf32` name them: A and B keep ten digits behind the point.
    Tf32,
    /// Matrix units of floats of 8 bits, as orders of `Family::Matrix8` name them: they add 32 products at a time, aligned
    /// to the largest, of which 14 bits are kept (DeepSeek-V3, arXiv 2412.19437, section 3.5.2), and anew every 128 of K.
    /// No card of ours has been asked yet.
    Fp8,
}

/// The same with inputs and every intermediate rounded to `low`; products are made and added as by `unit`, other sums run
/// left to right in f32, as does the inside of a function.
pub fn rounded(op: &CheckedOp, inputs: &[&[u8]], low: DType, unit: Unit) -> Vec<Vec<f64>> {
    run(Rounded { low, unit }, op, inputs)
}

/// What each output should hold: the [`exact`] values, and those [`rounded`] to the output's own type.
pub fn expected(op: &CheckedOp, inputs: &[&[u8]], unit: Unit) -> Vec<[Vec<f64>; 2]> {
    let written = op.roles().iter().zip(op.specs()).filter(|(role, _)| role.access.writes());
    let dtypes: Vec<DType> = written.map(|(_, spec)| spec.dtype).collect();
    let mut low: Vec<Vec<f64>> = vec![Vec::new(); dtypes.len()];
    for (n, dtype) in dtypes.iter().enumerate() {
        // One run gives all outputs of a type.
        if !dtypes[..n].contains(dtype) {
            let outputs = rounded(op, inputs, *dtype, unit).into_iter().enumerate();
            outputs.filter(|(i, _)| dtypes[*i] == *dtype).for_each(|(i, output)| low[i] = output);
        }
    }
    exact(op, inputs).into_iter().zip(low).map(|(exact, low)| [exact, low]).collect()
}

/// The value of `x` in a dtype: the nearest, ties to even; of 8 bits the nearest finite one. 32-bit integers are
/// returned as they are.
pub fn round_to(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::F16 => f16::from_f64(x).to_f64(),
        DType::BF16 => bf16::from_f64(x).to_f64(),
        DType::F8E4M3 | DType::F8E5M2 | DType::I8 => functions::nearest(dtype, x),
        DType::I32 | DType::U32 => x,
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
                DType::I8 => f64::from(word(1)[0] as i8),
                DType::F8E4M3 | DType::F8E5M2 => functions::f8(dtype, word(1)[0]),
            }
        })
        .collect()
}

/// Element offsets of a layout in row-major order.
pub fn offsets(layout: &Layout) -> impl Iterator<Item = u64> + '_ {
    let (shape, strides) = (layout.shape(), layout.strides());
    let of_last = |dims: &Dims| dims.last().copied().unwrap_or(1);
    let (row, step) = (of_last(shape), of_last(strides));
    (0..layout.numel() as u64 / row.max(1)).flat_map(move |mut index| {
        let mut offset = 0;
        for (&size, &stride) in shape.iter().zip(strides.iter()).rev().skip(1) {
            offset += index % size * stride;
            index /= size;
        }
        (0..row).map(move |i| offset + i * step)
    })
}

/// How a formula's steps round.
trait Arithmetic: Copy {
    /// A stored intermediate.
    fn value(self, x: f64) -> f64;
    /// A running sum of a contraction, a statistic, or a step inside a function.
    fn sum(self, x: f64) -> f64;
    /// A result of an 8-bit type.
    fn stored(self, dtype: DType, x: f64) -> f64;
    /// What multiplies matrices.
    fn unit(self) -> Unit {
        Unit::Single
    }
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
    fn stored(self, _: DType, x: f64) -> f64 {
        x
    }
}

/// Values of 8 bits are stored, not computed with: in between is f32.
#[derive(Clone, Copy)]
struct Rounded {
    low: DType,
    unit: Unit,
}

impl Arithmetic for Rounded {
    fn value(self, x: f64) -> f64 {
        round_to(if self.low.size() == 1 { DType::F32 } else { self.low }, x)
    }
    #[inline(always)]
    fn sum(self, x: f64) -> f64 {
        f64::from(x as f32)
    }
    fn stored(self, dtype: DType, x: f64) -> f64 {
        round_to(dtype, x)
    }
    fn unit(self) -> Unit {
        self.unit
    }
}

/// An index or count in device memory, read as unsigned bits.
fn count(x: f64) -> usize {
    x as i64 as u32 as usize
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

    /// The only value of a scalar.
    fn first(&self) -> f64 {
        self.data.first().copied().unwrap_or(0.0)
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
    let read_roles = op.roles().iter().zip(op.specs()).filter(|(role, _)| role.access.reads());
    let dense = read_roles.zip(inputs).map(|((role, spec), bytes)| {
        let data = read(spec.dtype, &spec.layout, bytes);
        let data = match spec.dtype.is_float() {
            true => data.into_iter().map(|x| arithmetic.value(x)).collect(),
            false => data,
        };
        (role.name, Dense { shape: *spec.layout.shape(), data })
    });
    let inputs = Inputs(dense.collect());
    let a = arithmetic;
    match op.op() {
        Op::Matmul(m) => matmul::matmul(a, m, &inputs, output(op)),
        Op::Attention(op) => attention::attention(a, op, &inputs),
        Op::AttentionBackward(op) => attention_backward::attention_backward(a, op, &inputs),
        Op::Norm(op) => vec![norm::norm(a, op, &inputs)],
        Op::NormBackward(op) => norm_backward::norm_backward(a, op, &inputs),
        Op::Softmax(op) => vec![softmax::softmax(a, op, &inputs)],
        Op::Map(map) => {
            let (dtype, _) = output(op);
            vec![map::map(a, map, &inputs, (!dtype.is_float()).then_some(dtype))]
        }
        Op::Rope(op) => vec![rope::rope(a, op, &inputs)],
        Op::Gather(_) => vec![gather::gather(&inputs)],
        Op::Scatter(op) => vec![scatter::scatter(a, op, &inputs)],
        Op::Reduce(op) => {
            let rows = inputs.need("x").shape.iter().rev().skip(1).product::<u64>();
            vec![reduce::reduce(a, op, &inputs, rows as usize)]
        }
        Op::ArgMax(_) => vec![arg_max::arg_max(&inputs)],
        Op::TopK(op) => top_k::top_k(op, &inputs),
        Op::Quantize(q) => {
            let wide = if q.inverse { output(op).1 } else { &inputs.need("x").shape };
            quantize::quantize(a, q, &inputs, output(op).0, wide)
        }
        Op::Copy(_) => vec![copy::copy(&inputs)],
    }
}

/// Type and shape of the operand called `out`.
fn output(op: &CheckedOp) -> (DType, &Dims) {
    op.spec("out").map_or((DType::F32, &Dims::NONE), |out| (out.dtype, out.layout.shape()))
}
