//! The builder of `norm_backward`.

use super::{Options, Out, pair, run_methods, submit};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op::{self, NormKind};
use crate::tensor::Tensor;

/// The gradient of [`crate::Norm`] with respect to its input, of the input's dtype, and, in f32, the terms whose sum
/// over the rows is the gradient of the weight.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, NormBackward};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([1, 2], &[3f32, -3.])?;
/// let d_y = dev.tensor([1, 2], &[1f32, 0.])?;
/// let (d_x, terms) = NormBackward::rms(&x, &d_y, 0.0).run()?;
/// assert_eq!(terms.read::<f32>()?.wait(None)?, [1., 0.]);
/// let d_x = d_x.read::<f32>()?.wait(None)?;
/// assert!(d_x.iter().all(|d| (d - 1. / 6.).abs() < 1e-6));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct NormBackward<'a> {
    x: &'a Tensor,
    d_out: &'a Tensor,
    kind: NormKind,
    epsilon: f32,
    weight: Option<&'a Tensor>,
    options: Options<'a>,
}

run_methods!(NormBackward, (Tensor, Tensor));

impl<'a> NormBackward<'a> {
    /// Of [`crate::Norm::layer`], from its input and the gradient of its output.
    pub fn layer(x: &'a Tensor, d_out: &'a Tensor, epsilon: f32) -> Self {
        let (kind, options) = (NormKind::Layer, Options::default());
        Self { x, d_out, kind, epsilon, weight: None, options }
    }

    /// Of [`crate::Norm::rms`].
    pub fn rms(x: &'a Tensor, d_out: &'a Tensor, epsilon: f32) -> Self {
        Self { kind: NormKind::Rms, ..Self::layer(x, d_out, epsilon) }
    }

    /// The weight `[n]` that multiplied.
    #[must_use]
    pub fn weight(mut self, weight: &'a Tensor) -> Self {
        self.weight = Some(weight);
        self
    }

    fn call(self, full: WhenFull) -> Result<(Tensor, Tensor)> {
        let inputs: Vec<&Tensor> =
            [Some(self.x), self.weight, Some(self.d_out)].into_iter().flatten().collect();
        let op = op::NormBackward {
            kind: self.kind,
            epsilon: self.epsilon,
            weight: self.weight.is_some(),
        };
        let shape = *self.x.layout().shape();
        let outs = [Out::new(self.x.dtype(), shape), Out::new(DType::F32, shape)];
        pair(submit(op, &inputs, &outs, &self.options, full)?)
    }
}
