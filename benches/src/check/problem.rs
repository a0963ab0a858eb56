//! One op of a table as sizes, and what it becomes: a checked op with N(0, 1) operands, the same bytes for ours and for
//! theirs, and windows of its output that are held against the reference. `shapes` lists problems, `speed` runs them.

use super::data::{Given, dense, next};
use super::decode::Decode;
use super::heads::Heads;
use super::parity::judge::judge;
use super::products::{Groups, Product, scaled};
use super::report::Checked;
use super::rows::rows;
use leasehold::op::{CheckedOp, Op, Spec, check};
use leasehold::reference::{self, Unit};
use leasehold::{DType, Result};
use serde::{Serialize, Serializer};
use std::ops::Range;
use std::sync::Arc;

/// One op by its sizes.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Problem {
    /// Products, in a batch or alone.
    Matmul(Product),
    /// Products of groups.
    Grouped(Groups),
    /// A product of f8e4m3 with a scale for each row and 128 of K of A, and for 128 x 128 of B; out in bf16.
    Scaled {
        /// M, N and K.
        size: [u64; 3],
    },
    /// Attention.
    Attention(Heads),
    /// Its gradients.
    Backward(Heads),
    /// Query rows over keys in shuffled pages.
    Decode(Decode),
    /// An op that memory bounds.
    Rows {
        /// Which, a name of `rows`.
        function: &'static str,
        /// Rows and columns.
        size: [u64; 2],
    },
}

pub(super) fn name<S: Serializer>(dtype: &DType, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(dtype.name())
}

/// A part of an output, as an op of its own.
#[derive(Clone, Debug)]
pub(super) struct Window {
    op: CheckedOp,
    inputs: Vec<Vec<u8>>,
    /// Which output of the problem, and of the part's op.
    output: usize,
    /// Elements of that whole output's memory, in the order of the part's.
    at: Vec<u64>,
}

/// A problem ready to run.
#[derive(Clone, Debug)]
pub(super) struct Built {
    /// The op.
    pub(super) op: Arc<CheckedOp>,
    /// What it reads.
    pub(super) given: Vec<Given>,
    /// What of its outputs is checked.
    pub(super) windows: Vec<Window>,
    /// The amount of work of one run.
    pub(super) work: f64,
    /// What that is a second, over 10^12 or 10^9.
    pub(super) unit: &'static str,
}

/// The beginning, the middle and the end of `0..len`, at most `most` of each.
fn places(len: u64, most: u64) -> [Range<u64>; 3] {
    let width = most.min(len);
    [0, (len - width) / 2, len - width].map(|from| from..from + width)
}

/// Where windows lie along axes, each given as its length and a window's: at the beginning of all, in the middle, at the
/// end, and so many more at places drawn by the seed. None where an axis is empty.
pub(super) fn spots<const N: usize>(
    axes: [(u64, u64); N],
    drawn: usize,
    seed: u64,
) -> Vec<[Range<u64>; N]> {
    if axes.iter().any(|&(len, _)| len == 0) {
        return Vec::new();
    }
    let fixed = axes.map(|(len, most)| places(len, most));
    let mut state = seed;
    let mut draw = || {
        axes.map(|(len, most)| {
            let width = most.min(len);
            let from = next(&mut state) % (len - width + 1);
            from..from + width
        })
    };
    let mut all: Vec<_> = (0..3).map(|i| fixed.each_ref().map(|of| of[i].clone())).collect();
    all.extend((0..drawn).map(|_| draw()));
    all
}

/// Blocks of 128.
pub(super) fn blocks_of(n: u64) -> u64 {
    n.div_ceil(128)
}

/// A part of the first output.
pub(super) fn window(
    op: Op,
    inputs: &[(DType, Vec<u64>, Vec<u8>)],
    outs: &[Spec],
    at: Vec<u64>,
) -> Result<Window> {
    let specs = inputs.iter().map(|(dtype, shape, _)| dense(*dtype, shape));
    let specs: Vec<Spec> = specs.chain(outs.iter().copied()).collect();
    let inputs = inputs.iter().map(|(.., bytes)| bytes.clone()).collect();
    Ok(Window { op: check(op, &specs)?, inputs, output: 0, at })
}

impl Window {
    /// The same of another output.
    pub(super) fn of(self, output: usize, at: Vec<u64>) -> Self {
        Self { output, at, ..self }
    }

    /// What a card multiplies with, ours and its vendor's alike. Problems of 8 bits have outputs of 16, beside whose roundings
    /// those of a matrix unit are small.
    fn unit(&self) -> Unit {
        let is_wide = self.op.spec("a").is_some_and(|a| a.dtype.size() == 2);
        if is_wide { Unit::Matrix16 } else { Unit::Single }
    }

    /// Holds values against the reference: the largest error, and what is wrong.
    fn judged(&self, dtype: DType, got: &[f64]) -> (f64, Result<(), String>) {
        // What is only updated begins as nothing.
        let none = self.op.roles().iter().map(|_| &[][..]);
        let inputs: Vec<&[u8]> = self.inputs.iter().map(Vec::as_slice).chain(none).collect();
        let exact = reference::exact(&self.op, &inputs).swap_remove(self.output);
        let low = reference::rounded(&self.op, &inputs, dtype, self.unit());
        let errors = got.iter().zip(&exact).map(|(y, x)| (y - x).abs());
        let right = judge(dtype, got, &exact, &low[self.output]);
        (errors.fold(0.0, f64::max), right)
    }
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

    /// The first output's spec.
    pub(super) fn out(&self) -> Spec {
        self.op.specs()[self.given.len()]
    }

    /// The elements that are checked of each output that has windows.
    pub(super) fn checked(&self) -> Vec<(usize, Vec<u64>)> {
        let of = |output| -> Vec<u64> {
            self.of_output(output).flat_map(|window| &window.at).copied().collect()
        };
        let outputs = self.op.specs().len() - self.given.len();
        let all = (0..outputs).map(|output| (output, of(output)));
        all.filter(|(_, at)| !at.is_empty()).collect()
    }

    fn of_output(&self, output: usize) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(move |window| window.output == output)
    }

    /// Holds values of [`Built::checked`], each with its output, against the reference. An output without values is one that
    /// a peer does not compute.
    pub(super) fn judged(&self, values: &[(usize, Vec<f64>)]) -> Checked {
        let mut checked = Checked::all(values.iter().map(|(_, values)| values.len() as u64).sum());
        let mut jobs = Vec::new();
        for (output, values) in values.iter().filter(|(_, values)| !values.is_empty()) {
            let mut rest = values.as_slice();
            for window in self.of_output(*output) {
                let Some((got, more)) = rest.split_at_checked(window.at.len()) else {
                    checked.wrong = format!("{} values only", values.len());
                    return checked;
                };
                rest = more;
                let dtype = self.op.specs()[self.given.len() + output].dtype;
                jobs.push((window, dtype, got));
            }
        }
        // The reference is slow: every core takes some windows.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let found: Vec<_> = std::thread::scope(|scope| {
            let parts = jobs.chunks(jobs.len().div_ceil(threads).max(1)).map(|part| {
                let judged = || part.iter().map(|(window, dtype, got)| window.judged(*dtype, got));
                scope.spawn(move || judged().collect::<Vec<_>>())
            });
            let parts: Vec<_> = parts.collect();
            let panicked = || vec![(f64::MAX, Err("the reference panicked".into()))];
            let joined = parts.into_iter().map(|part| part.join().unwrap_or_else(|_| panicked()));
            joined.flatten().collect()
        });
        for (error, right) in found {
            checked.worst = checked.worst.max(error);
            if let (true, Err(why)) = (checked.wrong.is_empty(), right) {
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
            Self::Matmul(product) => product.build(seed),
            Self::Grouped(groups) => groups.build(seed),
            Self::Scaled { size } => scaled(*size, seed),
            Self::Attention(heads) => heads.forward(seed, false),
            Self::Backward(heads) => heads.forward(seed, true),
            Self::Decode(decode) => decode.build(seed),
            Self::Rows { function, size } => rows(function, *size, seed),
        }
    }

    /// For people.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Matmul(product) => product.label(),
            Self::Grouped(groups) => groups.label(),
            Self::Scaled { size: [m, n, k] } => format!("{m}x{n}x{k} f8e4m3, scales of 128"),
            Self::Attention(heads) => heads.label(),
            Self::Backward(heads) => format!("backward {}", heads.label()),
            Self::Decode(decode) => decode.label(),
            Self::Rows { function, size: [rows, columns] } => {
                format!("{function} {rows}x{columns}")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::data::{Fill, encoded, filled};
    use super::super::lists;
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

        for problem in lists::every(true, 1) {
            let mut built = problem.build(1).unwrap();
            if let Problem::Backward(heads) = &problem {
                let inputs: Vec<&[u8]> = built.given.iter().map(|given| &given.bytes[..]).collect();
                let results = reference::exact(&built.op, &inputs);
                let results = results.into_iter().zip([DType::BF16, DType::F32]);
                let bytes = |(values, dtype): (Vec<f64>, _)| {
                    values.into_iter().flat_map(|x| encoded(dtype, x as f32)).collect()
                };
                built = heads.backward(&built, results.map(bytes).collect(), 1).unwrap();
            }
            let none = built.op.roles().iter().map(|_| &[][..]);
            let inputs: Vec<&[u8]> =
                built.given.iter().map(|given| given.bytes.as_slice()).chain(none).collect();
            let whole = reference::exact(&built.op, &inputs);
            let of = |(output, at): (usize, Vec<u64>)| {
                let spec = built.op.specs()[built.given.len() + output];
                let mut memory = vec![f64::NAN; spec.layout.span() as usize];
                for (at, x) in reference::offsets(&spec.layout).zip(&whole[output]) {
                    memory[at as usize] = reference::round_to(spec.dtype, *x);
                }
                (output, at.iter().map(|&at| memory[at as usize]).collect::<Vec<f64>>())
            };
            let right: Vec<_> = built.checked().into_iter().map(of).collect();
            assert_eq!(built.judged(&right).wrong, "", "{}", problem.label());
            assert!(right.iter().map(|(_, values)| values.len()).sum::<usize>() > 0);
            for (output, values) in &right {
                for i in [0, values.len() - 1] {
                    let mut wrong = values.clone();
                    wrong[i] += 1.0 + wrong[i].abs();
                    assert_ne!(built.judged(&[(*output, wrong)]).wrong, "", "{}", problem.label());
                }
                assert_ne!(built.judged(&[(*output, values[1..].to_vec())]).wrong, "");
            }
        }
    }
}
