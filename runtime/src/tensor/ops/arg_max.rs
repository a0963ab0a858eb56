//! The builder of `arg_max`.

use super::{Options, Out, call_methods, submit_one};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op;
use crate::tensor::Tensor;

/// Index of the largest element along an axis, the last one unless told otherwise; the first of equal ones. An i32
/// tensor of the shape without the axis.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{ArgMax, Device};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([2, 3], &[1f32, 5., 5., 7., 0., 1.])?;
/// assert_eq!(ArgMax::new(&x).run()?.read::<i32>()?.wait(None)?, [1, 0]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ArgMax<'a> {
    x: &'a Tensor,
    axis: u8,
    options: Options<'a>,
}

call_methods!(ArgMax);

impl<'a> ArgMax<'a> {
    /// The places of the largest elements of `x`.
    pub fn new(x: &'a Tensor) -> Self {
        let axis = x.layout().rank().saturating_sub(1) as u8;
        Self { x, axis, options: Options::default() }
    }

    /// Another axis than the last.
    #[must_use]
    pub fn axis(mut self, axis: u8) -> Self {
        self.axis = axis;
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let shape = super::without_axis(self.x, self.axis);
        let out = Out::main(&self.options, DType::I32, shape);
        submit_one(op::ArgMax { axis: self.axis }, &[self.x], out, &self.options, full)
    }
}
