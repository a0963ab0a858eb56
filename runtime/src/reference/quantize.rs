//! `quantize`: magnitudes found block by block, then every element over its block's scale; or the way back.

use super::functions::largest;
use super::{Arithmetic, Inputs};
use crate::dtype::DType;
use crate::layout::Dims;
use crate::op::{Quantize, QuantizeFormat};

/// The block that each element of a row-major shape belongs to, and the number of blocks.
pub(super) fn blocks(format: QuantizeFormat, shape: &Dims) -> (Vec<usize>, usize) {
    let dims: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
    let n = dims.last().copied().unwrap_or(1).max(1);
    let m = dims.iter().rev().nth(1).copied().unwrap_or(1).max(1);
    let total: usize = dims.iter().product();
    let (across, down) = (n.div_ceil(128), m.div_ceil(128));
    let of = |i: usize| {
        let (row, col) = (i / n, i % n);
        match format {
            QuantizeFormat::Tensor => 0,
            QuantizeFormat::Row => row,
            QuantizeFormat::Block1x128 => row * across + col / 128,
            QuantizeFormat::Block128x128 => (row / m * down + row % m / 128) * across + col / 128,
            QuantizeFormat::Group32 => i / 32,
        }
    };
    let count = match format {
        QuantizeFormat::Tensor => 1,
        // Rows of nothing have a scale too.
        QuantizeFormat::Row => dims.iter().rev().skip(1).product(),
        QuantizeFormat::Block1x128 => total / n * across,
        QuantizeFormat::Block128x128 => total / n / m * down * across,
        QuantizeFormat::Group32 => total / 32,
    };
    ((0..total).map(of).collect(), count)
}

/// Outputs in the order of the roles. `coded` is the type of the values, `wide` the shape of the float tensor.
pub(super) fn quantize(
    a: impl Arithmetic,
    op: &Quantize,
    inputs: &Inputs,
    coded: DType,
    wide: &Dims,
) -> Vec<Vec<f64>> {
    let (block, count) = blocks(op.format, wide);
    if op.inverse {
        let (x, scale, min) = (inputs.need("x"), inputs.need("scale"), inputs.get("min"));
        let value = |i: usize| match op.format {
            QuantizeFormat::Group32 => f64::from(x.data[i / 8] as u32 >> (4 * (i % 8)) & 15),
            _ => x.data[i],
        };
        let wide = block.iter().enumerate().map(|(i, &b)| {
            let y = a.value(value(i) * scale.data[b]);
            min.map_or(y, |min| a.value(y + min.data[b]))
        });
        return vec![wide.collect()];
    }
    let x = inputs.need("x");
    let (mut low, mut high) = (vec![f64::INFINITY; count], vec![f64::NEG_INFINITY; count]);
    for (&x, &b) in x.data.iter().zip(&block) {
        (low[b], high[b]) = (low[b].min(x), high[b].max(x));
    }
    if op.format == QuantizeFormat::Group32 {
        return groups_of_32(a, &x.data, &low, &high);
    }
    let scales: Vec<f64> = low
        .iter()
        .zip(&high)
        .map(|(low, high)| a.value(low.abs().max(high.abs()).max(0.0) / largest(coded)))
        .collect();
    let scales: Vec<f64> = scales.iter().map(|s| if s.is_finite() { *s } else { 0.0 }).collect();
    let codes = x.data.iter().zip(&block).map(|(x, &b)| code(a, coded, *x, scales[b]));
    vec![codes.collect(), scales.clone()]
}

/// An element over its scale, held to the type's range.
pub(super) fn code(a: impl Arithmetic, coded: DType, x: f64, scale: f64) -> f64 {
    let top = largest(coded);
    let y = if scale == 0.0 { 0.0 } else { a.sum(x / scale) };
    a.stored(coded, y.clamp(-top, top))
}

fn groups_of_32(a: impl Arithmetic, x: &[f64], low: &[f64], high: &[f64]) -> Vec<Vec<f64>> {
    let scale: Vec<f64> =
        low.iter().zip(high).map(|(low, high)| a.value((high - low) / 15.0)).collect();
    let words = x.chunks_exact(8).enumerate().map(|(w, eight)| {
        let group = w / 4;
        let code = |x: f64| match scale[group] {
            0.0 => 0,
            scale => ((x - low[group]) / scale).round_ties_even().clamp(0.0, 15.0) as u32,
        };
        let word = eight.iter().enumerate().fold(0, |word, (i, &x)| word | code(x) << (4 * i));
        f64::from(word)
    });
    vec![words.collect(), scale.clone(), low.to_vec()]
}
