//! Products with every option: values of 8 bits with scales, groups, C, gates, pre-activations, quantised outputs; see
//! `tables`, which has the plain ones.

use super::case::{Case, Fill, Operand, Style};
use super::cover::pairwise;
use super::cover_flops;
use super::tables::{IN_STYLES, NORMAL, OFFSETS, ROW_STYLES, in_place};
use leasehold::DType::{self, BF16, F8E4M3, F8E5M2, F16, F32, I8, I32, U32};
use leasehold::op::{Activation, Gate, Group, Lens, Matmul, Op, Scale};
use leasehold::{Dims, Layout};

/// Types of A, of B, and a factor that keeps sums near 1.
const VALUES: [[DType; 2]; 7] = [
    [F32, F32],
    [BF16, BF16],
    [F16, F16],
    [F8E4M3, F8E4M3],
    [F8E4M3, F8E5M2],
    [F8E5M2, F8E4M3],
    [I8, I8],
];
const SCALES: [Scale; 5] =
    [Scale::None, Scale::Tensor, Scale::Row, Scale::Block1x128, Scale::Block128x128];

/// An output: its type, and how it is scaled.
const OUTS: [(DType, Scale); 7] = [
    (F32, Scale::None),
    (BF16, Scale::None),
    (F16, Scale::None),
    (F8E4M3, Scale::Tensor),
    (I8, Scale::Tensor),
    (F8E5M2, Scale::Block1x128),
    (I8, Scale::Block1x128),
];
const GROUPS: [Group; 4] = [Group::None, Group::Contiguous, Group::Masked, Group::K];

/// A product with options.
#[derive(Clone, Copy)]
struct Options {
    batch: &'static [u64],
    /// M, columns of the output, K.
    size: [u64; 3],
    values: [DType; 2],
    scales: [Scale; 2],
    out: (DType, Scale),
    group: Group,
    /// Sizes of three groups, in sixths of the room, and whether they are in an operand.
    sizes: [u64; 3],
    device: bool,
    beta: f32,
    bias: Option<Style>,
    activation: Activation,
    gate: Gate,
    residual: bool,
    preactivation: Option<DType>,
    styles: [Style; 3],
    offset: u64,
}

const PLAIN: Options = Options {
    batch: &[],
    size: [33, 34, 40],
    values: [F32, F32],
    scales: [Scale::None; 2],
    out: (F32, Scale::None),
    group: Group::None,
    sizes: [2, 1, 2],
    device: false,
    beta: 0.0,
    bias: None,
    activation: Activation::None,
    gate: Gate::None,
    residual: false,
    preactivation: None,
    styles: [Style::Tight; 3],
    offset: 0,
};

impl Options {
    fn flops(&self) -> u64 {
        let batch = if self.group == Group::None { self.batch } else { &[3] };
        4 * batch.iter().chain(&self.size).product::<u64>()
    }

    /// Scales that the values and the groups allow.
    fn allowed_scales(&self) -> [Scale; 2] {
        self.scales.map(|scale| match scale {
            _ if self.values[0].size() > 1 => Scale::None,
            Scale::Block1x128 | Scale::Block128x128 if self.group == Group::K => Scale::Row,
            scale => scale,
        })
    }

    /// Shapes of A, of B, of what has B's columns, of what has the output's, and of the scales' batch.
    fn shapes(&self) -> ([Vec<u64>; 4], [Vec<u64>; 2]) {
        let [m, columns, k] = self.size;
        let n = if self.gate == Gate::Interleaved { 2 * columns } else { columns };
        let (of_a, of_b, of_out): (&[u64], &[u64], &[u64]) = match self.group {
            Group::None => (self.batch, self.batch, self.batch),
            Group::Contiguous => (&[], &[3], &[]),
            Group::Masked => (&[3], &[3], &[3]),
            Group::K => (&[], &[], &[3]),
        };
        let with = |batch: &[u64], rows, cols| [batch, &[rows, cols]].concat();
        let all =
            [with(of_a, m, k), with(of_b, k, n), with(of_out, m, n), with(of_out, m, columns)];
        (all, [of_a.to_vec(), of_b.to_vec()])
    }

    fn scale_operand(&self, which: usize, scale: Scale) -> Operand {
        let ([a, b, ..], batches) = self.shapes();
        let (m, n, k) = (a[a.len() - 2], b[b.len() - 1], a[a.len() - 1]);
        let blocks = |n: u64| n.div_ceil(128);
        let tail = match (scale, which) {
            (Scale::Row, 0) => vec![m],
            (Scale::Row, _) => vec![n],
            (Scale::Block1x128, 0) => vec![m, blocks(k)],
            (Scale::Block1x128, _) => vec![blocks(k), n],
            (_, 0) => vec![blocks(m), blocks(k)],
            _ => vec![blocks(k), blocks(n)],
        };
        let shape = match scale {
            Scale::Tensor => vec![1],
            _ => [&batches[which][..], &tail].concat(),
        };
        Operand::new(F32, &shape, self.styles[which], self.offset, Fill::Positive)
    }

    /// Sizes of the groups.
    fn counts(&self) -> [u32; 3] {
        let [m, _, k] = self.size;
        let room = if self.group == Group::K { k } else { m };
        // Of masked groups each has all the room.
        let most = if self.group == Group::Masked { 2 * room } else { room };
        self.sizes.map(|sixths| (sixths * most / 6).min(room) as u32)
    }

    fn case(&self) -> Case {
        let ([a, b, wide, narrow], _) = self.shapes();
        let (k, [sa, sb, so], offset) = (self.size[2], self.styles, self.offset);
        let (out, quantize) = self.out;
        let scales = self.allowed_scales();
        let root = (k.max(1) as f64).sqrt();
        let (of_a, of_b) = match self.values[0] {
            I8 => (Fill::Bytes, Fill::Bytes),
            _ => (NORMAL, Fill::Normal(1.0 / root)),
        };
        let [da, db] = self.values;
        let float = if out.size() == 1 { F16 } else { out };
        let mut operands =
            vec![Operand::new(da, &a, sa, offset, of_a), Operand::new(db, &b, sb, offset, of_b)];
        let mut read = |dtype, shape: &[u64], style| {
            operands.push(Operand::new(dtype, shape, style, offset, NORMAL));
        };
        self.bias.into_iter().for_each(|style| read(F32, &wide, style));
        (self.beta != 0.0).then(|| read(float, &wide, so));
        (self.gate == Gate::Tensor).then(|| read(BF16, &narrow, sa));
        self.residual.then(|| read(float, &narrow, so));
        for (which, scale) in scales.into_iter().enumerate() {
            (scale != Scale::None).then(|| operands.push(self.scale_operand(which, scale)));
        }
        let counts = self.counts();
        let sizes = match (self.group, self.device) {
            (Group::None, _) => Lens::Full,
            (_, false) => Lens::Host(counts.to_vec()),
            (_, true) => {
                let dtype = if self.residual { I32 } else { U32 };
                let fill = Fill::List(counts);
                operands.push(Operand::new(dtype, &[3], Style::Gapped, 1, fill));
                Lens::Device { max: counts.into_iter().max().unwrap_or(0) }
            }
        };
        if quantize == Scale::Tensor {
            operands.push(Operand::new(F32, &[1], Style::Tight, offset, Fill::Positive));
        }
        operands.push(Operand::out(out, &narrow, so, offset));
        operands.extend(self.preactivation.map(|dtype| Operand::out(dtype, &wide, sa_out(sa), 1)));
        if quantize == Scale::Block1x128 {
            let mut blocks = narrow.clone();
            let last = blocks.len() - 1;
            blocks[last] = blocks[last].div_ceil(128);
            operands.push(Operand::out(F32, &blocks, so, offset));
        }
        let factor = if self.values[0] == I8 { (5000.0 * root) as f32 } else { 1.0 };
        let op = Matmul {
            // Quantised values use the range of their type.
            alpha: if out.size() == 1 { 16.0 } else { 0.75 } / factor,
            beta: self.beta,
            bias: self.bias.is_some(),
            activation: self.activation,
            gate: self.gate,
            residual: self.residual,
            preactivation: self.preactivation.is_some(),
            scales,
            group: self.group,
            sizes,
            quantize,
            constant_b: self.beta != 0.0,
            ..Matmul::default()
        };
        Case::new(op, operands)
    }
}

/// A style that names each element once.
fn sa_out(style: Style) -> Style {
    if style == Style::Repeat { Style::Odd } else { style }
}

/// Choices of each factor of the options.
const BATCHES: [&[u64]; 3] = [&[], &[3], &[2, 2]];
const SIZES: [[u64; 3]; 5] = [[2, 1, 2], [0, 6, 0], [0, 0, 0], [1, 0, 5], [3, 3, 0]];
const FACTORS: [usize; 18] = [
    BATCHES.len(),
    VALUES.len(),
    5,
    5,
    OUTS.len(),
    4,
    SIZES.len(),
    2,
    3,
    3,
    5,
    3,
    2,
    3,
    5,
    5,
    4,
    3,
];

/// The options of a row of choices.
fn of_row(size: [u64; 3], row: &[usize]) -> Options {
    Options {
        size,
        batch: BATCHES[row[0]],
        values: VALUES[row[1]],
        scales: [SCALES[row[2]], SCALES[row[3]]],
        out: OUTS[row[4]],
        group: GROUPS[row[5]],
        sizes: SIZES[row[6]],
        device: row[7] == 1,
        beta: [0.0, 0.5, -2.0][row[8]],
        bias: [None, Some(Style::Row), Some(Style::Tight)][row[9]],
        activation: Activation::ALL[row[10]],
        gate: [Gate::None, Gate::Tensor, Gate::Interleaved][row[11]],
        residual: row[12] == 1,
        preactivation: [None, Some(F32), Some(BF16)][row[13]],
        styles: [IN_STYLES[row[14]], IN_STYLES[row[15]], ROW_STYLES[row[16]]],
        offset: OFFSETS[row[17]],
    }
}

/// A product of a size with any options, as numbers from `pick` say.
pub fn any(size: [u64; 3], mut pick: impl FnMut() -> usize) -> Case {
    let row: Vec<usize> = FACTORS.iter().map(|n| pick() % n).collect();
    of_row(size, &row).case()
}

/// Products with options, as a pairwise cover, and some with a reason of their own.
pub fn options() -> Vec<Case> {
    const M: [u64; 6] = [1, 5, 63, 129, 300, 530];
    const N: [u64; 6] = [1, 34, 128, 130, 258, 514];
    const K: [u64; 6] = [1, 40, 128, 200, 520, 1030];
    let sizes = [&[6, 6, 6], &FACTORS[..]].concat();
    let of = |row: &[usize]| of_row([M[row[0]], N[row[1]], K[row[2]]], &row[3..]);
    let rows = pairwise(&sizes, cover_flops(), |row| of(row).flops());
    rows.iter().map(|row| of(row).case()).chain(special()).collect()
}

/// Matrices that indices name.
const MATRICES: u32 = 3;

/// The same product with indices of A's or of B's matrices, or of both.
fn by_index(options: Options, sides: [bool; 2]) -> Case {
    let mut case = options.case();
    if let Op::Matmul(op) = &mut case.op {
        [op.index_a, op.index_b] = sides;
    }
    for (side, _) in sides.into_iter().enumerate().filter(|(_, is_indexed)| *is_indexed) {
        let Operand { dtype, ref layout, fill, .. } = case.operands[side];
        let matrix = &layout.shape()[options.batch.len()..];
        let shape = [&[MATRICES.into()], matrix].concat();
        let style = options.styles[side];
        case.operands[side] = Operand::new(dtype, &shape, style, options.offset, fill);
    }
    for (name, dtype) in [("a_index", U32), ("b_index", I32)] {
        if let Some(at) = case.op.roles().iter().position(|role| role.name == name) {
            let index =
                Operand::new(dtype, options.batch, Style::Gapped, 1, Fill::Indices(MATRICES));
            case.operands.insert(at, index);
        }
    }
    Case::new(case.op, case.operands)
}

/// Products whose matrices are named by indices, for every kernel and with every part of the epilogue.
pub fn indexed() -> Vec<Case> {
    let plain = Options { batch: &[5], ..PLAIN };
    let turned = [Style::Odd, Style::Turned, Style::Odd];
    let full = Options {
        batch: &[2, 3],
        beta: 0.5,
        bias: Some(Style::Row),
        activation: Activation::Silu,
        gate: Gate::Interleaved,
        residual: true,
        preactivation: Some(F32),
        ..PLAIN
    };
    let long = Options { batch: &[1], size: [17, 18, 100_000], ..PLAIN };
    let bf16 = Options { values: [BF16, BF16], out: (BF16, Scale::None), ..plain };
    let mut list = vec![
        plain,
        full,
        Options { batch: &[], ..PLAIN },
        Options { batch: &[0], ..PLAIN },
        Options { batch: &[1], ..PLAIN },
        Options { size: [5, 6, 0], ..plain },
        Options { batch: &[2], size: [65, 140, 520], styles: turned, ..PLAIN },
        bf16,
        Options { gate: Gate::Tensor, residual: true, styles: turned, size: [40, 34, 64], ..bf16 },
        Options {
            values: [F16, F16],
            out: (F8E4M3, Scale::Block1x128),
            size: [9, 130, 40],
            ..plain
        },
        Options { values: [I8, I8], out: (I8, Scale::Tensor), ..plain },
        Options { values: [F8E4M3, F8E5M2], size: [17, 18, 300], ..plain },
    ];
    // Few rows, B by its rows and by its columns.
    for (m, values) in [(1, [F32; 2]), (3, [BF16; 2]), (2, [F16; 2])] {
        for styles in [[Style::Tight; 3], turned] {
            list.push(Options { size: [m, 70, 3000], values, styles, ..plain });
        }
    }
    let sides = [[true, true], [true, false], [false, true]];
    let mut cases: Vec<Case> =
        list.iter().flat_map(|options| sides.map(|sides| by_index(*options, sides))).collect();
    // Chains longer than a unit, and tiles of dot products.
    let chain = Options { batch: &[2], size: [20, 70, 8000], styles: turned, ..bf16 };
    let tiles = Options { batch: &[2], size: [130, 258, 300], ..bf16 };
    cases.extend([long, chain, tiles].map(|options| by_index(options, [true, true])));
    // Matrices that begin four elements apart, as offsets in units of four name them.
    let mut over = by_index(plain, [true, true]);
    for side in &mut over.operands[..2] {
        let (shape, mut strides) = (*side.layout.shape(), side.layout.strides().to_vec());
        strides[0] = 4;
        side.layout = Layout::new(shape, Dims::new(&strides).unwrap()).unwrap();
    }
    cases.push(Case::new(over.op, over.operands));
    // Last, what a matrix unit of f16 takes.
    let unit = Options { values: [F16, F16], size: [70, 50, 200], ..plain };
    cases.push(by_index(unit, [true, true]));
    cases
}

/// Those that are cut along K.
pub fn chains_by_index() -> Vec<Case> {
    let k = |case: &Case| case.operands[0].layout.shape().last().copied();
    indexed().into_iter().filter(|case| k(case).is_some_and(|k| k > 5000)).collect()
}

/// Products of 16-bit values, of few outputs and so many terms that they are split, each with other parts of the epilogue.
pub fn splits() -> Vec<Case> {
    // Three more elements make rows of 4101 whole, and the last split short.
    let turned = [Style::Odd, Style::Turned, Style::Odd];
    let bf16 = Options {
        values: [BF16, BF16],
        out: (BF16, Scale::None),
        size: [66, 131, 4101],
        bias: Some(Style::Row),
        activation: Activation::Silu,
        styles: turned,
        ..PLAIN
    };
    let aligned = Options { batch: &[2], size: [5, 24, 4104], styles: [Style::Tight; 3], ..bf16 };
    // Two rows and three columns of the second tiles.
    let tails = Options { preactivation: Some(F32), residual: true, ..bf16 };
    let c = Options { size: [9, 20, 4101], beta: 0.5, out: (F32, Scale::None), ..bf16 };
    let f16 = Options { values: [F16, F16], size: [5, 18, 4101], ..bf16 };
    let pairs = Options { gate: Gate::Interleaved, preactivation: Some(BF16), ..f16 };
    vec![aligned.case(), tails.case(), in_place(c.case(), "c"), pairs.case()]
}

fn special() -> Vec<Case> {
    let mut cases = Vec::new();
    let scaled = Options { scales: [Scale::Row, Scale::Tensor], out: (BF16, Scale::None), ..PLAIN };
    let blocks = Options { scales: [Scale::Block1x128, Scale::Block128x128], ..scaled };
    for values in [[F8E4M3, F8E4M3], [F8E5M2, F8E4M3], [I8, I8]] {
        // The scales that fp8 weights have, and chains longer than a unit.
        cases.push(Options { values, size: [257, 300, 520], ..blocks }.case());
        for options in [PLAIN, scaled, blocks] {
            cases.push(Options { values, size: [17, 18, 100_000], ..options }.case());
        }
        // Nothing to sum, and nothing at all.
        cases.push(Options { values, size: [5, 6, 0], beta: 0.5, ..scaled }.case());
        cases.push(Options { values, size: [0, 6, 7], ..scaled }.case());
    }
    // Whole numbers, of floats so small that 14 bits hold every sum: nothing rounds, so every bit must be right.
    for (values, fill) in [([I8, I8], Fill::Bytes), ([F8E4M3, F8E5M2], Fill::Small)] {
        let mut whole = Options { values, size: [65, 130, 900], ..PLAIN }.case();
        if let Op::Matmul(op) = &mut whole.op {
            op.alpha = 1.0;
        }
        whole.operands[..2].iter_mut().for_each(|operand| operand.fill = fill);
        cases.push(whole);
    }
    // Groups along K longer than a unit, and rows of groups that end inside tiles and bands.
    for device in [false, true] {
        let k = Options { group: Group::K, size: [17, 18, 200_000], device, ..PLAIN };
        cases.push(k.case());
        let rows = Options { size: [1100, 70, 600], sizes: [1, 3, 1], device, ..PLAIN };
        for group in [Group::Contiguous, Group::Masked] {
            cases.push(Options { group, ..rows }.case());
            let values = [F8E4M3, F8E4M3];
            let scales = [Scale::Block128x128, Scale::Block1x128];
            cases.push(Options { group, values, scales, ..rows }.case());
        }
    }
    // Outputs in the place of what is read where they are written.
    let c = Options { beta: 0.5, size: [65, 130, 72], ..PLAIN };
    cases.push(in_place(c.case(), "c"));
    let gate = Options { gate: Gate::Tensor, out: (BF16, Scale::None), ..c };
    cases.push(in_place(gate.case(), "gate"));
    let before = Options { gate: Gate::Interleaved, preactivation: Some(F32), ..c };
    cases.push(in_place(before.case(), "c"));
    let summed = Options { preactivation: Some(F32), residual: true, beta: 0.0, ..c };
    cases.push(in_place(summed.case(), "residual"));
    cases
}
