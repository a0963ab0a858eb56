//! The builder of `top_k`.

use super::{Options, Out, pair, run_methods, submit};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::Result;
use crate::layout::Dims;
use crate::op;
use crate::tensor::Tensor;

/// The k largest elements along an axis, largest first, the last axis unless told otherwise; and their places in i32.
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

run_methods!(TopK, (Tensor, Tensor));

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

    fn call(self, full: WhenFull) -> Result<(Tensor, Tensor)> {
        let (shape, axis) = (self.x.layout().shape(), usize::from(self.axis));
        let found =
            Dims::from_fn(shape.rank(), |i| if i == axis { self.k.into() } else { shape[i] });
        let outs = [Out::new(self.x.dtype(), found), Out::new(DType::I32, found)];
        let op = op::TopK { k: self.k, axis: self.axis };
        pair(submit(op, &[self.x], &outs, &self.options, full)?)
    }
}
