//! The builder of `reduce`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::layout::Dims;
use crate::op::{self, ReduceFn};
use crate::tensor::Tensor;

/// The last axis folded to one value, in f32.
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
    options: Options<'a>,
}

call_methods!(Reduce);

impl<'a> Reduce<'a> {
    /// Any of the functions.
    pub fn new(function: ReduceFn, x: &'a Tensor) -> Self {
        Self { function, x, options: Options::default() }
    }

    /// Sum of each row.
    pub fn sum(x: &'a Tensor) -> Self {
        Self::new(ReduceFn::Sum, x)
    }

    /// Mean of each row.
    pub fn mean(x: &'a Tensor) -> Self {
        Self::new(ReduceFn::Mean, x)
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let rank = self.x.layout().rank();
        let axis = rank.saturating_sub(1);
        let shape = Dims::from_fn(axis, |i| self.x.shape()[i]);
        let out = Out::main(&self.options, self.x.dtype(), shape);
        let op = op::Reduce { function: self.function, axis: axis as u8 };
        submit_one(op, &[self.x], out, &self.options, full)
    }
}
