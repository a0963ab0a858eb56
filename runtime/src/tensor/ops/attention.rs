//! The builder of `attention`.

use super::{Options, Out, call_methods, submit, submit_one};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::layout::Dims;
use crate::op::{self, Lens, Mask, Rule};
use crate::tensor::Tensor;

/// `softmax(scale Q K^T + mask) V`, every tensor `[batch, head, sequence, dim]`. Fewer key/value heads than
/// query heads are shared by groups (GQA, MQA). The scale is `1/sqrt(d)` unless told otherwise.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Attention, Device};
/// let dev = Device::open_named("cpu")?;
/// let q = dev.tensor([1, 1, 2, 1], &[0f32, 0.])?;
/// let v = dev.tensor([1, 1, 2, 1], &[1f32, 3.])?;
/// let o = Attention::new(&q, &q, &v).causal().run()?;
/// assert_eq!(o.read::<f32>()?.wait(None)?, [1., 2.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    scale: Option<f32>,
    causal: bool,
    mask: Option<&'a Tensor>,
    lens: Lens,
    options: Options<'a>,
}

call_methods!(Attention);

impl<'a> Attention<'a> {
    /// Attention of queries `q` over keys `k` and values `v`, the output of `q`'s dtype unless told otherwise.
    pub fn new(q: &'a Tensor, k: &'a Tensor, v: &'a Tensor) -> Self {
        let options = Options::default();
        Self { q, k, v, scale: None, causal: false, mask: None, lens: Lens::Full, options }
    }

    /// Multiplies the scores.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Hides keys after the row's own, aligned at the bottom right.
    #[must_use]
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Adds a tensor that broadcasts to `[batch, head, rows, keys]` to the scores; negative infinity hides.
    #[must_use]
    pub fn mask(mut self, mask: &'a Tensor) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Only the first `lens[i]` keys of batch entry `i` exist.
    #[must_use]
    pub fn lens(mut self, lens: &[u32]) -> Self {
        self.lens = Lens::Host(lens.to_vec());
        self
    }

    /// Runs the op and also gives each row's log-sum-exp, natural log, `[batch, head, rows]` in f32.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub fn run_with_lse(self) -> Result<(Tensor, Tensor)> {
        let (inputs, shape, op) = self.prepared(true)?;
        let lse = Dims::from_fn(3, |i| shape[i]);
        let outs = [Out::main(&self.options, self.q.dtype(), shape), Out::new(DType::F32, lse)];
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let results = submit(op, &inputs, &outs, &self.options, WhenFull::Wait)?;
        <[Tensor; 2]>::try_from(results)
            .map(|[out, lse]| (out, lse))
            .map_err(|r| Error::rejected(Rule::OperandCount, None, r.len(), 2))
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let (inputs, shape, op) = self.prepared(false)?;
        let out = Out::main(&self.options, self.q.dtype(), shape);
        submit_one(op, &inputs.iter().collect::<Vec<_>>(), out, &self.options, full)
    }

    /// The inputs with the mask broadcast, the output's shape, and the descriptor.
    fn prepared(&self, log_sum_exp: bool) -> Result<(Vec<Tensor>, Dims, op::Attention)> {
        let named = |e: Error| e.in_op("attention");
        let shapes = [self.q.shape(), self.k.shape(), self.v.shape()];
        if let Some(other) = shapes.iter().find(|shape| shape.len() != 4) {
            let asked = format!("{other:?}");
            return Err(named(Error::rejected(
                Rule::Rank,
                None,
                asked,
                "[batch, head, sequence, dim]",
            )));
        }
        let [q, k, v] = shapes;
        let shape = Dims::from_fn(4, |i| if i == 3 { v[3] } else { q[i] });
        let mut inputs = vec![self.q.clone(), self.k.clone(), self.v.clone()];
        if let Some(mask) = self.mask {
            let scores = Dims::from_fn(4, |i| if i == 3 { k[2] } else { q[i] });
            inputs.push(mask.broadcast(&scores).map_err(named)?);
        }
        let default_scale = 1.0 / (q[3].max(1) as f32).sqrt();
        let op = op::Attention {
            scale: self.scale.unwrap_or(default_scale),
            causal: self.causal,
            mask: if self.mask.is_some() { Mask::Additive } else { Mask::None },
            lens: self.lens.clone(),
            log_sum_exp,
            ..op::Attention::default()
        };
        Ok((inputs, shape, op))
    }
}
