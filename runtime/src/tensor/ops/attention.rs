//! The builder of `attention`.

use super::{Options, Out, call_methods, pair, submit, submit_one};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::layout::Dims;
use crate::op::{self, KeyValue, Lens, Mask, Rule};
use crate::tensor::{Recorder, Tensor};

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
///
/// One step of decoding, over keys in pages whose count lies on the device:
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Attention, Device, Scatter};
/// let dev = Device::open_named("cpu")?;
/// // Two pages of two keys; the only sequence has its first keys in page 1.
/// let keys = dev.tensor([2, 1, 2, 1], &[0f32; 4])?;
/// let values = dev.tensor([2, 1, 2, 1], &[9f32, 9., 1., 9.])?;
/// let pages = dev.tensor([1, 2], &[1u32, 0])?;
/// let lens = dev.tensor([1], &[2u32])?;
/// let (q, v) = (dev.tensor([1, 1, 1, 1], &[0f32])?, dev.tensor([1, 1, 1, 1], &[3f32])?);
/// Scatter::append(&v, &pages, &lens, &values).run()?;
/// let o = Attention::new(&q, &keys, &values).paged(&pages).lens_on_device(&lens, 4).run()?;
/// assert_eq!(o.read::<f32>()?.wait(None)?, [2.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Option<&'a Tensor>,
    alibi: Option<&'a Tensor>,
    sinks: Option<&'a Tensor>,
    rows: Option<&'a Tensor>,
    lens: Option<&'a Tensor>,
    pages: Option<&'a Tensor>,
    scale: Option<f32>,
    op: op::Attention,
    options: Options<'a>,
}

call_methods!(Attention);

impl<'a> Attention<'a> {
    /// Attention of queries `q` over keys `k` and values `v`, the output of `q`'s dtype unless told otherwise.
    pub fn new(q: &'a Tensor, k: &'a Tensor, v: &'a Tensor) -> Self {
        Self {
            q,
            k,
            v,
            mask: None,
            alibi: None,
            sinks: None,
            rows: None,
            lens: None,
            pages: None,
            scale: None,
            op: op::Attention::default(),
            options: Options::default(),
        }
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
        self.op.scores.causal = true;
        self
    }

    /// Hides keys more than `left` before or `right` after the row's own.
    ///
    /// ```
    /// # fn main() -> leasehold::Result<()> {
    /// # use leasehold::{Attention, Device};
    /// let dev = Device::open_named("cpu")?;
    /// let q = dev.tensor([1, 1, 3, 1], &[0f32; 3])?;
    /// let v = dev.tensor([1, 1, 3, 1], &[1f32, 3., 7.])?;
    /// let o = Attention::new(&q, &q, &v).window(1, 0).run()?;
    /// assert_eq!(o.read::<f32>()?.wait(None)?, [1., 2., 5.]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn window(mut self, left: u32, right: u32) -> Self {
        self.op.scores.window = Some([left, right]);
        self
    }

    /// Holds scaled scores `x` to `cap tanh(x / cap)`, before anything is added; 0 is off.
    #[must_use]
    pub fn softcap(mut self, cap: f32) -> Self {
        self.op.scores.softcap = cap;
        self
    }

    /// Adds a tensor that broadcasts to `[batch, head, rows, keys]` to the scores; negative infinity hides.
    #[must_use]
    pub fn mask(mut self, mask: &'a Tensor) -> Self {
        self.op.scores.mask = Mask::Additive;
        self.mask = Some(mask);
        self
    }

    /// Subtracts the distance to the key times the head's slope, `[head]` in f32.
    #[must_use]
    pub fn alibi(mut self, slopes: &'a Tensor) -> Self {
        self.op.scores.alibi = true;
        self.alibi = Some(slopes);
        self
    }

    /// One more logit a head, `[head]` in f32, takes part in the softmax with value 0.
    ///
    /// ```
    /// # fn main() -> leasehold::Result<()> {
    /// # use leasehold::{Attention, Device};
    /// let dev = Device::open_named("cpu")?;
    /// let q = dev.tensor([1, 1, 1, 1], &[0f32])?;
    /// let v = dev.tensor([1, 1, 1, 1], &[4f32])?;
    /// let sinks = dev.tensor([1], &[0f32])?;
    /// let o = Attention::new(&q, &q, &v).sinks(&sinks).run()?;
    /// assert_eq!(o.read::<f32>()?.wait(None)?, [2.]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn sinks(mut self, sinks: &'a Tensor) -> Self {
        self.op.sinks = true;
        self.sinks = Some(sinks);
        self
    }

    /// Rows are packed: `q` is `[1, head, total, dim]`, `rows[i]` of them for batch entry `i`, one entry after another.
    /// Keys and values are packed likewise, by their own [`Attention::lens`] if there are any, unless
    /// [`Attention::paged`]. Rows that no entry owns give 0.
    ///
    /// ```
    /// # fn main() -> leasehold::Result<()> {
    /// # use leasehold::{Attention, Device};
    /// let dev = Device::open_named("cpu")?;
    /// let q = dev.tensor([1, 1, 3, 1], &[0f32; 3])?;
    /// let v = dev.tensor([1, 1, 3, 1], &[1f32, 3., 7.])?;
    /// let o = Attention::new(&q, &q, &v).causal().rows(&[2, 1]).run()?;
    /// assert_eq!(o.read::<f32>()?.wait(None)?, [1., 2., 7.]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn rows(mut self, rows: &[u32]) -> Self {
        self.op.scores.rows = Lens::Host(rows.to_vec());
        self.rows = None;
        self
    }

    /// [`Attention::rows`] from a tensor `[batch]`, i32 or u32, that is read as the op runs; a count above `max` is
    /// held to it, and is `Error::Index` where the output is read.
    #[must_use]
    pub fn rows_on_device(mut self, rows: &'a Tensor, max: u32) -> Self {
        self.op.scores.rows = Lens::Device { max };
        self.rows = Some(rows);
        self
    }

    /// Only the first `lens[i]` keys of batch entry `i` exist.
    #[must_use]
    pub fn lens(mut self, lens: &[u32]) -> Self {
        self.op.scores.lens = Lens::Host(lens.to_vec());
        self.lens = None;
        self
    }

    /// [`Attention::lens`] from a tensor `[batch]`, i32 or u32, that is read as the op runs; a count above `max` is
    /// held to it, and is `Error::Index` where the output is read.
    #[must_use]
    pub fn lens_on_device(mut self, lens: &'a Tensor, max: u32) -> Self {
        self.op.scores.lens = Lens::Device { max };
        self.lens = Some(lens);
        self
    }

    /// Keys and values lie in pages: `k` and `v` are `[pages, head, page, dim]`, and key `j` of batch entry `b` is in
    /// page `pages[b, j / page]`, with `pages` `[batch, most pages of an entry]` in i32 or u32. Lengths are needed.
    #[must_use]
    pub fn paged(mut self, pages: &'a Tensor) -> Self {
        self.pages = Some(pages);
        self
    }

    /// Runs the op and also gives each row's log-sum-exp, natural log, `[batch, head, rows]` in f32.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub fn run_with_lse(mut self) -> Result<(Tensor, Tensor)> {
        self.op.log_sum_exp = true;
        let (inputs, shape, op) = self.prepared().map_err(|e| e.in_op("attention"))?;
        let lse = Dims::from_fn(3, |i| shape[i]);
        let outs = [Out::main(&self.options, self.q.dtype(), shape), Out::new(DType::F32, lse)];
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        pair(submit(op, &inputs, &outs, &self.options, WhenFull::Wait)?)
    }

    /// [`Attention::run_with_lse`] as a step of a program.
    ///
    /// # Errors
    /// As [`Attention::record`].
    pub fn record_with_lse(mut self, program: &'a Recorder) -> Result<(Tensor, Tensor)> {
        self.options.recorder = Some(program);
        self.run_with_lse()
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let (inputs, shape, op) = self.prepared().map_err(|e| e.in_op("attention"))?;
        let out = Out::main(&self.options, self.q.dtype(), shape);
        submit_one(op, &inputs.iter().collect::<Vec<_>>(), out, &self.options, full)
    }

    /// The inputs with the mask broadcast, the output's shape, and the descriptor.
    fn prepared(&self) -> Result<(Vec<Tensor>, Dims, op::Attention)> {
        let mut op = self.op.clone();
        op.scores = self.scores()?;
        if self.pages.is_some() {
            // A larger page than fits is over every limit, which `check` says.
            let page = u32::try_from(self.k.shape()[2]).unwrap_or(u32::MAX);
            op.key_value = KeyValue::Paged { page };
        }
        let mut inputs = vec![self.q.clone(), self.k.clone(), self.v.clone()];
        inputs.extend(self.broadcast_mask()?);
        let further = [self.alibi, self.sinks, self.rows, self.lens, self.pages];
        inputs.extend(further.into_iter().flatten().cloned());
        Ok((inputs, self.like_q(self.v.shape()[3]), op))
    }

    /// How scores are made, of four axes each.
    fn scores(&self) -> Result<op::Scores> {
        let shapes = [self.q.shape(), self.k.shape(), self.v.shape()];
        if let Some(other) = shapes.iter().find(|shape| shape.len() != 4) {
            let asked = format!("{other:?}");
            let allowed = "[batch, head, sequence, dim]";
            return Err(Error::rejected(Rule::Rank, None, asked, allowed));
        }
        let scale = self.scale.unwrap_or(1.0 / (shapes[0][3].max(1) as f32).sqrt());
        Ok(op::Scores { scale, ..self.op.scores.clone() })
    }

    /// The mask, of the scores' shape.
    fn broadcast_mask(&self) -> Result<Option<Tensor>> {
        let pages = self.pages.map_or(1, |pages| pages.shape().last().copied().unwrap_or(0));
        let shape = self.like_q(self.k.shape()[2].saturating_mul(pages));
        self.mask.map(|mask| mask.broadcast(&shape)).transpose()
    }

    fn like_q(&self, columns: u64) -> Dims {
        Dims::from_fn(4, |i| if i == 3 { columns } else { self.q.shape()[i] })
    }

    /// The tensors that the gradients read of this, in their order around `given`, and their descriptor.
    pub(super) fn backward(
        &self,
        given: [&Tensor; 3],
    ) -> Result<(Vec<Tensor>, op::AttentionBackward)> {
        let scores = self.scores()?;
        if self.pages.is_some() {
            let allowed = "keys and values in one tensor each";
            return Err(Error::rejected(Rule::Pages, Some("pages"), "keys in pages", allowed));
        }
        let mut inputs: Vec<Tensor> = [self.q, self.k, self.v].map(Tensor::clone).into();
        inputs.extend(given.map(Tensor::clone));
        inputs.extend(self.broadcast_mask()?);
        inputs.extend([self.alibi, self.rows, self.lens].into_iter().flatten().cloned());
        Ok((inputs, op::AttentionBackward { scores }))
    }
}
