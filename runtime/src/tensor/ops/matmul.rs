//! The builder of `matmul`.

use super::{Options, Out, call_methods, common_shape, submit, too_few};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::{Error, Result};
use crate::layout::{Dims, Layout};
use crate::op::{self, Activation, Gate, Group, Lens, OrderClass, Precision, Rule, Scale};
use crate::tensor::{Recorder, Tensor};

/// `out = cast(residual + gate * act(alpha A B + beta C + bias))` of A `[batch.., m, k]` and B `[batch.., k, n]`.
/// Batch axes broadcast; transposes are views ([`Tensor::t`]). Sums are in f32; so is everything after. Values of 8
/// bits have scales as further operands, groups of rows a B each; see the methods.
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
///
/// Weights of 8 bits, quantised once, and rows that are each multiplied with the B of their group:
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{DType, Device, Group, Matmul, Quantize, QuantizeFormat, Scale};
/// let dev = Device::open_named("cpu")?;
/// let a = dev.tensor([2, 2], &[127i8, 0, 1, 2])?;
/// let w = dev.tensor([2, 2], &[127f32, 1., 254., 0.])?;
/// let q = Quantize::new(&w, QuantizeFormat::Row).run()?;
/// let y = Matmul::new(&a, &q.values.t()).scale_b(Scale::Row, &q.scale).run()?;
/// assert_eq!(y.read::<f32>()?.wait(None)?, [16129., 32258., 129., 254.]);
///
/// let x = dev.tensor([3, 1], &[1f32, 2., 3.])?;
/// let experts = dev.tensor([2, 1, 1], &[10f32, 100.])?;
/// let y = Matmul::new(&x, &experts).groups(Group::Contiguous, &[2, 1]).run()?;
/// assert_eq!(y.read::<f32>()?.wait(None)?, [10., 20., 300.]);
/// # Ok(()) }
/// ```
///
/// Matrices of a batch that indices on the device name:
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{Device, Matmul};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([3, 1, 1], &[1f32, 2., 3.])?;
/// let experts = dev.tensor([2, 1, 1], &[10f32, 100.])?;
/// let of = dev.tensor([3], &[1u32, 0, 1])?;
/// let y = Matmul::new(&x, &experts).index_b(&of).run()?;
/// assert_eq!(y.read::<f32>()?.wait(None)?, [100., 20., 300.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Matmul<'a> {
    a: &'a Tensor,
    b: &'a Tensor,
    bias: Option<&'a Tensor>,
    c: Option<&'a Tensor>,
    gate: Option<&'a Tensor>,
    residual: Option<&'a Tensor>,
    scales: [Option<&'a Tensor>; 2],
    sizes: Option<&'a Tensor>,
    indices: [Option<&'a Tensor>; 2],
    scale_out: Option<&'a Tensor>,
    /// The descriptor, but for what the tensors say.
    op: op::Matmul,
    options: Options<'a>,
}

/// Every output of a product.
#[derive(Clone, Debug)]
pub struct Product {
    /// The output itself.
    pub out: Tensor,
    /// What the activation was applied to, where asked for.
    pub preactivation: Option<Tensor>,
    /// The scales of 128 columns each, where the product found them.
    pub scale: Option<Tensor>,
}

call_methods!(Matmul);

impl<'a> Matmul<'a> {
    /// The product of `a` and `b`, of `a`'s dtype unless told otherwise; of f32 where that has 8 bits.
    pub fn new(a: &'a Tensor, b: &'a Tensor) -> Self {
        Self {
            a,
            b,
            bias: None,
            c: None,
            gate: None,
            residual: None,
            scales: [None; 2],
            sizes: None,
            indices: [None; 2],
            scale_out: None,
            op: op::Matmul::default(),
            options: Options::default(),
        }
    }

    /// Multiplies the product.
    #[must_use]
    pub fn alpha(mut self, alpha: f32) -> Self {
        self.op.alpha = alpha;
        self
    }

    /// Adds a tensor that broadcasts to the output: `[n]` along N, `[m, 1]` along M.
    #[must_use]
    pub fn bias(mut self, bias: &'a Tensor) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Adds `beta` times a tensor that broadcasts to the output, before the activation. 0 never reads it.
    #[must_use]
    pub fn c(mut self, beta: f32, c: &'a Tensor) -> Self {
        self.op.beta = beta;
        self.c = (beta != 0.0).then_some(c);
        self
    }

    /// Multiplies the activation by a tensor that broadcasts to the output.
    #[must_use]
    pub fn gate(mut self, gate: &'a Tensor) -> Self {
        self.op.gate = Gate::Tensor;
        self.gate = Some(gate);
        self
    }

    /// Columns of B come in pairs: the activation of the even ones is multiplied by the odd ones, so that the output
    /// has half as many. Bias, C and pre-activation have all of them.
    #[must_use]
    pub fn gate_interleaved(mut self) -> Self {
        self.op.gate = Gate::Interleaved;
        self.gate = None;
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
        self.op.activation = activation;
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

    /// Multiplies A, of 8 bits, by f32 scales: `[1]`, `[batch.., m]`, `[batch.., m, k/128]` or
    /// `[batch.., m/128, k/128]`, rounded up.
    #[must_use]
    pub fn scale_a(mut self, by: Scale, scale: &'a Tensor) -> Self {
        self.op.scales[0] = by;
        self.scales[0] = Some(scale);
        self
    }

    /// Multiplies B, of 8 bits, by f32 scales: `[1]`, `[batch.., n]`, `[batch.., k/128, n]` or
    /// `[batch.., k/128, n/128]`, rounded up.
    #[must_use]
    pub fn scale_b(mut self, by: Scale, scale: &'a Tensor) -> Self {
        self.op.scales[1] = by;
        self.scales[1] = Some(scale);
        self
    }

    /// Groups of these sizes, each with a B of its own. `Contiguous`: A `[rows, k]`, its rows one group after another,
    /// B `[groups, k, n]`. `Masked`: A `[groups, room, k]`, the first rows of each count. `K`: A `[m, k]`, B
    /// `[k, n]`, out `[groups, m, n]`: runs of K. Rows without a group give 0.
    #[must_use]
    pub fn groups(mut self, group: Group, sizes: &[u32]) -> Self {
        self.op.group = group;
        self.op.sizes = Lens::Host(sizes.to_vec());
        self.sizes = None;
        self
    }

    /// The same with sizes in a tensor `[groups]` of i32 or u32, read when the op runs and held to `max`.
    #[must_use]
    pub fn groups_on_device(mut self, group: Group, sizes: &'a Tensor, max: u32) -> Self {
        self.op.group = group;
        self.op.sizes = Lens::Device { max };
        self.sizes = Some(sizes);
        self
    }

    /// Takes A's matrices by index: A is `[matrices, m, k]`, and entry i of the output has matrix `index[i]`. Indices
    /// are i32 or u32, read when the op runs, and broadcast with B's batch axes to those of the output. Matrices may
    /// overlap: a view whose matrices lie `s` elements apart takes offsets in units of `s`. An index that is no matrix
    /// gives a product of zeros, and [`crate::Kind::Index`] at the wait. Not with groups or scales of A.
    #[must_use]
    pub fn index_a(mut self, index: &'a Tensor) -> Self {
        self.op.index_a = true;
        self.indices[0] = Some(index);
        self
    }

    /// The same of B `[matrices, k, n]`.
    #[must_use]
    pub fn index_b(mut self, index: &'a Tensor) -> Self {
        self.op.index_b = true;
        self.indices[1] = Some(index);
        self
    }

    /// An output of 8 bits (f8e4m3, f8e5m2, i8) with one f32 scale for each 128 columns, which the product finds.
    #[must_use]
    pub fn quantize(mut self, dtype: DType) -> Self {
        self.op.quantize = Scale::Block1x128;
        self.scale_out = None;
        self.dtype(dtype)
    }

    /// An output of 8 bits over this scale, f32 `[1]`.
    #[must_use]
    pub fn quantize_by(mut self, dtype: DType, scale: &'a Tensor) -> Self {
        self.op.quantize = Scale::Tensor;
        self.scale_out = Some(scale);
        self.dtype(dtype)
    }

    /// Keeps what the activation is applied to as a second output; [`Self::run_all`] gives it.
    #[must_use]
    pub fn preactivation(mut self) -> Self {
        self.op.preactivation = true;
        self
    }

    /// Marks B as constant: the device may keep it in a form of its own.
    #[must_use]
    pub fn constant_b(mut self) -> Self {
        self.op.constant_b = true;
        self
    }

    /// How f32 operands are multiplied: [`Precision::Tf32`] lets a device round them.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.op.precision = precision;
        self
    }

    /// The freedom of the order; fixed unless told otherwise.
    #[must_use]
    pub fn order(mut self, order: OrderClass) -> Self {
        self.op.order = order;
        self
    }

    /// As [`Self::run`], with every output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_all(self) -> Result<Product> {
        self.outputs(WhenFull::Wait)
    }

    /// As [`Self::record`], with every output.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn record_all(mut self, program: &'a Recorder) -> Result<Product> {
        self.options.recorder = Some(program);
        self.outputs(WhenFull::Wait)
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        Ok(self.outputs(full)?.out)
    }

    fn outputs(mut self, full: WhenFull) -> Result<Product> {
        self.op.bias = self.bias.is_some();
        self.op.residual = self.residual.is_some();
        let sizes = self.sizes().map_err(|e| e.in_op("matmul"))?;
        let inputs = self.inputs(&sizes).map_err(|e| e.in_op("matmul"))?;
        if let Some((inputs, into)) = self.folded(&sizes, &inputs) {
            let options = Options { into: into.as_ref(), ..self.options.clone() };
            let rows = sizes.rows();
            let mut made = self.submitted(&inputs, &sizes.flat(rows), &options, full)?;
            made.out = match self.options.into {
                Some(tensor) => tensor.clone(),
                None => made.out.with_layout(Layout::contiguous(sizes.narrow())),
            };
            let unfold = |tensor: Tensor| {
                let cols = tensor.shape().last().copied().unwrap_or(1);
                tensor.with_layout(Layout::contiguous(join(&sizes.out, &[sizes.m, cols])))
            };
            made.preactivation = made.preactivation.map(unfold);
            made.scale = made.scale.map(unfold);
            return Ok(made);
        }
        let inputs: Vec<Tensor> = inputs.into_iter().map(|(tensor, _)| tensor).collect();
        self.submitted(&inputs, &sizes, &self.options, full)
    }

    fn submitted(
        &self,
        inputs: &[Tensor],
        sizes: &Sizes,
        options: &Options<'_>,
        full: WhenFull,
    ) -> Result<Product> {
        let of_a = self.a.dtype();
        let float = if of_a.is_float() { of_a } else { DType::F32 };
        let main = Out::main(options, float, sizes.narrow());
        let before = if main.dtype.is_float() { main.dtype } else { DType::F32 };
        let (preactivation, scaled) =
            (self.op.preactivation, self.op.quantize == Scale::Block1x128);
        let mut outs = vec![main];
        outs.extend(preactivation.then(|| Out::new(before, sizes.wide())));
        outs.extend(scaled.then(|| {
            Out::new(DType::F32, join(&sizes.out, &[sizes.m, sizes.columns.div_ceil(128)]))
        }));
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let mut results = submit(self.op.clone(), &inputs, &outs, options, full)?.into_iter();
        let out = results.next().ok_or_else(|| too_few(1))?;
        let preactivation = if preactivation { results.next() } else { None };
        Ok(Product { out, preactivation, scale: results.next() })
    }

    /// The sizes of the product, by A, B and the groups.
    fn sizes(&self) -> Result<Sizes> {
        let (sa, sb) = (self.a.shape(), self.b.shape());
        let (Some(lead_a), Some(lead_b)) = (sa.len().checked_sub(2), sb.len().checked_sub(2))
        else {
            let asked = format!("{sa:?} by {sb:?}");
            return Err(Error::rejected(Rule::Rank, None, asked, "rank 2 or more"));
        };
        let (m, k, n) = (sa[lead_a], sa[lead_a + 1], sb[lead_b + 1]);
        let own = |shape: &[u64], lead: usize| Dims::from_fn(lead, |i| shape[i]);
        let (batch_a, batch_b) = (own(sa, lead_a), own(sb, lead_b));
        let groups = match (&self.op.sizes, self.sizes) {
            (Lens::Host(list), _) => list.len() as u64,
            (_, Some(sizes)) => sizes.shape().first().copied().unwrap_or(0),
            _ => 0,
        };
        let [batch_a, batch_b, out] = match self.op.group {
            Group::None => {
                let [of_a, of_b] = self.indices.map(|index| index.map(|i| *i.layout().shape()));
                let out = common_shape(&of_a.unwrap_or(batch_a), &of_b.unwrap_or(batch_b))?;
                [of_a.map_or(out, |_| batch_a), of_b.map_or(out, |_| batch_b), out]
            }
            Group::K => [batch_a, batch_b, Dims::from_fn(1, |_| groups)],
            _ => [batch_a, batch_b, batch_a],
        };
        let columns = if self.op.gate == Gate::Interleaved { n / 2 } else { n };
        Ok(Sizes { batch_a, batch_b, out, m, k, n, columns, rows_b: sb[lead_b] })
    }

    /// The operands that are read, in the order of the roles, each broadcast to what it goes with.
    fn inputs(&self, sizes: &Sizes) -> Result<Vec<(Tensor, Fold)>> {
        let Sizes { batch_a, batch_b, m, k, n, rows_b, .. } = sizes;
        let mut inputs = Vec::with_capacity(11);
        let mut add = |tensor: Option<&Tensor>, shape: Dims, fold| -> Result<()> {
            if let Some(tensor) = tensor {
                inputs.push((tensor.broadcast(&shape)?, fold));
            }
            Ok(())
        };
        add(Some(self.a), join(batch_a, &[*m, *k]), Fold::Rows)?;
        // B's own rows, not k: `check` then names the dimensions that disagree.
        add(Some(self.b), join(batch_b, &[*rows_b, *n]), Fold::Shared)?;
        add(self.bias, sizes.wide(), Fold::Rows)?;
        add(self.c, sizes.wide(), Fold::Rows)?;
        add(self.gate, sizes.narrow(), Fold::Rows)?;
        add(self.residual, sizes.narrow(), Fold::Rows)?;
        let blocks = |n: &u64| n.div_ceil(128);
        let (shape, fold) = match self.op.scales[0] {
            Scale::Row => (join(batch_a, &[*m]), Fold::Vector),
            Scale::Block1x128 => (join(batch_a, &[*m, blocks(k)]), Fold::Rows),
            Scale::Block128x128 => (join(batch_a, &[blocks(m), blocks(k)]), Fold::Never),
            _ => (join(&Dims::NONE, &[1]), Fold::Whole),
        };
        add(self.scales[0], shape, fold)?;
        let (shape, fold) = match self.op.scales[1] {
            Scale::Row => (join(batch_b, &[*n]), Fold::Shared),
            Scale::Block1x128 => (join(batch_b, &[blocks(rows_b), *n]), Fold::Shared),
            Scale::Block128x128 => (join(batch_b, &[blocks(rows_b), blocks(n)]), Fold::Shared),
            _ => (join(&Dims::NONE, &[1]), Fold::Whole),
        };
        add(self.scales[1], shape, fold)?;
        let whole = |tensor: Option<&Tensor>| tensor.map_or(Dims::NONE, |t| *t.layout().shape());
        add(self.sizes, whole(self.sizes), Fold::Whole)?;
        for index in self.indices {
            add(index, sizes.out, Fold::Never)?;
        }
        add(self.scale_out, whole(self.scale_out), Fold::Whole)?;
        Ok(inputs)
    }

    /// A batch over one B is one taller product: the batch axes of A, the output and every other operand folded
    /// into rows. `None` where B differs along the batch or strides forbid it.
    fn folded(
        &self,
        sizes: &Sizes,
        inputs: &[(Tensor, Fold)],
    ) -> Option<(Vec<Tensor>, Option<Tensor>)> {
        let lead = sizes.out.rank();
        if lead == 0 || self.op.group != Group::None {
            return None;
        }
        let rows = sizes.rows();
        let all = inputs.iter().map(|(tensor, fold)| fold.apply(tensor, lead, rows));
        let all = all.collect::<Option<Vec<Tensor>>>()?;
        match self.options.into {
            Some(tensor) if tensor.shape() == &*sizes.narrow() => {
                Some((all, Some(Fold::Rows.apply(tensor, lead, rows)?)))
            }
            Some(_) => None,
            None => Some((all, None)),
        }
    }
}

/// Sizes of a product: batch axes of A, of B and of the output; `n` counts columns of B, `columns` of the output.
struct Sizes {
    batch_a: Dims,
    batch_b: Dims,
    out: Dims,
    m: u64,
    k: u64,
    n: u64,
    columns: u64,
    rows_b: u64,
}

impl Sizes {
    fn wide(&self) -> Dims {
        join(&self.out, &[self.m, self.n])
    }

    fn narrow(&self) -> Dims {
        join(&self.out, &[self.m, self.columns])
    }

    /// Rows of all entries.
    fn rows(&self) -> u64 {
        self.out.iter().fold(self.m, |rows, &n| rows.saturating_mul(n))
    }

    /// The same as one entry of so many rows.
    fn flat(&self, rows: u64) -> Self {
        let none = Dims::NONE;
        Self { batch_a: none, batch_b: none, out: none, m: rows, ..*self }
    }
}

/// What becomes of an operand where the batch becomes rows.
#[derive(Clone, Copy)]
enum Fold {
    /// Its batch axes and its rows become one axis.
    Rows,
    /// The same, and it has no columns.
    Vector,
    /// It is one along the batch, which goes.
    Shared,
    /// It has no batch.
    Whole,
    /// It covers several rows at once.
    Never,
}

impl Fold {
    fn apply(self, tensor: &Tensor, lead: usize, rows: u64) -> Option<Tensor> {
        let layout = tensor.layout();
        let to = match self {
            Self::Rows => layout.reshape(&Dims::new(&[rows, *tensor.shape().last()?])?)?,
            Self::Vector => layout.reshape(&Dims::new(&[rows])?)?,
            Self::Shared => {
                let one = |axis: usize| layout.shape()[axis] == 1 || layout.strides()[axis] == 0;
                if !(0..lead).all(one) {
                    return None;
                }
                let (shape, strides) = (&layout.shape()[lead..], &layout.strides()[lead..]);
                Layout::new(Dims::new(shape)?, Dims::new(strides)?)?
            }
            Self::Whole => *layout,
            Self::Never => return None,
        };
        Some(tensor.with_layout(to))
    }
}

/// Batch axes, then others; cut to the largest rank, which `check` then refuses.
fn join(batch: &Dims, rest: &[u64]) -> Dims {
    let lead = batch.rank();
    Dims::from_fn(lead + rest.len(), |i| if i < lead { batch[i] } else { rest[i - lead] })
}
