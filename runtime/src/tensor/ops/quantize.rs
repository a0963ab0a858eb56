//! The builders of `quantize` and of its inverse.

use super::{Options, Out, call_methods, run_methods, submit, submit_one};
use crate::dtype::DType;
use crate::engine::WhenFull;
use crate::error::Result;
use crate::layout::Dims;
use crate::op::{self, QuantizeFormat};
use crate::tensor::Tensor;

/// A quantised tensor: what stands for `values * scale`, or for `values * scale + min` in groups of 32.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The form.
    pub format: QuantizeFormat,
    /// 8-bit values; or `[.., n/8]` words of u32, eight 4-bit values each, the first lowest.
    pub values: Tensor,
    /// Scales: `[1]`, one a row, one for each 128 columns, for each 128 by 128 block, or for each 32 columns.
    pub scale: Tensor,
    /// Smallest values of groups of 32.
    pub min: Option<Tensor>,
}

/// A float tensor to 8-bit values with scales, of i8 unless told otherwise, or to 4-bit groups of 32.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// use leasehold::{DType, Dequantize, Device, Quantize, QuantizeFormat};
/// let dev = Device::open_named("cpu")?;
/// let x = dev.tensor([2, 3], &[127f32, -1., 2., 0.5, -63.5, 0.])?;
/// let q = Quantize::new(&x, QuantizeFormat::Row).run()?;
/// assert_eq!(q.values.read::<i8>()?.wait(None)?, [127, -1, 2, 1, -127, 0]);
/// assert_eq!(q.scale.read::<f32>()?.wait(None)?, [1., 0.5]);
/// let y = Dequantize::new(&q).dtype(DType::F32).run()?;
/// assert_eq!(y.read::<f32>()?.wait(None)?, [127., -1., 2., 0.5, -63.5, 0.]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Quantize<'a> {
    x: &'a Tensor,
    format: QuantizeFormat,
    dtype: DType,
    options: Options<'a>,
}

run_methods!(Quantize, Quantized);

impl<'a> Quantize<'a> {
    /// `x` in a quantised form.
    pub fn new(x: &'a Tensor, format: QuantizeFormat) -> Self {
        Self { x, format, dtype: DType::I8, options: Options::default() }
    }

    /// The type of 8-bit values: i8, f8e4m3 or f8e5m2.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    fn call(self, full: WhenFull) -> Result<Quantized> {
        let shape = self.x.layout().shape();
        let groups = self.format == QuantizeFormat::Group32;
        let (dtype, values) = match groups {
            true => (DType::U32, over_last(shape, 8)),
            false => (self.dtype, *shape),
        };
        let scales = scales(self.format, shape);
        let mut outs = vec![Out::new(dtype, values), Out::new(DType::F32, scales)];
        outs.extend(groups.then(|| Out::new(DType::F32, scales)));
        let op = op::Quantize { format: self.format, inverse: false };
        let mut results = submit(op, &[self.x], &outs, &self.options, full)?.into_iter();
        match (results.next(), results.next()) {
            (Some(values), Some(scale)) => {
                Ok(Quantized { format: self.format, values, scale, min: results.next() })
            }
            _ => Err(super::too_few(2)),
        }
    }
}

/// The shape of the scales of a tensor.
fn scales(format: QuantizeFormat, shape: &Dims) -> Dims {
    let rank = shape.rank();
    match format {
        QuantizeFormat::Tensor => Dims::from_fn(1, |_| 1),
        QuantizeFormat::Row => Dims::from_fn(rank.saturating_sub(1), |i| shape[i]),
        QuantizeFormat::Block1x128 => over_last(shape, 128),
        QuantizeFormat::Block128x128 => Dims::from_fn(rank, |i| match i + 2 >= rank {
            true => shape[i].div_ceil(128),
            false => shape[i],
        }),
        QuantizeFormat::Group32 => over_last(shape, 32),
    }
}

/// A shape with its last axis divided, rounded up.
fn over_last(shape: &Dims, by: u64) -> Dims {
    let rank = shape.rank();
    Dims::from_fn(rank, |i| if i + 1 == rank { shape[i].div_ceil(by) } else { shape[i] })
}

/// The float tensor that a quantised one stands for, in f32 unless told otherwise. An example stands with
/// [`Quantize`].
#[derive(Clone, Debug)]
pub struct Dequantize<'a> {
    from: &'a Quantized,
    options: Options<'a>,
}

call_methods!(Dequantize);

impl<'a> Dequantize<'a> {
    /// What `from` stands for.
    pub fn new(from: &'a Quantized) -> Self {
        Self { from, options: Options::default() }
    }

    fn call(self, full: WhenFull) -> Result<Tensor> {
        let Quantized { format, values, scale, min } = self.from;
        let shape = values.layout().shape();
        let last = shape.rank().saturating_sub(1);
        let per_value = if *format == QuantizeFormat::Group32 { 8 } else { 1 };
        let wide = Dims::from_fn(shape.rank(), |i| match i == last {
            true => shape[i].saturating_mul(per_value),
            false => shape[i],
        });
        let inputs: Vec<&Tensor> = [values, scale].into_iter().chain(min).collect();
        let op = op::Quantize { format: *format, inverse: true };
        let out = Out::main(&self.options, DType::F32, wide);
        submit_one(op, &inputs, out, &self.options, full)
    }
}
