//! The builder of `attention_backward`.

use super::{Options, Out, run_methods, submit, too_few};
use crate::engine::WhenFull;
use crate::error::Result;
use crate::op;
use crate::tensor::Tensor;

/// The gradients of dense [`crate::Attention`] with respect to Q, K and V, each of its tensor's dtype, from the
/// output, the log-sum-exp that `run_with_lse` gives, and the gradient of the output. Every sum has one order.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Attention, AttentionBackward, Device};
/// let dev = Device::open_named("cpu")?;
/// let q = dev.tensor([1, 1, 2, 1], &[0f32, 0.])?;
/// let v = dev.tensor([1, 1, 2, 1], &[1f32, 3.])?;
/// let (o, lse) = Attention::new(&q, &q, &v).causal().run_with_lse()?;
/// let d_o = dev.tensor([1, 1, 2, 1], &[1f32, 1.])?;
/// let back = AttentionBackward::new(&q, &q, &v, &o, &lse, &d_o);
/// let [d_q, _, d_v] = back.causal().run()?;
/// // The first row sees the first key alone, the second both alike.
/// assert_eq!(d_v.read::<f32>()?.wait(None)?, [1.5, 0.5]);
/// assert_eq!(d_q.read::<f32>()?.wait(None)?, [0., 0.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AttentionBackward<'a> {
    inputs: [&'a Tensor; 6],
    scale: Option<f32>,
    causal: bool,
    options: Options<'a>,
}

run_methods!(AttentionBackward, [Tensor; 3]);

impl<'a> AttentionBackward<'a> {
    /// Of attention of `q`, `k` and `v` that gave `out` and `lse`, from the gradient of `out`.
    pub fn new(
        q: &'a Tensor,
        k: &'a Tensor,
        v: &'a Tensor,
        out: &'a Tensor,
        lse: &'a Tensor,
        d_out: &'a Tensor,
    ) -> Self {
        let inputs = [q, k, v, out, lse, d_out];
        Self { inputs, scale: None, causal: false, options: Options::default() }
    }

    /// What multiplied the scores; `1/sqrt(d)` unless told otherwise.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Keys after the row's own were hidden, aligned at the bottom right.
    #[must_use]
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    fn call(self, full: WhenFull) -> Result<[Tensor; 3]> {
        let [q, k, v, ..] = self.inputs;
        let d = q.shape().last().copied().unwrap_or(1).max(1);
        let scale = self.scale.unwrap_or(1.0 / (d as f32).sqrt());
        let op = op::AttentionBackward { scale, causal: self.causal };
        let outs = [q, k, v].map(|like| Out::new(like.dtype(), *like.layout().shape()));
        let results = submit(op, &self.inputs, &outs, &self.options, full)?;
        <[Tensor; 3]>::try_from(results).map_err(|_| too_few(3))
    }
}
