//! Tensors of any layout for the host model: made from numbers, read back as numbers, and held to what a kernel may not
//! touch. The tests of the streaming kernels make them, and run each beside its simple kernel.

use crate::model::{Model, Order, Outcome, address};
use half::{bf16, f16};
use leasehold_kernels::{Axes, Range, Row, Streaming, StreamingReference, View};
use std::sync::OnceLock;

pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;
pub(crate) const BF16: u32 = 2;
pub(crate) const F8E4M3: u32 = 3;
pub(crate) const F8E5M2: u32 = 4;
pub(crate) const I8: u32 = 5;
pub(crate) const I32: u32 = 6;
pub(crate) const U32: u32 = 7;

/// What lies between and around elements: no kernel may change it, and as a float it is a NaN.
const GUARD: u8 = 0xff;
/// Elements of the guard zones at both ends.
const ZONE: usize = 64;

/// How elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lay {
    /// Dense, 256-byte aligned.
    Dense,
    /// Dense rows, one element off alignment, with a gap behind each.
    Odd,
    /// Three elements apart.
    Spread,
    /// The innermost axis outermost.
    Turned,
    /// All axes backwards.
    Back,
}

pub(crate) const LAYS: [Lay; 5] = [Lay::Dense, Lay::Odd, Lay::Spread, Lay::Turned, Lay::Back];

/// A tensor in a buffer of its own.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) dtype: u32,
    pub(crate) shape: Vec<usize>,
    strides: Vec<i64>,
    first: usize,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn width(dtype: u32) -> usize {
    [4, 2, 2, 1, 1, 1, 4, 4][dtype as usize]
}

/// Random numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Roughly normal: a sum of uniform numbers.
    pub(crate) fn draw(&mut self) -> f64 {
        (0..4).map(|_| (self.next() >> 40) as f64 / f64::from(1u32 << 23) - 1.0).sum::<f64>() / 2.0
    }
}

/// Value of an OCP 8-bit float.
fn f8(dtype: u32, code: u8) -> f64 {
    static VALUES: OnceLock<[Vec<f64>; 2]> = OnceLock::new();
    let all = |dtype| (0..=255).map(|code| f8_by_definition(dtype, code)).collect();
    VALUES.get_or_init(|| [F8E4M3, F8E5M2].map(all))[(dtype - F8E4M3) as usize][code as usize]
}

fn f8_by_definition(dtype: u32, code: u8) -> f64 {
    let (digits, bias) = if dtype == F8E4M3 { (3, 7) } else { (2, 15) };
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    let (exponent, mantissa) =
        (i32::from(code & 0x7f) >> digits, f64::from(code & ((1 << digits) - 1)));
    let mantissa = mantissa / f64::from(1 << digits);
    match (dtype, code & 0x7f) {
        (F8E4M3, 0x7f) | (F8E5M2, 0x7d..) => f64::NAN,
        (F8E5M2, 0x7c) => sign * f64::INFINITY,
        _ if exponent == 0 => sign * mantissa * 2f64.powi(1 - bias),
        _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - bias),
    }
}

/// Bits of the number of a type that is nearest to `x`.
pub(crate) fn encode(dtype: u32, x: f64) -> Vec<u8> {
    match dtype {
        F32 => (x as f32).to_le_bytes().into(),
        F16 => f16::from_f64(x).to_le_bytes().into(),
        BF16 => bf16::from_f64(x).to_le_bytes().into(),
        I32 => (x as i32).to_le_bytes().into(),
        U32 => (x as u32).to_le_bytes().into(),
        I8 => vec![x.round_ties_even().clamp(-128.0, 127.0) as i8 as u8],
        _ => vec![f8_nearest(dtype, x)],
    }
}

/// The code of the finite 8-bit float that is nearest, the even one of two.
fn f8_nearest(dtype: u32, x: f64) -> u8 {
    static SORTED: OnceLock<[Vec<(f64, u8)>; 2]> = OnceLock::new();
    let sorted = |dtype| {
        // One zero.
        let codes = (0..=255u8).filter(|&code| code != 0x80 && f8(dtype, code).is_finite());
        let mut all: Vec<(f64, u8)> = codes.map(|code| (f8(dtype, code), code)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    };
    let all = &SORTED.get_or_init(|| [F8E4M3, F8E5M2].map(sorted))[(dtype - F8E4M3) as usize];
    let above = all.partition_point(|(value, _)| *value < x);
    let near = &all[above.saturating_sub(1)..all.len().min(above + 1)];
    let off = |(value, code): &(f64, u8)| ((value - x).abs(), code % 2);
    let nearest = near.iter().min_by(|a, b| off(a).partial_cmp(&off(b)).expect("numbers"));
    nearest.expect("a code").1
}

pub(crate) fn decode(dtype: u32, bytes: &[u8]) -> f64 {
    let word = || u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    match dtype {
        F32 => f32::from_bits(word()).into(),
        I32 => f64::from(word() as i32),
        U32 => f64::from(word()),
        F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        I8 => f64::from(bytes[0] as i8),
        _ => f8(dtype, bytes[0]),
    }
}

impl Tensor {
    /// A tensor of numbers in row-major order.
    pub(crate) fn new(
        dtype: u32,
        shape: &[usize],
        lay: Lay,
        mut value: impl FnMut(usize) -> f64,
    ) -> Self {
        let mut order: Vec<usize> = (0..shape.len()).rev().collect();
        if lay == Lay::Turned {
            order.rotate_left(1);
        }
        let mut step = if lay == Lay::Spread { 3 } else { 1 };
        let mut strides = vec![0; shape.len()];
        for (i, axis) in order.into_iter().enumerate() {
            strides[axis] = step;
            step *= shape[axis] as i64;
            step += i64::from(lay == Lay::Odd && i == 0);
        }
        let mut first = ZONE + usize::from(lay == Lay::Odd);
        if lay == Lay::Back {
            first += strides.iter().zip(shape).map(|(s, &n)| *s as usize * (n - 1)).sum::<usize>();
            strides.iter_mut().for_each(|s| *s = -*s);
        }
        let bytes = vec![GUARD; (2 * ZONE + step as usize + 1) * width(dtype)];
        let mut tensor = Self { dtype, shape: shape.into(), strides, first, bytes };
        for i in 0..tensor.len() {
            let at = tensor.place(i);
            let bits = encode(dtype, value(i));
            tensor.bytes[at..at + bits.len()].copy_from_slice(&bits);
        }
        tensor
    }

    /// An output: guards throughout.
    pub(crate) fn out(dtype: u32, shape: &[usize], lay: Lay) -> Self {
        let mut tensor = Self::new(dtype, shape, lay, |_| 0.0);
        tensor.bytes.fill(GUARD);
        tensor
    }

    /// The same with an axis repeated.
    pub(crate) fn repeated(&self, axis: usize, n: usize) -> Self {
        let mut wide = self.clone();
        wide.shape[axis] = n;
        wide.strides[axis] = 0;
        wide
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn place(&self, mut i: usize) -> usize {
        let mut at = self.first as i64;
        for (&n, &step) in self.shape.iter().zip(&self.strides).rev() {
            at += (i % n) as i64 * step;
            i /= n;
        }
        at as usize * width(self.dtype)
    }

    /// Element `i` in row-major order, in a buffer that the tensor's became.
    pub(crate) fn get(&self, bytes: &[u8], i: usize) -> f64 {
        let at = self.place(i);
        decode(self.dtype, &bytes[at..at + width(self.dtype)])
    }

    /// All elements of the tensor itself.
    pub(crate) fn values(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.get(&self.bytes, i)).collect()
    }

    /// All elements in a buffer that the tensor's became; what lies around them must be as it was.
    pub(crate) fn read(&self, bytes: &[u8]) -> Vec<f64> {
        let mut rest = bytes.to_vec();
        let mut values = Vec::new();
        for i in 0..self.len() {
            let at = self.place(i);
            values.push(decode(self.dtype, &bytes[at..at + width(self.dtype)]));
            rest[at..at + width(self.dtype)].fill(GUARD);
        }
        assert!(rest.iter().all(|&b| b == GUARD), "a kernel wrote beside {:?}", self.shape);
        values
    }

    /// The view of a buffer with the last axis innermost.
    pub(crate) fn view(&self, buffer: usize) -> View {
        let (inner, outer) = self.strides.split_last().map_or((0, &[][..]), |(i, o)| (*i, o));
        let mut view = View {
            at: self.address(buffer),
            inner,
            dtype: self.dtype,
            present: 1,
            ..View::default()
        };
        view.outer[..outer.len()].copy_from_slice(outer);
        view
    }

    /// The view of a buffer with all axes outside an innermost one that the tensor lacks.
    pub(crate) fn view_without(&self, buffer: usize) -> View {
        let mut view = View { inner: 0, ..self.view(buffer) };
        view.outer[..self.strides.len()].copy_from_slice(&self.strides);
        view
    }

    /// Stride along an axis.
    pub(crate) fn stride(&self, axis: usize) -> i64 {
        self.strides[axis]
    }

    /// The address of the first element in a buffer.
    pub(crate) fn address(&self, buffer: usize) -> u64 {
        address(buffer, self.first * width(self.dtype))
    }

    /// The axes but the last.
    pub(crate) fn axes(&self) -> Axes {
        axes(&self.shape[..self.shape.len() - 1])
    }

    /// All elements, in vectors of a row's length.
    pub(crate) fn range(&self, row: &Streaming) -> Range {
        let inner = self.shape.last().map_or(1, |&n| n as u64);
        let mut range = Range { outer: self.axes(), inner, first: 0, count: 0 };
        range.count = range.vectors(row.vector());
        range
    }
}

pub(crate) fn axes(shape: &[usize]) -> Axes {
    let mut axes = Axes { rank: shape.len() as u32, ..Axes::default() };
    axes.sizes.iter_mut().zip(shape).for_each(|(size, &n)| *size = n as u64);
    axes
}

/// The same elements, one by one: what the simple kernels take.
pub(crate) fn one_by_one(range: Range) -> Range {
    Range { first: 0, count: range.vectors(1), ..range }
}

/// Runs a row on the buffers of tensors, and says what they became. Addresses stand at `places` of the arguments.
pub(crate) fn launch<A: bytemuck::NoUninit>(
    model: &mut Model,
    row: Streaming,
    blocks: u64,
    args: (&A, &[usize]),
    buffers: &[Vec<u8>],
) -> Vec<Vec<u8>> {
    launch_row(model, Row::Streaming(row), blocks, args, buffers)
}

/// The same of an op's simple kernel, by so many threads.
pub(crate) fn simple<A: bytemuck::NoUninit>(
    model: &mut Model,
    row: StreamingReference,
    threads: u64,
    args: (&A, &[usize]),
    buffers: &[Vec<u8>],
) -> Vec<Vec<u8>> {
    let blocks = StreamingReference::blocks(threads);
    launch_row(model, Row::StreamingReference(row), blocks, args, buffers)
}

fn launch_row<A: bytemuck::NoUninit>(
    model: &mut Model,
    row: Row,
    blocks: u64,
    (args, places): (&A, &[usize]),
    buffers: &[Vec<u8>],
) -> Vec<Vec<u8>> {
    let places: Vec<u32> = places.iter().map(|&at| at as u32).collect();
    let args = (bytemuck::bytes_of(args), &places[..]);
    // Threads take turns from drawn ones on.
    let (order, blocks) = (Order::Seeded(blocks), blocks as u32);
    let outcome = model.witnessed(|model| model.run(&row, order, blocks, args, buffers));
    let Outcome { found, buffers } = outcome;
    assert_eq!(found, "", "{row:?}");
    buffers
}

/// Holds numbers to others: half a unit in the last place of the type, of its smallest for f16, and a few of f32 at
/// `scale` apart at most.
///
/// # Errors
/// The first that is not.
pub(crate) fn close(got: &[f64], want: &[f64], dtype: u32, scale: f64) -> Result<(), String> {
    let unit = [1e-7, 1.0 / 2048.0, 1.0 / 256.0][dtype as usize];
    let least = if dtype == F16 { 2f64.powi(-25) } else { 0.0 };
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let off = (g - w).abs();
        let is_close = g == w || off <= 1.01 * (unit * w.abs()).max(least) + 6e-7 * scale;
        if !is_close {
            return Err(format!("element {i}: {g:e}, not {w:e}"));
        }
    }
    Ok(())
}

/// The same as an assertion.
pub(crate) fn assert_close(got: &[f64], want: &[f64], dtype: u32, scale: f64, what: &str) {
    close(got, want, dtype, scale).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}
