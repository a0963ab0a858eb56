//! The builder of `attention_backward`.

use super::{Attention, Options, Out, run_methods, submit, too_few};
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The gradients of dense [`Attention`] with respect to Q, K and V, each of its tensor's dtype, from the output, the
/// log-sum-exp that `run_with_lse` gives, and the gradient of the output. What it says of scores, rows and keys holds here as
/// there; where this runs is said here. Keys in pages are refused. Every sum has one order. Rows and keys that meet nobody get 0. Gradients of a mask, of slopes and of sinks
/// are not given.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Attention, AttentionBackward, Device};
/// let dev = Device::open_named("cpu")?;
/// let q = dev.tensor([1, 1, 2, 1], &[0f32, 0.])?;
/// let v = dev.tensor([1, 1, 2, 1], &[1f32, 3.])?;
/// let forward = Attention::new(&q, &q, &v).causal();
/// let (o, lse) = forward.clone().run_with_lse()?;
/// let d_o = dev.tensor([1, 1, 2, 1], &[1f32, 1.])?;
/// let [d_q, _, d_v] = AttentionBackward::new(&forward, &o, &lse, &d_o).run()?;
/// // The first row sees the first key alone, the second both alike.
/// assert_eq!(d_v.read::<f32>()?.wait(None)?, [1.5, 0.5]);
/// assert_eq!(d_q.read::<f32>()?.wait(None)?, [0., 0.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AttentionBackward<'a> {
    forward: Attention<'a>,
    given: [&'a Tensor; 3],
    options: Options<'a>,
}

run_methods!(AttentionBackward, [Tensor; 3]);

impl<'a> AttentionBackward<'a> {
    /// Of attention that gave `out` and `lse`, from the gradient of `out`.
    pub fn new(
        forward: &Attention<'a>,
        out: &'a Tensor,
        lse: &'a Tensor,
        d_out: &'a Tensor,
    ) -> Self {
        let given = [out, lse, d_out];
        Self { forward: forward.clone(), given, options: Options::default() }
    }

    fn call(self, full: WhenFull) -> Result<[Tensor; 3]> {
        let named = |e: Error| e.in_op("attention_backward");
        let (inputs, op) = self.forward.backward(self.given).map_err(named)?;
        let outs: Vec<Out<'_>> =
            inputs[..3].iter().map(|like| Out::new(like.dtype(), *like.layout().shape())).collect();
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let results = submit(op, &inputs, &outs, &self.options, full)?;
        <[Tensor; 3]>::try_from(results).map_err(|_| too_few(3))
    }
}
