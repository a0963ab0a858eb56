//! The shape lists of the speed tables as data, each with where it comes from; and a few shapes nobody tuned for, drawn by
//! the seed. A rehearsal takes tiny ones of the same kinds. `tables` runs them.

use super::data::next;
use super::heads::Heads;
use super::problem::Problem;
use super::report::{Maybe, Number, Peer};
use leasehold::DType::{self, BF16};

/// A problem and the numbers that others have printed for it.
pub(super) type Entry = (Problem, Vec<Peer>);

/// DeepGEMM's dense list (tests/generators.py), N and K.
const DEEPGEMM: [[u64; 2]; 7] = [
    [2112, 7168],
    [576, 7168],
    [24576, 1536],
    [32768, 512],
    [7168, 16384],
    [4096, 7168],
    [7168, 2048],
];
/// K at 8192 x 8192 (TileLang's list).
const DEPTHS: [u64; 7] = [256, 512, 1024, 2048, 4096, 8192, 16384];
const SQUARES: [u64; 6] = [512, 1024, 2048, 4096, 8192, 16384];
/// Weights of Llama-3 8B, N and K: QKV, output, gate and up, down.
const WEIGHTS: [[u64; 2]; 4] = [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336]];
const FEW: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// Small batched products.
const BATCHES: [u64; 3] = [64, 512, 4096];
const SMALL: [u64; 3] = [64, 128, 256];
/// DeepGEMM's batched list (einsum).
const EINSUM: [[u64; 3]; 3] = [[128, 384, 128], [256, 256, 256], [384, 128, 384]];
/// DeepGEMM's grouped list, groups and mean rows, then N and K.
const GROUPS: [[u64; 2]; 2] = [[4, 8192], [8, 4096]];
const GROUPED: [[u64; 2]; 4] = [[6144, 7168], [7168, 3072], [4096, 4096], [4096, 2048]];
/// DeepGEMM's fp8 table of its launch, on H800: N, K, and TFLOP/s at M 64, 128 and 4096.
const FP8: [([u64; 2], [f64; 3]); 6] = [
    ([2112, 7168], [206.0, 352.0, 1058.0]),
    ([24576, 1536], [289.0, 535.0, 990.0]),
    ([32768, 512], [219.0, 358.0, 590.0]),
    ([7168, 16384], [336.0, 645.0, 1358.0]),
    ([4096, 7168], [287.0, 533.0, 1304.0]),
    ([7168, 2048], [295.0, 510.0, 1025.0]),
];
/// FlashAttention's benchmark: 16384 tokens at hidden 2048, batch and sequence.
const SEQUENCES: [[u64; 2]; 6] =
    [[32, 512], [16, 1024], [8, 2048], [4, 4096], [2, 8192], [1, 16384]];
const DIMS: [u64; 3] = [64, 128, 256];
/// Keys and values of a decode step are at least so many bytes.
const CACHE_BYTES: u64 = 1 << 30;

fn product(batch: u64, size: [u64; 3], dtype: DType, turned: [bool; 2]) -> Problem {
    Problem::Matmul { batch, size, dtype, turned }
}

/// B lies as weights do.
fn weights(m: u64, [n, k]: [u64; 2]) -> Problem {
    product(1, [m, n, k], BF16, [false, true])
}

fn plain(problems: impl IntoIterator<Item = Problem>) -> Vec<Entry> {
    problems.into_iter().map(|problem| (problem, Vec::new())).collect()
}

/// Table 1.
pub(super) fn dense(is_tiny: bool, seed: u64) -> Vec<Entry> {
    if is_tiny {
        let random = unseen(seed, 1, 64);
        let all = [product(1, [64, 48, 40], BF16, [true, false]), weights(1, [72, 40])];
        return plain(all.into_iter().chain(random));
    }
    let squares = SQUARES.map(|n| weights(n, [n, n]));
    let depths = DEPTHS.map(|k| weights(8192, [8192, k]));
    let list = DEEPGEMM.into_iter().flat_map(|nk| [128, 4096].map(|m| weights(m, nk)));
    let few = WEIGHTS.into_iter().flat_map(|nk| FEW.map(|m| weights(m, nk)));
    // The gradients of a layer of DeepGEMM's list: of its input and of its weights.
    let back = [
        product(1, [4096, 7168, 4096], BF16, [false, false]),
        product(1, [4096, 7168, 4096], BF16, [true, false]),
        product(1, [7168, 2048, 4096], BF16, [true, true]),
    ];
    // What nobody tuned for comes before time can be over.
    let all = squares.into_iter().chain(unseen(seed, 4, 8192)).chain(few).chain(list);
    plain(all.chain(depths).chain(back))
}

/// Sizes that are in no list: any M, N and K by eights, as aligned rows ask.
fn unseen(seed: u64, count: usize, most: u64) -> Vec<Problem> {
    let mut state = seed;
    let mut size = |step: u64| (next(&mut state) % (most / step) + 1) * step;
    (0..count).map(|_| weights(size(1), [size(8), size(8)])).collect()
}

/// Table 2.
pub(super) fn batched(is_tiny: bool, seed: u64) -> Vec<Entry> {
    let square = |batch, n| product(batch, [n; 3], BF16, [false, true]);
    let groups = |[count, rows]: [u64; 2], size| {
        let mut state = seed;
        // Uniform from 0.7 to 1.3 of the mean.
        let mut one = || (rows * 7 / 10 + next(&mut state) % (rows * 6 / 10 + 1)) as u32;
        Problem::Grouped { rows: (0..count).map(|_| one()).collect(), size, dtype: BF16 }
    };
    if is_tiny {
        return plain([square(5, 16), groups([3, 24], [32, 40])]);
    }
    let small = SMALL.into_iter().flat_map(|n| BATCHES.map(|batch| square(batch, n)));
    let einsum = EINSUM
        .into_iter()
        .flat_map(|size| [129, 4096, 8192].map(|batch| product(batch, size, BF16, [false, true])));
    let grouped = GROUPED.into_iter().flat_map(|size| GROUPS.map(|group| groups(group, size)));
    plain(small.chain(grouped).chain(einsum))
}

/// Table 3.
pub(super) fn fp8(is_tiny: bool) -> Vec<Entry> {
    if is_tiny {
        return plain([Problem::Scaled { size: [24, 144, 256] }]);
    }
    let of = |([n, k], printed): ([u64; 2], [f64; 3])| {
        [64, 128, 4096].into_iter().zip(printed).map(move |(m, tflops)| {
            (
                Problem::Scaled { size: [m, n, k] },
                vec![published("DeepGEMM at launch, H800", tflops)],
            )
        })
    };
    FP8.into_iter().flat_map(of).collect()
}

fn published(name: &str, tflops: f64) -> Peer {
    let number = Number {
        value: tflops,
        unit: "TFLOP/s".into(),
        more: true,
        timing: None,
        check: Maybe::not("printed by its authors"),
    };
    Peer { name: name.into(), number: Maybe::Is(number), beside: true }
}

/// Attention of table 4, forward.
pub(super) fn attention(is_tiny: bool, seed: u64) -> Vec<Entry> {
    if is_tiny {
        let tiny = heads(2, [4, 2], 40, 32, true);
        let packed = Heads { packed: vec![5, 0, 33], ..tiny.clone() };
        return plain([tiny, packed].map(Problem::Attention));
    }
    let of = |dim: u64, causal| {
        SEQUENCES.map(move |[batch, length]| heads(batch, [2048 / dim; 2], length, dim, causal))
    };
    let all = DIMS.into_iter().flat_map(|dim| of(dim, false).into_iter().chain(of(dim, true)));
    let shared = SEQUENCES.map(|[batch, length]| heads(batch, [16, 2], length, 128, true));
    let mut state = seed;
    let mut lengths = |most: u64, total: u64| {
        let mut left = total;
        let mut list = Vec::new();
        while left > 0 {
            let len = (next(&mut state) % most + 1).min(left);
            list.push(len as u32);
            left -= len;
        }
        list
    };
    let packed = [(512, 128), (4096, 128), (4096, 64)].map(|(most, dim)| Heads {
        packed: lengths(most, 16384),
        ..heads(1, [2048 / dim; 2], most, dim, true)
    });
    plain(all.chain(shared).chain(packed).map(Problem::Attention))
}

/// Attention of table 4, backward.
pub(super) fn backward(is_tiny: bool) -> Vec<Entry> {
    if is_tiny {
        return plain([Problem::Backward(heads(1, [4, 2], 24, 16, true))]);
    }
    let of = |dim: u64, causal| {
        SEQUENCES.map(move |[batch, length]| heads(batch, [2048 / dim; 2], length, dim, causal))
    };
    let all = DIMS.into_iter().flat_map(|dim| of(dim, false).into_iter().chain(of(dim, true)));
    plain(all.map(Problem::Backward))
}

fn heads(batch: u64, heads: [u64; 2], length: u64, dim: u64, causal: bool) -> Heads {
    Heads { batch, heads, length, dim, causal, dtype: BF16, packed: Vec::new() }
}

/// Table 5.
pub(super) fn decode(is_tiny: bool) -> Vec<Entry> {
    if is_tiny {
        let one = Problem::Decode { batch: 2, heads: [4, 2], keys: 40, dim: 32, page: 16 };
        return plain([one]);
    }
    let of = |batch: u64, kv: u64, page: u64| {
        // Keys and values of 128 elements of two bytes.
        let keys = CACHE_BYTES.div_ceil(2 * batch * kv * 128 * 2).next_multiple_of(128);
        Problem::Decode { batch, heads: [32, kv], keys, dim: 128, page }
    };
    let batches = [16, 256, 64, 1];
    let all = batches.into_iter().flat_map(|batch| [32, 8, 4].map(|kv| (batch, kv)));
    plain(all.flat_map(|(batch, kv)| [16, 64, 128].map(|page| of(batch, kv, page))))
}

/// The ops of table 6 that memory bounds; the first is the yardstick.
pub(super) fn memory(is_tiny: bool) -> Vec<Entry> {
    let sizes: &[[u64; 2]] = if is_tiny { &[[8, 96]] } else { &[[16384, 8192], [4096, 4096]] };
    let functions = ["copy", "silu", "add", "rms_norm", "softmax", "sum"];
    let of = |&size: &[u64; 2]| functions.map(|function| Problem::Rows { function, size });
    plain(sizes.iter().flat_map(of))
}
