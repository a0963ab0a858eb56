//! One op of a table as sizes, and what it becomes: a checked op with N(0, 1) operands, the same bytes for ours and for
//! theirs, and windows of its output that are held against the reference. `shapes` lists problems, `speed` runs them.

use super::data::{Fill, Given, dense, laid};
use super::heads::{Heads, decode};
use super::parity::judge::judge;
use super::report::Checked;
use leasehold::op::{
    CheckedOp, Copy, Group, Lens, Map, MapFn, Matmul, Norm, NormKind, Op, Reduce, ReduceFn, Scale,
    Softmax, Spec, check,
};
use leasehold::reference::{self, Unit};
use leasehold::{DType, Result};
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

pub(super) fn name<S: Serializer>(dtype: &DType, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(dtype.name())
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

/// What of `0..len` windows of `most` show: the beginning, the middle, the end.
pub(super) fn places(len: u64, most: u64) -> [Range<u64>; 3] {
    let width = most.min(len);
    [0, (len - width) / 2, len - width].map(|from| from..from + width)
}

pub(super) fn window(
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
    pub(super) fn new(
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
            // Problems of 8 bits have outputs of 16, beside whose roundings those of a matrix unit are small.
            let low = reference::rounded(&window.op, &inputs, dtype, Unit::Single).swap_remove(0);
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

pub(super) const TERA: f64 = 1e12;
pub(super) const GIGA: f64 = 1e9;
/// Units, by which `work` is divided.
pub(super) const FLOPS: &str = "TFLOP/s";
pub(super) const BYTES: &str = "GB/s";

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
    use super::super::data::filled;
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
