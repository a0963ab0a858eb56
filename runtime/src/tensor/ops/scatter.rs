//! The builder of `scatter`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op::{self, ScatterFn};
use crate::tensor::Tensor;

/// Entries of `x` written into a tensor where indices say; the rest of it stays as it is. The result is that tensor.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Scatter};
/// let dev = Device::open_named("cpu")?;
/// let table = dev.tensor([3, 2], &[0f32; 6])?;
/// let x = dev.tensor([2, 2], &[1f32, 2., 3., 4.])?;
/// let index = dev.tensor([2], &[2u32, 2])?;
/// let sums = Scatter::add(&x, &index, &table).run()?;
/// assert_eq!(sums.read::<f32>()?.wait(None)?, [0., 0., 0., 0., 4., 6.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Scatter<'a> {
    function: ScatterFn,
    x: &'a Tensor,
    indices: Vec<&'a Tensor>,
    axis: u8,
    options: Options<'a>,
}

call_methods!(Scatter);

impl<'a> Scatter<'a> {
    fn new(function: ScatterFn, x: &'a Tensor, indices: Vec<&'a Tensor>, out: &'a Tensor) -> Self {
        Self { function, x, indices, axis: 0, options: Options::default() }.into(out)
    }

    /// `out[index[i]] = x[i]`, the last of equal indices winning.
    pub fn set(x: &'a Tensor, index: &'a Tensor, out: &'a Tensor) -> Self {
        Self::new(ScatterFn::Set, x, vec![index], out)
    }

    /// `out[index[i]] += x[i]`, in order, into f32.
    pub fn add(x: &'a Tensor, index: &'a Tensor, out: &'a Tensor) -> Self {
        Self::new(ScatterFn::Add, x, vec![index], out)
    }

    /// Appends keys or values `[batch, head, rows, dim]` to pages `[pages, head, page, dim]`: row `i` of entry `b`
    /// becomes its key `lens[b] - rows + i`, in page `pages[b, key / page]`.
    pub fn append(x: &'a Tensor, pages: &'a Tensor, lens: &'a Tensor, out: &'a Tensor) -> Self {
        Self::new(ScatterFn::Append, x, vec![pages, lens], out)
    }

    /// The axis of the tensor written that indices select, 0 unless told otherwise.
    #[must_use]
    pub fn axis(mut self, axis: u8) -> Self {
        self.axis = axis;
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let inputs: Vec<&Tensor> = std::iter::once(self.x).chain(self.indices).collect();
        let out = Out::main(&self.options, self.x.dtype(), *self.x.layout().shape());
        let op = op::Scatter { function: self.function, axis: self.axis };
        submit_one(op, &inputs, out, &self.options, full)
    }
}
