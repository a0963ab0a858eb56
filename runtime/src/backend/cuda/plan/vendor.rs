//! Products that cuBLASLt may run: where the caller takes any order, of the forms that it has without copies. Its matrices
//! are column-major, so a row-major output is its transpose, `out^T = B^T A^T`: B is its first operand. A call cannot be
//! cut, so it is one unit, and a product that would be too long for one is ours.

use super::product::Product;
use super::{Class, LAUNCH_NS};
use crate::dtype::DType;
use crate::op::{
    Activation, CheckedOp, Gate, Group, Matmul, Op, OrderClass, Precision, Scale, Spec,
};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS};

/// The name of its plans.
const CUBLASLT: &str = "cublaslt";
/// Whatever it does: no promise.
const ORDER: Order = Order { entry: CUBLASLT, tile: [1, 1], chunk: 0, family: Family::Vendor };

/// A matrix as it lies, column-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Matrix {
    pub(in super::super) rows: u64,
    pub(in super::super) columns: u64,
    /// Elements from a column to the next, and from a matrix of the batch to the next.
    pub(in super::super) leading: u64,
    pub(in super::super) step: u64,
    /// Whether the product takes its transpose.
    pub(in super::super) is_turned: bool,
    pub(in super::super) dtype: DType,
    /// Bytes that its address is a multiple of.
    pub(in super::super) alignment: u32,
}

impl Matrix {
    /// The matrix of this axis along columns and that one across, `[size, stride]` each, if it lies so.
    fn of(
        spec: &Spec,
        down: [u64; 2],
        across: [u64; 2],
        step: u64,
        is_turned: bool,
    ) -> Option<Self> {
        let leading = if across[0] > 1 { across[1] } else { down[0] };
        let is_dense = down[0] <= 1 || down[1] == 1;
        let alignment =
            if spec.offset_class == 0 { 256 } else { 1 << spec.offset_class.trailing_zeros() };
        let (rows, columns, dtype) = (down[0], across[0], spec.dtype);
        (is_dense && leading >= rows).then_some(Self {
            rows,
            columns,
            leading,
            step,
            is_turned,
            dtype,
            alignment,
        })
    }
}

/// A call of cuBLASLt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Call {
    /// B, A and the output.
    pub(in super::super) matrices: [Matrix; 3],
    /// Places of the same and of C among the op's operands; C is the output where none is read.
    pub(in super::super) operands: [usize; 4],
    pub(in super::super) batch: u64,
    pub(in super::super) alpha: f32,
    pub(in super::super) beta: f32,
    pub(in super::super) is_tf32: bool,
}

impl Call {
    /// The call that is the op; `None` for what it does not do as it lies.
    pub(in super::super) fn of(op: &CheckedOp) -> Option<Self> {
        let Op::Matmul(matmul) = op.op() else { return None };
        let (a, b, out) = (op.spec("a")?, op.spec("b")?, op.spec("out")?);
        let product = Product::of(op, matmul)?;
        let is_small = |n: u64| (1..=i32::MAX as u64).contains(&n);
        if !is_plain(matmul, [a, b, out])
            || ![product.m, product.n, product.k].into_iter().all(is_small)
            || matmul.beta != 0.0 && !is_like(op.spec("c")?, out)
        {
            return None;
        }
        // One axis of the batch at most, whichever it is.
        let mut axes = (0..4).filter(|&i| product.batch[i] != 1);
        let (axis, None) = (axes.next(), axes.next()) else { return None };
        let batch = axis.map_or(1, |i| product.batch[i]);
        let step = |batch: [[u64; 2]; 4]| axis.map_or(0, |i| batch[i][1]);
        let of_out = [5, 4, 3, 2].map(|from_end| super::axis(out, from_end));
        let [of_a, of_b] = product.sides;
        let either = |spec, lie: [[u64; 2]; 2], step| {
            let straight = Matrix::of(spec, lie[0], lie[1], step, false);
            straight.or_else(|| Matrix::of(spec, lie[1], lie[0], step, true))
        };
        let matrices = [
            either(b, [of_b.outer, of_b.k], step(of_b.batch))?,
            either(a, [of_a.k, of_a.outer], step(of_a.batch))?,
            Matrix::of(out, super::axis(out, 0), super::axis(out, 1), step(of_out), false)?,
        ];
        let is_spread = batch == 1 || matrices[2].step > 0;
        if !is_small(batch) || !is_spread || matrices.iter().any(|m| !is_small(m.leading)) {
            return None;
        }
        let place = |name| op.position(name);
        let out_at = place("out")?;
        Some(Self {
            matrices,
            operands: [place("b")?, place("a")?, out_at, place("c").unwrap_or(out_at)],
            batch,
            alpha: matmul.alpha,
            beta: matmul.beta,
            is_tf32: matmul.precision == Precision::Tf32,
        })
    }

    /// Predicted nanoseconds: the best rate of our own rows, all multiprocessors full.
    fn predicted(&self, class: &Class, op: &CheckedOp) -> u128 {
        let is_half = self.matrices[0].dtype != DType::F32;
        let rate = match (is_half, self.is_tf32) {
            (true, _) => class.sm90[0].max(class.sm80[0]),
            (false, true) => class.sm80[0] / 2,
            (false, false) => class.fma,
        };
        let cost = op.cost();
        let busy = cost.flops / u128::from(rate * class.multiprocessors);
        busy.max(cost.bytes / u128::from(class.bytes)) + u128::from(LAUNCH_NS)
    }
}

/// A product and nothing after it, of the types that are summed in f32.
fn is_plain(matmul: &Matmul, [a, b, out]: [&Spec; 3]) -> bool {
    let is_typed = match a.dtype {
        DType::F32 => out.dtype == DType::F32,
        DType::F16 | DType::BF16 => [a.dtype, DType::F32].contains(&out.dtype),
        _ => false,
    };
    is_typed
        && a.dtype == b.dtype
        && !(matmul.bias || matmul.residual || matmul.preactivation)
        // What indices in device memory name, only our kernels hold to bounds.
        && !matmul.is_indexed()
        && matmul.activation == Activation::None
        && matmul.gate == Gate::None
        && matmul.group == Group::None
        && matmul.scales == [Scale::None; 2]
        && matmul.quantize == Scale::None
}

/// Whether C lies as the output does, and of its type.
fn is_like(c: &Spec, out: &Spec) -> bool {
    (c.dtype, c.layout) == (out.dtype, out.layout) && c.offset_class == out.offset_class
}

/// The plan of cuBLASLt for an op that takes any order, if there is one that fits a unit.
pub(super) fn plan(op: &CheckedOp, class: &Class) -> Option<Plan> {
    let Op::Matmul(Matmul { order: OrderClass::Any, .. }) = op.op() else { return None };
    let unit_ns = Call::of(op)?.predicted(class, op);
    (unit_ns <= UNIT_CAP_GPU_NS.into()).then_some(Plan {
        order: ORDER,
        kernel: CUBLASLT,
        tiles: 1,
        links: 1,
        unit_ns: unit_ns as u64,
        wave: 1,
        wave_ns: unit_ns as u64,
        state_bytes: 0,
    })
}
