//! `matmul`: every sum of products from left to right, then the epilogue, step by step.

use super::functions::{activation, largest};
use super::quantize::{blocks, code};
use super::{Arithmetic, Dense, Inputs, Unit, count};
use crate::dtype::DType;
use crate::layout::Dims;
use crate::op::{Gate, Group, Lens, Matmul, QuantizeFormat, Scale};

/// One output row's share of the operands: its place in A, the entry of B, and the range of K.
struct Line {
    a: usize,
    b: usize,
    k: std::ops::Range<usize>,
}

/// What each output row sums, in row-major order of the output; `None`: no group owns it.
fn lines(op: &Matmul, inputs: &Inputs) -> Vec<Option<Line>> {
    let (lhs, rhs) = (inputs.need("a"), inputs.need("b"));
    let (m, k) = (lhs.dim(1), lhs.dim(0));
    let entries = lhs.shape.iter().rev().skip(2).product::<u64>() as usize;
    let all = |a: usize, b: usize| Some(Line { a, b, k: 0..k });
    let sizes = |most: usize| -> Vec<usize> {
        match &op.sizes {
            Lens::Full => Vec::new(),
            Lens::Host(list) => list.iter().map(|&n| n as usize).collect(),
            Lens::Device { max } => {
                let words = &inputs.need("sizes").data;
                words.iter().map(|&n| count(n).min(*max as usize).min(most)).collect()
            }
        }
    };
    match op.group {
        Group::None if op.is_indexed() => indexed(op, inputs, m, k),
        Group::None => (0..entries * m).map(|i| all(i, i / m)).collect(),
        Group::Masked => {
            let sizes = sizes(m);
            (0..entries * m).map(|i| (i % m < sizes[i / m]).then(|| all(i, i / m))?).collect()
        }
        Group::Contiguous => {
            let owners = sizes(m).into_iter().enumerate();
            let mut owners: Vec<usize> =
                owners.flat_map(|(group, rows)| std::iter::repeat_n(group, rows)).collect();
            owners.truncate(m);
            (0..m).map(|i| owners.get(i).and_then(|&group| all(i, group))).collect()
        }
        Group::K => {
            let mut start = 0;
            let mut list = Vec::new();
            for size in sizes(k) {
                let end = (start + size).min(k);
                list.extend((0..m).map(|a| Some(Line { a, b: 0, k: start..end })));
                start = end;
            }
            // `rhs` has no batch axis: every group reads its own rows of it.
            debug_assert_eq!(rhs.shape.rank(), 2);
            list
        }
    }
}

/// Lines of matrices that indices name; nothing is summed where one names none.
fn indexed(op: &Matmul, inputs: &Inputs, m: usize, k: usize) -> Vec<Option<Line>> {
    let sides = [("a", "a_index", op.index_a), ("b", "b_index", op.index_b)];
    let [a, b] = sides.map(|(side, index, is_indexed)| {
        let side = inputs.need(side);
        let matrices = side.shape.iter().rev().skip(2).product::<u64>() as usize;
        let list: Vec<usize> = match is_indexed {
            true => inputs.need(index).data.iter().map(|&i| count(i)).collect(),
            false => (0..matrices).collect(),
        };
        (list, matrices)
    });
    let line = |row: usize| {
        let [(i, of_a), (j, of_b)] = [&a, &b].map(|(list, matrices)| (list[row / m], *matrices));
        let k = if i < of_a && j < of_b { 0..k } else { 0..0 };
        Some(Line { a: i * m + row % m, b: j, k })
    };
    (0..a.0.len() * m).map(line).collect()
}

/// The factors of the products of A's element (row, `p`) with the elements (`p`, column) of B, a column each: the same in
/// each 128 of K.
fn factors(op: &Matmul, inputs: &Inputs, line: &Line, [m, n]: [usize; 2], p: usize) -> Vec<f64> {
    let scales = |name: &str, scale: Scale| inputs.get(name).filter(|_| scale != Scale::None);
    let (entry, row) = (line.a / m, line.a % m);
    let [of_a, of_b] = op.scales;
    let a = scales("scale_a", of_a).map_or(1.0, |scales| {
        let width = scales.dim(0);
        scales.data[match of_a {
            Scale::Row => line.a,
            Scale::Block1x128 => line.a * width + p / 128,
            Scale::Block128x128 => (entry * m.div_ceil(128) + row / 128) * width + p / 128,
            _ => 0,
        }]
    });
    let Some(scales) = scales("scale_b", of_b) else { return vec![a; n] };
    let (width, depth) = (scales.dim(0), inputs.need("a").dim(0).div_ceil(128));
    let at = |j: usize| match of_b {
        Scale::Row => line.b * n + j,
        Scale::Block1x128 => (line.b * depth + p / 128) * width + j,
        Scale::Block128x128 => (line.b * depth + p / 128) * width + j / 128,
        _ => 0,
    };
    (0..n).map(|j| a * scales.data[at(j)]).collect()
}

/// How a matrix unit sums.
struct Aligned {
    /// Products at a time, beside the sum before, aligned to the largest of all.
    at_once: usize,
    /// Bits behind the leading one of the largest that are kept.
    bits: i32,
    /// Elements of K after which a sum begins anew, and is added in f32, scaled.
    chunk: usize,
}

impl Aligned {
    fn of(unit: Unit) -> Option<Self> {
        match unit {
            Unit::Single | Unit::Tf32 => None,
            Unit::Matrix16 => Some(Self { at_once: 8, bits: 24, chunk: usize::MAX }),
            Unit::Fp8 => Some(Self { at_once: 32, bits: 13, chunk: 128 }),
        }
    }

    /// A sum and a few products.
    fn add(&self, sum: f64, products: impl Iterator<Item = f64> + Clone) -> f64 {
        let most = products.clone().fold(sum.abs(), |most, x| most.max(x.abs()));
        let unit = 2f64.powi((most.log2().floor() as i32).saturating_sub(self.bits));
        let kept = |x: f64| if x == 0.0 { 0.0 } else { (x / unit).trunc() * unit };
        cut(products.fold(kept(sum), |sum, x| sum + kept(x)))
    }

    /// The sums of a line.
    fn sums(&self, op: &Matmul, inputs: &Inputs, line: &Line, sums: &mut [f64]) {
        let (lhs, rhs) = (inputs.need("a"), inputs.need("b"));
        let (m, k, n) = (lhs.dim(1), lhs.dim(0), rhs.dim(0));
        let product =
            |p: usize, j: usize| lhs.data[line.a * k + p] * rhs.data[(line.b * k + p) * n + j];
        for first in line.k.clone().step_by(self.chunk) {
            let end = line.k.end.min(first.saturating_add(self.chunk));
            let factors = factors(op, inputs, line, [m, n], first);
            for (j, (whole, factor)) in sums.iter_mut().zip(factors).enumerate() {
                let steps = (first..end).step_by(self.at_once);
                let sum = steps.fold(0.0, |sum, from| {
                    let to = end.min(from + self.at_once);
                    self.add(sum, (from..to).map(|p| product(p, j)))
                });
                *whole = f64::from(*whole as f32 + (sum * factor) as f32);
            }
        }
    }
}

/// The value of f32 that is nearest of those no larger.
fn cut(x: f64) -> f64 {
    let nearest = x as f32;
    let is_over = f64::from(nearest).abs() > x.abs();
    f64::from(if is_over { f32::from_bits(nearest.to_bits() - 1) } else { nearest })
}

/// The nearest value of ten digits behind the point, ties away from zero.
fn tf32(x: f64) -> f64 {
    let bits = (x as f32).to_bits();
    let rounded = if x.is_finite() { (bits + 0x1000) & !0x1fff } else { bits };
    f32::from_bits(rounded).into()
}

/// Outputs in the order of the roles.
pub(super) fn matmul(
    a: impl Arithmetic,
    op: &Matmul,
    inputs: &Inputs,
    out: (DType, &Dims),
) -> Vec<Vec<f64>> {
    let (lhs, rhs) = (inputs.need("a"), inputs.need("b"));
    let (m, k, n) = (lhs.dim(1), lhs.dim(0), rhs.dim(0));
    let lines = lines(op, inputs);
    // A and B as they are multiplied.
    let [of_a, of_b] = [lhs, rhs].map(|side| match a.unit() {
        Unit::Tf32 => side.data.iter().map(|&x| tf32(x)).collect(),
        _ => side.data.clone(),
    });
    let aligned = Aligned::of(a.unit());
    let mut sums = vec![0.0; lines.len() * n];
    for (line, sums) in lines.iter().zip(sums.chunks_exact_mut(n.max(1))) {
        let Some(line) = line else { continue };
        if let Some(aligned) = &aligned {
            aligned.sums(op, inputs, line, sums);
            continue;
        }
        let mut by = Vec::new();
        for p in line.k.clone() {
            if p == line.k.start || p % 128 == 0 {
                by = factors(op, inputs, line, [m, n], p);
            }
            let x = of_a[line.a * k + p];
            let row = &of_b[(line.b * k + p) * n..][..n];
            for ((sum, y), factor) in sums.iter_mut().zip(row).zip(&by) {
                *sum = a.sum(*sum + a.sum(x * y * factor));
            }
        }
    }
    let [bias, c, gate, residual] = ["bias", "c", "gate", "residual"].map(|name| inputs.get(name));
    for (i, y) in sums.iter_mut().enumerate() {
        let mut v = a.value(f64::from(op.alpha) * a.value(*y));
        v = c.map_or(v, |c| a.value(v + a.value(f64::from(op.beta) * c.data[i])));
        *y = bias.map_or(v, |bias| a.value(v + bias.data[i]));
    }
    let owned = |row: usize| lines[row].is_some();
    let activated: Vec<f64> = match op.gate {
        Gate::Interleaved => sums
            .chunks_exact(2)
            .map(|pair| a.value(pair[1] * a.value(activation(a, op.activation, pair[0]))))
            .collect(),
        _ => sums.iter().map(|&v| a.value(activation(a, op.activation, v))).collect(),
    };
    let columns = if op.gate == Gate::Interleaved { n / 2 } else { n };
    let result = activated.into_iter().enumerate().map(|(i, v)| {
        if !owned(i / columns) {
            return 0.0;
        }
        let v = gate.map_or(v, |gate| a.value(v * gate.data[i]));
        residual.map_or(v, |residual| a.value(v + residual.data[i]))
    });
    let result: Vec<f64> = result.collect();
    let before: Vec<f64> =
        sums.iter().enumerate().map(|(i, &v)| if owned(i / n) { v } else { 0.0 }).collect();
    finish(a, op, inputs, result, before, out)
}

fn finish(
    a: impl Arithmetic,
    op: &Matmul,
    inputs: &Inputs,
    result: Vec<f64>,
    before: Vec<f64>,
    (dtype, shape): (DType, &Dims),
) -> Vec<Vec<f64>> {
    let mut outs = Vec::new();
    let mut scales = None;
    match op.quantize {
        Scale::Tensor => {
            let scale = Dense::first(inputs.need("scale_out"));
            outs.push(result.into_iter().map(|v| code(a, dtype, v, scale)).collect());
        }
        Scale::Block1x128 => {
            let (block, count) = blocks(QuantizeFormat::Block1x128, shape);
            let mut most = vec![0f64; count];
            result.iter().zip(&block).for_each(|(v, &b)| most[b] = most[b].max(v.abs()));
            let by: Vec<f64> = most.iter().map(|m| a.value(m / largest(dtype))).collect();
            let codes = result.iter().zip(&block).map(|(v, &b)| code(a, dtype, *v, by[b]));
            outs.push(codes.collect());
            scales = Some(by);
        }
        _ => outs.push(result),
    }
    outs.extend(op.preactivation.then_some(before));
    outs.extend(scales);
    outs
}

#[cfg(test)]
mod tests {
    use super::{Aligned, cut};
    use crate::dtype::DType;
    use crate::reference::{Unit, round_to};

    /// Sums of products, so many at a time, of which all but the first are this part of it.
    fn sum(unit: Unit, products: usize, part: f64) -> f64 {
        let aligned = Aligned::of(unit).unwrap();
        let all: Vec<f64> = (0..products).map(|i| if i == 0 { 1.0 } else { part }).collect();
        all.chunks(aligned.at_once).fold(0.0, |sum, some| aligned.add(sum, some.iter().copied()))
    }

    #[test]
    fn matrix_units_cut_what_f32_rounds() {
        let ulp = 2f64.powi(-23);
        // Half of the last place is kept until the eighth, and cut with what is beneath it.
        assert_eq!(sum(Unit::Matrix16, 4, ulp / 2.0), 1.0 + ulp);
        assert_eq!(sum(Unit::Matrix16, 8, ulp / 2.0), 1.0 + 3.0 * ulp);
        assert_eq!(sum(Unit::Matrix16, 8, ulp / 4.0), 1.0);
        // Seven, then eight more to a sum that was cut.
        assert_eq!(sum(Unit::Matrix16, 16, ulp / 2.0), 1.0 + 7.0 * ulp);
        // All 31 of eight bits are added before anything is cut, and none that is smaller.
        assert_eq!(sum(Unit::Fp8, 32, 2f64.powi(-13)), 1.0 + 31.0 * 2f64.powi(-13));
        assert_eq!(sum(Unit::Fp8, 32, 2f64.powi(-14)), 1.0);
        assert!(Aligned::of(Unit::Single).is_none());
    }

    /// Sums of lines of products, as a unit has them.
    fn sums(unit: &Aligned, lines: &[Vec<f64>]) -> Vec<f64> {
        let sum = |line: &Vec<f64>| {
            let steps = line.chunks(unit.at_once);
            steps.fold(0.0, |sum, some| unit.add(sum, some.iter().copied()))
        };
        lines.iter().map(sum).collect()
    }

    /// By the models of that paper: A100 and Ada; H100, H200 and B200. As the judge's rule has it, twice the error of a plain
    /// sum is excused.
    #[test]
    fn what_a_card_cuts_is_excused_and_a_product_that_is_missing_is_not() {
        let mut state = 1u64;
        let mut value = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            round_to(DType::BF16, (state >> 40) as f64 / f64::from(1 << 23) - 1.0)
        };
        let cards =
            [(8, 24), (16, 25)].map(|(at_once, bits)| Aligned { at_once, bits, chunk: usize::MAX });
        for k in [64, 512, 4096] {
            let lines: Vec<Vec<f64>> =
                (0..64).map(|_| (0..k).map(|_| value() * value()).collect()).collect();
            let exact: Vec<f64> = lines.iter().map(|line| line.iter().sum()).collect();
            let worst = |got: &[f64]| {
                got.iter().zip(&exact).fold(0.0, |most: f64, (y, x)| most.max((y - x).abs()))
            };
            let cut = worst(&sums(&Aligned::of(Unit::Matrix16).unwrap(), &lines));
            let rounded = |line: &Vec<f64>| line.iter().fold(0f32, |sum, x| sum + *x as f32).into();
            let rounded = worst(&lines.iter().map(rounded).collect::<Vec<f64>>());
            let largest = exact.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            let floor = 2f64.powi(largest.log2().floor() as i32 - 23);
            for card in &cards {
                let mut got = sums(card, &lines);
                assert!(worst(&got) <= 2.0 * (cut + floor), "{k}");
                // A yardstick that rounds would call a long one wrong, floor and all.
                assert_eq!(worst(&got) > 2.0 * (rounded + floor), k == 4096);
                got[7] -= lines[7][k - 1];
                assert!(worst(&got) > 2.0 * (cut + floor), "{k}");
            }
        }
    }

    #[test]
    fn a_cut_is_toward_zero() {
        let between = 1.0 + 2f64.powi(-24) * 1.5;
        assert_eq!([cut(between), cut(-between)], [1.0, -1.0]);
        assert_eq!(cut(1e300), f64::from(f32::MAX));
        assert!(cut(f64::INFINITY).is_infinite() && cut(f64::NAN).is_nan());
        assert_eq!(cut(0.0), 0.0);
    }
}
