//! The tenant's builders, one an op: they take tensors, broadcast and shape them, and enqueue the checked op.
//! What an op means stands with its descriptor in `op`; a builder adds only defaults and convenience.

mod arg_max;
mod attention;
mod attention_backward;
mod copy;
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

pub use arg_max::ArgMax;
pub use attention::Attention;
pub use attention_backward::AttentionBackward;
pub use copy::Copy;
pub use gather::Gather;
pub use map::Map;
pub use matmul::{Matmul, Product};
pub use norm::Norm;
pub use norm_backward::NormBackward;
pub use quantize::{Dequantize, Quantize, Quantized};
pub use reduce::Reduce;
pub use rope::Rope;
pub use scatter::Scatter;
pub use softmax::Softmax;
pub use top_k::TopK;

use crate::device::Queue;
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::{Error, Kind, Result};
use crate::layout::{Dims, Layout};
use crate::op::{Binding, Op, Rule, Spec, check};
use crate::tensor::{Recorder, Tensor};
use std::sync::Arc;

/// Options that every builder has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options<'a> {
    queue: Option<&'a Queue>,
    recorder: Option<&'a Recorder>,
    dtype: Option<DType>,
    into: Option<&'a Tensor>,
}

/// The methods that run a call with this result.
macro_rules! run_methods {
    ($name:ident, $result:ty) => {
        impl<'a> $name<'a> {
            /// Runs on this queue instead of the device's default one.
            #[must_use]
            pub fn on(mut self, queue: &'a crate::Queue) -> Self {
                self.options.queue = Some(queue);
                self
            }

            /// Checks the op now and enqueues it; waits while the queue is full.
            ///
            /// # Errors
            /// The rule broken, `OutOfMemory`, or what the device fails with. Errors of the run itself come
            /// back where the output is read.
            pub fn run(self) -> crate::Result<$result> {
                self.call(crate::engine::WhenFull::Wait)
            }

            /// Checks the op now and makes it a step of a program instead of running it. The result has memory only
            /// in the program.
            ///
            /// # Errors
            /// The rule broken, or what making the output fails with.
            pub fn record(mut self, program: &'a crate::Recorder) -> crate::Result<$result> {
                self.options.recorder = Some(program);
                self.call(crate::engine::WhenFull::Wait)
            }

            /// [`Self::run`] that answers `QueueFull` instead of waiting.
            ///
            /// # Errors
            /// As [`Self::run`], and `QueueFull`.
            pub fn try_run(self) -> crate::Result<$result> {
                self.call(crate::engine::WhenFull::Refuse)
            }
        }
    };
}
use run_methods;

/// The same of a call with one output, and the methods that say what it is.
macro_rules! call_methods {
    ($name:ident) => {
        $crate::tensor::ops::run_methods!($name, $crate::Tensor);

        impl<'a> $name<'a> {
            /// Casts the output to `dtype` as it is written.
            #[must_use]
            pub fn dtype(mut self, dtype: crate::DType) -> Self {
                self.options.dtype = Some(dtype);
                self
            }

            /// Writes into this view, of any strides that name each element once, instead of a new tensor.
            /// It may be the very view of an operand that is read where it is written.
            #[must_use]
            pub fn into(mut self, out: &'a crate::Tensor) -> Self {
                self.options.into = Some(out);
                self
            }
        }
    };
}
use call_methods;

/// An output to be made: the caller's view, or a new tensor of this dtype and shape.
pub(crate) struct Out<'a> {
    into: Option<&'a Tensor>,
    dtype: DType,
    shape: Dims,
}

impl<'a> Out<'a> {
    /// The main output: where the options say, else new; of the dtype they say, else `dtype`.
    fn main(options: &Options<'a>, dtype: DType, shape: Dims) -> Self {
        let dtype = options.dtype.or(options.into.map(Tensor::dtype)).unwrap_or(dtype);
        Self { into: options.into, dtype, shape }
    }

    /// A further output, always new.
    fn new(dtype: DType, shape: Dims) -> Self {
        Self { into: None, dtype, shape }
    }

    fn spec(&self) -> Spec {
        let new = || Spec::new(self.dtype, Layout::contiguous(self.shape), 0);
        self.into.map_or_else(new, |tensor| Spec { dtype: self.dtype, ..tensor.spec() })
    }
}

/// Checks `op` on `inputs`, makes the outputs, binds and enqueues. Nothing is allocated for an op that `check`
/// refuses.
pub(crate) fn submit(
    op: impl Into<Op>,
    inputs: &[&Tensor],
    outs: &[Out<'_>],
    options: &Options<'_>,
    full: WhenFull,
) -> Result<Vec<Tensor>> {
    let op = op.into();
    let name = op.name();
    let device = inputs.first().map(|tensor| tensor.device().clone());
    let device = device
        .ok_or_else(|| Error::rejected(Rule::OperandCount, None, 0, "at least 1").in_op(name))?;
    let given = outs.iter().filter_map(|out| out.into);
    let queue = options.queue.map(Queue::device);
    let others = inputs.iter().copied().chain(given).map(Tensor::device).chain(queue);
    if let Some(other) = others.into_iter().find(|other| !other.is(&device)) {
        let (asked, allowed) = (format!("{other:?}"), format!("{device:?}"));
        return Err(Error::from(Kind::Device { asked, allowed }).in_op(name));
    }
    let specs: Vec<Spec> =
        inputs.iter().map(|tensor| tensor.spec()).chain(outs.iter().map(Out::spec)).collect();
    let checked = Arc::new(check(op, &specs)?);
    let results = outs.iter().map(|out| match (out.into, options.recorder) {
        (Some(tensor), _) => Ok(tensor.clone()),
        (None, Some(recorder)) => recorder.empty(out.dtype, out.shape),
        (None, None) => Tensor::empty(&device, out.dtype, out.shape),
    });
    let results = results.collect::<Result<Vec<Tensor>>>().map_err(|e| e.in_op(name))?;
    let all: Vec<&Tensor> = inputs.iter().copied().chain(&results).collect();
    let bindings: Vec<Binding> = all.iter().map(|tensor| tensor.binding()).collect();
    let bound = checked.bind(&bindings)?;
    if let Some(recorder) = options.recorder {
        recorder.step(bound, &all).map_err(|e| e.in_op(name))?;
        return Ok(results);
    }
    all.iter().try_for_each(|tensor| tensor.in_memory()).map_err(|e| e.in_op(name))?;
    let queue = options.queue.cloned().unwrap_or_else(|| device.default_queue());
    device.engine().submit(bound, queue.id(), full).map_err(|e| e.in_op(name))?;
    Ok(results)
}

/// As [`submit`], for ops with one output.
pub(crate) fn submit_one(
    op: impl Into<Op>,
    inputs: &[&Tensor],
    out: Out<'_>,
    options: &Options<'_>,
    full: WhenFull,
) -> Result<Tensor> {
    let mut results = submit(op, inputs, &[out], options, full)?;
    results.pop().ok_or_else(|| too_few(1))
}

/// The two outputs of an op.
pub(crate) fn pair(outs: Vec<Tensor>) -> Result<(Tensor, Tensor)> {
    <[Tensor; 2]>::try_from(outs).map(|[a, b]| (a, b)).map_err(|_| too_few(2))
}

/// An op gave fewer outputs than its builder asked for; [`submit`] gives one for each.
fn too_few(count: usize) -> Error {
    Error::rejected(Rule::OperandCount, None, "fewer", count)
}

/// The shape of `x` without an axis; all of it where there is no such axis, which `check` then says.
pub(crate) fn without_axis(x: &Tensor, axis: u8) -> Dims {
    let (shape, axis) = (x.layout().shape(), usize::from(axis));
    let rank = shape.rank().saturating_sub(1);
    Dims::from_fn(rank, |i| shape[if i < axis { i } else { i + 1 }])
}

/// The shape that both shapes broadcast to, by NumPy's rule.
pub(crate) fn common_shape(a: &[u64], b: &[u64]) -> Result<Dims> {
    let rank = a.len().max(b.len());
    let at = |shape: &[u64], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    let clash = (0..rank).find(|&i| at(a, i) != at(b, i) && at(a, i) != 1 && at(b, i) != 1);
    if clash.is_some() {
        let allowed = format!("what broadcasts with {a:?}");
        return Err(Error::rejected(Rule::Batch, None, format!("{b:?}"), allowed));
    }
    Ok(Dims::from_fn(rank, |i| if at(a, i) == 1 { at(b, i) } else { at(a, i) }))
}
