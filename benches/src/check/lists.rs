//! Parity at full size: the problems of every speed table, and lists of sizes with tails that others test with. Each runs
//! once, and windows of its outputs are recomputed. `tables` calls it.

use super::Check;
use super::decode::Decode;
use super::heads::Heads;
use super::problem::Problem;
use super::report::{Maybe, Number, Row};
use super::shapes::{self, heads, weights};
use super::speed::{built, checked};
use leasehold::DType::{BF16, F16, F32};
use std::time::Instant;

/// M and K around tiles and pieces of rows, at N of one tile and a half.
const TAILS: [u64; 9] = [1, 2, 3, 7, 17, 63, 65, 127, 129];
const SHORT: [u64; 3] = [8, 72, 136];
/// More than 2^31 outputs.
const HUGE: [u64; 3] = [46_592, 46_592, 64];
/// Rows and keys of FlashAttention 3's tests of dense attention.
#[rustfmt::skip]
const DENSE: [[u64; 2]; 20] = [
    [1, 1], [64, 128], [128, 192], [256, 256], [239, 1], [799, 3], [113, 203], [113, 128], [128, 217], [113, 211],
    [108, 256], [256, 512], [384, 256], [640, 128], [512, 256], [1024, 1024], [1023, 1024], [1024, 1023], [4096, 4096],
    [4224, 4224],
];
/// Of its tests of packed entries.
#[rustfmt::skip]
const PACKED: [[u32; 2]; 21] = [
    [1, 1], [1, 3], [2, 1], [511, 1], [3, 513], [64, 128], [128, 128], [256, 256], [113, 203], [128, 217], [113, 211],
    [108, 256], [256, 512], [307, 256], [640, 128], [512, 256], [1024, 1024], [1023, 1024], [1024, 1023], [2048, 2048],
    [4096, 4096],
];
/// Rows of FlashAttention 2's packed entries.
const PACKED_ALIKE: [u32; 8] = [97, 128, 200, 384, 768, 1024, 1025, 2048];
/// Of its tests with a cache, and the pages of those; 0 is none.
#[rustfmt::skip]
const CACHED: [[u64; 2]; 11] = [
    [1, 128], [1, 339], [3, 1024], [64, 800], [64, 256], [3, 799], [64, 2048], [16, 20_000], [128, 128], [256, 512],
    [2048, 3577],
];
const PAGES: [u64; 4] = [0, 1, 4, 128];
/// FlashAttention 2's longest caches.
const LONG: [[u64; 2]; 3] = [[16, 100_000], [1, 131_072], [16, 131_072]];
/// Head dims of both, of queries and keys and of values.
#[rustfmt::skip]
const DIMS: [[u64; 2]; 17] = [
    [64, 64], [128, 128], [256, 256], [192, 128], [96, 96], [32, 32], [40, 40], [59, 59], [80, 80], [111, 111], [160, 160],
    [192, 192], [224, 224], [64, 256], [128, 64], [256, 128], [72, 72],
];
/// Query heads and key heads: each its own, groups, one for all.
const HEADS: [[u64; 2]; 3] = [[6, 6], [6, 2], [6, 1]];
/// Rows of the copies that turn scales (DeepGEMM's layout ops), and how many more.
const TURNED: [[u64; 2]; 12] = {
    const MORE: [u64; 4] = [0, 101, 202, 303];
    let mut all = [[0, 56]; 12];
    let mut i = 0;
    while i < 12 {
        all[i][0] = [64, 4096, 16384][i / 4] + MORE[i % 4];
        i += 1;
    }
    all
};

/// Attention with every option in turn: the `i`th of a list takes the `i`th of each.
fn with_options(i: usize, lengths: [u64; 2]) -> Heads {
    let plain = heads(2, HEADS[i % 3], 1, 64, i.is_multiple_of(2));
    Heads {
        lengths,
        dims: DIMS[i % DIMS.len()],
        window: [None, None, Some([257, 64]), None, Some([30, 0])][i % 5],
        softcap: [0.0, 15.0][i / 3 % 2],
        dtype: [BF16, F16, F32][i / 2 % 3],
        ..plain
    }
}

/// Products around tiles.
fn tails() -> Vec<Problem> {
    let rows = TAILS.iter().flat_map(|&m| SHORT.map(|k| weights(m, [200, k])));
    let columns = TAILS.iter().map(|&n| weights(129, [n, 520]));
    rows.chain(columns).collect()
}

fn turned(size: [u64; 2]) -> Problem {
    Problem::Rows { function: "turn", size }
}

fn cached(i: usize, [rows, keys]: [u64; 2], page: u64) -> Problem {
    let dim = [128, 64, 96, 192, 256][i % 5];
    let (batch, varied) = (3, i % 2 == 1);
    Problem::Decode(Decode { batch, heads: HEADS[i % 3], rows, keys, dim, page, varied })
}

/// Lists beside those of the speed tables.
fn more(is_tiny: bool) -> Vec<Vec<Problem>> {
    if is_tiny {
        let entries = Heads { packed: vec![[5, 9], [3, 1]], ..with_options(2, [0, 0]) };
        return vec![
            vec![weights(3, [24, 8]), turned([65, 5])],
            vec![Problem::Attention(with_options(2, [13, 31])), Problem::Attention(entries)],
            vec![cached(1, [3, 40], 4), cached(2, [2, 30], 0)],
        ];
    }
    let dense: Vec<Heads> = (0..3)
        .flat_map(|turn| {
            DENSE.iter().enumerate().map(move |(i, &of)| with_options(7 * turn + i, of))
        })
        .collect();
    let gradients = dense.iter().step_by(2).cloned();
    let packed: Vec<Heads> = (0..6)
        .map(|i| {
            let packed = PACKED.iter().skip(i % 3).step_by(3).copied().collect();
            Heads { packed, ..with_options(i, [0, 0]) }
        })
        .chain([0, 1].map(|i| {
            let packed = PACKED_ALIKE.map(|rows| [rows; 2]).into();
            Heads { packed, ..with_options(i, [0, 0]) }
        }))
        .collect();
    let caches = CACHED.iter().enumerate().flat_map(|(i, &of)| {
        PAGES.iter().enumerate().map(move |(j, &page)| cached(i + 3 * j, of, page))
    });
    let long = LONG.iter().map(|&of| cached(0, of, 16));
    let [m, n, k] = HUGE;
    vec![
        tails(),
        gradients.chain(packed.iter().cloned()).map(Problem::Backward).collect(),
        dense.into_iter().chain(packed).map(Problem::Attention).collect(),
        caches.chain(long).collect(),
        TURNED.map(turned).into_iter().chain([weights(m, [n, k])]).collect(),
    ]
}

/// All of them, from each list in turn, so that where time is over every list has been looked at.
pub(super) fn every(is_tiny: bool, seed: u64) -> Vec<Problem> {
    let mut lists = more(is_tiny);
    lists.extend(shapes::every(is_tiny, seed));
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    while !lists.is_empty() {
        lists.retain_mut(|list| list.next().map(|problem| all.push(problem)).is_some());
    }
    all
}

/// Each problem once, as far as there is time: how many values of it were held against the reference.
pub(super) fn lists(check: &mut Check<'_>) {
    let began = Instant::now();
    for problem in every(check.is_tiny(), check.args.seed) {
        let run = |check: &mut Check<'_>| {
            let is_over = !check.is_tiny() && began.elapsed() > check.budget;
            if is_over && !check.rows.is_empty() {
                return Err(format!("the table's {} s were over", check.budget.as_secs()));
            }
            let ours = check.ours.as_mut();
            let ready =
                built(ours, &problem, check.args.seed).map_err(|error| error.to_string())?;
            let plan = ours.load(&ready, 1);
            let found = plan.and_then(|plan| {
                let mut of = checked(ours, &ready)?;
                if let Problem::Decode(decode) = &problem
                    && decode.is_moved()
                    && of.wrong.is_empty()
                {
                    let outputs = ours.outputs()?;
                    ours.unload();
                    ours.load(&decode.moved(&ready, check.args.seed), 1)?;
                    if ours.outputs()? != outputs {
                        of.wrong = "other bytes where the same keys lie in other pages".into();
                    }
                }
                Ok((plan, of))
            });
            if ours.answers().is_ok() {
                ours.unload();
            }
            found.map_err(|error| error.to_string())
        };
        check.row(&problem.label(), |check| {
            let sizes = serde_json::to_value(&problem).ok();
            let (plan, ours) = match run(check) {
                Ok((plan, of)) => {
                    (Some(plan), Maybe::Is(Number::count(of.values as f64, "values", of)))
                }
                Err(why) => (None, Maybe::not(why)),
            };
            Row { plan, ..Row::new(problem.label(), sizes, ours, Vec::new()) }
        });
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::super::data::BLANK;
    use super::*;
    use leasehold::Kind;

    /// What only a card runs is legal and has windows; gradients may have options that are not built yet.
    #[test]
    fn full_lists_are_legal() {
        BLANK.set(true);
        // Of a long cache every key is copied: one size of many.
        let is_long = |problem: &Problem| match problem {
            Problem::Decode(of) => of.batch * of.heads[1] * of.keys > 1 << 20,
            _ => false,
        };
        let (long, short): (Vec<_>, Vec<_>) = every(false, 1).into_iter().partition(is_long);
        for problem in short.into_iter().chain(long.into_iter().take(1)) {
            let label = problem.label();
            let mut built = problem.build(1).unwrap_or_else(|e| panic!("{label}: {e}"));
            if let Problem::Backward(heads) = &problem {
                let outs = &built.op.specs()[built.given.len()..];
                let results = outs.iter().map(|of| vec![0; of.span_bytes() as usize]);
                built = match heads.backward(&built, results.collect(), 1) {
                    Err(error) if matches!(error.kind(), Kind::Unsupported { .. }) => continue,
                    built => built.unwrap_or_else(|e| panic!("{label}: {e}")),
                };
            }
            assert!(!built.checked().is_empty(), "{label}");
        }
    }
}
