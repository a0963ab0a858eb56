//! The builder of `reduce`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op::{self, ReduceFn};
use crate::tensor::Tensor;

/// An axis folded to one value, in f32: the last one unless told otherwise.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Reduce};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([2, 2], &[1f32, 2., 3., 4.])?;
/// assert_eq!(Reduce::sum(&x).run()?.read::<f32>()?.wait(None)?, [3., 7.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Reduce<'a> {
    function: ReduceFn,
    x: &'a Tensor,
    axis: u8,
    options: Options<'a>,
}

call_methods!(Reduce);

impl<'a> Reduce<'a> {
    /// Any of the functions.
    pub fn new(function: ReduceFn, x: &'a Tensor) -> Self {
        let axis = x.layout().rank().saturating_sub(1) as u8;
        Self { function, x, axis, options: Options::default() }
    }

    /// Sum of each row.
    pub fn sum(x: &'a Tensor) -> Self {
        Self::new(ReduceFn::Sum, x)
    }

    /// Mean of each row.
    pub fn mean(x: &'a Tensor) -> Self {
        Self::new(ReduceFn::Mean, x)
    }

    /// Another axis than the last.
    #[must_use]
    pub fn axis(mut self, axis: u8) -> Self {
        self.axis = axis;
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let shape = super::without_axis(self.x, self.axis);
        let out = Out::main(&self.options, self.x.dtype(), shape);
        let op = op::Reduce { function: self.function, axis: self.axis };
        submit_one(op, &[self.x], out, &self.options, full)
    }
}
