//! The tables of `check` in the order in which they run, with what each holds and what is aimed at. `mod` runs them,
//! `summary` holds their ratios against the targets.

use super::report::Row;
use super::shapes::{self, Entry};
use super::{Check, host, lists, proofs, sanitizer};
use serde_json::Value;

/// A table.
pub(super) struct Kind {
    /// As `--table` takes it.
    pub(super) name: &'static str,
    /// Its time, in budgets.
    pub(super) share: u32,
    /// What it holds.
    pub(super) about: &'static str,
    /// Its rows.
    pub(super) rows: Rows,
    /// What the ratios to the best peer should be.
    pub(super) target: Option<Target>,
}

/// Where rows come from.
pub(super) enum Rows {
    /// Problems, each by ours and by theirs.
    Speed(fn(bool, u64) -> Vec<Entry>),
    /// Anything else.
    Made(fn(&mut Check<'_>)),
}

/// What is aimed at, of some rows and beside some peers.
pub(super) struct Target {
    /// What it is a ratio to.
    pub(super) to: &'static str,
    /// The rows that it is of.
    pub(super) of: fn(&Row) -> bool,
    /// How the names of its peers begin; any that are not beside where empty.
    pub(super) peers: &'static [&'static str],
    /// Peers without whose right number a row is not measured, by how their names begin.
    pub(super) needs: &'static [&'static str],
    /// Peers to each of which the ratio is said too.
    pub(super) also: &'static [&'static str],
    /// Least geometric mean of the ratios.
    pub(super) mean: Option<f64>,
    /// Least ratio of a row.
    pub(super) worst: Option<f64>,
    /// What our best row should reach, in its own unit.
    pub(super) best: Option<f64>,
    /// What no row of this unit should be beyond.
    pub(super) most: Option<(&'static str, f64)>,
}

/// Any row and any peer, without an aim.
const ANY: Target = Target {
    to: "",
    of: |_| true,
    peers: &[],
    needs: &[],
    also: &[],
    mean: None,
    worst: None,
    best: None,
    most: None,
};

/// Attention of entries in a batch, which torch's backends take; of packed ones there are other peers.
fn is_batch_of_heads(row: &Row) -> bool {
    let packed = row.problem.as_ref().and_then(|problem| problem.get("packed"));
    packed.and_then(Value::as_array).is_some_and(Vec::is_empty)
}

/// A batch of products that are at most 256 on a side: what a library launches one by one.
fn is_small_batch(row: &Row) -> bool {
    let problem = row.problem.as_ref();
    let of = |name: &str| problem.and_then(|problem| problem.get(name));
    let is_batch = of("batch").and_then(Value::as_u64).is_some_and(|batch| batch > 1);
    let sides = of("size").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_plain =
        of("op").is_some_and(|op| op == "matmul") && of("between") == Some(&Value::Bool(false));
    is_batch && is_plain && sides.iter().all(|side| side.as_u64().is_some_and(|side| side <= 256))
}

/// Every table.
pub(super) const ALL: [Kind; 17] = [
    Kind {
        name: "parity",
        share: 3,
        about: "cases of each op under every plan and several cuts, held against the f64 reference by the op's tolerance (runtime/tests/common)",
        rows: Rows::Made(proofs::parity),
        target: None,
    },
    Kind {
        name: "sanitizer",
        share: 8,
        about: "the table `watched` under each tool of NVIDIA's compute-sanitizer",
        rows: Rows::Made(sanitizer::sanitizer),
        target: None,
    },
    Kind {
        name: "watched",
        share: 1,
        about: "the cases of `repeats` by each plan once, and small cases of each op: what NVIDIA's checker is given",
        rows: Rows::Made(sanitizer::watched),
        target: None,
    },
    Kind {
        name: "lists",
        share: 6,
        about: "the shape lists of the speed tables, of FlashAttention's tests and sizes with tails, as large as they are: windows of every output, recomputed in f64 and held by the op's tolerance",
        rows: Rows::Made(lists::lists),
        target: None,
    },
    Kind {
        name: "repeats",
        share: 5,
        about: "a case again and again, by every plan and by what a tuner chooses, cut at random, alone and beside a neighbour: equal bytes",
        rows: Rows::Made(proofs::repeats),
        target: None,
    },
    Kind {
        name: "zeroing",
        share: 1,
        about: "memory that was filled with a pattern, as a node's executor gives it to the next",
        rows: Rows::Made(proofs::zeroing),
        target: None,
    },
    Kind {
        name: "dense",
        share: 6,
        about: "bf16 products: squares, K at 8192 x 8192 (TileLang), DeepGEMM's dense list with its outputs of f32, few rows by Llama-3 8B's weights and vocabulary, gradients' layouts, sizes drawn by the seed",
        rows: Rows::Speed(shapes::dense),
        target: Some(Target {
            to: "the best of cuBLASLt and torch",
            needs: &["cuBLASLt"],
            mean: Some(1.0),
            worst: Some(0.85),
            ..ANY
        }),
    },
    Kind {
        name: "batched",
        share: 4,
        about: "bf16 products in batches and groups: small squares, sizes drawn by the seed, DeepGEMM's batched lists, heads of tokens, groups of rows, of masked rows and along K",
        rows: Rows::Speed(shapes::batched),
        target: Some(Target {
            to: "the fastest of cuBLAS strided, of pointers and grouped, and a graph of singles, in batches to 256 on a side",
            of: is_small_batch,
            needs: &["cuBLASLt"],
            mean: Some(1.3),
            ..ANY
        }),
    },
    Kind {
        name: "fp8",
        share: 3,
        about: "e4m3 products with scales of 1x128 and 128x128: DeepGEMM's table at its launch, its groups of rows and of masked rows",
        rows: Rows::Speed(shapes::fp8),
        target: Some(Target {
            to: "DeepGEMM's best printed shape (1550 TFLOP/s, H800)",
            best: Some(0.95 * 1550.0),
            ..ANY
        }),
    },
    Kind {
        name: "attention",
        share: 4,
        about: "forward: 16384 tokens at hidden 2048 (FlashAttention's benchmark), 16 heads on 2, sizes and lengths drawn by the seed",
        rows: Rows::Speed(shapes::attention),
        target: Some(Target {
            to: "the best of cuDNN, torch's flash and flash-attn",
            needs: &["torch sdpa cuDNN"],
            mean: Some(1.0),
            ..ANY
        }),
    },
    Kind {
        name: "backward",
        share: 3,
        about: "gradients of attention: the same tokens, heads and lengths; windows of all three",
        rows: Rows::Speed(shapes::backward),
        target: Some(Target {
            to: "cuDNN, of entries in a batch",
            of: is_batch_of_heads,
            peers: &["torch sdpa cuDNN"],
            needs: &["torch sdpa cuDNN"],
            mean: Some(1.0),
            ..ANY
        }),
    },
    Kind {
        name: "decode",
        share: 4,
        about: "one row an entry over 1 GiB of keys and values in shuffled pages: the bytes read, beside a plain read of as many and a copy that moves as many",
        rows: Rows::Speed(shapes::decode),
        target: Some(Target {
            to: "the faster of a plain read and a copy of the same bytes",
            peers: &["torch.sum", "a copy"],
            needs: &["torch.sum", "a copy"],
            also: &["torch.sum", "a copy"],
            mean: Some(0.92),
            ..ANY
        }),
    },
    Kind {
        name: "memory",
        share: 2,
        about: "ops that memory bounds on rows of bf16, the last sizes drawn by the seed: bytes moved, beside a plain copy of as many",
        rows: Rows::Speed(shapes::memory),
        target: Some(Target {
            to: "the card's copy and torch",
            needs: &["a copy"],
            mean: Some(0.9),
            ..ANY
        }),
    },
    Kind {
        name: "launches",
        share: 1,
        about: "on the host's clock: small ops, the replay of a decode step",
        rows: Rows::Made(host::launches),
        target: None,
    },
    Kind {
        name: "leased",
        share: 2,
        about: "products, attention and a decode step through the ring of a private node, beside the same by a call; the added microseconds of one op and its wait",
        rows: Rows::Made(host::leased),
        target: Some(Target {
            to: "the same ops, local; at most 10 us added to a hot one",
            of: |row| !row.what.ends_with("no aim"),
            mean: Some(0.98),
            most: Some(("us added", 10.0)),
            ..ANY
        }),
    },
    Kind {
        name: "programs",
        share: 2,
        about: "embed and generate, leased beside local, with models that are already here, else with random weights",
        rows: Rows::Made(host::programs),
        target: Some(Target {
            to: "the same programs, local",
            needs: &["local"],
            mean: Some(0.98),
            ..ANY
        }),
    },
    Kind {
        name: "adapter",
        share: 3,
        about: "products and attention through wgpu beside cubek on one graphics adapter, by benches/peers",
        rows: Rows::Made(host::adapter),
        target: None,
    },
];
