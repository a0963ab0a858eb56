//! Ops and specs as bytes. Every op of the whole list has its fixed layout now: sixteen 32-bit words of options, so
//! that building a reserved op later changes no frame. Decoding refuses what it does not know.

use crate::DType;
use crate::error::{Error, Kind, Result};
use crate::layout::{Dims, Layout, MAX_RANK};
use crate::op::{
    Activation, ArgMax, Attention, AttentionBackward, Copy, Gate, Gather, Group, KeyValue, Lens,
    Map, MapFn, Mask, Matmul, Norm, NormBackward, NormKind, Op, OrderClass, Precision, Quantize,
    QuantizeFormat, Reduce, ReduceFn, Rope, Scale, Scatter, ScatterFn, Scores, Softmax, Spec, TopK,
};

/// The last op's number.
const OPS: u64 = Op::NAMES.len() as u64;
/// Words of an op's options.
const WORDS: usize = 16;
/// Bytes of an op: its number, flags of its length list, and its options.
pub(super) const OP_BYTES: usize = 8 + 4 * WORDS;
/// Bytes of a spec.
pub const SPEC_BYTES: usize = 8 + 16 * MAX_RANK;
/// The most operands an op has.
pub const MAX_OPERANDS: usize = 12;

/// An op's number and option words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// [`Op::code`].
    pub code: u16,
    /// Options, by op.
    pub words: [u32; WORDS],
}

fn unknown(what: &'static str, asked: impl Into<u64>, allowed: u64) -> Error {
    let asked = asked.into();
    Kind::Protocol { what, asked, allowed }.into()
}

/// The entry of a wire-ordered list.
fn pick<T: std::marker::Copy>(what: &'static str, list: &[T], word: u32) -> Result<T> {
    list.get(word as usize).copied().ok_or_else(|| unknown(what, word, list.len() as u64 - 1))
}

fn flag(what: &'static str, word: u32) -> Result<bool> {
    pick(what, &[false, true], word)
}

fn byte(what: &'static str, word: u32) -> Result<u8> {
    u8::try_from(word).map_err(|_| unknown(what, word, 255))
}

const ORDERS: [OrderClass; 3] = [OrderClass::Fixed, OrderClass::BatchInvariant, OrderClass::Any];
const GATES: [Gate; 3] = [Gate::None, Gate::Tensor, Gate::Interleaved];
const PRECISIONS: [Precision; 2] = [Precision::Full, Precision::Tf32];
const SCALES: [Scale; 5] =
    [Scale::None, Scale::Tensor, Scale::Row, Scale::Block1x128, Scale::Block128x128];
const GROUPS: [Group; 4] = [Group::None, Group::Contiguous, Group::Masked, Group::K];
const MASKS: [Mask; 2] = [Mask::None, Mask::Additive];
const NORMS: [NormKind; 2] = [NormKind::Layer, NormKind::Rms];
const SCATTERS: [ScatterFn; 3] = [ScatterFn::Set, ScatterFn::Add, ScatterFn::Append];
const FORMATS: [QuantizeFormat; 5] = [
    QuantizeFormat::Tensor,
    QuantizeFormat::Row,
    QuantizeFormat::Block1x128,
    QuantizeFormat::Block128x128,
    QuantizeFormat::Group32,
];

impl Wire {
    /// An op without its host lengths, which travel beside it.
    pub fn of(op: &Op) -> Self {
        let mut w = [0u32; WORDS];
        match op {
            Op::Matmul(m) => matmul_words(m, &mut w),
            Op::Attention(a) => attention_words(a, &mut w),
            Op::AttentionBackward(a) => scores_words(&a.scores, &mut w),
            Op::Norm(n) => w[..4].copy_from_slice(&[
                n.kind as u32,
                n.epsilon.to_bits(),
                n.weight.into(),
                n.bias.into(),
            ]),
            Op::Softmax(s) => w[..2].copy_from_slice(&[s.scale.to_bits(), s.axis.into()]),
            Op::Map(m) => {
                w[..3].copy_from_slice(&[m.function as u32, m.scale.to_bits(), m.shift.to_bits()]);
            }
            Op::Rope(r) => {
                w[..3].copy_from_slice(&[r.base.to_bits(), r.dims, r.interleaved.into()])
            }
            Op::Gather(g) => w[0] = g.axis.into(),
            Op::Scatter(s) => w[..2].copy_from_slice(&[s.function as u32, s.axis.into()]),
            Op::Reduce(r) => w[..2].copy_from_slice(&[r.function as u32, r.axis.into()]),
            Op::ArgMax(a) => w[0] = a.axis.into(),
            Op::TopK(t) => w[..2].copy_from_slice(&[t.k, t.axis.into()]),
            Op::Quantize(q) => w[..2].copy_from_slice(&[q.format as u32, q.inverse.into()]),
            Op::Copy(_) => {}
            Op::NormBackward(n) => {
                w[..3].copy_from_slice(&[n.kind as u32, n.epsilon.to_bits(), n.weight.into()]);
            }
        }
        Self { code: op.code(), words: w }
    }

    /// The op, with the host lengths that travelled beside it.
    ///
    /// # Errors
    /// `Protocol` for any number, flag or word that this version does not know.
    pub fn op(&self, lens: Vec<u32>) -> Result<Op> {
        let w = &self.words;
        let float = |i: usize| f32::from_bits(w[i]);
        let (op, used): (Op, usize) = match self.code {
            1 => (matmul(w, lens)?.into(), 16),
            2 => (attention(w, lens)?.into(), 15),
            3 => (attention_backward(w, lens)?.into(), 12),
            4 => {
                let kind = pick("norm kind", &NORMS, w[0])?;
                let (weight, bias) = (flag("weight", w[2])?, flag("bias", w[3])?);
                (Norm { kind, epsilon: float(1), weight, bias }.into(), 4)
            }
            5 => (Softmax { scale: float(0), axis: byte("axis", w[1])? }.into(), 2),
            6 => {
                let function = pick("map function", MapFn::ALL, w[0])?;
                (Map { function, scale: float(1), shift: float(2) }.into(), 3)
            }
            7 => {
                let interleaved = flag("interleaved", w[2])?;
                (Rope { base: float(0), dims: w[1], interleaved }.into(), 3)
            }
            8 => (Gather { axis: byte("axis", w[0])? }.into(), 1),
            9 => {
                let function = pick("scatter function", &SCATTERS, w[0])?;
                (Scatter { function, axis: byte("axis", w[1])? }.into(), 2)
            }
            10 => {
                let function = pick("reduce function", &ReduceFn::ALL, w[0])?;
                (Reduce { function, axis: byte("axis", w[1])? }.into(), 2)
            }
            11 => (ArgMax { axis: byte("axis", w[0])? }.into(), 1),
            12 => (TopK { k: w[0], axis: byte("axis", w[1])? }.into(), 2),
            13 => {
                let format = pick("quantize format", &FORMATS, w[0])?;
                (Quantize { format, inverse: flag("inverse", w[1])? }.into(), 2)
            }
            14 => (Copy.into(), 0),
            15 => {
                let kind = pick("norm kind", &NORMS, w[0])?;
                (NormBackward { kind, epsilon: float(1), weight: flag("weight", w[2])? }.into(), 3)
            }
            other => return Err(unknown("op", other, OPS)),
        };
        match w[used..].iter().find(|&&word| word != 0) {
            Some(&word) => Err(unknown("reserved word", word, 0)),
            None => Ok(op),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(u64::from(self.code).to_le_bytes());
        self.words.iter().for_each(|word| out.extend(word.to_le_bytes()));
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let (head, rest) = bytes.split_at_checked(8).ok_or_else(|| unknown("op bytes", 0u8, 8))?;
        let number = u64::from_le_bytes(head.try_into().unwrap_or_default());
        let code = u16::try_from(number).map_err(|_| unknown("op", number, OPS))?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(rest.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Ok(Self { code, words })
    }
}

/// Where counts come from, and the most that they are.
fn lens_words(lens: &Lens) -> [u32; 2] {
    match *lens {
        Lens::Full => [0, 0],
        Lens::Host(_) => [1, 0],
        Lens::Device { max } => [2, max],
    }
}

fn lens(what: &'static str, words: [u32; 2], list: &[u32]) -> Result<Lens> {
    match words {
        [0, 0] => Ok(Lens::Full),
        [1, 0] => Ok(Lens::Host(list.to_vec())),
        [2, max] => Ok(Lens::Device { max }),
        [kind, word] => Err(unknown(what, u64::from(kind) << 32 | u64::from(word), 2)),
    }
}

fn matmul_words(m: &Matmul, w: &mut [u32; WORDS]) {
    let [sizes, most] = lens_words(&m.sizes);
    *w = [
        m.alpha.to_bits(),
        m.beta.to_bits(),
        m.bias.into(),
        m.activation as u32,
        m.gate as u32,
        m.residual.into(),
        m.preactivation.into(),
        m.precision as u32,
        m.scales[0] as u32,
        m.scales[1] as u32,
        m.group as u32,
        sizes,
        most,
        m.quantize as u32,
        u32::from(m.constant_b) | u32::from(m.index_a) << 1 | u32::from(m.index_b) << 2,
        m.order as u32,
    ];
}

fn matmul(w: &[u32; WORDS], list: Vec<u32>) -> Result<Matmul> {
    if w[14] > 7 {
        return Err(unknown("matmul extras", w[14], 7));
    }
    Ok(Matmul {
        alpha: f32::from_bits(w[0]),
        beta: f32::from_bits(w[1]),
        bias: flag("bias", w[2])?,
        activation: pick("activation", &Activation::ALL, w[3])?,
        gate: pick("gate", &GATES, w[4])?,
        residual: flag("residual", w[5])?,
        preactivation: flag("preactivation", w[6])?,
        precision: pick("precision", &PRECISIONS, w[7])?,
        scales: [pick("scale of a", &SCALES, w[8])?, pick("scale of b", &SCALES, w[9])?],
        group: pick("group", &GROUPS, w[10])?,
        sizes: lens("sizes", [w[11], w[12]], &list)?,
        quantize: pick("scale of out", &SCALES, w[13])?,
        constant_b: w[14] & 1 != 0,
        index_a: w[14] & 2 != 0,
        index_b: w[14] & 4 != 0,
        order: pick("order class", &ORDERS, w[15])?,
    })
}

/// The words of scores are the first twelve, and the first bit of `EXTRAS`.
fn scores_words(s: &Scores, w: &mut [u32; WORDS]) {
    let [left, right] = s.window.unwrap_or_default();
    let [[rows, most_rows], [lens, most_keys]] = [&s.rows, &s.lens].map(lens_words);
    w[..12].copy_from_slice(&[
        s.scale.to_bits(),
        s.causal.into(),
        s.window.is_some().into(),
        left,
        right,
        s.softcap.to_bits(),
        s.mask as u32,
        s.alibi.into(),
        rows,
        most_rows,
        lens,
        most_keys,
    ]);
}

/// Word of the flags of attention: slopes, sinks, log-sum-exp.
const EXTRAS: usize = 7;

/// `list` holds the host's rows, then its lengths; where both are there, as many of each.
fn scores(w: &[u32; WORDS], list: Vec<u32>) -> Result<Scores> {
    let rows = match (w[8], w[10]) {
        (1, 1) => list.len() / 2,
        (1, _) => list.len(),
        _ => 0,
    };
    let (rows, keys) = list.split_at(rows);
    Ok(Scores {
        scale: f32::from_bits(w[0]),
        causal: flag("causal", w[1])?,
        window: flag("window", w[2])?.then_some([w[3], w[4]]),
        softcap: f32::from_bits(w[5]),
        mask: pick("mask", &MASKS, w[6])?,
        alibi: w[EXTRAS] & 1 != 0,
        rows: lens("rows", [w[8], w[9]], rows)?,
        lens: lens("lens", [w[10], w[11]], keys)?,
    })
}

fn attention_words(a: &Attention, w: &mut [u32; WORDS]) {
    scores_words(&a.scores, w);
    w[EXTRAS] |= u32::from(a.sinks) << 1 | u32::from(a.log_sum_exp) << 2;
    let (paged, page) = match a.key_value {
        KeyValue::Dense => (0, 0),
        KeyValue::Paged { page } => (1, page),
    };
    w[12..15].copy_from_slice(&[paged, page, a.order as u32]);
}

fn attention(w: &[u32; WORDS], list: Vec<u32>) -> Result<Attention> {
    if w[EXTRAS] > 7 {
        return Err(unknown("attention extras", w[EXTRAS], 7));
    }
    Ok(Attention {
        scores: scores(w, list)?,
        sinks: w[EXTRAS] & 2 != 0,
        log_sum_exp: w[EXTRAS] & 4 != 0,
        key_value: match [w[12], w[13]] {
            [0, 0] => KeyValue::Dense,
            [1, page] => KeyValue::Paged { page },
            [kind, _] => return Err(unknown("key/value", kind, 1)),
        },
        order: pick("order class", &ORDERS, w[14])?,
    })
}

fn attention_backward(w: &[u32; WORDS], list: Vec<u32>) -> Result<AttentionBackward> {
    flag("alibi", w[EXTRAS])?;
    Ok(AttentionBackward { scores: scores(w, list)? })
}

/// A spec as bytes: dtype, rank, offset class, five zero bytes, shape, strides.
pub(super) fn encode_spec(spec: &Spec, out: &mut Vec<u8>) {
    let rank = spec.layout.rank();
    out.extend([spec.dtype as u8, rank as u8, spec.offset_class, 0, 0, 0, 0, 0]);
    for dims in [spec.layout.shape(), spec.layout.strides()] {
        let padded = (0..MAX_RANK).map(|i| dims.get(i).copied().unwrap_or(0));
        padded.for_each(|n| out.extend(n.to_le_bytes()));
    }
}

pub(super) fn decode_spec(bytes: &[u8; SPEC_BYTES]) -> Result<Spec> {
    let dtype = DType::from_wire(bytes[0]).ok_or_else(|| unknown("dtype", bytes[0], 7))?;
    let rank = usize::from(bytes[1]);
    if rank > MAX_RANK {
        return Err(unknown("rank", bytes[1], MAX_RANK as u64));
    }
    if let Some(&b) = bytes[3..8].iter().find(|&&b| b != 0) {
        return Err(unknown("reserved byte", b, 0));
    }
    let mut numbers = [0u64; 2 * MAX_RANK];
    for (n, bytes) in numbers.iter_mut().zip(bytes[8..].as_chunks::<8>().0) {
        *n = u64::from_le_bytes(*bytes);
    }
    let (shape, strides) = numbers.split_at(MAX_RANK);
    if let Some(&n) = shape[rank..].iter().chain(&strides[rank..]).find(|&&n| n != 0) {
        return Err(unknown("reserved dimension", n, 0));
    }
    let dims = |list: &[u64]| Dims::from_fn(rank, |i| list[i]);
    let layout = Layout::new(dims(shape), dims(strides));
    let layout = layout.ok_or_else(|| unknown("rank", bytes[1], MAX_RANK as u64))?;
    Ok(Spec { dtype, layout, offset_class: bytes[2] })
}
