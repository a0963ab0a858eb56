//! Tables of the gradients' cases; see `tables`.

use super::case::{Case, Fill, Operand, Style};
use super::cover::{all_pairs, pairwise};
use super::cover_flops;
use super::tables::{FLOATS, IN_STYLES, NORMAL, OFFSETS, ROW_STYLES, ROWS};
use leasehold::DType::{self, BF16, F16, F32, I32};
use leasehold::op::{AttentionBackward, Lens, Mask, NormBackward, NormKind, Scores};

pub fn norm_backward() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in all_pairs(&[ROWS.len(), 5, 5, 4, 3, 3, 3, 2, 2, 3]) {
        let (shape, input) = (ROWS[row[0]], IN_STYLES[row[1]]);
        let (dtype, gradient, d_x) = (FLOATS[row[4]], FLOATS[row[5]], FLOATS[row[6]]);
        let kind = [NormKind::Layer, NormKind::Rms][row[7]];
        let weight = row[8] == 1;
        let offset = OFFSETS[row[9]];
        let n = &shape[shape.len() - 1..];
        let mut operands = vec![Operand::new(dtype, shape, input, offset, NORMAL)];
        operands.extend(weight.then(|| Operand::new(F16, n, Style::Gapped, offset, NORMAL)));
        operands.extend([
            Operand::new(gradient, shape, IN_STYLES[row[2]], offset, NORMAL),
            Operand::out(d_x, shape, ROW_STYLES[row[3]], offset),
            Operand::out(F32, shape, ROW_STYLES[row[1] % 4], offset),
        ]);
        // A row of one element, or the same element repeated, has no deviation to divide by, and its gradient is what
        // two equal terms leave.
        let flat = n[0] == 1 || (input == Style::Repeat && shape.len() == 1);
        let epsilon = if flat { 1.0 } else { 1e-5 };
        cases.push(Case::new(NormBackward { kind, epsilon, weight }, operands));
    }
    cases
}

/// Gradients of attention of `[batch, heads, rows, d]`.
#[derive(Clone, Copy)]
struct Heads {
    batch: u64,
    heads: [u64; 2],
    rows: u64,
    keys: u64,
    dims: [u64; 2],
    causal: bool,
    styles: [Style; 2],
    dtypes: [DType; 3],
    offset: u64,
}

const PLAIN: Heads = Heads {
    batch: 2,
    heads: [2, 1],
    rows: 3,
    keys: 5,
    dims: [8, 8],
    causal: true,
    styles: [Style::Tight; 2],
    dtypes: [F32; 3],
    offset: 0,
};

impl Heads {
    /// Operations, or as many as the test could do while it moves the elements.
    fn work(&self) -> u64 {
        let Self { batch, heads: [heads, kv], rows, keys, dims: [d, dv], .. } = *self;
        let elements = 2 * batch * (heads * rows + kv * keys) * (d + dv);
        (batch * heads * rows * keys * (10 * (d + dv) + 12)).max(20 * elements)
    }

    /// The output and the log-sum-exp are any numbers: the formula holds for all. Scores are small, so that no single
    /// weight outgrows all others and its error those of both formulas.
    fn case(&self) -> Case {
        let Self { batch, heads: [heads, kv], rows, keys, dims: [d, dv], offset, .. } = *self;
        let ([ins, outs], [dtype, given, found]) = (self.styles, self.dtypes);
        let read = |dtype, shape: &[u64]| Operand::new(dtype, shape, ins, offset, NORMAL);
        let write = |shape: &[u64]| Operand::out(found, shape, outs, offset);
        let (q, k, v) = ([batch, heads, rows, d], [batch, kv, keys, d], [batch, kv, keys, dv]);
        let out = [batch, heads, rows, dv];
        let lse = Operand::new(F32, &q[..3], Style::Gapped, 1, Fill::List([2, 3, 2]));
        let inputs = [read(dtype, &q), read(dtype, &k), read(dtype, &v)];
        let more = [read(given, &out), lse, read(given, &out)];
        let gradients = [write(&q), write(&k), write(&v)];
        let operands = inputs.into_iter().chain(more).chain(gradients).collect();
        let scale = 0.3 / (d.max(1) as f32).sqrt();
        Case::new(
            AttentionBackward {
                scores: Scores { scale, causal: self.causal, ..Scores::default() },
            },
            operands,
        )
    }
}

pub fn attention_backward() -> Vec<Case> {
    #[rustfmt::skip]
    const SEQUENCES: [[u64; 2]; 18] = [
        [1, 1], [1, 3], [2, 1], [3, 513], [799, 70], [97, 97], [64, 128], [128, 64], [113, 203], [203, 113], [128, 192],
        [65, 129], [200, 200], [307, 256], [256, 307], [1, 339], [511, 1], [600, 500],
    ];
    #[rustfmt::skip]
    const DIMS: [[u64; 2]; 8] =
        [[1, 3], [32, 32], [40, 72], [59, 59], [64, 64], [111, 40], [128, 128], [256, 256]];
    let sizes = [SEQUENCES.len(), DIMS.len(), 3, 4, 2, 4, 4, 3, 3, 3, 3];
    let of_row = |row: &[usize]| Heads {
        rows: SEQUENCES[row[0]][0],
        keys: SEQUENCES[row[0]][1],
        dims: DIMS[row[1]],
        // Few pairs of rows and keys have many entries: one lucky formula would judge another by too little.
        batch: [1, 2, 3][row[2]] * (32 / SEQUENCES[row[0]].into_iter().min().unwrap_or(1)).max(1),
        heads: [[1, 1], [4, 1], [6, 2], [3, 3]][row[3]],
        causal: row[4] == 1,
        styles: [
            [Style::Tight, Style::Heads, Style::Odd, Style::Turned][row[5]],
            [Style::Tight, Style::Heads, Style::Odd, Style::Turned][row[6]],
        ],
        dtypes: [FLOATS[row[7]], FLOATS[row[8]], FLOATS[row[9]]],
        offset: OFFSETS[row[10]],
    };
    let rows = pairwise(&sizes, cover_flops() / 2, |row| of_row(row).work());
    let mut cases: Vec<Case> = rows.iter().map(|row| of_row(row).case()).collect();
    // Nobody who attends, nothing to attend to, nothing at all.
    cases.push(Heads { rows: 0, ..PLAIN }.case());
    cases.push(Heads { keys: 0, ..PLAIN }.case());
    cases.push(Heads { batch: 0, ..PLAIN }.case());
    cases.push(Heads { heads: [0, 0], ..PLAIN }.case());
    cases.push(Heads { dims: [8, 0], ..PLAIN }.case());
    // Chains longer than a unit: over keys, over rows, over the rows of several heads.
    for (rows, keys, heads) in [(3, 9000, [1, 1]), (9000, 3, [1, 1]), (700, 70, [16, 1])] {
        let dims = if heads[0] == 1 { [40, 72] } else { [16, 8] };
        let causal = heads[0] > 1;
        cases.push(Heads { batch: 1, heads, rows, keys, dims, causal, ..PLAIN }.case());
    }
    for dtype in FLOATS {
        let dtypes = [dtype; 3];
        cases.push(Heads { rows: 1024, keys: 1024, dims: [128; 2], dtypes, ..PLAIN }.case());
    }
    cases.extend(attention_backward_with_options());
    cases
}

/// Gradients that a matrix unit gives, of more rows and keys than a tile has; in the last values whose rows are not of whole
/// 16 bytes.
pub fn attention_backward_in_tiles() -> Vec<Case> {
    let of = |dtype, rows, keys, dims| {
        let styles = [Style::Tight, Style::Odd];
        let causal = rows < keys;
        Heads { batch: 1, rows, keys, dims, causal, styles, dtypes: [dtype; 3], ..PLAIN }.case()
    };
    vec![
        of(F16, 70, 130, [32, 24]),
        of(BF16, 130, 70, [64, 64]),
        of(F16, 33, 40, [128, 72]),
        of(BF16, 33, 40, [64, 36]),
    ]
}

/// The same of entries of different lengths: packed and not, counted by the host and the device, through windows.
pub fn attention_backward_of_entries() -> Vec<Case> {
    let (rows, keys) = ([5, 0, 129], [9, 30, 140]);
    // Packed, window, soft cap, slopes, mask, causal, counts on the device, lengths of keys, heads, dims, types, style.
    [
        [1, 3, 0, 0, 0, 0, 0, 1, 1, 0, 2, 0],
        [1, 1, 0, 0, 0, 1, 3, 1, 0, 3, 1, 0],
        [0, 2, 0, 0, 0, 0, 3, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1, 0, 1, 2, 0, 2, 0],
    ]
    .map(|row| with_options(&row, &rows, &keys))
    .to_vec()
}

/// Gradients of three entries of different lengths, with the options of the forward op. Counts of rows, of keys, of
/// both or of none are operands.
fn with_options(row: &[usize], rows: &[u32; 3], keys: &[u32; 3]) -> Case {
    let &[
        packed,
        window,
        softcap,
        alibi,
        mask,
        causal,
        on_device,
        lens,
        heads,
        dims,
        dtypes,
        style,
    ] = row
    else {
        panic!("a row of factors")
    };
    let (packed, [rows_on_device, lens_on_device]) =
        (packed == 1, [on_device & 1 > 0, on_device & 2 > 0]);
    // Packed keys without counts of their own are counted by rows, and have no mask.
    let (keys, mask) =
        if packed && lens == 0 { (rows, 0) } else { (keys, if packed { 0 } else { mask }) };
    let [heads, kv] = [[1, 1], [6, 2], [8, 1]][heads];
    let [d, dv] = [[64, 64], [40, 72], [33, 7], [128, 128], [192, 128]][dims];
    let [dtype, found] = [[F32, F32], [BF16, BF16], [F16, F16], [BF16, F32]][dtypes];
    let style = [Style::Tight, Style::Odd, Style::Heads][style];
    let (most_rows, most_keys) = (*rows.iter().max().unwrap(), *keys.iter().max().unwrap());
    let sum = |list: &[u32; 3]| u64::from(list.iter().sum::<u32>());
    // More rows and keys than are owned.
    let (batch, q_rows, k_rows) = if packed {
        (1, sum(rows) + 3, sum(keys) + 2)
    } else {
        (3, most_rows.into(), most_keys.into())
    };
    let make = |shape: &[u64]| Operand::new(dtype, shape, style, 8, NORMAL);
    let (q, k, v) = ([batch, heads, q_rows, d], [batch, kv, k_rows, d], [batch, kv, k_rows, dv]);
    let out = [batch, heads, q_rows, dv];
    // As in the cases without options, any numbers; scores are small beside them.
    let lse = Operand::new(F32, &q[..3], Style::Gapped, 1, Fill::List([4, 5, 4]));
    let mut operands = vec![make(&q), make(&k), make(&v), make(&out), lse, make(&out)];
    let scores = [3, heads, q_rows, k_rows];
    let masks = [Style::Tight, Style::Repeat];
    operands.extend((mask > 0).then(|| {
        Operand::new([F32, dtype][alibi], &scores, masks[mask - 1], 1, Fill::Mask(mask as u64))
    }));
    let slopes = Operand::new(F32, &[heads], Style::Gapped, 1, Fill::Positive);
    operands.extend((alibi == 1).then_some(slopes));
    let counts = |list: &[u32; 3]| Operand::new(I32, &[3], Style::Tight, 0, Fill::List(*list));
    operands.extend((packed && rows_on_device).then(|| counts(rows)));
    operands.extend((lens == 1 && lens_on_device).then(|| counts(keys)));
    operands.extend([&q, &k, &v].map(|shape| Operand::out(found, shape, style, 8)));
    let count = |is: bool, on_device, list: &[u32; 3], most| match (is, on_device) {
        (false, _) => Lens::Full,
        (true, true) => Lens::Device { max: most },
        (true, false) => Lens::Host(list.to_vec()),
    };
    let scores = Scores {
        scale: 0.3 / (d as f32).sqrt(),
        causal: causal == 1,
        window: [None, Some([3, 0]), Some([0, 5]), Some([100, 20])][window],
        softcap: [0.0, 0.7, 30.0][softcap],
        mask: if mask > 0 { Mask::Additive } else { Mask::None },
        alibi: alibi == 1,
        rows: count(packed, rows_on_device, rows, most_rows),
        lens: count(lens == 1, lens_on_device, keys, most_keys),
    };
    Case::new(AttentionBackward { scores }, operands)
}

/// Every pair of options with every other, over counts of rows and keys: a row each, more rows than keys, nothing at all,
/// more than a tile.
fn attention_backward_with_options() -> Vec<Case> {
    const COUNTS: [[[u32; 3]; 2]; 4] = [
        [[1, 1, 1], [1, 200, 77]],
        [[5, 0, 129], [0, 9, 129]],
        [[90, 3, 2], [40, 3, 1]],
        [[70, 64, 1], [70, 130, 300]],
    ];
    let mut table = all_pairs(&[2, 4, 3, 2, 3, 2, 4, 2, 3, 5, 4, 3, COUNTS.len()]);
    // Packed rows that only the device counts beside keys that the host does, and the other way round.
    table.extend([1, 2].map(|on_device| vec![1, 0, 0, 0, 0, 1, on_device, 1, 0, 0, 0, 0, 0]));
    let case = |row: &Vec<usize>| {
        let [rows, keys] = &COUNTS[row[12]];
        with_options(&row[..12], rows, keys)
    };
    table.iter().map(case).collect()
}
