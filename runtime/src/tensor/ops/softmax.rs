//! The builder of `softmax`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op;
use crate::tensor::Tensor;

/// `exp(scale x - max) / sum` along an axis, in f32: the last one unless told otherwise.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Softmax};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([2], &[5f32, 5.])?;
/// assert_eq!(Softmax::new(&x).run()?.read::<f32>()?.wait(None)?, [0.5, 0.5]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Softmax<'a> {
    x: &'a Tensor,
    axis: u8,
    scale: f32,
    options: Options<'a>,
}

call_methods!(Softmax);

impl<'a> Softmax<'a> {
    /// The softmax of each row of `x`.
    pub fn new(x: &'a Tensor) -> Self {
        let axis = x.layout().rank().saturating_sub(1) as u8;
        Self { x, axis, scale: 1.0, options: Options::default() }
    }

    /// Multiplies the input first.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Another axis than the last.
    #[must_use]
    pub fn axis(mut self, axis: u8) -> Self {
        self.axis = axis;
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let out = Out::main(&self.options, self.x.dtype(), *self.x.layout().shape());
        submit_one(
            op::Softmax { scale: self.scale, axis: self.axis },
            &[self.x],
            out,
            &self.options,
            full,
        )
    }
}
