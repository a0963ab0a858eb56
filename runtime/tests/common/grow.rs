//! Cases grown at random for property tests: a legal one from free choices, then a few changes of any size.

use super::case::{Case, Fill, Operand, Random, Style};
use super::{products, quantised};
use leasehold::op::{
    Activation, Attention, AttentionBackward, CheckedOp, Copy, Gather, Lens, Map, MapFn, Mask,
    Matmul, Norm, NormBackward, NormKind, Op, Quantize, QuantizeFormat, Reduce, ReduceFn, Scores,
    Softmax, Spec, check,
};
use leasehold::order::Plan;
use leasehold::{DType, Dims, Kind, Layout};
use proptest::prelude::*;

/// The free choices of a case.
#[derive(Clone, Debug)]
pub struct Choices {
    op: usize,
    dims: [u64; 5],
    dtypes: [usize; 3],
    styles: [usize; 3],
    offset: u64,
    flags: u32,
}

/// Kinds of cases, and those of them whose rounding no few elements can make look bad: they are judged.
pub const ALL: usize = 12;
pub const JUDGED: usize = 9;

/// Choices of the first `kinds` kinds of cases.
pub fn choices(max_dim: u64, kinds: usize) -> impl Strategy<Value = Choices> {
    (
        0..kinds,
        prop::array::uniform5(0..=max_dim),
        prop::array::uniform3(0..3usize),
        prop::array::uniform3(0..4usize),
        0..200u64,
        any::<u32>(),
    )
        .prop_map(|(op, dims, dtypes, styles, offset, flags)| Choices {
            op,
            dims,
            dtypes,
            styles,
            offset,
            flags,
        })
}

impl Choices {
    fn flag(&self, bit: u32) -> bool {
        self.flags >> bit & 1 == 1
    }

    fn input(&self, which: usize, shape: &[u64], fill: Fill) -> Operand {
        let styles = [Style::Tight, Style::Odd, Style::Turned, Style::Repeat];
        self.place(which, shape, styles[self.styles[which]], fill)
    }

    fn out(&self, shape: &[u64]) -> Operand {
        let styles = [Style::Tight, Style::Odd, Style::Turned, Style::Gapped];
        self.place(2, shape, styles[self.styles[2]], Fill::Poison)
    }

    fn place(&self, which: usize, shape: &[u64], style: Style, fill: Fill) -> Operand {
        let dtype = [DType::F32, DType::F16, DType::BF16][self.dtypes[which]];
        Operand::new(dtype, shape, style, self.offset, fill)
    }

    /// A legal case.
    pub fn case(&self) -> Case {
        const NORMAL: Fill = Fill::Normal(1.0);
        let [a, b, c, d, e] = self.dims;
        let row = [a % 5, b % 9, c];
        let (op, mut operands): (Op, _) = match self.op {
            0 => {
                let op = Matmul {
                    alpha: [1.0, 0.5][self.flags as usize % 2],
                    bias: self.flag(1),
                    residual: self.flag(2),
                    activation: Activation::ALL[(self.flags >> 3) as usize % 5],
                    ..Matmul::default()
                };
                let mut operands = vec![self.input(0, &[a % 4, b, c], NORMAL)];
                operands.push(Operand {
                    dtype: operands[0].dtype,
                    ..self.input(1, &[a % 4, c, d], Fill::Normal(0.3))
                });
                let extras = [op.bias, op.residual].into_iter().filter(|extra| *extra);
                operands.extend(extras.map(|_| self.input(1, &[a % 4, b, d], NORMAL)));
                operands.push(self.out(&[a % 4, b, d]));
                (op.into(), operands)
            }
            1 => {
                let (batch, kv, dv) = (a % 3, 1 + b % 2, 1 + e);
                let heads = kv * (1 + self.flags as u64 % 3);
                let q = self.input(0, &[batch, heads, c, 1 + d], NORMAL);
                let dtype = q.dtype;
                let keys = |dim| Operand { dtype, ..self.input(1, &[batch, kv, e, dim], NORMAL) };
                let mut operands = vec![q, keys(1 + d), keys(dv)];
                let mask = self.flag(5);
                if mask {
                    operands.push(self.input(1, &[batch, heads, c, e], Fill::Mask(1)));
                }
                operands.push(self.out(&[batch, heads, c, dv]));
                let lens = (0..batch).map(|i| (e * (i + 1) / 3) as u32).collect();
                let op = Attention {
                    scores: Scores {
                        scale: 0.4,
                        causal: self.flag(6),
                        mask: if mask { Mask::Additive } else { Mask::None },
                        lens: if self.flag(7) { Lens::Host(lens) } else { Lens::Full },
                        ..Scores::default()
                    },
                    ..Attention::default()
                };
                (op.into(), operands)
            }
            2 => {
                let (weight, bias) = (self.flag(0), self.flag(1));
                let kind = if self.flag(2) { NormKind::Layer } else { NormKind::Rms };
                let mut operands = vec![self.input(0, &row, NORMAL)];
                let extras = [weight, bias].into_iter().filter(|extra| *extra);
                operands.extend(extras.map(|_| self.place(1, &[c], Style::Gapped, NORMAL)));
                operands.push(self.out(&row));
                (Norm { kind, epsilon: 0.01, weight, bias }.into(), operands)
            }
            3 => {
                let operands = vec![self.input(0, &row, Fill::Mask(2)), self.out(&row)];
                (Softmax { scale: 0.7, axis: 2 }.into(), operands)
            }
            4 => {
                let function = MapFn::ALL[self.flags as usize % MapFn::ALL.len()];
                let inputs = (0..function.arity()).map(|i| self.input(i, &row, Fill::Positive));
                let mut operands: Vec<Operand> = inputs.collect();
                operands.push(self.out(&row));
                (Map { function, scale: 1.0, shift: 0.5 }.into(), operands)
            }
            5 => {
                let rows = 1 + a;
                let table = self.input(0, &[rows, b, d], NORMAL);
                let index = self.place(1, &[c], Style::Gapped, Fill::Indices(rows as u32));
                let dtype = [DType::I32, DType::U32][self.flags as usize % 2];
                let index = Operand { dtype, offset: self.offset * 4, ..index };
                let out = Operand { dtype: table.dtype, ..self.out(&[c, b, d]) };
                (Gather { axis: 0 }.into(), vec![table, index, out])
            }
            6 => {
                let function = ReduceFn::ALL[self.flags as usize % 4];
                let operands = vec![self.input(0, &row, NORMAL), self.out(&row[..2])];
                (Reduce { function, axis: 2 }.into(), operands)
            }
            7 => {
                let x = self.input(0, &row, NORMAL);
                let out = Operand { dtype: x.dtype, ..self.out(&row) };
                (Copy.into(), vec![x, out])
            }
            8 => self.quantisation(&row),
            9 => self.norm_backward(&row),
            10 => self.attention_backward(),
            _ => {
                let mut random = Random(self.flags.into());
                let case = products::any([b, d, c], || random.below(1 << 20) as usize);
                (case.op, case.operands)
            }
        };
        // A dtype that was changed above keeps its offset a multiple of its size.
        for operand in &mut operands {
            operand.offset = self.offset * operand.dtype.size();
        }
        Case::new(op, operands)
    }
}

impl Choices {
    fn quantisation(&self, shape: &[u64]) -> (Op, Vec<Operand>) {
        const FORMATS: [QuantizeFormat; 4] = [
            QuantizeFormat::Tensor,
            QuantizeFormat::Row,
            QuantizeFormat::Block1x128,
            QuantizeFormat::Block128x128,
        ];
        let format = FORMATS[self.flags as usize % 4];
        let dtype = [DType::F8E4M3, DType::F8E5M2, DType::I8][(self.flags >> 2) as usize % 3];
        let wide = self.input(0, shape, Fill::Normal(9.0));
        let coded = Operand { dtype, ..self.out(shape) };
        let scale = Operand { dtype: DType::F32, ..self.out(&quantised::scales(format, shape)) };
        (Quantize { format, inverse: false }.into(), vec![wide, coded, scale])
    }

    fn norm_backward(&self, shape: &[u64]) -> (Op, Vec<Operand>) {
        let kind = [NormKind::Layer, NormKind::Rms][self.flags as usize % 2];
        let normal = |which| self.input(which, shape, Fill::Normal(1.0));
        let terms = Operand { dtype: DType::F32, ..self.out(shape) };
        let operands = vec![normal(0), normal(1), self.out(shape), terms];
        (NormBackward { kind, epsilon: 0.01, weight: false }.into(), operands)
    }

    fn attention_backward(&self) -> (Op, Vec<Operand>) {
        let [a, b, c, d, e] = self.dims;
        let (batch, kv, dv) = (a % 3, 1 + b % 2, 1 + e);
        let heads = kv * (1 + self.flags as u64 % 3);
        let q = self.input(0, &[batch, heads, c, 1 + d], Fill::Normal(1.0));
        let dtype = q.dtype;
        let shapes = [[batch, kv, e, 1 + d], [batch, kv, e, dv], [batch, heads, c, dv]];
        let [k, v, out] = shapes.map(|s| Operand { dtype, ..self.input(1, &s, Fill::Normal(1.0)) });
        let lse = self.input(1, &[batch, heads, c], Fill::Positive);
        let lse = Operand { dtype: DType::F32, ..lse };
        let gradients = [&q, &k, &v].map(|o| self.out(o.layout.shape()));
        let operands = vec![q, k, v, out.clone(), lse, out];
        let op = AttentionBackward {
            scores: Scores { scale: 0.4, causal: self.flag(6), ..Scores::default() },
        };
        (op.into(), operands.into_iter().chain(gradients).collect())
    }
}

/// A change to one operand, or to the op.
#[derive(Clone, Debug)]
pub enum Change {
    DType(usize, usize),
    Size(usize, usize, u64),
    Stride(usize, usize, u64),
    Rank(usize, bool),
    Offset(usize, u64),
    Drop,
    Number(f32),
}

pub fn big() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..20u64,
        (0..63u32).prop_map(|bits| 1 << bits),
        (0..63u32).prop_map(|bits| (1 << bits) - 1),
        any::<u64>(),
    ]
}

pub fn change() -> impl Strategy<Value = Change> {
    let float =
        prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-0.0), Just(-2.5), Just(1e30)];
    prop_oneof![
        (0..6usize, 0..8usize).prop_map(|(i, d)| Change::DType(i, d)),
        (0..6usize, 0..4usize, big()).prop_map(|(i, axis, n)| Change::Size(i, axis, n)),
        (0..6usize, 0..4usize, big()).prop_map(|(i, axis, n)| Change::Stride(i, axis, n)),
        (0..6usize, any::<bool>()).prop_map(|(i, more)| Change::Rank(i, more)),
        (0..6usize, any::<u64>()).prop_map(|(i, n)| Change::Offset(i, n >> 1)),
        Just(Change::Drop),
        float.prop_map(Change::Number),
    ]
}

pub fn apply(case: &mut Case, change: &Change) {
    let n = case.operands.len();
    let mut with = |i: usize, f: &dyn Fn(&mut Operand)| {
        if n > 0 {
            f(&mut case.operands[i % n]);
        }
    };
    let edit = |layout: &Layout, f: &dyn Fn(&mut Vec<u64>, &mut Vec<u64>)| {
        let (mut shape, mut strides) = (layout.shape().to_vec(), layout.strides().to_vec());
        f(&mut shape, &mut strides);
        let dims = Dims::new(&shape).zip(Dims::new(&strides));
        dims.and_then(|(shape, strides)| Layout::new(shape, strides)).unwrap_or(*layout)
    };
    match *change {
        Change::DType(i, d) => with(i, &|o| o.dtype = DType::ALL[d]),
        // A size is changed in every operand that has it, so that many changes stay legal.
        Change::Size(i, axis, size) => {
            let of = |o: &Operand| o.layout.shape().get(axis).copied();
            let old = case.operands.get(i % n.max(1)).and_then(of);
            for operand in &mut case.operands {
                operand.layout = edit(&operand.layout, &|shape, strides| {
                    for (s, t) in shape.iter_mut().zip(strides) {
                        if Some(*s) == old {
                            (*s, *t) = (size, if size > 1 << 20 { 0 } else { *t });
                        }
                    }
                });
            }
        }
        Change::Stride(i, axis, stride) => with(i, &|o| {
            o.layout = edit(&o.layout, &|_, strides| {
                if let Some(s) = strides.get_mut(axis) {
                    *s = stride;
                }
            });
        }),
        Change::Rank(i, more) => with(i, &|o| {
            o.layout = edit(&o.layout, &|shape, strides| {
                if more {
                    shape.insert(0, 1);
                    strides.insert(0, 0);
                } else {
                    shape.pop();
                    strides.pop();
                }
            });
        }),
        Change::Offset(i, offset) => with(i, &|o| o.offset = offset),
        Change::Drop => drop(case.operands.pop()),
        Change::Number(x) => match &mut case.op {
            Op::Matmul(op) => op.alpha = x,
            Op::Attention(op) => op.scores.scale = x,
            Op::AttentionBackward(op) => op.scores.scale = x,
            Op::Norm(op) => op.epsilon = x,
            Op::NormBackward(op) => op.epsilon = x,
            Op::Softmax(op) => op.scale = x,
            Op::Map(op) => op.shift = x,
            _ => {}
        },
    }
}

/// Descriptors that `check` accepted, with sizes up to 2^64 in every place.
pub fn resized() -> impl Strategy<Value = Option<CheckedOp>> {
    let sizes = prop::collection::vec((0..6usize, 0..4usize, big()), 1..4);
    (choices(5, ALL), sizes).prop_map(|(choices, sizes)| {
        let mut case = choices.case();
        sizes.iter().for_each(|&(i, axis, n)| apply(&mut case, &Change::Size(i, axis, n)));
        let specs: Vec<Spec> = case.operands.iter().map(Operand::spec).collect();
        check(case.op, &specs).ok()
    })
}

/// Holds the answer of a planner to the cap of a unit. A refusal is of more units than 64 bits count, or of what the
/// backend does not do, never of one unit.
pub fn within_cap(op: &CheckedOp, planned: leasehold::Result<Vec<Plan>>, cap_ns: u64) {
    match planned {
        Ok(plans) => {
            assert!(!plans.is_empty(), "no plan for {op:?}");
            for plan in plans {
                assert!(plan.unit_ns <= cap_ns, "{plan} for {op:?}");
            }
        }
        Err(error) => match error.kind() {
            Kind::Unsupported { .. } => {}
            Kind::Time { allowed, .. } => assert_eq!(*allowed, u64::MAX.into(), "{error} {op:?}"),
            _ => panic!("{error} for {op:?}"),
        },
    }
}
