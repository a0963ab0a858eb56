//! The builder of `gather`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::layout::Dims;
use crate::op::{self, Rule};
use crate::tensor::Tensor;

/// Rows of a table by index: `out[i.., c..] = table[index[i..], c..]`. An index outside the table gives zeros,
/// and `Error::Index` where the output is read.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Gather};
/// let dev = Device::open_named("cpu")?;
/// let table = dev.tensor([3, 2], &[0f32, 1., 10., 11., 20., 21.])?;
/// let index = dev.tensor([2], &[2u32, 0])?;
/// assert_eq!(Gather::new(&table, &index).run()?.read::<f32>()?.wait(None)?, [20., 21., 0., 1.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Gather<'a> {
    table: &'a Tensor,
    index: &'a Tensor,
    axis: u8,
    options: Options<'a>,
}

call_methods!(Gather);

impl<'a> Gather<'a> {
    /// Rows of `table` (its axis 0, unless told otherwise) at `index`, i32 or u32.
    pub fn new(table: &'a Tensor, index: &'a Tensor) -> Self {
        Self { table, index, axis: 0, options: Options::default() }
    }

    /// Another axis than the first.
    #[must_use]
    pub fn axis(mut self, axis: u8) -> Self {
        self.axis = axis;
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let (table, axis) = (self.table.shape(), usize::from(self.axis));
        let (before, after) = (table.get(..axis), table.get(axis + 1..));
        let sizes: Vec<u64> =
            [before.unwrap_or(table), self.index.shape(), after.unwrap_or_default()].concat();
        let shape = Dims::new(&sizes).ok_or_else(|| {
            let asked = format!("{} dimensions", sizes.len());
            Error::rejected(Rule::Rank, Some("out"), asked, crate::MAX_RANK).in_op("gather")
        })?;
        let out = Out::main(&self.options, self.table.dtype(), shape);
        let op = op::Gather { axis: self.axis };
        submit_one(op, &[self.table, self.index], out, &self.options, full)
    }
}
