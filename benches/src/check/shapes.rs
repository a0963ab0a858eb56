//! The shape lists of the speed tables as data, each with where it comes from; and a few shapes nobody tuned for, drawn by
//! the seed. A rehearsal takes tiny ones of the same kinds. `tables` runs them.

use super::data::{lengths, next};
use super::decode::Decode;
use super::heads::Heads;
use super::problem::Problem;
use super::products::{Groups, Product};
use super::report::{Maybe, Number, Peer};
use leasehold::DType::{self, BF16, F8E4M3, F32};
use leasehold::op::Group;

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
/// Those of its list with f32 outputs, and the M of both.
const WIDE: [[u64; 2]; 2] = [[256, 7168], [129_280, 7168]];
const DEEPGEMM_M: [u64; 3] = [1, 128, 4096];
/// K at 8192 x 8192 (TileLang's list).
const DEPTHS: [u64; 7] = [256, 512, 1024, 2048, 4096, 8192, 16384];
const SQUARES: [u64; 6] = [512, 1024, 2048, 4096, 8192, 16384];
/// Weights of Llama-3 8B, N and K: QKV, output, gate and up, down.
const WEIGHTS: [[u64; 2]; 4] = [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336]];
/// The vocabulary of Llama-3 8B: the head that gives its logits.
const VOCABULARY: [u64; 2] = [128_256, 4096];
const FEW: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// Small batched products.
const BATCHES: [u64; 3] = [64, 512, 4096];
const SMALL: [u64; 3] = [64, 128, 256];
/// DeepGEMM's batched list (einsum).
const EINSUM: [[u64; 3]; 3] = [[128, 384, 128], [256, 256, 256], [384, 128, 384]];
/// DeepGEMM's head projections: tokens, then heads, N and K.
const TOKENS: [u64; 5] = [4, 32, 128, 4096, 8192];
const PROJECTIONS: [[u64; 3]; 2] = [[128, 128, 512], [8, 1024, 4096]];
/// DeepGEMM's grouped list, groups and mean rows, then N and K.
const GROUPS: [[u64; 2]; 2] = [[4, 8192], [8, 4096]];
const GROUPED: [[u64; 2]; 4] = [[6144, 7168], [7168, 3072], [4096, 4096], [4096, 2048]];
/// Its masked list, groups and mean rows, and the room of each.
const MASKED: [[u64; 2]; 4] = [[32, 192], [6, 1024], [32, 20], [6, 20]];
const ROOM: u64 = 4096;
/// Its groups along K, groups and mean terms, then M and N.
const DEEP: [[u64; 2]; 3] = [[4, 8192], [8, 4096], [16, 2048]];
const DEEPENED: [[u64; 2]; 2] = [[4096, 7168], [7168, 2048]];
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

fn product(batch: u64, size: [u64; 3], turned: [bool; 2]) -> Product {
    Product { batch, size, dtype: BF16, out: BF16, turned, between: false, added: false }
}

/// B lies as weights do.
pub(super) fn weights(m: u64, [n, k]: [u64; 2]) -> Problem {
    Problem::Matmul(product(1, [m, n, k], [false, true]))
}

fn with_out(m: u64, [n, k]: [u64; 2], out: DType) -> Problem {
    Problem::Matmul(Product { out, ..product(1, [m, n, k], [false, true]) })
}

fn plain(problems: impl IntoIterator<Item = Problem>) -> Vec<Entry> {
    problems.into_iter().map(|problem| (problem, Vec::new())).collect()
}

/// Table 1.
pub(super) fn dense(is_tiny: bool, seed: u64) -> Vec<Entry> {
    // The gradient of weights, which is added to what is there.
    let gradient = |size| {
        let product = product(1, size, [true, false]);
        Problem::Matmul(Product { out: F32, added: true, ..product })
    };
    if is_tiny {
        let random = unseen(seed, 1, 64);
        let turned = Problem::Matmul(product(1, [64, 48, 40], [true, false]));
        let all = [turned, weights(1, [72, 40]), gradient([24, 40, 32])];
        return plain(all.into_iter().chain(random));
    }
    let squares = SQUARES.map(|n| weights(n, [n, n]));
    let depths = DEPTHS.map(|k| weights(8192, [8192, k]));
    let list = DEEPGEMM.into_iter().flat_map(|nk| DEEPGEMM_M.map(|m| weights(m, nk)));
    let few = WEIGHTS.into_iter().flat_map(|nk| FEW.map(|m| weights(m, nk)));
    let head = [1, 16, 128].map(|m| weights(m, VOCABULARY));
    let wide = WIDE.into_iter().flat_map(|nk| DEEPGEMM_M.map(|m| with_out(m, nk, F32)));
    // The gradients of a layer of DeepGEMM's list: of its input and of its weights.
    let back = [
        Problem::Matmul(product(1, [4096, 7168, 4096], [false, false])),
        Problem::Matmul(product(1, [7168, 2048, 4096], [true, true])),
        gradient([4096, 7168, 4096]),
        gradient([2112, 7168, 4096]),
    ];
    // What nobody tuned for comes before time can be over.
    let all = squares.into_iter().chain(unseen(seed, 4, 8192)).chain(few).chain(list);
    plain(all.chain(head).chain(depths).chain(back).chain(wide))
}

/// Sizes that are in no list: any M, N and K by eights, as aligned rows ask.
fn unseen(seed: u64, count: usize, most: u64) -> Vec<Problem> {
    let mut state = seed;
    let mut size = |step: u64| (next(&mut state) % (most / step) + 1) * step;
    (0..count).map(|_| weights(size(1), [size(8), size(8)])).collect()
}

/// So many counts, uniform from 0.7 to 1.3 of the mean.
fn around([count, mean]: [u64; 2], seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut one = || (mean * 7 / 10 + next(&mut state) % (mean * 6 / 10 + 1)) as u32;
    (0..count).map(|_| one()).collect()
}

fn rows_in_groups(groups: [u64; 2], [n, k]: [u64; 2], dtype: DType, seed: u64) -> Problem {
    let counts = around(groups, seed);
    let size = [counts.iter().map(|&count| u64::from(count)).sum(), n, k];
    Problem::Grouped(Groups { group: Group::Contiguous, counts, size, dtype, out: BF16 })
}

fn masked(groups: [u64; 2], room: u64, [n, k]: [u64; 2], dtype: DType, seed: u64) -> Problem {
    let counts = around(groups, seed);
    let size = [room, n, k];
    Problem::Grouped(Groups { group: Group::Masked, counts, size, dtype, out: BF16 })
}

/// Groups along K, the second of which is empty.
fn deep(groups: [u64; 2], [m, n]: [u64; 2], seed: u64) -> Problem {
    // Groups begin where a tile of K does, as DeepGEMM's do.
    let mut counts = around(groups, seed);
    counts.iter_mut().for_each(|count| *count = count.next_multiple_of(128));
    counts[1] = 0;
    let size = [m, n, counts.iter().map(|&count| u64::from(count)).sum()];
    Problem::Grouped(Groups { group: Group::K, counts, size, dtype: BF16, out: F32 })
}

/// Heads of tokens, each by its own weights.
fn projection(tokens: u64, [heads, n, k]: [u64; 3]) -> Problem {
    let product = product(heads, [tokens, n, k], [false, true]);
    Problem::Matmul(Product { between: true, ..product })
}

/// Table 2.
pub(super) fn batched(is_tiny: bool, seed: u64) -> Vec<Entry> {
    let of = |batch, size| Problem::Matmul(product(batch, size, [false, true]));
    if is_tiny {
        return plain([
            of(5, [16; 3]),
            projection(9, [3, 16, 24]),
            rows_in_groups([3, 24], [32, 40], BF16, seed),
            masked([3, 20], 32, [32, 40], BF16, seed),
            deep([3, 40], [24, 32], seed),
        ]);
    }
    let small = SMALL.into_iter().flat_map(|n| BATCHES.map(|batch| of(batch, [n; 3])));
    let mut state = seed;
    let mut size = |most: u64| (next(&mut state) % most + 1) * 8;
    let random = [64, 512, 2048].map(|batch| of(batch, [size(48), size(48), size(48)]));
    let einsum = EINSUM.into_iter().flat_map(|size| [129, 4096, 8192].map(|batch| of(batch, size)));
    let rows = GROUPED
        .into_iter()
        .flat_map(|size| GROUPS.map(|group| rows_in_groups(group, size, BF16, seed)));
    let room =
        GROUPED.into_iter().flat_map(|size| MASKED.map(|of| masked(of, ROOM, size, BF16, seed)));
    let depth = DEEPENED.into_iter().flat_map(|size| DEEP.map(|of| deep(of, size, seed)));
    let heads = PROJECTIONS.into_iter().flat_map(|size| TOKENS.map(|m| projection(m, size)));
    let all = small.chain(random).chain(rows).chain(einsum).chain(heads);
    plain(all.chain(depth).chain(room))
}

/// Table 3.
pub(super) fn fp8(is_tiny: bool, seed: u64) -> Vec<Entry> {
    if is_tiny {
        let grouped = rows_in_groups([3, 24], [144, 256], F8E4M3, seed);
        let room = masked([3, 20], 32, [144, 256], F8E4M3, seed);
        return plain([Problem::Scaled { size: [24, 144, 256] }, grouped, room]);
    }
    let of = |([n, k], printed): ([u64; 2], [f64; 3])| {
        [64, 128, 4096].into_iter().zip(printed).map(move |(m, tflops)| {
            (
                Problem::Scaled { size: [m, n, k] },
                vec![published("DeepGEMM at launch, H800", tflops)],
            )
        })
    };
    let rows = GROUPED
        .into_iter()
        .flat_map(|size| GROUPS.map(|group| rows_in_groups(group, size, F8E4M3, seed)));
    let room =
        GROUPED.into_iter().flat_map(|size| MASKED.map(|of| masked(of, ROOM, size, F8E4M3, seed)));
    let mut state = seed;
    let mut any = |step: u64, most: u64| (next(&mut state) % (most / step) + 1) * step;
    let random =
        [(); 3].map(|()| Problem::Scaled { size: [any(1, 8192), any(8, 8192), any(128, 8192)] });
    let list = FP8.into_iter().flat_map(of);
    plain(random).into_iter().chain(list).chain(plain(rows.chain(room))).collect()
}

fn published(name: &str, tflops: f64) -> Peer {
    let number = Number {
        value: tflops,
        unit: "TFLOP/s".into(),
        more: true,
        timing: None,
        check: Maybe::not("printed by its authors"),
    };
    Peer::new(name, Maybe::Is(number)).beside()
}

/// FlashAttention's benchmark: 16384 tokens at hidden 2048, then 16 heads on 2.
fn benchmark() -> Vec<Heads> {
    let of = |dim: u64, causal| {
        SEQUENCES.map(move |[batch, length]| heads(batch, [2048 / dim; 2], length, dim, causal))
    };
    let all = DIMS.into_iter().flat_map(|dim| of(dim, false).into_iter().chain(of(dim, true)));
    all.chain(SEQUENCES.map(|[batch, length]| heads(batch, [16, 2], length, 128, true))).collect()
}

/// Entries of any length to `most`, 16384 tokens in all.
fn packed(most: u64, of: [u64; 2], dim: u64, seed: u64) -> Heads {
    let packed = lengths(most, 16384, seed).into_iter().map(|len| [len, len]).collect();
    Heads { packed, ..heads(1, of, most, dim, true) }
}

/// Sizes that are in no list.
fn unseen_heads(seed: u64, count: usize) -> Vec<Heads> {
    let mut state = seed;
    let mut any = |most: u64| next(&mut state) % most + 1;
    let mut one = || {
        let (kv, length, dim) = (any(8), any(8192), any(16) * 16);
        heads(any(4), [kv * any(4), kv], length, dim, any(2) == 1)
    };
    (0..count).map(|_| one()).collect()
}

/// Attention of table 4, forward.
pub(super) fn attention(is_tiny: bool, seed: u64) -> Vec<Entry> {
    if is_tiny {
        let tiny = heads(2, [4, 2], 40, 32, true);
        let packed = Heads { packed: vec![[5, 5], [0, 0], [33, 33]], ..tiny.clone() };
        return plain([tiny, packed].map(Problem::Attention));
    }
    let (hidden, shared) = ([16, 16], [16, 2]);
    let lengths =
        [(512, hidden, 128), (4096, hidden, 128), (4096, [32, 32], 64), (4096, shared, 128)]
            .map(|(most, of, dim)| packed(most, of, dim, seed));
    // What nobody tuned for comes before time can be over.
    let all = unseen_heads(seed, 3).into_iter().chain(benchmark()).chain(lengths);
    plain(all.map(Problem::Attention))
}

/// Attention of table 4, backward.
pub(super) fn backward(is_tiny: bool, seed: u64) -> Vec<Entry> {
    if is_tiny {
        let tiny = heads(1, [4, 2], 24, 16, true);
        return plain([tiny].map(Problem::Backward));
    }
    let lengths = [[16, 16], [16, 2]].map(|of| packed(4096, of, 128, seed));
    let all = unseen_heads(seed ^ 1, 2).into_iter().chain(benchmark()).chain(lengths);
    plain(all.map(Problem::Backward))
}

pub(super) fn heads(batch: u64, heads: [u64; 2], length: u64, dim: u64, causal: bool) -> Heads {
    let (lengths, dims, packed) = ([length; 2], [dim; 2], Vec::new());
    let (window, softcap, dtype) = (None, 0.0, BF16);
    Heads { batch, heads, lengths, dims, causal, window, softcap, dtype, packed }
}

/// Table 5.
pub(super) fn decode(is_tiny: bool, seed: u64) -> Vec<Entry> {
    let of = |batch, heads, keys, dim, page| {
        Problem::Decode(Decode { batch, heads, rows: 1, keys, dim, page, varied: false })
    };
    if is_tiny {
        return plain([of(2, [4, 2], 40, 32, 16)]);
    }
    let full = |batch: u64, kv: u64, page: u64| {
        // Keys and values of 128 elements of two bytes.
        let keys = CACHE_BYTES.div_ceil(2 * batch * kv * 128 * 2).next_multiple_of(128);
        of(batch, [32, kv], keys, 128, page)
    };
    // What is in no list.
    let mut state = seed;
    let mut any = |most: u64| next(&mut state) % most + 1;
    let random = [(); 3].map(|()| {
        let (batch, kv, dim, page) = (any(128), any(8), any(4) * 64, any(8) * 16);
        let keys = CACHE_BYTES.div_ceil(2 * batch * kv * dim * 2) + any(128);
        let heads = [kv * any(8), kv];
        Problem::Decode(Decode { batch, heads, rows: 1, keys, dim, page, varied: false })
    });
    let batches = [16, 256, 64, 1];
    let all = batches.into_iter().flat_map(|batch| [32, 8, 4].map(|kv| (batch, kv)));
    let list = all.flat_map(|(batch, kv)| [16, 64, 128].map(|page| full(batch, kv, page)));
    plain(random.into_iter().chain(list))
}

/// What of `rows` table 6 holds; the first is the yardstick.
pub(super) const MEMORY: [&str; 12] = [
    "copy", "silu", "add", "rms_norm", "softmax", "sum", "rope", "gather", "scatter", "quantize",
    "arg_max", "top_k",
];

/// The ops of table 6 that memory bounds; the last sizes are the seed's.
pub(super) fn memory(is_tiny: bool, seed: u64) -> Vec<Entry> {
    let mut state = seed;
    let mut any = |most: u64| next(&mut state) % most + 1;
    let sizes = match is_tiny {
        true => vec![[8, 96]],
        false => vec![[16384, 8192], [4096, 4096], [any(32768), any(96) * 128]],
    };
    let of = |size: [u64; 2]| MEMORY.map(|function| Problem::Rows { function, size });
    plain(sizes.into_iter().flat_map(of))
}

/// The problems of every table.
pub(super) fn every(is_tiny: bool, seed: u64) -> Vec<Vec<Problem>> {
    let tables = [dense, batched, fp8, attention, backward, decode, memory];
    let all = tables.iter().map(|table| table(is_tiny, seed));
    all.map(|entries| entries.into_iter().map(|(problem, _)| problem).collect()).collect()
}
