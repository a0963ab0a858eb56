//! One op of a table as sizes, and what it becomes: a checked op with N(0, 1) operands, the same bytes for ours and for
//! theirs, and windows of its output that are held against the reference. `shapes` lists problems, `speed` runs them.

use super::parity::judge::judge;
use super::report::Checked;
use leasehold::op::{
    Attention, AttentionBackward, CheckedOp, Copy, Group, KeyValue, Lens, Map, MapFn, Matmul, Norm,
    NormKind, Op, Reduce, ReduceFn, Scale, Softmax, Spec, check,
};
use leasehold::{DType, Dims, Error, Kind, Layout, Result, bf16, f16, reference};
use serde::{Serialize, Serializer};
use std::ops::Range;
use std::sync::Arc;

/// Rows and columns of a window of a product.
const WINDOW: u64 = 8;

/// One op by its sizes.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Problem {
    /// `batch` products of `m x k` by `k x n`.
    Matmul {
        /// Products.
        batch: u64,
        /// M, N and K.
        size: [u64; 3],
        /// Of both operands and the output.
        #[serde(serialize_with = "name")]
        dtype: DType,
        /// Whether A lies as `[k, m]`, and B as `[n, k]`, as weights do.
        turned: [bool; 2],
    },
    /// Groups of rows, each by its own weights `[n, k]`.
    Grouped {
        /// Rows of each group.
        rows: Vec<u32>,
        /// N and K.
        size: [u64; 2],
        /// Of all.
        #[serde(serialize_with = "name")]
        dtype: DType,
    },
    /// A product of f8e4m3 with a scale for each row and 128 of K of A, and for 128 x 128 of B; out in bf16.
    Scaled {
        /// M, N and K.
        size: [u64; 3],
    },
    /// Attention.
    Attention(Heads),
    /// Its gradients.
    Backward(Heads),
    /// One query row an entry over keys in shuffled pages.
    Decode {
        /// Entries.
        batch: u64,
        /// Query heads and key heads.
        heads: [u64; 2],
        /// Keys of each entry.
        keys: u64,
        /// Of a head.
        dim: u64,
        /// Keys a page.
        page: u64,
    },
    /// An op that memory bounds, on rows of bf16.
    Rows {
        /// Which: `copy`, `silu`, `add`, `rms_norm`, `softmax`, `sum`.
        function: &'static str,
        /// Rows and columns.
        size: [u64; 2],
    },
}

/// Sizes of attention.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heads {
    /// Entries.
    pub(super) batch: u64,
    /// Query heads and key heads.
    pub(super) heads: [u64; 2],
    /// Query rows and keys of an entry.
    pub(super) length: u64,
    /// Of a head.
    pub(super) dim: u64,
    /// Whether later keys are hidden.
    pub(super) causal: bool,
    /// Of all.
    #[serde(serialize_with = "name")]
    pub(super) dtype: DType,
    /// Lengths of entries that lie packed, one after another, in place of `batch` and `length`.
    pub(super) packed: Vec<u32>,
}

fn name<S: Serializer>(dtype: &DType, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(dtype.name())
}

/// An operand's bytes and how they are read.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Its role.
    pub(super) name: &'static str,
    /// Dtype and layout.
    pub(super) spec: Spec,
    /// From its first element on.
    pub(super) bytes: Arc<Vec<u8>>,
}

/// A part of the output, as an op of its own.
#[derive(Clone, Debug)]
pub(super) struct Window {
    op: CheckedOp,
    inputs: Vec<Vec<u8>>,
    /// Elements of the whole output, in the order of the part's.
    pub(super) at: Vec<u64>,
}

/// A problem ready to run.
#[derive(Clone, Debug)]
pub(super) struct Built {
    /// The op.
    pub(super) op: Arc<CheckedOp>,
    /// What it reads.
    pub(super) given: Vec<Given>,
    /// What of its first output is checked.
    pub(super) windows: Vec<Window>,
    /// The amount of work of one run.
    pub(super) work: f64,
    /// What that is a second, over 10^12 or 10^9.
    pub(super) unit: &'static str,
}

/// A row-major spec.
pub(super) fn dense(dtype: DType, shape: &[u64]) -> Spec {
    Spec::new(dtype, Layout::contiguous(Dims::new(shape).unwrap_or(Dims::NONE)), 0)
}

/// The last two axes exchanged in memory.
fn laid(dtype: DType, shape: &[u64], turned: bool) -> Spec {
    let mut stored = shape.to_vec();
    let rank = stored.len();
    if turned && rank >= 2 {
        stored.swap(rank - 2, rank - 1);
    }
    let spec = dense(dtype, &stored);
    let layout = if turned { spec.layout.transpose() } else { None };
    Spec { layout: layout.unwrap_or(spec.layout), ..spec }
}

/// Numbers of a distribution, drawn independently by a seed.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Normal,
    Positive,
}

/// How operands are filled, for the report.
pub(super) const DATA: &str = "N(0, 1) rounded to the type, drawn independently from 65536 numbers by Box and Muller; scales 0.5 to 2";

/// SplitMix64.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Elements that one state of the generator draws; every thread takes some.
const BLOCK: usize = 1 << 18;

fn filled(fill: Fill, dtype: DType, len: u64, seed: u64) -> Vec<u8> {
    let numbers: Vec<f32> = match fill {
        Fill::Normal => crate::measure::normal(1, 1 << 16),
        Fill::Positive => (0..1 << 16).map(|i| 0.5 * 4f32.powf(i as f32 / 65536.0)).collect(),
    };
    let size = dtype.size() as usize;
    let table: Vec<u8> = numbers.iter().flat_map(|&x| encoded(dtype, x)).collect();
    let mut bytes = vec![0; len as usize * size];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let blocks = bytes.len().div_ceil(BLOCK * size).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (i, part) in bytes.chunks_mut(blocks * BLOCK * size).enumerate() {
            let table = &table;
            scope.spawn(move || {
                for (block, part) in (i * blocks..).zip(part.chunks_mut(BLOCK * size)) {
                    let state = seed ^ (block as u64).wrapping_mul(0xd134_2543_de82_ef95);
                    draw(table, size, part, state);
                }
            });
        }
    });
    bytes
}

/// Fills a block from a table of 65536 elements: 16 bits of the generator choose each.
fn draw(table: &[u8], size: usize, part: &mut [u8], mut state: u64) {
    for four in part.chunks_mut(4 * size) {
        let mut word = next(&mut state);
        for to in four.chunks_exact_mut(size) {
            let at = (word & 0xffff) as usize * size;
            to.copy_from_slice(&table[at..at + size]);
            word >>= 16;
        }
    }
}

fn encoded(dtype: DType, x: f32) -> Vec<u8> {
    match dtype {
        DType::F32 => x.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
        // Eight bits: the code whose value is nearest.
        _ => vec![nearest(dtype, x)],
    }
}

fn nearest(dtype: DType, x: f32) -> u8 {
    use std::sync::OnceLock;
    static CODES: OnceLock<Vec<(f64, u8)>> = OnceLock::new();
    let codes = CODES.get_or_init(|| {
        let all: Vec<u8> = (0..0x7f).collect();
        let values = reference::read(dtype, &dense(dtype, &[0x7f]).layout, &all);
        values.into_iter().zip(all).collect()
    });
    let wanted = f64::from(x.abs());
    let above = codes.partition_point(|(value, _)| *value < wanted).clamp(1, codes.len() - 1);
    let (below, above) = (codes[above - 1], codes[above]);
    let code = if wanted - below.0 < above.0 - wanted { below.1 } else { above.1 };
    code | if x < 0.0 { 0x80 } else { 0 }
}

impl Given {
    fn normal(name: &'static str, spec: Spec, seed: u64) -> Self {
        Self::of(Fill::Normal, name, spec, seed)
    }

    fn of(fill: Fill, name: &'static str, spec: Spec, seed: u64) -> Self {
        let salt = name.bytes().fold(seed, |h, byte| h.wrapping_mul(31) + u64::from(byte));
        let bytes = filled(fill, spec.dtype, spec.layout.span() as u64, salt);
        Self { name, spec, bytes: Arc::new(bytes) }
    }

    /// Counts or indices.
    fn words(name: &'static str, shape: &[u64], words: &[u32]) -> Self {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { name, spec: dense(DType::U32, shape), bytes: Arc::new(bytes) }
    }

    /// The elements of a box, row-major.
    fn cut(&self, ranges: &[Range<u64>]) -> Vec<u8> {
        let (size, strides) = (self.spec.dtype.size(), self.spec.layout.strides());
        let mut at = vec![0];
        for (range, stride) in ranges.iter().zip(strides.iter()) {
            at = at.iter().flat_map(|from| range.clone().map(move |i| from + i * stride)).collect();
        }
        let element = |at: u64| &self.bytes[(at * size) as usize..((at + 1) * size) as usize];
        at.into_iter().flat_map(element).copied().collect()
    }
}

/// What of `0..len` windows of `most` show: the beginning, the middle, the end.
fn places(len: u64, most: u64) -> [Range<u64>; 3] {
    let width = most.min(len);
    [0, (len - width) / 2, len - width].map(|from| from..from + width)
}

fn window(
    op: Op,
    inputs: &[(DType, Vec<u64>, Vec<u8>)],
    outs: &[Spec],
    at: Vec<u64>,
) -> Result<Window> {
    let specs = inputs.iter().map(|(dtype, shape, _)| dense(*dtype, shape));
    let specs: Vec<Spec> = specs.chain(outs.iter().copied()).collect();
    let inputs = inputs.iter().map(|(.., bytes)| bytes.clone()).collect();
    Ok(Window { op: check(op, &specs)?, inputs, at })
}

impl Built {
    fn new(
        op: impl Into<Op>,
        given: Vec<Given>,
        outs: &[Spec],
        (work, unit): (f64, &'static str),
    ) -> Result<Self> {
        let specs: Vec<Spec> = given.iter().map(|g| g.spec).chain(outs.iter().copied()).collect();
        let op = Arc::new(check(op.into(), &specs)?);
        Ok(Self { op, given, windows: Vec::new(), work, unit })
    }

    /// The output's spec.
    pub(super) fn out(&self) -> Spec {
        self.op.specs()[self.given.len()]
    }

    /// The elements that are checked, of all windows.
    pub(super) fn checked(&self) -> Vec<u64> {
        self.windows.iter().flat_map(|window| &window.at).copied().collect()
    }

    /// Holds values of [`Built::checked`] against the reference.
    pub(super) fn judged(&self, values: &[f64]) -> Checked {
        let mut checked = Checked::all(values.len() as u64);
        let dtype = self.out().dtype;
        let mut rest = values;
        for window in &self.windows {
            let Some((got, more)) = rest.split_at_checked(window.at.len()) else {
                checked.wrong = format!("{} values only", values.len());
                return checked;
            };
            rest = more;
            let inputs: Vec<&[u8]> = window.inputs.iter().map(Vec::as_slice).collect();
            let exact = reference::exact(&window.op, &inputs).swap_remove(0);
            let low = reference::rounded(&window.op, &inputs, dtype).swap_remove(0);
            let errors = got.iter().zip(&exact).map(|(y, x)| (y - x).abs());
            checked.worst = errors.fold(checked.worst, f64::max);
            if let Err(why) = judge(dtype, got, &exact, &low) {
                checked.wrong = why;
            }
        }
        if !checked.worst.is_finite() {
            // JSON has no word for it, and `wrong` tells.
            checked.worst = f64::MAX;
        }
        checked
    }
}

const TERA: f64 = 1e12;
const GIGA: f64 = 1e9;
/// Units, by which `work` is divided.
const FLOPS: &str = "TFLOP/s";
const BYTES: &str = "GB/s";

impl Problem {
    /// Ready to run.
    ///
    /// # Errors
    /// A rule that the sizes break.
    pub(super) fn build(&self, seed: u64) -> Result<Built> {
        match self {
            Self::Matmul { batch, size, dtype, turned } => {
                product(*batch, *size, *dtype, *turned, seed)
            }
            Self::Grouped { rows, size, dtype } => grouped(rows, *size, *dtype, seed),
            Self::Scaled { size } => scaled(*size, seed),
            Self::Attention(heads) => heads.forward(seed, false),
            Self::Backward(heads) => heads.forward(seed, true),
            Self::Decode { batch, heads, keys, dim, page } => {
                decode(*batch, *heads, *keys, *dim, *page, seed)
            }
            Self::Rows { function, size } => rows(function, *size, seed),
        }
    }

    /// For people.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Matmul { batch, size: [m, n, k], dtype, turned } => {
                let batch = if *batch == 1 { String::new() } else { format!("{batch} x ") };
                let form = turned.map(|turned| if turned { 'T' } else { 'N' });
                format!("{batch}{m}x{n}x{k} {dtype} {}{}", form[0], form[1])
            }
            Self::Grouped { rows, size: [n, k], dtype } => {
                let total: u32 = rows.iter().sum();
                format!("{} groups, {total} rows x {n} x {k} {dtype}", rows.len())
            }
            Self::Scaled { size: [m, n, k] } => format!("{m}x{n}x{k} f8e4m3, scales of 128"),
            Self::Attention(heads) => heads.label(),
            Self::Backward(heads) => format!("backward {}", heads.label()),
            Self::Decode { batch, heads: [q, kv], keys, dim, page } => {
                format!("batch {batch}, {q} heads on {kv}, {keys} keys of {dim}, pages of {page}")
            }
            Self::Rows { function, size: [rows, columns] } => {
                format!("{function} {rows}x{columns} bf16")
            }
        }
    }
}

/// A window of a product at rows and columns of one batch entry.
fn product_window(
    op: &Matmul,
    [a, b]: [&Given; 2],
    batch: u64,
    [rows, columns]: [Range<u64>; 2],
    [m, n]: [u64; 2],
) -> Result<Window> {
    let k = 0..a.spec.layout.shape().last().copied().unwrap_or(0);
    // One product has no batch axis.
    let lead = (a.spec.layout.rank() == 3).then_some(batch..batch + 1);
    let part = |of: &Given, rows: &Range<u64>, columns: &Range<u64>| {
        let ranges: Vec<_> = lead.iter().chain([rows, columns]).cloned().collect();
        let shape = vec![rows.end - rows.start, columns.end - columns.start];
        (of.spec.dtype, shape, of.cut(&ranges))
    };
    let parts = [part(a, &rows, &k), part(b, &k, &columns)];
    let out = dense(a.spec.dtype, &[rows.end - rows.start, columns.end - columns.start]);
    let at = rows.flat_map(|i| columns.clone().map(move |j| (batch * m + i) * n + j)).collect();
    window(op.clone().into(), &parts, &[out], at)
}

fn product(
    batch: u64,
    [m, n, k]: [u64; 3],
    dtype: DType,
    turned: [bool; 2],
    seed: u64,
) -> Result<Built> {
    let op = Matmul::default();
    let shape = |rows, columns| match batch {
        1 => vec![rows, columns],
        batch => vec![batch, rows, columns],
    };
    let given = vec![
        Given::normal("a", laid(dtype, &shape(m, k), turned[0]), seed),
        Given::normal("b", laid(dtype, &shape(k, n), turned[1]), seed),
    ];
    let work = (2.0 * (batch * m) as f64 * (n * k) as f64 / TERA, FLOPS);
    let mut built = Built::new(op.clone(), given, &[dense(dtype, &shape(m, n))], work)?;
    let entries = places(batch, 1);
    for ((rows, columns), entry) in
        places(m, WINDOW).into_iter().zip(places(n, WINDOW)).zip(entries)
    {
        let [a, b] = [&built.given[0], &built.given[1]];
        built.windows.push(product_window(&op, [a, b], entry.start, [rows, columns], [m, n])?);
    }
    Ok(built)
}

fn grouped(rows: &[u32], [n, k]: [u64; 2], dtype: DType, seed: u64) -> Result<Built> {
    let (groups, m) = (rows.len() as u64, rows.iter().map(|&r| u64::from(r)).sum::<u64>());
    let op =
        Matmul { group: Group::Contiguous, sizes: Lens::Host(rows.to_vec()), ..Matmul::default() };
    let given = vec![
        Given::normal("a", dense(dtype, &[m, k]), seed),
        Given::normal("b", laid(dtype, &[groups, k, n], true), seed),
    ];
    let work = (2.0 * m as f64 * (n * k) as f64 / TERA, FLOPS);
    let mut built = Built::new(op, given, &[dense(dtype, &[m, n])], work)?;
    let mut first = 0;
    for (group, &count) in rows.iter().enumerate() {
        let (group, end) = (group as u64, first + u64::from(count));
        let taken = first..end.min(first + WINDOW);
        first = end;
        if taken.is_empty() || built.windows.len() > 4 {
            continue;
        }
        let (all, columns) = (0..k, 0..WINDOW.min(n));
        let width = columns.end;
        let parts = [
            (
                dtype,
                vec![taken.end - taken.start, k],
                built.given[0].cut(&[taken.clone(), all.clone()]),
            ),
            (dtype, vec![k, width], built.given[1].cut(&[group..group + 1, all, columns.clone()])),
        ];
        let out = dense(dtype, &[taken.end - taken.start, width]);
        let at = taken.flat_map(|i| columns.clone().map(move |j| i * n + j)).collect();
        built.windows.push(window(Matmul::default().into(), &parts, &[out], at)?);
    }
    Ok(built)
}

fn scaled([m, n, k]: [u64; 3], seed: u64) -> Result<Built> {
    let (f8, f32, blocks) = (DType::F8E4M3, DType::F32, |n: u64| n.div_ceil(128));
    let op = Matmul { scales: [Scale::Block1x128, Scale::Block128x128], ..Matmul::default() };
    let given = vec![
        Given::normal("a", dense(f8, &[m, k]), seed),
        Given::normal("b", laid(f8, &[k, n], true), seed),
        Given::of(Fill::Positive, "scale_a", dense(f32, &[m, blocks(k)]), seed),
        Given::of(Fill::Positive, "scale_b", laid(f32, &[blocks(k), blocks(n)], true), seed),
    ];
    let work = (2.0 * m as f64 * (n * k) as f64 / TERA, FLOPS);
    let mut built = Built::new(op.clone(), given, &[dense(DType::BF16, &[m, n])], work)?;
    for (rows, columns) in places(m, WINDOW).into_iter().zip(places(n, 1)) {
        // Columns of one block of scales.
        let columns = columns.start / 128 * 128..(columns.start / 128 * 128 + WINDOW).min(n);
        let block = columns.start / 128..columns.start / 128 + 1;
        let (height, width) = (rows.end - rows.start, columns.end - columns.start);
        let g = &built.given;
        let parts = [
            (f8, vec![height, k], g[0].cut(&[rows.clone(), 0..k])),
            (f8, vec![k, width], g[1].cut(&[0..k, columns.clone()])),
            (f32, vec![height, blocks(k)], g[2].cut(&[rows.clone(), 0..blocks(k)])),
            (f32, vec![blocks(k), 1], g[3].cut(&[0..blocks(k), block])),
        ];
        let out = dense(DType::BF16, &[height, width]);
        let at = rows.flat_map(|i| columns.clone().map(move |j| i * n + j)).collect();
        built.windows.push(window(op.clone().into(), &parts, &[out], at)?);
    }
    Ok(built)
}

/// A window of one query row: its keys and values, all of them seen.
fn row_window(
    scale: f32,
    dtype: DType,
    [q, k, v]: [Vec<u8>; 3],
    dim: u64,
    first: u64,
) -> Result<Window> {
    let keys = k.len() as u64 / (dim * dtype.size());
    let (row, all) = (vec![1, 1, 1, dim], vec![1, 1, keys, dim]);
    let op = Attention { scale, ..Attention::default() };
    let out = dense(dtype, &row);
    let parts = [(dtype, row, q), (dtype, all.clone(), k), (dtype, all, v)];
    window(op.into(), &parts, &[out], (first..first + dim).collect())
}

impl Heads {
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn label(&self) -> String {
        let Self { batch, heads: [q, kv], length, dim, causal, dtype, packed } = self;
        let mask = if *causal { "causal" } else { "full" };
        match packed.is_empty() {
            true => format!("{batch} x {length}, {q} heads on {kv} of {dim}, {mask} {dtype}"),
            false => {
                let (total, longest) =
                    (packed.iter().sum::<u32>(), packed.iter().max().unwrap_or(&0));
                format!(
                    "{} lengths to {longest}, {total} rows, {q} heads on {kv} of {dim}, {mask} {dtype}",
                    packed.len()
                )
            }
        }
    }

    /// Shapes of Q and of K and V.
    fn shapes(&self) -> [[u64; 4]; 2] {
        let (batch, rows) = match self.packed.is_empty() {
            true => (self.batch, self.length),
            false => (1, self.packed.iter().map(|&len| u64::from(len)).sum()),
        };
        self.heads.map(|heads| [batch, heads, rows, self.dim])
    }

    /// The log-sum-exp is an output where its gradients are wanted: `speed` runs it first and then [`Heads::backward`].
    fn forward(&self, seed: u64, log_sum_exp: bool) -> Result<Built> {
        let [q, kv] = self.shapes();
        let given = vec![
            Given::normal("q", dense(self.dtype, &q), seed),
            Given::normal("k", dense(self.dtype, &kv), seed),
            Given::normal("v", dense(self.dtype, &kv), seed),
        ];
        let rows =
            if self.packed.is_empty() { Lens::Full } else { Lens::Host(self.packed.clone()) };
        let op = Attention {
            scale: self.scale(),
            causal: self.causal,
            rows,
            log_sum_exp,
            ..Attention::default()
        };
        let mut outs = vec![dense(self.dtype, &q)];
        outs.extend(log_sum_exp.then(|| dense(DType::F32, &q[..3])));
        let mut built = Built::new(op, given, &outs, (self.flops(), FLOPS))?;
        for [entry, head, row] in self.samples() {
            let from =
                self.packed.iter().take(entry as usize).map(|&len| u64::from(len)).sum::<u64>();
            let place =
                if self.packed.is_empty() { [entry, head, row] } else { [0, head, from + row] };
            let at = ((place[0] * q[1] + head) * q[2] + place[2]) * self.dim;
            let parts =
                self.row(&built.given, place, from * u64::from(!self.packed.is_empty()), entry);
            built.windows.push(row_window(self.scale(), self.dtype, parts, self.dim, at)?);
        }
        Ok(built)
    }

    /// Query row `place` with the keys that it sees, which begin at `from` in memory.
    fn row(
        &self,
        given: &[Given],
        [batch, head, row]: [u64; 3],
        from: u64,
        entry: u64,
    ) -> [Vec<u8>; 3] {
        let keys = self.packed.get(entry as usize).map_or(self.length, |&len| u64::from(len));
        let seen = if self.causal { row + 1 } else { from + keys };
        let kv = head / (self.heads[0] / self.heads[1]);
        let one =
            |head: u64, rows: Range<u64>| [batch..batch + 1, head..head + 1, rows, 0..self.dim];
        [
            given[0].cut(&one(head, row..row + 1)),
            given[1].cut(&one(kv, from..seen)),
            given[2].cut(&one(kv, from..seen)),
        ]
    }

    /// Entry, head and row within the entry.
    fn samples(&self) -> [[u64; 3]; 3] {
        let entries = if self.packed.is_empty() { self.batch } else { self.packed.len() as u64 };
        let (heads, entry) = (places(self.heads[0], 1), places(entries, 1));
        [0, 1, 2].map(|i| {
            let entry = entry[i].start;
            let rows = self.packed.get(entry as usize).map_or(self.length, |&len| u64::from(len));
            [entry, heads[i].start, places(rows, 1)[i].start]
        })
    }

    fn flops(&self) -> f64 {
        let lengths: Vec<f64> = match self.packed.is_empty() {
            true => vec![self.length as f64; self.batch as usize],
            false => self.packed.iter().map(|&len| f64::from(len)).collect(),
        };
        let squares: f64 = lengths.iter().map(|len| len * len).sum();
        let half = if self.causal { 0.5 } else { 1.0 };
        4.0 * half * squares * (self.heads[0] * self.dim) as f64 / TERA
    }

    /// The gradients, from what forward was given and what it gave.
    ///
    /// # Errors
    /// A rule that the sizes break.
    pub(super) fn backward(
        &self,
        forward: &Built,
        results: Vec<Vec<u8>>,
        seed: u64,
    ) -> Result<Built> {
        let [q, kv] = self.shapes();
        let [out, lse]: [Vec<u8>; 2] = results.try_into().map_err(|_| {
            let asked = "another number of results".into();
            Error::from(Kind::Value { asked, allowed: "out and lse".into() })
        })?;
        let mut given = forward.given.clone();
        given.push(Given { name: "out", spec: dense(self.dtype, &q), bytes: Arc::new(out) });
        given.push(Given { name: "lse", spec: dense(DType::F32, &q[..3]), bytes: Arc::new(lse) });
        given.push(Given::normal("d_out", dense(self.dtype, &q), seed));
        let op = AttentionBackward { scale: self.scale(), causal: self.causal };
        let outs = [dense(self.dtype, &q), dense(self.dtype, &kv), dense(self.dtype, &kv)];
        let mut built = Built::new(op, given, &outs, (2.5 * self.flops(), FLOPS))?;
        for [batch, head, row] in self.samples() {
            let [one_q, k, v] = self.row(&built.given, [batch, head, row], 0, batch);
            let part = |which: usize, ranges: &[Range<u64>]| built.given[which].cut(ranges);
            let place = [batch..batch + 1, head..head + 1, row..row + 1, 0..self.dim];
            let keys = k.len() as u64 / (self.dim * self.dtype.size());
            let (one, all) = (vec![1, 1, 1, self.dim], vec![1, 1, keys, self.dim]);
            let specs = [dense(self.dtype, &one), dense(self.dtype, &all), dense(self.dtype, &all)];
            let parts = [
                (self.dtype, one.clone(), one_q),
                (self.dtype, all.clone(), k),
                (self.dtype, all, v),
                (self.dtype, one.clone(), part(3, &place)),
                (DType::F32, vec![1, 1, 1], part(4, &place[..3])),
                (self.dtype, one, part(5, &place)),
            ];
            let at = ((batch * q[1] + head) * q[2] + row) * self.dim;
            let op = AttentionBackward { scale: self.scale(), causal: false };
            built.windows.push(window(op.into(), &parts, &specs, (at..at + self.dim).collect())?);
        }
        Ok(built)
    }
}

fn decode(
    batch: u64,
    [heads, kv]: [u64; 2],
    keys: u64,
    dim: u64,
    page: u64,
    seed: u64,
) -> Result<Built> {
    let dtype = DType::BF16;
    let each = keys.div_ceil(page);
    let count = batch * each;
    // A permutation by Fisher and Yates.
    let (mut pages, mut state) = ((0..count as u32).collect::<Vec<u32>>(), seed);
    for i in (1..pages.len()).rev() {
        pages.swap(i, (next(&mut state) % (i as u64 + 1)) as usize);
    }
    let store = [count, kv, page, dim];
    let given = vec![
        Given::normal("q", dense(dtype, &[batch, heads, 1, dim]), seed),
        Given::normal("k", dense(dtype, &store), seed),
        Given::normal("v", dense(dtype, &store), seed),
        Given::words("lens", &[batch], &vec![keys as u32; batch as usize]),
        Given::words("pages", &[batch, each], &pages),
    ];
    let scale = 1.0 / (dim as f32).sqrt();
    let op = Attention {
        scale,
        causal: true,
        lens: Lens::Device { max: keys as u32 },
        key_value: KeyValue::Paged { page: page as u32 },
        ..Attention::default()
    };
    // What a step must read: keys and values of every entry, once.
    let bytes = 2 * batch * kv * keys * dim * dtype.size();
    let outs = [dense(dtype, &[batch, heads, 1, dim])];
    let mut built = Built::new(op, given, &outs, (bytes as f64 / GIGA, BYTES))?;
    // Of half a million keys the reference is slow; one window then.
    let windows = if keys > 1 << 16 { 1 } else { 3 };
    for (entry, head) in places(batch, 1).into_iter().zip(places(heads, 1)).take(windows) {
        let (entry, head) = (entry.start, head.start);
        let group = head / (heads / kv);
        let all = |which: usize| {
            let of_page = |i: u64| {
                let at = u64::from(pages[(entry * each + i) as usize]);
                let held = page.min(keys - i * page);
                built.given[which].cut(&[at..at + 1, group..group + 1, 0..held, 0..dim])
            };
            (0..each).flat_map(of_page).collect::<Vec<u8>>()
        };
        let q = built.given[0].cut(&[entry..entry + 1, head..head + 1, 0..1, 0..dim]);
        let (k, v) = (all(1), all(2));
        let at = (entry * heads + head) * dim;
        built.windows.push(row_window(scale, dtype, [q, k, v], dim, at)?);
    }
    Ok(built)
}

fn rows(function: &str, [rows, columns]: [u64; 2], seed: u64) -> Result<Built> {
    let dtype = DType::BF16;
    let map = |function| Map { function, scale: 1.0, shift: 0.0 };
    let (op, further): (Op, Option<&'static str>) = match function {
        "silu" => (map(MapFn::Silu).into(), None),
        "add" => (map(MapFn::Add).into(), Some("y")),
        "softmax" => (Softmax { scale: 1.0, axis: 1 }.into(), None),
        "sum" => (Reduce { function: ReduceFn::Sum, axis: 1 }.into(), None),
        "rms_norm" => {
            let op = Norm { kind: NormKind::Rms, epsilon: 1e-5, weight: true, bias: false };
            (op.into(), Some("weight"))
        }
        _ => (Copy.into(), None),
    };
    let mut given = vec![Given::normal("x", dense(dtype, &[rows, columns]), seed)];
    let is_row = further == Some("weight");
    let shape: &[u64] = if is_row { &[columns] } else { &[rows, columns] };
    given.extend(further.map(|name| Given::normal(name, dense(dtype, shape), seed)));
    let is_sum = matches!(op, Op::Reduce(_));
    let out = |rows: u64| {
        let dtype = if is_sum { DType::F32 } else { dtype };
        if is_sum { dense(dtype, &[rows]) } else { dense(dtype, &[rows, columns]) }
    };
    let mut built = Built::new(op.clone(), given, &[out(rows)], (0.0, BYTES))?;
    built.work = built.op.cost().bytes as f64 / GIGA;
    for taken in places(rows, 2) {
        let height = taken.end - taken.start;
        let parts = built.given.iter().map(|given| match given.spec.layout.rank() {
            1 => (dtype, vec![columns], given.bytes.to_vec()),
            _ => (dtype, vec![height, columns], given.cut(&[taken.clone(), 0..columns])),
        });
        let parts: Vec<_> = parts.collect();
        let width = if is_sum { 1 } else { columns };
        let at = (taken.start * width..taken.end * width).collect();
        built.windows.push(window(op.clone(), &parts, &[out(height)], at)?);
    }
    Ok(built)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::shapes;
    use super::*;

    /// Data is the seed's, whatever the threads; normal; and a wrong element of any window is seen.
    #[test]
    fn operands_are_normal_and_windows_see_errors() {
        let of = |seed| filled(Fill::Normal, DType::F32, 300_000, seed);
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        let x: Vec<f64> =
            reference::read(DType::F32, &dense(DType::F32, &[300_000]).layout, &of(3));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.02, "{mean} {square}");

        let all = [shapes::dense(true, 1), shapes::batched(true, 1), shapes::fp8(true)];
        let all = all.into_iter().chain([
            shapes::attention(true, 1),
            shapes::decode(true),
            shapes::memory(true),
        ]);
        for (problem, _) in all.flatten() {
            let built = problem.build(1).unwrap();
            let dtype = built.out().dtype;
            let inputs: Vec<&[u8]> =
                built.given.iter().map(|given| given.bytes.as_slice()).collect();
            let whole = reference::exact(&built.op, &inputs).swap_remove(0);
            let at = built.checked();
            let right: Vec<f64> =
                at.iter().map(|&at| reference::round_to(dtype, whole[at as usize])).collect();
            assert_eq!(built.judged(&right).wrong, "", "{}", problem.label());
            for i in [0, right.len() - 1] {
                let mut wrong = right.clone();
                wrong[i] += 1.0 + wrong[i].abs();
                assert_ne!(built.judged(&wrong).wrong, "", "{}", problem.label());
            }
            assert_ne!(built.judged(&right[1..]).wrong, "");
        }
    }
}
