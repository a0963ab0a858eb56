//! Tables of quantisation and of products of 8-bit values; see `tables`.

use super::case::{Case, Fill, Operand, Style};
use super::cover::all_pairs;
use super::tables::{FLOATS, IN_STYLES, NORMAL, OFFSETS, ROW_STYLES};
use leasehold::DType::{self, F8E4M3, F8E5M2, F32, I8, U32};
use leasehold::op::{Quantize, QuantizeFormat};

pub const BYTES: [DType; 3] = [F8E4M3, F8E5M2, I8];

/// The shape of the scales of a tensor.
pub fn scales(format: QuantizeFormat, shape: &[u64]) -> Vec<u64> {
    let mut scales = shape.to_vec();
    let last = shape.len() - 1;
    match format {
        QuantizeFormat::Tensor => scales = vec![1],
        QuantizeFormat::Row => scales.truncate(last),
        QuantizeFormat::Block1x128 => scales[last] = shape[last].div_ceil(128),
        QuantizeFormat::Block128x128 => {
            (last - 1..=last).for_each(|i| scales[i] = shape[i].div_ceil(128));
        }
        QuantizeFormat::Group32 => scales[last] = shape[last] / 32,
    }
    scales
}

/// A quantisation of a float tensor, or the way back.
fn quantisation(op: Quantize, wide: Operand, coded: Operand, scales: [Option<Operand>; 2]) -> Case {
    let scales = scales.into_iter().flatten();
    let operands = match op.inverse {
        false => [wide, coded].into_iter().chain(scales).collect(),
        true => [coded].into_iter().chain(scales).chain([wide]).collect(),
    };
    Case::new(op, operands)
}

pub fn quantize() -> Vec<Case> {
    // Around blocks and pieces, several axes, rows longer than a chunk, empty.
    const SHAPES: [&[u64]; 13] = [
        &[1, 1],
        &[3, 128],
        &[5, 129],
        &[2, 3, 127],
        &[129, 130],
        &[2, 257, 300],
        &[2, 1, 3, 1, 2, 63],
        &[1000, 3],
        &[2, 40_000],
        &[300, 384],
        &[0, 5],
        &[5, 0],
        &[70_001, 1],
    ];
    const FORMATS: [QuantizeFormat; 4] = [
        QuantizeFormat::Tensor,
        QuantizeFormat::Row,
        QuantizeFormat::Block1x128,
        QuantizeFormat::Block128x128,
    ];
    let mut cases = Vec::new();
    for row in all_pairs(&[SHAPES.len(), 4, 2, 3, 3, 5, 4, 3, 3]) {
        let (shape, format, inverse) = (SHAPES[row[0]], FORMATS[row[1]], row[2] == 1);
        let (bytes, float, offset) = (BYTES[row[3]], FLOATS[row[4]], OFFSETS[row[7]]);
        let (input, output) = (IN_STYLES[row[5]], ROW_STYLES[row[6]]);
        let fill = [NORMAL, Fill::Normal(1e-3), Fill::Normal(300.0)][row[8]];
        let of_scale = scales(format, shape);
        let case = match inverse {
            false => quantisation(
                Quantize { format, inverse },
                Operand::new(float, shape, input, offset, fill),
                Operand::out(bytes, shape, output, offset),
                [Some(Operand::out(F32, &of_scale, output, offset)), None],
            ),
            true => quantisation(
                Quantize { format, inverse },
                Operand::out(float, shape, output, offset),
                Operand::new(bytes, shape, input, offset, Fill::Normal(20.0)),
                [Some(Operand::new(F32, &of_scale, output, offset, Fill::Positive)), None],
            ),
        };
        cases.push(case);
    }
    // All zeros, one row alone, no element of a tensor that has a scale.
    let forward = |format, dtype, x: Operand| {
        let shape = x.layout.shape().to_vec();
        let coded = Operand::out(dtype, &shape, Style::Tight, 0);
        let scale = Operand::out(F32, &scales(format, &shape), Style::Tight, 0);
        quantisation(Quantize { format, inverse: false }, x, coded, [Some(scale), None])
    };
    for (format, dtype) in FORMATS.iter().zip([I8, F8E4M3, F8E5M2, I8]) {
        let zeros = Operand::new(F32, &[3, 200], Style::Odd, 1, Fill::Normal(0.0));
        cases.push(forward(*format, dtype, zeros));
    }
    for shape in [&[300_001][..], &[64], &[0]] {
        let x = Operand::new(F32, shape, Style::Gapped, 1, NORMAL);
        cases.push(forward(QuantizeFormat::Tensor, F8E4M3, x));
    }
    cases.extend(groups_of_32());
    cases
}

fn groups_of_32() -> Vec<Case> {
    const SHAPES: [&[u64]; 5] = [&[32], &[3, 64], &[2, 5, 96], &[257, 320], &[3, 0]];
    let of_row = |row: &[usize]| {
        let (shape, inverse, offset) = (SHAPES[row[0]], row[1] == 1, OFFSETS[row[6]]);
        let (float, statistic) = (FLOATS[row[2]], FLOATS[row[3]]);
        let (input, output) = (IN_STYLES[row[4]], ROW_STYLES[row[5]]);
        let mut words = shape.to_vec();
        words[shape.len() - 1] /= 8;
        let format = QuantizeFormat::Group32;
        let of_scale = scales(format, shape);
        let op = Quantize { format, inverse };
        match inverse {
            false => quantisation(
                op,
                Operand::new(float, shape, input, offset, NORMAL),
                Operand::out(U32, &words, output, offset),
                [0, 1].map(|_| Some(Operand::out(statistic, &of_scale, output, offset))),
            ),
            true => quantisation(
                op,
                Operand::out(float, shape, output, offset),
                Operand::new(U32, &words, input, offset, Fill::Words),
                [0, 1].map(|_| Some(Operand::new(statistic, &of_scale, input, offset, NORMAL))),
            ),
        }
    };
    all_pairs(&[SHAPES.len(), 2, 3, 3, 5, 4, 3]).iter().map(|row| of_row(row)).collect()
}
