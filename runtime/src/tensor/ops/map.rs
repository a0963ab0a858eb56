//! The builder of `map`.

use super::{Options, Out, call_methods, common_shape, submit_one};
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::op::{self, MapFn, Rule};
use crate::tensor::Tensor;

/// `scale * f(x, y) + shift` of each element or pair, in f32; tensors broadcast by NumPy's rule.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Map};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([2, 2], &[1f32, 2., 3., 4.])?;
/// let row = dev.tensor([2], &[10f32, 20.])?;
/// assert_eq!(Map::add(&x, &row).run()?.read::<f32>()?.wait(None)?, [11., 22., 13., 24.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Map<'a> {
    function: MapFn,
    x: &'a Tensor,
    y: Option<&'a Tensor>,
    scale: f32,
    shift: f32,
    options: Options<'a>,
}

call_methods!(Map);

impl<'a> Map<'a> {
    /// A function of one tensor.
    pub fn unary(function: MapFn, x: &'a Tensor) -> Self {
        Self { function, x, y: None, scale: 1.0, shift: 0.0, options: Options::default() }
    }

    /// A function of two tensors.
    pub fn binary(function: MapFn, x: &'a Tensor, y: &'a Tensor) -> Self {
        Self { y: Some(y), ..Self::unary(function, x) }
    }

    /// `x + y`.
    pub fn add(x: &'a Tensor, y: &'a Tensor) -> Self {
        Self::binary(MapFn::Add, x, y)
    }

    /// `x y`.
    pub fn mul(x: &'a Tensor, y: &'a Tensor) -> Self {
        Self::binary(MapFn::Mul, x, y)
    }

    /// `x` in another dtype.
    pub fn cast(x: &'a Tensor, dtype: crate::DType) -> Self {
        Self::unary(MapFn::Identity, x).dtype(dtype)
    }

    /// Multiplies the result.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Adds to the result.
    #[must_use]
    pub fn shift(mut self, shift: f32) -> Self {
        self.shift = shift;
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let named = |e: Error| e.in_op("map");
        let given = 1 + usize::from(self.y.is_some());
        if given != self.function.arity() {
            let allowed = format!("{} of {:?}", self.function.arity(), self.function);
            return Err(named(Error::rejected(Rule::OperandCount, None, given, allowed)));
        }
        let shape = match self.y {
            Some(y) => common_shape(self.x.shape(), y.shape()).map_err(named)?,
            None => *self.x.layout().shape(),
        };
        let inputs = [Some(self.x), self.y].into_iter().flatten();
        let inputs =
            inputs.map(|t| t.broadcast(&shape)).collect::<Result<Vec<_>>>().map_err(named)?;
        let op = op::Map { function: self.function, scale: self.scale, shift: self.shift };
        let out = Out::main(&self.options, self.x.dtype(), shape);
        submit_one(op, &inputs.iter().collect::<Vec<_>>(), out, &self.options, full)
    }
}
