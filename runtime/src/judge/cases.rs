//! What a device is judged by: tiny ops, so that each form of kernel that plans name runs at least once. Values come from a
//! generator of our own. `judge` runs them.

use crate::dtype::DType::{self, BF16, F8E4M3, F16, F32, I8, I32, U32};
use crate::error::Result;
use crate::layout::{Dims, Layout};
use crate::op::{
    Activation, ArgMax, Attention, AttentionBackward, CheckedOp, Copy, Gather, Group, KeyValue,
    Lens, Map, MapFn, Matmul, Norm, NormBackward, NormKind, Op, OrderClass, Precision, Quantize,
    QuantizeFormat, Reduce, ReduceFn, Rope, Scale, Scatter, ScatterFn, Scores, Softmax, Spec, TopK,
    check,
};
use half::{bf16, f16};
use std::sync::Arc;

/// What an operand holds.
#[derive(Clone, Copy)]
enum Values {
    /// Multiples of 1/64 from -1 to 1; of integers, from -64 to 64.
    Signed,
    /// Multiples of 1/64 from 1/2 to 5/2.
    Positive,
    /// These words, over and over.
    Words(&'static [u32]),
    /// Nothing yet: it is written.
    Out,
}
use Values::{Out, Positive, Signed, Words};

/// An op, what its operands hold, and the bad index and its bound that it must tell of.
pub(super) struct Case {
    pub(super) op: Arc<CheckedOp>,
    values: Vec<Values>,
    pub(super) fault: Option<[u32; 2]>,
}

/// An operand: its type, its shape, and whether its last two axes are exchanged in memory.
type Operand<'a> = (DType, &'a [u64], Values);

/// A view of a shape whose last two axes are exchanged in memory, for B of products.
fn turned(shape: &[u64]) -> Option<Layout> {
    let mut swapped = shape.to_vec();
    let last = swapped.len().checked_sub(2)?;
    swapped[last..].reverse();
    Layout::contiguous(Dims::new(&swapped)?).transpose()
}

fn case(op: impl Into<Op>, operands: &[Operand<'_>]) -> Result<Case> {
    with_b(op, operands, false)
}

/// A case whose second operand may be turned.
fn with_b(op: impl Into<Op>, operands: &[Operand<'_>], is_turned: bool) -> Result<Case> {
    let spec = |(i, (dtype, shape, _)): (usize, &Operand<'_>)| {
        let tight = Layout::contiguous(Dims::new(shape).unwrap_or(Dims::NONE));
        let layout = turned(shape).filter(|_| is_turned && i == 1).unwrap_or(tight);
        Spec::new(*dtype, layout, 0)
    };
    let specs: Vec<Spec> = operands.iter().enumerate().map(spec).collect();
    let op = Arc::new(check(op.into(), &specs)?);
    Ok(Case { op, values: operands.iter().map(|(.., values)| *values).collect(), fault: None })
}

impl Case {
    /// The bytes of an operand before the op: all ones where it is written, which of floats is no number.
    pub(super) fn content(&self, operand: usize) -> Vec<u8> {
        let spec = &self.op.specs()[operand];
        let count = spec.layout.span() as u64;
        let values = self.values[operand];
        let mut state = operand as u64 + 1;
        let mut next = || {
            // The multiplier of Knuth's MMIX; the high bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % 129
        };
        let mut bytes = Vec::with_capacity((count * spec.dtype.size()) as usize);
        for i in 0..count as usize {
            let x = match values {
                Signed => (next() as f64 - 64.0) / 64.0,
                Positive => 0.5 + next() as f64 / 64.0,
                Words(list) => {
                    bytes.extend(list[i % list.len()].to_le_bytes());
                    continue;
                }
                Out => {
                    bytes.extend(vec![0xff; spec.dtype.size() as usize]);
                    continue;
                }
            };
            match spec.dtype {
                F32 => bytes.extend((x as f32).to_le_bytes()),
                F16 => bytes.extend(f16::from_f64(x).to_le_bytes()),
                BF16 => bytes.extend(bf16::from_f64(x).to_le_bytes()),
                I8 => bytes.push((64.0 * x) as i8 as u8),
                I32 | U32 => bytes.extend(((64.0 * x) as i32).to_le_bytes()),
                // Any code of an exponent near 1: no infinity and no NaN.
                F8E4M3 | DType::F8E5M2 => {
                    bytes.push(
                        (0x28 + (64.0 * x.abs()) as u8 % 16) | if x < 0.0 { 0x80 } else { 0 },
                    );
                }
            }
        }
        bytes
    }
}

/// Every case, those that everything else stands on first.
pub(super) fn cases() -> Result<Vec<Case>> {
    [moved()?, products()?, attention()?, rows()?].into_iter().flatten().map(Ok).collect()
}

/// Ops that move elements or compute each by itself. The first two are read back by all others.
fn moved() -> Result<Vec<Case>> {
    const ROWS: &[u32] = &[3, 0, 4, 1];
    let set = Scatter { function: ScatterFn::Set, axis: 0 };
    let add = Scatter { function: ScatterFn::Add, axis: 0 };
    let map = |function| Map { function, scale: 0.5, shift: 0.25 };
    let mut bad = case(
        Gather { axis: 0 },
        &[(F32, &[5, 24], Signed), (U32, &[3], Words(&[2, 1 << 31, 4])), (F32, &[3, 24], Out)],
    )?;
    bad.fault = Some([1 << 31, 5]);
    Ok(vec![
        case(Copy, &[(F16, &[9, 65], Signed), (F16, &[9, 65], Out)])?,
        turned_copy()?,
        case(map(MapFn::GeluErf), &[(BF16, &[9, 64], Signed), (BF16, &[9, 64], Out)])?,
        case(
            Map { function: MapFn::Add, scale: 1.0, shift: 0.0 },
            &[(I32, &[300], Signed), (I32, &[300], Signed), (I32, &[300], Out)],
        )?,
        case(
            Rope { base: 1e4, dims: 32, interleaved: false },
            &[
                (F16, &[1, 2, 4, 32], Signed),
                (U32, &[1, 4], Words(&[0, 7, 99, 2])),
                (F16, &[1, 2, 4, 32], Out),
            ],
        )?,
        case(
            Gather { axis: 0 },
            &[(BF16, &[5, 24], Signed), (I32, &[4], Words(ROWS)), (BF16, &[4, 24], Out)],
        )?,
        bad,
        case(set, &[(BF16, &[4, 24], Signed), (I32, &[4], Words(ROWS)), (BF16, &[5, 24], Signed)])?,
        case(
            add,
            &[(F32, &[4, 24], Signed), (I32, &[4], Words(&[3, 0, 3, 1])), (F32, &[5, 24], Signed)],
        )?,
    ])
}

/// A copy between views that are dense along different axes.
fn turned_copy() -> Result<Case> {
    with_b(Copy, &[(F32, &[40, 33], Signed), (F32, &[40, 33], Out)], true)
}

fn products() -> Result<Vec<Case>> {
    let plain = Matmul::default();
    let full = Matmul { bias: true, activation: Activation::Silu, residual: true, ..plain.clone() };
    let sized =
        Matmul { group: Group::Contiguous, sizes: Lens::Device { max: 40 }, ..plain.clone() };
    let scales = |scales| Matmul { scales, alpha: 1.0 / 64.0, ..plain.clone() };
    let finds = Matmul { quantize: Scale::Block1x128, ..plain.clone() };
    let mut named = case(
        Matmul { index_a: true, index_b: true, ..plain.clone() },
        &[
            (BF16, &[3, 9, 64], Signed),
            (BF16, &[5, 64, 24], Signed),
            (U32, &[4], Words(&[2, 0, 1, 2])),
            (I32, &[4], Words(&[4, 1 << 31, 0, 3])),
            (F32, &[4, 9, 24], Out),
        ],
    )?;
    named.fault = Some([1 << 31, 5]);
    let of = |dtype, [m, n, k]: [u64; 3], out, is_turned| {
        let operands: [Operand<'_>; 3] =
            [(dtype, &[m, k], Signed), (dtype, &[k, n], Signed), (out, &[m, n], Out)];
        with_b(plain.clone(), &operands, is_turned)
    };
    Ok(vec![
        of(F32, [33, 40, 50], F32, false)?,
        case(
            full,
            &[
                (BF16, &[72, 96], Signed),
                (BF16, &[96, 64], Signed),
                (F32, &[72, 64], Signed),
                (BF16, &[72, 64], Signed),
                (BF16, &[72, 64], Out),
            ],
        )?,
        of(F16, [8, 64, 128], F32, true)?,
        of(BF16, [9, 21, 13], F32, false)?,
        // As many terms as are split.
        of(BF16, [8, 8, 4096], F32, true)?,
        with_b(
            Matmul { precision: Precision::Tf32, ..plain.clone() },
            &[(F32, &[33, 52], Signed), (F32, &[52, 40], Signed), (F32, &[33, 40], Out)],
            true,
        )?,
        case(
            sized,
            &[
                (BF16, &[72, 64], Signed),
                (BF16, &[3, 64, 32], Signed),
                (U32, &[3], Words(&[32, 0, 40])),
                (F32, &[72, 32], Out),
            ],
        )?,
        named,
        with_b(
            scales([Scale::Block1x128, Scale::Block128x128]),
            &[
                (F8E4M3, &[33, 144], Signed),
                (F8E4M3, &[144, 48], Signed),
                (F32, &[33, 2], Positive),
                (F32, &[2, 1], Positive),
                (BF16, &[33, 48], Out),
            ],
            true,
        )?,
        with_b(
            scales([Scale::Row, Scale::Tensor]),
            &[
                (I8, &[33, 144], Signed),
                (I8, &[144, 48], Signed),
                (F32, &[33], Positive),
                (F32, &[1], Positive),
                (F32, &[33, 48], Out),
            ],
            true,
        )?,
        case(
            finds,
            &[
                (F32, &[3, 20], Signed),
                (F32, &[20, 130], Signed),
                (I8, &[3, 130], Out),
                (F32, &[3, 2], Out),
            ],
        )?,
    ])
}

fn attention() -> Result<Vec<Case>> {
    let scaled = Attention {
        scores: Scores { scale: 0.125, causal: true, ..Scores::default() },
        ..Attention::default()
    };
    let of = |dtype, op: &Attention, [rows, keys, d]: [u64; 3]| {
        let (q, k) = ([1, 2, rows, d], [1, 1, keys, d]);
        let operands: [Operand<'_>; 4] =
            [(dtype, &q, Signed), (dtype, &k, Signed), (dtype, &k, Signed), (dtype, &q, Out)];
        case(op.clone(), &operands)
    };
    // More keys than a split of its row holds, in pages, counted on the device.
    let paged = Attention {
        scores: Scores { lens: Lens::Device { max: 1100 }, ..Scores::default() },
        key_value: KeyValue::Paged { page: 275 },
        ..scaled.clone()
    };
    let (pages, one): (&[u64], &[u64]) = (&[4, 1, 275, 64], &[1, 2, 1, 64]);
    let invariant = Attention { order: OrderClass::BatchInvariant, ..scaled.clone() };
    let mut cases = vec![
        of(BF16, &scaled, [20, 70, 64])?,
        of(F16, &invariant, [20, 70, 40])?,
        of(F32, &scaled, [5, 9, 16])?,
        case(
            paged,
            &[
                (F16, one, Signed),
                (F16, pages, Signed),
                (F16, pages, Signed),
                (U32, &[1], Words(&[1090])),
                (U32, &[1, 4], Words(&[2, 0, 3, 1])),
                (F16, one, Out),
            ],
        )?,
    ];
    // By wgmma where there is any; by `mma.sync`, since rows of 28 are brought by no copy of 16 bytes; and as written down.
    for (dtype, rows, keys, d) in [(BF16, 20, 70, 32), (BF16, 9, 17, 28), (F32, 5, 9, 32)] {
        let (q, k) = ([1, 2, rows, d], [1, 1, keys, d]);
        cases.push(case(
            AttentionBackward {
                scores: Scores { scale: 0.125, causal: true, ..Scores::default() },
            },
            &[
                (dtype, &q, Signed),
                (dtype, &k, Signed),
                (dtype, &k, Signed),
                (dtype, &q, Signed),
                (F32, &q[..3], Positive),
                (dtype, &q, Signed),
                (dtype, &q, Out),
                (dtype, &k, Out),
                (dtype, &k, Out),
            ],
        )?);
    }
    Ok(cases)
}

/// Ops that find something of each row.
fn rows() -> Result<Vec<Case>> {
    let (shape, row): (&[u64], &[u64]) = (&[5, 192], &[192]);
    let x: Operand<'_> = (BF16, shape, Signed);
    let sum = |axis| Reduce { function: ReduceFn::Sum, axis };
    let norm = Norm { kind: NormKind::Layer, epsilon: 1e-5, weight: true, bias: true };
    let back = NormBackward { kind: NormKind::Rms, epsilon: 1e-5, weight: true };
    let quantize = |format, inverse| Quantize { format, inverse };
    let (by_row, by_block) = (QuantizeFormat::Row, QuantizeFormat::Block1x128);
    let scales: Operand<'_> = (F32, &[5, 2], Positive);
    Ok(vec![
        case(norm, &[x, (F32, row, Signed), (F32, row, Signed), (F32, shape, Out)])?,
        case(
            back,
            &[x, (F32, row, Signed), (BF16, shape, Signed), (F32, shape, Out), (F32, shape, Out)],
        )?,
        case(Softmax { scale: 1.0, axis: 1 }, &[x, (F32, shape, Out)])?,
        case(sum(1), &[x, (F32, &[5], Out)])?,
        case(sum(0), &[x, (F32, row, Out)])?,
        case(ArgMax { axis: 1 }, &[x, (U32, &[5], Out)])?,
        case(TopK { k: 4, axis: 1 }, &[x, (BF16, &[5, 4], Out), (U32, &[5, 4], Out)])?,
        case(quantize(by_row, false), &[x, (I8, shape, Out), (F32, &[5], Out)])?,
        case(quantize(by_block, false), &[x, (F8E4M3, shape, Out), (F32, &[5, 2], Out)])?,
        case(quantize(by_block, true), &[(I8, shape, Signed), scales, (BF16, shape, Out)])?,
    ])
}
