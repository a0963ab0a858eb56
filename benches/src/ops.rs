//! Matmul and attention on one device through the tenant's own calls.

use crate::measure::{Timing, interleaved, normal};
use leasehold::{Attention, DType, Device, Map, Matmul, Result, Tensor, bf16, f16};
use serde::Serialize;
use std::time::Duration;

/// What was measured, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `matmul` or `attention`.
    pub op: &'static str,
    /// Sizes in the order of the op's documentation.
    pub shape: Vec<usize>,
    /// Element type of inputs and output.
    pub dtype: String,
    /// The device's own name.
    pub device: String,
    /// Equal id, equal bits.
    pub numerics: String,
    /// Seconds a run.
    pub timing: Timing,
    /// Operations a second at the median, in units of 10^9.
    pub gflops: f64,
    /// That over the measured f32 peak of the CPU; none on other devices.
    pub fraction_of_peak: Option<f64>,
}

/// N(0, 1) of `shape` on the device.
///
/// # Errors
/// `OutOfMemory`, or what the device fails with.
pub fn random(device: &Device, dtype: DType, shape: &[usize], seed: u64) -> Result<Tensor> {
    let data = normal(seed, shape.iter().product());
    // Rounded here where the host can: not every device casts.
    match dtype {
        DType::F32 => device.tensor_of(shape, &data),
        DType::F16 => {
            device.tensor_of(shape, &data.into_iter().map(f16::from_f32).collect::<Vec<_>>())
        }
        DType::BF16 => {
            device.tensor_of(shape, &data.into_iter().map(bf16::from_f32).collect::<Vec<_>>())
        }
        _ => Map::cast(&device.tensor_of(shape, &data)?, dtype).run(),
    }
}

/// Seconds of one op with its wait.
///
/// # Errors
/// What the op fails with.
pub fn time(
    device: &Device,
    budget: Duration,
    mut op: impl FnMut() -> Result<Tensor>,
) -> Result<Timing> {
    let mut run = || {
        op()?;
        device.wait(None)
    };
    Ok(interleaved(budget, &mut [&mut run])?[0])
}

fn report(
    op: &'static str,
    shape: &[usize],
    dtype: DType,
    device: &Device,
    flops: f64,
    timing: Timing,
) -> Report {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rate = flops / timing.median_s;
    let cpu = device.caps().backend == "cpu";
    Report {
        op,
        shape: shape.to_vec(),
        dtype: dtype.to_string(),
        device: device.name().to_string(),
        numerics: device.numerics().to_string(),
        timing,
        gflops: rate / 1e9,
        fraction_of_peak: cpu.then(|| rate / crate::peak::f32_flops(threads)),
    }
}

/// `batch` products of m x k by k x n, N(0, 1) data.
///
/// # Errors
/// What the op fails with.
pub fn matmul(
    device: &Device,
    [b, m, n, k]: [usize; 4],
    transposed: bool,
    dtype: DType,
    budget: Duration,
) -> Result<Report> {
    let x = random(device, dtype, &[b, m, k], 1)?;
    let y = match transposed {
        true => random(device, dtype, &[b, n, k], 2)?.t(),
        false => random(device, dtype, &[b, k, n], 2)?,
    };
    let timing = time(device, budget, || Matmul::new(&x, &y).run())?;
    let flops = 2.0 * (b * m) as f64 * (n * k) as f64;
    Ok(report("matmul", &[b, m, n, k], dtype, device, flops, timing))
}

/// Attention of `[batch, heads, sequence, dim]`, N(0, 1) data; causal counts half the operations.
///
/// # Errors
/// What the op fails with.
pub fn attention(
    device: &Device,
    shape: [usize; 4],
    causal: bool,
    dtype: DType,
    budget: Duration,
) -> Result<Report> {
    let [q, k, v] = [1, 2, 3].map(|seed| random(device, dtype, &shape, seed));
    let (q, k, v) = (q?, k?, v?);
    let timing = time(device, budget, || {
        let op = Attention::new(&q, &k, &v);
        if causal { op.causal().run() } else { op.run() }
    })?;
    let [b, h, s, d] = shape.map(|n| n as f64);
    let flops = 4.0 * b * h * s * s * d * if causal { 0.5 } else { 1.0 };
    Ok(report("attention", &shape, dtype, device, flops, timing))
}
