//! A case: an op, where its operands lie and what is in them.

use leasehold::op::{CheckedOp, Op, Spec, check};
use leasehold::{DType, Dims, Layout, bf16, f16};
use std::sync::OnceLock;

/// What an operand holds before the op runs.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Standard normal numbers times this.
    Normal(f64),
    /// Uniform from 0.25 to 4.
    Positive,
    /// Uniform 32-bit words.
    Words,
    /// Whole numbers from -128 to 127.
    Bytes,
    /// Whole numbers from -2 to 2.
    Small,
    /// Indices below this bound.
    Indices(u32),
    /// These, one an element.
    List([u32; 3]),
    /// An additive mask: a fifth is negative infinity, and so is every row whose number is this modulo 7.
    Mask(u64),
    /// Poison: an output, or an operand that must not be read.
    Poison,
    /// It is the very view of the operand at this place.
    Same(usize),
}

/// How a shape lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Style {
    /// Row-major without gaps.
    Tight,
    /// Rows three elements longer than needed.
    Odd,
    /// Every second element.
    Gapped,
    /// The last two axes exchanged, with a gap.
    Turned,
    /// Axes 1 and 2 exchanged: `[batch, sequence, head, dim]` in memory.
    Heads,
    /// The first axis repeats one entry.
    Repeat,
    /// Only the last axis steps: a bias along it.
    Row,
    /// Only the last axis but one steps: a bias along M.
    Column,
}

/// The layout of a shape in a style; `Tight` where the style needs more axes.
pub fn lay(shape: &[u64], style: Style) -> Layout {
    let dims = Dims::new(shape).unwrap();
    let rank = shape.len();
    let with = |f: &dyn Fn(usize, u64) -> u64| {
        let tight = Layout::contiguous(dims);
        let strides = Dims::from_fn(rank, |i| f(i, tight.strides()[i]));
        Layout::new(dims, strides).unwrap()
    };
    let swapped = |i: usize, j: usize, style| {
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(i, j);
        let turned: Vec<u64> = order.iter().map(|&i| shape[i]).collect();
        lay(&turned, style).permute(&order).unwrap()
    };
    match style {
        Style::Odd if rank >= 2 => {
            let mut wide = shape.to_vec();
            wide[rank - 1] += 3;
            let strides = *Layout::contiguous(Dims::new(&wide).unwrap()).strides();
            Layout::new(dims, strides).unwrap()
        }
        Style::Gapped => with(&|_, stride| 2 * stride),
        Style::Turned if rank >= 2 => swapped(rank - 2, rank - 1, Style::Odd),
        Style::Heads if rank >= 3 => swapped(1, 2, Style::Tight),
        Style::Repeat if rank >= 1 => with(&|i, stride| if i == 0 { 0 } else { stride }),
        Style::Row => with(&|i, stride| if i + 1 == rank { stride } else { 0 }),
        Style::Column => with(&|i, _| u64::from(i + 2 == rank)),
        _ => Layout::contiguous(dims),
    }
}

/// One operand.
#[derive(Clone, Debug)]
pub struct Operand {
    pub dtype: DType,
    pub layout: Layout,
    /// Byte offset of the first element in its allocation.
    pub offset: u64,
    pub fill: Fill,
}

impl Operand {
    pub fn new(dtype: DType, shape: &[u64], style: Style, offset: u64, fill: Fill) -> Self {
        Self { dtype, layout: lay(shape, style), offset: offset * dtype.size(), fill }
    }

    /// An output.
    pub fn out(dtype: DType, shape: &[u64], style: Style, offset: u64) -> Self {
        Self::new(dtype, shape, style, offset, Fill::Poison)
    }

    pub fn spec(&self) -> Spec {
        Spec::new(self.dtype, self.layout, self.offset)
    }

    /// Bytes of an allocation that holds it, with neighbours on both sides.
    pub fn bytes(&self) -> u64 {
        (self.offset + self.spec().span_bytes() as u64 + 64).next_multiple_of(256)
    }

    /// The allocation's bytes: poison, and the values where the view has elements.
    pub fn content(&self, seed: u64) -> Vec<u8> {
        let mut bytes = vec![POISON; self.bytes() as usize];
        if matches!(self.fill, Fill::Poison | Fill::Same(_)) {
            return bytes;
        }
        let mut random = Random(seed);
        let row = self.layout.shape().last().copied().unwrap_or(1).max(1);
        for (i, at) in leasehold::reference::offsets(&self.layout).enumerate() {
            let at = (self.offset + at * self.dtype.size()) as usize;
            let x = match self.fill {
                Fill::List(list) => list[i % list.len()].into(),
                fill => random.value(fill, i as u64 / row),
            };
            match self.dtype {
                DType::F32 => bytes[at..at + 4].copy_from_slice(&(x as f32).to_le_bytes()),
                DType::F16 => bytes[at..at + 2].copy_from_slice(&f16::from_f64(x).to_le_bytes()),
                DType::BF16 => bytes[at..at + 2].copy_from_slice(&bf16::from_f64(x).to_le_bytes()),
                DType::I8 => bytes[at] = x as i64 as u8,
                DType::F8E4M3 | DType::F8E5M2 => {
                    bytes[at] = match self.fill {
                        Fill::Normal(_) => nearest(self.dtype, x),
                        // No sign and no NaN.
                        _ => x as i64 as u8 & 0x77,
                    };
                }
                DType::I32 | DType::U32 => {
                    bytes[at..at + 4].copy_from_slice(&(x as i64 as u32).to_le_bytes())
                }
            }
        }
        bytes
    }
}

/// The code of the finite 8-bit float nearest to `x`.
fn nearest(dtype: DType, x: f64) -> u8 {
    static MAGNITUDES: [OnceLock<Vec<f64>>; 2] = [const { OnceLock::new() }; 2];
    let magnitudes = MAGNITUDES[usize::from(dtype == DType::F8E5M2)].get_or_init(|| {
        let codes: Vec<u8> = (0..0x80).collect();
        let layout = Layout::contiguous(Dims::new(&[0x80]).unwrap());
        let all = leasehold::reference::read(dtype, &layout, &codes);
        all.into_iter().take_while(|x| x.is_finite()).collect()
    });
    let above = magnitudes.partition_point(|y| *y < x.abs()).clamp(1, magnitudes.len() - 1);
    let below = x.abs() - magnitudes[above - 1] < magnitudes[above] - x.abs();
    (above - usize::from(below)) as u8 | if x < 0.0 { 0x80 } else { 0 }
}

/// Every byte that no test wrote: NaN in every float type.
pub const POISON: u8 = 0xff;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n.max(1)
    }

    /// Uniform from 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn value(&mut self, fill: Fill, row: u64) -> f64 {
        match fill {
            Fill::Normal(scale) => scale * self.normal(),
            Fill::Positive => 0.25 + 3.75 * self.uniform(),
            Fill::Words => (self.bits() as u32).into(),
            Fill::Bytes => self.below(256) as f64 - 128.0,
            Fill::Small => self.below(5) as f64 - 2.0,
            Fill::Indices(bound) => self.below(bound.into()) as f64,
            Fill::Mask(hidden) => match self.below(5) {
                0 => f64::NEG_INFINITY,
                _ if row % 7 == hidden => f64::NEG_INFINITY,
                _ => self.normal(),
            },
            Fill::List(_) | Fill::Poison | Fill::Same(_) => 0.0,
        }
    }
}

/// An op on its operands.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub op: Op,
    pub operands: Vec<Operand>,
}

impl Case {
    pub fn new(op: impl Into<Op>, operands: Vec<Operand>) -> Self {
        let op = op.into();
        let specs: Vec<Spec> = operands.iter().map(Operand::spec).collect();
        Self { name: format!("{op:?} of {specs:?}"), op, operands }
    }

    /// The checked op. The table's cases are all legal.
    pub fn checked(&self) -> CheckedOp {
        let specs: Vec<Spec> = self.operands.iter().map(Operand::spec).collect();
        check(self.op.clone(), &specs).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    pub fn flops(&self) -> u128 {
        self.checked().cost().flops
    }
}
