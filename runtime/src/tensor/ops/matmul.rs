//! The builder of `matmul`.

use super::{Options, Out, call_methods, common_shape, submit_one};
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::{self, Activation, Gate, Rule};
use crate::tensor::Tensor;

/// `out = cast(residual + gate * act(alpha A B + bias))` of A `[batch.., m, k]` and B `[batch.., k, n]`.
/// Batch axes broadcast; transposes are views ([`Tensor::t`]). Sums are in f32; so is everything after.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Matmul};
/// let dev = Device::open_named("cpu")?;
/// let a = dev.tensor([2, 2], &[1f32, 2., 3., 4.])?;
/// let w = dev.tensor([2, 2], &[1f32, 0., 0., -1.])?;
/// let y = Matmul::new(&a, &w.t()).relu().run()?;
/// assert_eq!(y.read::<f32>()?.wait(None)?, [1., 0., 3., 0.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Matmul<'a> {
    a: &'a Tensor,
    b: &'a Tensor,
    bias: Option<&'a Tensor>,
    gate: Option<&'a Tensor>,
    residual: Option<&'a Tensor>,
    alpha: f32,
    activation: Activation,
    options: Options<'a>,
}

call_methods!(Matmul);

impl<'a> Matmul<'a> {
    /// The product of `a` and `b`, of `a`'s dtype unless told otherwise.
    pub fn new(a: &'a Tensor, b: &'a Tensor) -> Self {
        let options = Options::default();
        let activation = Activation::None;
        Self { a, b, bias: None, gate: None, residual: None, alpha: 1.0, activation, options }
    }

    /// Multiplies the product.
    #[must_use]
    pub fn alpha(mut self, alpha: f32) -> Self {
        self.alpha = alpha;
        self
    }

    /// Adds a tensor that broadcasts to the output: `[n]` along N, `[m, 1]` along M.
    #[must_use]
    pub fn bias(mut self, bias: &'a Tensor) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Multiplies the activation by a tensor that broadcasts to the output.
    #[must_use]
    pub fn gate(mut self, gate: &'a Tensor) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Adds a tensor that broadcasts to the output, last.
    #[must_use]
    pub fn residual(mut self, residual: &'a Tensor) -> Self {
        self.residual = Some(residual);
        self
    }

    /// Applies a function after the bias.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// `max(x, 0)` after the bias.
    #[must_use]
    pub fn relu(self) -> Self {
        self.activation(Activation::Relu)
    }

    /// GELU by the error function after the bias.
    #[must_use]
    pub fn gelu(self) -> Self {
        self.activation(Activation::GeluErf)
    }

    /// `x / (1 + e^-x)` after the bias.
    #[must_use]
    pub fn silu(self) -> Self {
        self.activation(Activation::Silu)
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let named = |e: Error| e.in_op("matmul");
        let (sa, sb) = (self.a.shape(), self.b.shape());
        let ranks = (sa.len().checked_sub(2), sb.len().checked_sub(2));
        let (Some(lead_a), Some(lead_b)) = ranks else {
            let asked = format!("{sa:?} by {sb:?}");
            return Err(named(Error::rejected(Rule::Rank, None, asked, "rank 2 or more")));
        };
        let batch = common_shape(&sa[..lead_a], &sb[..lead_b]).map_err(named)?;
        let (m, k, n) = (sa[lead_a], sa[lead_a + 1], sb[lead_b + 1]);
        let with_batch = |rows, cols| {
            Dims::from_fn(batch.rank() + 2, |i| match i.checked_sub(batch.rank()) {
                None => batch[i],
                Some(0) => rows,
                Some(_) => cols,
            })
        };
        let shape = with_batch(m, n);
        // B's own rows, not k: `check` then names the dimensions that disagree.
        let a = self.a.broadcast(&with_batch(m, k)).map_err(named)?;
        let b = self.b.broadcast(&with_batch(sb[lead_b], n)).map_err(named)?;
        let mut inputs = vec![a, b];
        for tensor in [self.bias, self.gate, self.residual].into_iter().flatten() {
            inputs.push(tensor.broadcast(&shape).map_err(named)?);
        }
        let op = op::Matmul {
            alpha: self.alpha,
            bias: self.bias.is_some(),
            activation: self.activation,
            gate: if self.gate.is_some() { Gate::Tensor } else { Gate::None },
            residual: self.residual.is_some(),
            ..op::Matmul::default()
        };
        if let Some((inputs, into)) = folded(&inputs, self.options.into, &shape) {
            let options = Options { into: into.as_ref(), ..self.options.clone() };
            let (rows, cols) = (inputs[0].shape()[0], n);
            let out = Out::main(&options, self.a.dtype(), Dims::from_fn(2, |i| [rows, cols][i]));
            let y = submit_one(op, &inputs.iter().collect::<Vec<_>>(), out, &options, full)?;
            return match self.options.into {
                Some(tensor) => Ok(tensor.clone()),
                None => Ok(y.with_layout(Layout::contiguous(shape))),
            };
        }
        let out = Out::main(&self.options, self.a.dtype(), shape);
        submit_one(op, &inputs.iter().collect::<Vec<_>>(), out, &self.options, full)
    }
}

/// A batch over one B is one taller product: the batch axes of A, the output and every other operand folded
/// into rows. `None` where B differs along the batch or strides forbid it.
fn folded(
    inputs: &[Tensor],
    into: Option<&Tensor>,
    shape: &Dims,
) -> Option<(Vec<Tensor>, Option<Tensor>)> {
    let lead = shape.rank() - 2;
    let b = inputs[1].layout();
    let shared = |axis: usize| b.shape()[axis] == 1 || b.strides()[axis] == 0;
    if lead == 0 || !(0..lead).all(shared) {
        return None;
    }
    let rows = u64::try_from(Dims::new(&shape[..=lead])?.product()).ok()?;
    let flat = |tensor: &Tensor| {
        let cols = *tensor.shape().last()?;
        let layout = tensor.layout().reshape(&Dims::new(&[rows, cols])?)?;
        Some(tensor.with_layout(layout))
    };
    let mut all = Vec::with_capacity(inputs.len());
    for (i, tensor) in inputs.iter().enumerate() {
        all.push(match i {
            1 => {
                let (sizes, strides) =
                    (Dims::new(&b.shape()[lead..])?, Dims::new(&b.strides()[lead..])?);
                tensor.with_layout(Layout::new(sizes, strides)?)
            }
            _ => flat(tensor)?,
        });
    }
    match into {
        Some(tensor) if tensor.shape() == &**shape => Some((all, Some(flat(tensor)?))),
        Some(_) => None,
        None => Some((all, None)),
    }
}
