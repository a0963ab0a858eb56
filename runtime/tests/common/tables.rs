//! The tables of cases, one function an op: awkward shapes as pairwise covers, then cases with a reason of their
//! own. Sizes are those of DeepGEMM's and FlashAttention's tests and the odd ones around vector and tile edges.

use super::case::{Case, Fill, Operand, Style};
use super::cover::{all_pairs, pairwise};
use super::cover_flops;
pub use super::gradients::{attention_backward, norm_backward};
pub use super::quantised::quantize;
use leasehold::DType::{self, BF16, F8E4M3, F16, F32, I8, I32, U32};
use leasehold::op::{
    Activation, ArgMax, Attention, Copy, Gate, Gather, KeyValue, Lens, Map, MapFn, Mask, Matmul,
    Norm, NormKind, Reduce, ReduceFn, Rope, Scatter, ScatterFn, Scores, Softmax, TopK,
};

pub const FLOATS: [DType; 3] = [F32, F16, BF16];
pub const NORMAL: Fill = Fill::Normal(1.0);
/// Element offsets of first elements: aligned, odd, and beyond one 256-byte class.
pub const OFFSETS: [u64; 3] = [0, 1, 131];

/// Epilogues of a product: bias, activation, gate, residual, alpha.
const EPILOGUES: [(Option<Style>, Activation, bool, bool, f32); 8] = [
    (None, Activation::None, false, false, 1.0),
    (Some(Style::Row), Activation::None, false, false, 1.0),
    (Some(Style::Column), Activation::Relu, false, false, 1.0),
    (Some(Style::Row), Activation::GeluErf, false, true, 0.5),
    (None, Activation::GeluTanh, false, true, 0.25),
    (Some(Style::Tight), Activation::Silu, true, true, 0.5),
    (None, Activation::None, true, false, -1.5),
    (None, Activation::None, false, false, 0.0),
];

/// A product of `[batch.., m, k]` and `[batch.., k, n]`. Normal numbers over the root of `k` keep sums near 1.
struct Product<'a> {
    batch: &'a [u64],
    size: [u64; 3],
    epilogue: usize,
    styles: [Style; 3],
    dtypes: [DType; 2],
    offset: u64,
}

impl Product<'_> {
    fn flops(&self) -> u64 {
        2 * self.batch.iter().chain(&self.size).product::<u64>()
    }

    fn case(&self) -> Case {
        let [m, n, k] = self.size;
        let shape = |rows, cols| [self.batch, &[rows, cols]].concat();
        let (bias, activation, gate, residual, alpha) = EPILOGUES[self.epilogue];
        let [sa, sb, so] = self.styles;
        let [dtype, out] = self.dtypes;
        let mut operands = vec![
            Operand::new(dtype, &shape(m, k), sa, self.offset, NORMAL),
            Operand::new(dtype, &shape(k, n), sb, 0, Fill::Normal(1.0 / (k.max(1) as f64).sqrt())),
        ];
        let mut extra = |dtype, style| {
            operands.push(Operand::new(dtype, &shape(m, n), style, self.offset, NORMAL));
        };
        bias.into_iter().for_each(|style| extra(F32, style));
        gate.then(|| extra(dtype, so));
        residual.then(|| extra(out, so));
        operands.push(Operand::out(out, &shape(m, n), so, self.offset));
        let op = Matmul {
            alpha,
            bias: bias.is_some(),
            activation,
            gate: if gate { Gate::Tensor } else { Gate::None },
            residual,
            ..Matmul::default()
        };
        Case::new(op, operands)
    }
}

pub fn matmul() -> Vec<Case> {
    const SIZES: [u64; 10] = [1, 2, 3, 7, 17, 63, 65, 127, 129, 514];
    const DEPTHS: [u64; 7] = [1, 8, 17, 72, 136, 520, 1030];
    const BATCHES: [&[u64]; 4] = [&[], &[3], &[2, 2], &[1, 1, 2]];
    let sizes = [10, 10, 7, 4, 5, 5, 4, 3, 3, EPILOGUES.len(), 3];
    // Repeating the first axis of a matrix alone would repeat its rows: legal, and tested too.
    let product = |row: &[usize]| Product {
        batch: BATCHES[row[3]],
        size: [SIZES[row[0]], SIZES[row[1]], DEPTHS[row[2]]],
        styles: [IN_STYLES[row[4]], IN_STYLES[row[5]], ROW_STYLES[row[6]]],
        dtypes: [FLOATS[row[7]], FLOATS[row[8]]],
        epilogue: row[9],
        offset: OFFSETS[row[10]],
    };
    let rows = pairwise(&sizes, cover_flops(), |row| product(row).flops());
    let mut cases: Vec<Case> = rows.iter().map(|row| product(row).case()).collect();
    let plain = |batch, size, dtype| Product {
        batch,
        size,
        epilogue: 3,
        styles: [Style::Tight; 3],
        dtypes: [dtype; 2],
        offset: 0,
    };
    // Nothing to multiply: the epilogue of zeros, or no output at all.
    for size in [[0, 5, 7], [5, 0, 7], [5, 7, 0], [0, 0, 0]] {
        cases.extend([F32, BF16].map(|dtype| plain(&[2], size, dtype).case()));
    }
    cases.push(plain(&[0], [3, 4, 5], F32).case());
    // A contraction longer than a unit; a large batch of small products; one row.
    cases.push(plain(&[], [512, 256, 700], F32).case());
    // An epilogue so slow that it is a unit of its own, after one chunk and after two.
    let slow = [Style::Tight, Style::Odd, Style::Turned];
    for depth in [512, 600] {
        cases.push(Product { styles: slow, ..plain(&[], [512, 256, depth], BF16) }.case());
    }
    cases.push(plain(&[2], [17, 17, 100_000], F16).case());
    let styles = [Style::Tight, Style::Turned, Style::Odd];
    for size in [[17, 19, 90_000], [17, 1, 200_000], [1, 19, 200_000]] {
        cases.push(Product { epilogue: 0, styles, ..plain(&[], size, F32) }.case());
    }
    // Few rows, B by its rows and by its columns, chains longer than a unit.
    for (size, dtype) in [([3, 300, 20_000], BF16), ([16, 70, 40_000], F16), ([9, 700, 5000], F32)]
    {
        for b in [Style::Tight, Style::Turned] {
            let styles = [Style::Odd, b, Style::Tight];
            cases.push(Product { styles, ..plain(&[], size, dtype) }.case());
        }
    }
    cases.push(plain(&[64], [64, 64, 64], F32).case());
    cases.push(plain(&[], [1, 2112, 7168], BF16).case());
    cases.push(in_place(plain(&[2], [65, 129, 72], F16).case(), "residual"));
    cases.extend(super::products::options());
    // DeepGEMM's dense shapes, behind the flag.
    for size in [[128, 2112, 7168], [128, 576, 7168], [1023, 1025, 1024], [128, 7168, 2048]] {
        cases.extend(FLOATS.map(|dtype| plain(&[], size, dtype).case()));
    }
    cases
}

/// The same case with the output in the place of the operand called `name`.
pub fn in_place(mut case: Case, name: &str) -> Case {
    let i = case.op.roles().iter().position(|role| role.name == name).unwrap();
    let (operand, last) = (case.operands[i].clone(), case.operands.len() - 1);
    case.operands[last] = Operand { fill: Fill::Same(i), ..operand };
    case.name += " in place";
    case
}

/// Attention of `[batch, heads, rows, d]`.
struct Heads {
    batch: u64,
    heads: [u64; 2],
    rows: u64,
    keys: u64,
    dims: [u64; 2],
    causal: bool,
    mask: Option<Style>,
    lens: bool,
    style: Style,
    dtypes: [DType; 2],
    offset: u64,
}

impl Heads {
    /// Operations, or as many as the test could do while it moves the elements.
    fn work(&self) -> u64 {
        let Self { batch, heads: [heads, kv], rows, keys, dims: [d, dv], .. } = *self;
        let scores = batch * heads * rows * keys;
        let elements = batch * (heads * rows + kv * keys) * (d + dv) + scores;
        (2 * scores * (d + dv + 8)).max(20 * elements)
    }

    fn case(&self) -> Case {
        let Self { batch, heads: [heads, kv], rows, keys, dims: [d, dv], style, offset, .. } =
            *self;
        let [dtype, out] = self.dtypes;
        let make = |shape: &[u64]| Operand::new(dtype, shape, style, offset, NORMAL);
        let mut operands = vec![
            make(&[batch, heads, rows, d]),
            make(&[batch, kv, keys, d]),
            make(&[batch, kv, keys, dv]),
        ];
        if let Some(style) = self.mask {
            let shape = [batch, heads, rows, keys];
            operands.push(Operand::new(F32, &shape, style, offset, Fill::Mask(rows % 7)));
        }
        operands.push(Operand::out(out, &[batch, heads, rows, dv], style, offset));
        operands.push(Operand::out(F32, &[batch, heads, rows], Style::Tight, offset));
        // Lengths from nothing to everything.
        let lens = (0..batch).map(|i| (keys * (i * 3 % 4) / 3) as u32).collect();
        let op = Attention {
            scores: Scores {
                scale: 1.0 / (d as f32).sqrt(),
                causal: self.causal,
                mask: if self.mask.is_some() { Mask::Additive } else { Mask::None },
                lens: if self.lens { Lens::Host(lens) } else { Lens::Full },
                ..Scores::default()
            },
            log_sum_exp: true,
            ..Attention::default()
        };
        Case::new(op, operands)
    }
}

/// Query and key lengths of FlashAttention's tests: dense, variable and packed lengths, key/value caches.
#[rustfmt::skip]
const SEQUENCES: [[u64; 2]; 43] = [
    [1, 1], [1, 3], [2, 1], [1, 128], [1, 339], [511, 1], [239, 1], [3, 513], [3, 799], [3, 1024], [799, 3], [97, 97],
    [64, 128], [64, 256], [64, 800], [64, 2048], [128, 128], [128, 192], [128, 217], [113, 128], [113, 203],
    [113, 211], [108, 256], [200, 200], [256, 256], [256, 512], [307, 256], [384, 256], [512, 256], [640, 128],
    [768, 768], [1023, 1024], [1024, 1023], [1024, 1024], [1025, 1025], [1, 131_072], [16, 20_000], [16, 100_000],
    [16, 131_072], [2048, 2048], [2048, 3577], [4096, 4096], [4224, 4224],
];

/// Head dims of theirs, of queries and keys and of values; the first is the cheapest, as a cover wants it.
#[rustfmt::skip]
const HEAD_DIMS: [[u64; 2]; 15] = [
    [1, 3], [32, 32], [40, 40], [59, 59], [64, 64], [80, 80], [96, 96], [111, 40], [111, 111], [128, 128], [160, 160],
    [192, 128], [224, 224], [256, 256], [64, 256],
];

pub fn attention() -> Vec<Case> {
    let sizes = [SEQUENCES.len(), HEAD_DIMS.len(), 3, 3, 2, 3, 2, 4, 3, 3, 3];
    let heads = |row: &[usize]| Heads {
        // Rows that all see the same many keys err alike: one lucky formula would judge another by too little.
        batch: [1, 2, 4][row[2]] * if SEQUENCES[row[0]][1] > 9999 { 4 } else { 1 },
        heads: [[1, 1], [4, 1], [6, 2]][row[3]],
        rows: SEQUENCES[row[0]][0],
        keys: SEQUENCES[row[0]][1],
        dims: HEAD_DIMS[row[1]],
        causal: row[4] == 1,
        mask: [None, Some(Style::Tight), Some(Style::Repeat)][row[5]],
        lens: row[6] == 1,
        style: [Style::Tight, Style::Heads, Style::Odd, Style::Turned][row[7]],
        dtypes: [FLOATS[row[8]], FLOATS[row[9]]],
        offset: OFFSETS[row[10]],
    };
    let rows = pairwise(&sizes, cover_flops(), |row| heads(row).work());
    let mut cases: Vec<Case> = rows.iter().map(|row| heads(row).case()).collect();
    let plain = |batch, heads, rows, keys, dims| Heads {
        batch,
        heads,
        rows,
        keys,
        dims,
        causal: true,
        mask: None,
        lens: true,
        style: Style::Tight,
        dtypes: [F32; 2],
        offset: 0,
    };
    // Nothing to attend to, nobody who attends.
    cases.extend([
        plain(2, [2, 1], 3, 0, [8, 8]).case(),
        plain(2, [2, 2], 0, 5, [8, 8]).case(),
        plain(0, [2, 2], 3, 5, [8, 8]).case(),
        plain(1, [2, 2], 3, 5, [8, 0]).case(),
    ]);
    // Keys longer than a unit: the running maximum, sum and values are carried.
    cases.push(Heads { lens: false, ..plain(1, [1, 1], 3, 20_000, [64, 64]) }.case());
    cases.push(Heads { lens: false, ..plain(2, [1, 1], 70, 4100, [40, 72]) }.case());
    for (rows, keys) in [(4096, 4096), (16, 20_000), (2048, 3577)] {
        for dtype in FLOATS {
            let dtypes = [dtype; 2];
            cases.push(Heads { dtypes, ..plain(1, [2, 1], rows, keys, [128, 128]) }.case());
        }
    }
    cases.extend(attention_entries());
    cases
}

/// How the rows and keys of batch entries lie.
#[derive(Clone, Copy, PartialEq)]
enum Batching {
    Dense,
    Packed,
    /// Keys in pages of this many.
    Paged(u64),
    /// Both.
    PackedPaged(u64),
}

/// Attention of three entries of different lengths, with options. `device`: their counts are operands.
fn entries(row: &[usize], rows: &[u32], keys: &[u32]) -> Case {
    let &[batching, window, softcap, alibi, sinks, causal, device, heads, dims, dtype, style] = row
    else {
        panic!("a row of factors")
    };
    let batching = [
        Batching::Dense,
        Batching::Packed,
        Batching::Paged(1),
        Batching::Paged(16),
        Batching::Paged(37),
        Batching::PackedPaged(16),
    ][batching];
    let (packed, page) = match batching {
        Batching::Dense => (false, None),
        Batching::Packed => (true, None),
        Batching::Paged(page) => (false, Some(page)),
        Batching::PackedPaged(page) => (true, Some(page)),
    };
    let device = device == 1;
    let [heads, kv] = [[1, 1], [6, 2], [4, 1]][heads];
    let [d, dv] = [[64, 64], [40, 72], [33, 7]][dims];
    let dtype = FLOATS[dtype];
    let style = [Style::Tight, Style::Odd, Style::Heads][style];
    let batch = rows.len() as u64;
    let (most_rows, most_keys) = (*rows.iter().max().unwrap(), *keys.iter().max().unwrap());
    let sum = |list: &[u32]| u64::from(list.iter().sum::<u32>());
    // Three rows more than are owned.
    let (q_batch, q_rows) = if packed { (1, sum(rows) + 3) } else { (batch, most_rows.into()) };
    let room = page.map_or(0, |page| u64::from(most_keys).div_ceil(page));
    let [k_batch, k_rows] = match page {
        Some(page) => [batch * room + 2, page],
        None if packed => [1, sum(keys) + 2],
        None => [batch, most_keys.into()],
    };
    let make = |shape: &[u64]| Operand::new(dtype, shape, style, 1, NORMAL);
    let mut operands = vec![
        make(&[q_batch, heads, q_rows, d]),
        make(&[k_batch, kv, k_rows, d]),
        make(&[k_batch, kv, k_rows, dv]),
    ];
    let one = |fill| Operand::new(F32, &[heads], Style::Gapped, 1, fill);
    operands.extend((alibi == 1).then(|| one(Fill::Positive)));
    operands.extend((sinks == 1).then(|| one(NORMAL)));
    let counts = |list: &[u32]| {
        Operand::new(I32, &[batch], Style::Tight, 0, Fill::List([list[0], list[1], list[2]]))
    };
    let lens = |list: &[u32], most| match device {
        true => Lens::Device { max: most },
        false => Lens::Host(list.to_vec()),
    };
    operands.extend((packed && device).then(|| counts(rows)));
    operands.extend(device.then(|| counts(keys)));
    if page.is_some() {
        let pages = Fill::Indices(k_batch as u32);
        operands.push(Operand::new([I32, U32][causal], &[batch, room], Style::Odd, 0, pages));
    }
    operands.push(Operand::out(dtype, &[q_batch, heads, q_rows, dv], style, 1));
    operands.push(Operand::out(F32, &[q_batch, heads, q_rows], Style::Tight, 1));
    let op = Attention {
        scores: Scores {
            scale: 1.0 / (d as f32).sqrt(),
            causal: causal == 1,
            window: [None, Some([3, 0]), Some([0, 5]), Some([100, 20])][window],
            softcap: [0.0, 1.5, 30.0][softcap],
            alibi: alibi == 1,
            rows: if packed { lens(rows, most_rows) } else { Lens::Full },
            lens: lens(keys, most_keys),
            ..Scores::default()
        },
        sinks: sinks == 1,
        key_value: page.map_or(KeyValue::Dense, |page| KeyValue::Paged { page: page as u32 }),
        log_sum_exp: true,
        ..Attention::default()
    };
    Case::new(op, operands)
}

fn attention_entries() -> Vec<Case> {
    // Decode, chunked prefill, many queries, more rows than keys, nothing at all.
    const COUNTS: [[[u32; 3]; 2]; 5] = [
        [[1, 1, 1], [1, 200, 77]],
        [[70, 64, 1], [70, 130, 300]],
        [[5, 0, 129], [0, 9, 129]],
        [[90, 3, 2], [40, 3, 1]],
        [[2, 7, 65], [257, 128, 1]],
    ];
    all_pairs(&[6, 4, 3, 2, 2, 2, 2, 3, 3, 3, 3, COUNTS.len()])
        .iter()
        .map(|row| {
            let [rows, keys] = &COUNTS[row[11]];
            entries(&row[..11], rows, keys)
        })
        .collect()
}

/// Attention of f16 that a matrix unit runs: entries of a few rows more than a tile and of more than a chunk of keys,
/// with every pair of options.
pub fn attention_of_f16() -> Vec<Case> {
    all_pairs(&[6, 4, 3, 2, 2, 2, 2, 3, 2, 3])
        .iter()
        .map(|row| {
            let (options, style) = row.split_at(9);
            entries(&[options, &[1], style].concat(), &[17, 3, 16], &[270, 33, 5])
        })
        .collect()
}

/// Shapes of row ops: short, around vector edges, many rows, longer than a chunk, several axes, empty.
pub const ROWS: [&[u64]; 14] = [
    &[1],
    &[7],
    &[3, 1],
    &[5, 15],
    &[2, 3, 17],
    &[129, 64],
    &[33, 384],
    &[2, 1, 3, 1, 2, 63],
    &[4, 1025],
    &[1000, 3],
    &[2, 66_000],
    &[1, 200_003],
    &[0, 5],
    &[5, 0],
];
pub const ROW_STYLES: [Style; 4] = [Style::Tight, Style::Odd, Style::Turned, Style::Gapped];
pub const IN_STYLES: [Style; 5] =
    [Style::Tight, Style::Odd, Style::Turned, Style::Gapped, Style::Repeat];

pub fn norm() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in all_pairs(&[ROWS.len(), 5, 4, 3, 3, 2, 4, 3, 2]) {
        let (shape, input) = (ROWS[row[0]], IN_STYLES[row[1]]);
        let (dtype, out) = (FLOATS[row[3]], FLOATS[row[4]]);
        let kind = [NormKind::Layer, NormKind::Rms][row[5]];
        let (weight, bias) = (row[6] & 1 != 0, row[6] & 2 != 0);
        let offset = OFFSETS[row[7]];
        let epsilon = [1e-5, 1e-12][row[8]];
        let n = &shape[shape.len() - 1..];
        let mut operands = vec![Operand::new(dtype, shape, input, offset, NORMAL)];
        if weight {
            operands.push(Operand::new(F32, n, Style::Gapped, offset, NORMAL));
        }
        if bias {
            operands.push(Operand::new(out, n, Style::Tight, offset, NORMAL));
        }
        operands.push(Operand::out(out, shape, ROW_STYLES[row[2]], offset));
        // A row of one element, or the same element repeated, has no deviation to divide by.
        let flat = n[0] == 1 || (input == Style::Repeat && shape.len() == 1);
        let epsilon = if flat { 1e-2 } else { epsilon };
        cases.push(Case::new(Norm { kind, epsilon, weight, bias }, operands));
    }
    let x = Operand::new(BF16, &[9, 65], Style::Odd, 1, NORMAL);
    let out = Operand::out(BF16, &[9, 65], Style::Odd, 1);
    let op = Norm { kind: NormKind::Rms, epsilon: 1e-6, weight: false, bias: false };
    cases.push(in_place(Case::new(op, vec![x, out]), "x"));
    cases
}

/// A shape whose every axis an op may work along.
const ALONG: [u64; 4] = [3, 70, 5, 33];

pub fn softmax() -> Vec<Case> {
    let along = (0..4u8).map(|axis| {
        let x = Operand::new(BF16, &ALONG, Style::Turned, 1, NORMAL);
        let out = Operand::out(F16, &ALONG, Style::Odd, 3);
        Case::new(Softmax { scale: 1.0, axis }, vec![x, out])
    });
    rows_of_softmax().into_iter().chain(along).collect()
}

fn rows_of_softmax() -> Vec<Case> {
    all_pairs(&[ROWS.len(), 4, 4, 3, 3, 3, 3])
        .iter()
        .map(|row| {
            let shape = ROWS[row[0]];
            let offset = OFFSETS[row[5]];
            // Some rows see nothing.
            let fill = [NORMAL, Fill::Mask(3), Fill::Normal(30.0)][row[6]];
            let style = ROW_STYLES[row[1]];
            let x = Operand::new(FLOATS[row[3]], shape, style, offset, fill);
            let out = Operand::out(FLOATS[row[4]], shape, ROW_STYLES[row[2]], offset);
            let axis = (shape.len() - 1) as u8;
            Case::new(Softmax { scale: [1.0, 0.5, 2.0][row[6]], axis }, vec![x, out])
        })
        .collect()
}

pub fn reduce() -> Vec<Case> {
    let along = (0..4u8).map(|axis| {
        let mut outer = ALONG.to_vec();
        outer.remove(axis.into());
        let x = Operand::new(F16, &ALONG, Style::Odd, 1, NORMAL);
        let out = Operand::out(BF16, &outer, Style::Turned, 3);
        Case::new(Reduce { function: ReduceFn::Mean, axis }, vec![x, out])
    });
    rows_of_reduce().into_iter().chain(along).collect()
}

fn rows_of_reduce() -> Vec<Case> {
    all_pairs(&[ROWS.len(), 5, 3, 3, 3, 4])
        .iter()
        .map(|row| {
            let shape = ROWS[row[0]];
            let offset = OFFSETS[row[4]];
            let style = IN_STYLES[row[1]];
            let x = Operand::new(FLOATS[row[2]], shape, style, offset, NORMAL);
            let outer = &shape[..shape.len() - 1];
            let out = Operand::out(FLOATS[row[3]], outer, ROW_STYLES[row[1] % 4], offset);
            let axis = (shape.len() - 1) as u8;
            Case::new(Reduce { function: ReduceFn::ALL[row[5]], axis }, vec![x, out])
        })
        .collect()
}

/// Shapes of elementwise ops.
const ELEMENTS: [&[u64]; 9] = [
    &[],
    &[1],
    &[1, 3, 1, 5],
    &[33, 31],
    &[2, 3, 4, 5, 6, 7],
    &[70_001],
    &[35_000, 2],
    &[3, 0, 2],
    &[129, 1025],
];

pub fn map() -> Vec<Case> {
    let functions = MapFn::ALL;
    let mut cases = Vec::new();
    for row in all_pairs(&[functions.len(), ELEMENTS.len(), 5, 4, 3, 3, 3, 3]) {
        let (function, shape) = (functions[row[0]], ELEMENTS[row[1]]);
        let (input, output) = (IN_STYLES[row[2]], ROW_STYLES[row[3]]);
        let offset = OFFSETS[row[6]];
        let positive = [MapFn::Log, MapFn::Sqrt, MapFn::Rsqrt, MapFn::Recip, MapFn::Div];
        let fill = if positive.contains(&function) { Fill::Positive } else { Fill::Normal(2.0) };
        let mut operands = vec![Operand::new(FLOATS[row[4]], shape, input, offset, fill)];
        if function.arity() == 2 {
            operands.push(Operand::new(FLOATS[row[5]], shape, Style::Row, 0, fill));
        }
        operands.push(Operand::out(FLOATS[row[5]], shape, output, offset));
        let (scale, shift) = [(1.0, 0.0), (0.5, 0.0), (-1.5, 2.0)][row[7]];
        cases.push(Case::new(Map { function, scale, shift }, operands));
    }
    let whole = functions.iter().filter(|function| function.for_integers());
    for (&function, (dtype, style)) in
        whole.flat_map(|f| [(I32, Style::Odd), (U32, Style::Turned)].map(|d| (f, d)))
    {
        let shape = [40, 33];
        let make = || Operand::new(dtype, &shape, style, 1, Fill::Words);
        let mut operands: Vec<Operand> = (0..function.arity()).map(|_| make()).collect();
        operands.push(Operand::out(dtype, &shape, Style::Tight, 3));
        cases.push(Case::new(Map { function, scale: 1.0, shift: 0.0 }, operands));
    }
    let x = Operand::new(F16, &[9, 65], Style::Gapped, 1, NORMAL);
    let op = Map { function: MapFn::Silu, scale: 1.0, shift: 0.0 };
    let out = Operand::out(F16, &[9, 65], Style::Gapped, 1);
    cases.push(in_place(Case::new(op, vec![x, out]), "x"));
    cases
}

/// Types that are moved, not computed with.
const MOVED: [DType; 7] = [F32, F16, BF16, I32, U32, I8, F8E4M3];

fn moved(dtype: DType) -> Fill {
    match dtype {
        I8 => Fill::Bytes,
        _ if dtype.is_float() => NORMAL,
        _ => Fill::Words,
    }
}

pub fn gather() -> Vec<Case> {
    let along = (1..3u8).map(|axis| {
        let (table, index) = ([5, 40, 6], [2, 3]);
        let mut out = table.to_vec();
        out.splice(usize::from(axis)..=usize::from(axis), index);
        let operands = vec![
            Operand::new(F16, &table, Style::Odd, 1, NORMAL),
            Operand::new(I32, &index, Style::Tight, 0, Fill::Indices(table[axis as usize] as u32)),
            Operand::out(F16, &out, Style::Turned, 3),
        ];
        Case::new(Gather { axis }, operands)
    });
    rows_of_gather().into_iter().chain(along).collect()
}

fn rows_of_gather() -> Vec<Case> {
    const TABLES: [&[u64]; 7] =
        [&[5], &[1000, 1], &[7, 384], &[300, 63], &[4, 3, 5], &[2, 0], &[65_537, 2]];
    const INDICES: [&[u64]; 6] = [&[], &[1], &[3, 5], &[0], &[1000], &[2, 3, 7]];
    all_pairs(&[TABLES.len(), INDICES.len(), MOVED.len(), 4, 4, 4, 2, 3])
        .iter()
        .map(|row| {
            let (table, index, dtype) = (TABLES[row[0]], INDICES[row[1]], MOVED[row[2]]);
            let offset = OFFSETS[row[7]];
            let fill = moved(dtype);
            let bound = table[0] as u32;
            let out: Vec<u64> = index.iter().chain(&table[1..]).copied().collect();
            let integer = [I32, U32][row[6]];
            let index_fill = Fill::Indices(bound);
            let operands = vec![
                Operand::new(dtype, table, ROW_STYLES[row[3]], offset, fill),
                Operand::new(integer, index, ROW_STYLES[row[4]], offset, index_fill),
                Operand::out(dtype, &out, ROW_STYLES[row[5]], offset),
            ];
            Case::new(Gather { axis: 0 }, operands)
        })
        .collect()
}

pub fn copy() -> Vec<Case> {
    all_pairs(&[ELEMENTS.len(), MOVED.len(), 5, 4, 3])
        .iter()
        .map(|row| {
            let (shape, dtype) = (ELEMENTS[row[0]], MOVED[row[1]]);
            let fill = moved(dtype);
            let x = Operand::new(dtype, shape, IN_STYLES[row[2]], OFFSETS[row[4]], fill);
            let out = Operand::out(dtype, shape, ROW_STYLES[row[3]], OFFSETS[2 - row[4]]);
            Case::new(Copy, vec![x, out])
        })
        .collect()
}

pub fn rope() -> Vec<Case> {
    // batch, heads, rows, d, dims
    const SHAPES: [[u64; 5]; 7] = [
        [1, 1, 1, 2, 2],
        [2, 9, 1, 64, 64],
        [1, 3, 70, 64, 64],
        [2, 2, 5, 33, 32],
        [1, 4, 3, 128, 40],
        [3, 1, 2, 7, 0],
        [2, 0, 4, 8, 8],
    ];
    all_pairs(&[SHAPES.len(), 3, 3, 4, 4, 3, 2, 3])
        .iter()
        .map(|row| {
            let [batch, heads, rows, d, dims] = SHAPES[row[0]];
            let shape = [batch, heads, rows, d];
            let (dtype, out) = (FLOATS[row[1]], FLOATS[row[2]]);
            let styles = [Style::Tight, Style::Heads, Style::Odd, Style::Turned];
            let (base, most) = [(1e4, 100), (1e5, 9000), (5e5, 130_000)][row[7]];
            let operands = vec![
                Operand::new(dtype, &shape, styles[row[3]], OFFSETS[row[5]], NORMAL),
                Operand::new(
                    [I32, U32][row[6]],
                    &[batch, rows],
                    ROW_STYLES[row[4]],
                    OFFSETS[row[5]],
                    Fill::Indices(most),
                ),
                Operand::out(out, &shape, styles[row[4]], OFFSETS[row[5]]),
            ];
            let interleaved = row[6] == 1;
            Case::new(Rope { base, dims: dims as u32, interleaved }, operands)
        })
        .collect()
}

pub fn scatter() -> Vec<Case> {
    const TABLES: [&[u64]; 6] = [&[5], &[40, 1], &[7, 384], &[30, 63], &[4, 3, 300], &[2, 0]];
    // Many entries of few rows: indices repeat.
    const INDICES: [&[u64]; 6] = [&[], &[1], &[3, 5], &[0], &[1000], &[2, 3, 7]];
    let sizes = [TABLES.len(), INDICES.len(), MOVED.len(), 4, 4, 4, 2, 3, 2];
    let mut cases: Vec<Case> = all_pairs(&sizes)
        .iter()
        .map(|row| {
            let (table, index, dtype) = (TABLES[row[0]], INDICES[row[1]], MOVED[row[2]]);
            let offset = OFFSETS[row[7]];
            let from: Vec<u64> = index.iter().chain(&table[1..]).copied().collect();
            // Sums have floats on both sides, and an f32 one where they land.
            let adds = row[8] == 1 && dtype.is_float();
            let to = if adds { F32 } else { dtype };
            let operands = vec![
                Operand::new(dtype, &from, ROW_STYLES[row[3]], offset, moved(dtype)),
                Operand::new(
                    [I32, U32][row[6]],
                    index,
                    ROW_STYLES[row[4]],
                    offset,
                    Fill::Indices(table[0] as u32),
                ),
                Operand::new(to, table, ROW_STYLES[row[5]], offset, moved(to)),
            ];
            let function = if adds { ScatterFn::Add } else { ScatterFn::Set };
            Case::new(Scatter { function, axis: 0 }, operands)
        })
        .collect();
    for axis in 1..3u8 {
        let (table, index) = ([5, 40, 6], [2, 3]);
        let mut from = table.to_vec();
        from.splice(usize::from(axis)..=usize::from(axis), index);
        let operands = vec![
            Operand::new(BF16, &from, Style::Odd, 1, NORMAL),
            Operand::new(I32, &index, Style::Tight, 0, Fill::Indices(table[axis as usize] as u32)),
            Operand::new(F32, &table, Style::Turned, 3, NORMAL),
        ];
        cases.push(Case::new(Scatter { function: ScatterFn::Add, axis }, operands));
    }
    // batch, heads, rows, d, pages, page, most pages of an entry
    for [batch, heads, rows, d, pages, page, most] in [
        [1, 1, 1, 8, 3, 4, 2],
        [3, 3, 1, 64, 9, 16, 3],
        [2, 2, 21, 33, 7, 5, 4],
        [2, 1, 0, 8, 1, 1, 1],
    ] {
        for dtype in [F32, BF16] {
            let operands = vec![
                Operand::new(dtype, &[batch, heads, rows, d], Style::Heads, 1, NORMAL),
                Operand::new(I32, &[batch, most], Style::Odd, 0, Fill::Indices(pages as u32)),
                Operand::new(U32, &[batch], Style::Tight, 0, Fill::Indices((most * page) as u32)),
                Operand::new(dtype, &[pages, heads, page, d], Style::Odd, 1, NORMAL),
            ];
            cases.push(Case::new(Scatter { function: ScatterFn::Append, axis: 0 }, operands));
        }
    }
    cases
}

/// Shapes of selections; rows beyond a chunk are cut.
const SELECTED: [&[u64]; 8] =
    [&[1], &[7], &[3, 1], &[2, 3, 17], &[33, 384], &[2, 66_000], &[1, 200_003], &[0, 5]];

pub fn arg_max() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in all_pairs(&[SELECTED.len(), 5, 3, 3, 4, 3, 2]) {
        let shape = SELECTED[row[0]];
        let fill = [NORMAL, Fill::Indices(3), Fill::Mask(1)][row[3]];
        let x = Operand::new(FLOATS[row[2]], shape, IN_STYLES[row[1]], OFFSETS[row[5]], fill);
        let outer = &shape[..shape.len() - 1];
        let index = Operand::out([I32, U32][row[6]], outer, ROW_STYLES[row[4]], OFFSETS[row[5]]);
        cases.push(Case::new(ArgMax { axis: (shape.len() - 1) as u8 }, vec![x, index]));
    }
    for axis in 0..4u8 {
        let mut outer = ALONG.to_vec();
        outer.remove(axis.into());
        let x = Operand::new(F16, &ALONG, Style::Odd, 1, Fill::Indices(9));
        cases
            .push(Case::new(ArgMax { axis }, vec![x, Operand::out(I32, &outer, Style::Turned, 3)]));
    }
    cases
}

pub fn top_k() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in all_pairs(&[SELECTED.len(), 4, 3, 3, 4, 3, 4]) {
        let shape = SELECTED[row[0]];
        let last = shape.len() - 1;
        let k = [1, 2, 40, 256][row[6]].min(shape[last]);
        let fill = [NORMAL, Fill::Indices(3), Fill::Mask(1)][row[3]];
        let dtype = FLOATS[row[2]];
        let mut found = shape.to_vec();
        found[last] = k;
        let operands = vec![
            Operand::new(dtype, shape, ROW_STYLES[row[1]], OFFSETS[row[5]], fill),
            Operand::out(dtype, &found, ROW_STYLES[row[4]], OFFSETS[row[5]]),
            Operand::out([I32, U32][row[5] % 2], &found, ROW_STYLES[row[1]], 0),
        ];
        cases.push(Case::new(TopK { k: k as u32, axis: last as u8 }, operands));
    }
    let x = Operand::new(BF16, &ALONG, Style::Odd, 1, NORMAL);
    let found = [3, 9, 5, 33];
    let value = Operand::out(BF16, &found, Style::Turned, 3);
    let index = Operand::out(I32, &found, Style::Tight, 0);
    cases.push(Case::new(TopK { k: 9, axis: 1 }, vec![x, value, index]));
    cases
}
