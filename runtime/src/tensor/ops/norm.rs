//! The builder of `norm`.

use super::{Options, Out, call_methods, submit_one};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::layout::Dims;
use crate::op::{self, NormKind};
use crate::tensor::Tensor;

/// Each row of the last axis normalised, in f32.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Norm};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([1, 2], &[1f32, 3.])?;
/// assert_eq!(Norm::layer(&x, 0.0).run()?.read::<f32>()?.wait(None)?, [-1., 1.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Norm<'a> {
    x: &'a Tensor,
    kind: NormKind,
    epsilon: f32,
    weight: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    options: Options<'a>,
}

call_methods!(Norm);

impl<'a> Norm<'a> {
    /// `(x - mean) / sqrt(var + epsilon)`.
    pub fn layer(x: &'a Tensor, epsilon: f32) -> Self {
        Self {
            x,
            kind: NormKind::Layer,
            epsilon,
            weight: None,
            bias: None,
            options: Options::default(),
        }
    }

    /// `x / sqrt(mean(x^2) + epsilon)`.
    pub fn rms(x: &'a Tensor, epsilon: f32) -> Self {
        Self { kind: NormKind::Rms, ..Self::layer(x, epsilon) }
    }

    /// Multiplies each row by a tensor `[n]`.
    #[must_use]
    pub fn weight(mut self, weight: &'a Tensor) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Adds a tensor `[n]` to each row.
    #[must_use]
    pub fn bias(mut self, bias: &'a Tensor) -> Self {
        self.bias = Some(bias);
        self
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let mut inputs = vec![self.x];
        inputs.extend([self.weight, self.bias].into_iter().flatten());
        let op = op::Norm {
            kind: self.kind,
            epsilon: self.epsilon,
            weight: self.weight.is_some(),
            bias: self.bias.is_some(),
        };
        let shape: Dims = *self.x.layout().shape();
        let out = Out::main(&self.options, self.x.dtype(), shape);
        submit_one(op, &inputs, out, &self.options, full)
    }
}
