//! The builder of `copy`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op;
use crate::tensor::Tensor;

/// The elements of a view, made dense or written into another view of the same shape.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Copy, Device};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([2, 2], &[1f32, 2., 3., 4.])?;
/// assert_eq!(Copy::new(&x.t()).run()?.read::<f32>()?.wait(None)?, [1., 3., 2., 4.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Copy<'a> {
    x: &'a Tensor,
    options: Options<'a>,
}

call_methods!(Copy);

impl<'a> Copy<'a> {
    /// A dense copy of `x`.
    pub fn new(x: &'a Tensor) -> Self {
        Self { x, options: Options::default() }
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let out = Out::main(&self.options, self.x.dtype(), *self.x.layout().shape());
        submit_one(op::Copy, &[self.x], out, &self.options, full)
    }
}
