//! The builder of `rope`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op;
use crate::tensor::Tensor;

/// Rotary position embedding of x `[batch, head, sequence, dim]` at positions `[batch, sequence]`. All of the head
/// turns, in halves, with base 10 000 unless told otherwise.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Rope};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([1, 1, 1, 2], &[1f32, 0.])?;
/// let position = dev.tensor([1, 1], &[1u32])?;
/// let y = Rope::new(&x, &position).run()?.read::<f32>()?.wait(None)?;
/// assert!((y[0] - 1f32.cos()).abs() < 1e-6 && (y[1] - 1f32.sin()).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Rope<'a> {
    x: &'a Tensor,
    position: &'a Tensor,
    base: f32,
    dims: Option<u32>,
    interleaved: bool,
    options: Options<'a>,
}

call_methods!(Rope);

impl<'a> Rope<'a> {
    /// `x` turned by `position`, i32 or u32.
    pub fn new(x: &'a Tensor, position: &'a Tensor) -> Self {
        let options = Options::default();
        Self { x, position, base: 10_000.0, dims: None, interleaved: false, options }
    }

    /// Base of the frequencies, above 1.
    #[must_use]
    pub fn base(mut self, base: f32) -> Self {
        self.base = base;
        self
    }

    /// Only the first `dims` elements of each head turn.
    #[must_use]
    pub fn dims(mut self, dims: u32) -> Self {
        self.dims = Some(dims);
        self
    }

    /// Pairs are neighbours instead of halves.
    #[must_use]
    pub fn interleaved(mut self) -> Self {
        self.interleaved = true;
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let d = self.x.shape().last().copied().unwrap_or(0);
        let dims = self.dims.unwrap_or(u32::try_from(d).unwrap_or(u32::MAX));
        let op = op::Rope { base: self.base, dims, interleaved: self.interleaved };
        let out = Out::main(&self.options, self.x.dtype(), *self.x.layout().shape());
        submit_one(op, &[self.x, self.position], out, &self.options, full)
    }
}
