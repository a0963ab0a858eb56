//! The builder of `top_k`.

use super::{Options, Out, submit};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::layout::Dims;
use crate::op::{self, Rule};
use crate::tensor::Tensor;

/// The k largest elements along an axis, largest first, the last axis unless told otherwise.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, TopK};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([4], &[1f32, 9., 3., 9.])?;
/// let (values, places) = TopK::new(&x, 3).run()?;
/// assert_eq!(values.read::<f32>()?.wait(None)?, [9., 9., 3.]);
/// assert_eq!(places.read::<i32>()?.wait(None)?, [1, 3, 2]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TopK<'a> {
    x: &'a Tensor,
    k: u32,
    axis: u8,
    options: Options<'a>,
}

impl<'a> TopK<'a> {
    /// The `k` largest elements of `x`, 1 to 256.
    pub fn new(x: &'a Tensor, k: u32) -> Self {
        let axis = x.layout().rank().saturating_sub(1) as u8;
        Self { x, k, axis, options: Options::default() }
    }

    /// Another axis than the last.
    #[must_use]
    pub fn axis(mut self, axis: u8) -> Self {
        self.axis = axis;
        self
    }

    /// Runs on this queue instead of the device's default one.
    #[must_use]
    pub fn on(mut self, queue: &'a crate::Queue) -> Self {
        self.options.queue = Some(queue);
        self
    }

    /// Makes the op a step of a program instead of running it.
    ///
    /// # Errors
    /// The rule broken, or what making the outputs fails with.
    pub fn record(self, program: &'a crate::Recorder) -> Result<(Tensor, Tensor)> {
        self.run_in(Some(program))
    }

    /// [`TopK::record`] where there is a program, else [`TopK::run`].
    ///
    /// # Errors
    /// As [`TopK::run`].
    pub fn run_in(mut self, program: Option<&'a crate::Recorder>) -> Result<(Tensor, Tensor)> {
        self.options.recorder = program;
        self.run()
    }

    /// Checks the op now and enqueues it: the elements, and their places in i32.
    ///
    /// # Errors
    /// The rule broken, `OutOfMemory`, or what the device fails with.
    pub fn run(self) -> Result<(Tensor, Tensor)> {
        let (shape, axis) = (self.x.layout().shape(), usize::from(self.axis));
        let found =
            Dims::from_fn(shape.rank(), |i| if i == axis { self.k.into() } else { shape[i] });
        let outs = [Out::new(self.x.dtype(), found), Out::new(DType::I32, found)];
        let op = op::TopK { k: self.k, axis: self.axis };
        let results = submit(op, &[self.x], &outs, &self.options, WhenFull::Wait)?;
        <[Tensor; 2]>::try_from(results)
            .map(|[value, index]| (value, index))
            .map_err(|r| Error::rejected(Rule::OperandCount, None, r.len(), 2))
    }
}
