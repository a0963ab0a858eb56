//! Every row of the kernels of attention's gradients on the host model: awkward shapes against sums in f64 by the parity
//! tests' rule, in every order of copies, with any cut, all with nothing found by the model.

use crate::case::gradients::{BF16, Case, F16, F32, Options, PLAIN, Style};
use crate::model::{Model, Order};
use leasehold_kernels::{Row, rows};

/// The row of a key.
fn row(key: &str) -> Row {
    rows().into_iter().find(|row| row.key() == key).expect("a row of the table")
}

/// Runs a case late and in another order, holds it to its reference, and both to each other.
fn right(model: &mut Model, row: Row, options: Options, seed: usize) {
    let case = Case::new(row, options, seed as u64);
    let late = model.witnessed(|model| case.run(model, Order::Late));
    assert_eq!(late.found, "", "{row:?} {options:?}");
    case.check(&late).unwrap_or_else(|wrong| panic!("{row:?} {options:?}: {wrong}"));
    for order in Order::others(seed, seed % 3) {
        let other = case.run(model, *order);
        assert_eq!(other.found, "", "{row:?} {order:?}");
        assert!(case.agree(&late, &other), "{row:?}: {order:?} gives other bits");
    }
}

/// Rows and keys past a tile, past a chunk, and less than either; head dims of the row and less.
pub(crate) fn every_row_is_right_in_every_order(model: &mut Model) {
    let backward = |row: &Row| row.key().starts_with("attention_backward_");
    let rows = rows().into_iter().filter(backward);
    for (i, row) in rows.filter(|row| !matches!(row, Row::AttentionBackwardRows(_))).enumerate() {
        let (d, own) = match row {
            Row::AttentionBackwardSm80(row) => (row.d as usize, if row.bf16 { BF16 } else { F16 }),
            Row::AttentionBackwardSm90(row) => (row.d as usize, if row.bf16 { BF16 } else { F16 }),
            _ => (72, F32),
        };
        let dtypes = [[F32, own], [own, F32]][i % 2];
        let tails = Options { dims: [d, d - 8 * (i % 3)], dtypes, ..PLAIN };
        let cases = [
            Options { rows: 45, keys: 150, causal: true, ..tails },
            Options { rows: 9, keys: 17, group: 2, kv_heads: 2, ..tails },
            Options { rows: 70, keys: 70, group: 2, ..tails },
        ];
        for (j, options) in cases.into_iter().enumerate() {
            right(model, row, options, 4 * i + j);
        }
    }
}

/// The reference takes any type of any operand.
#[test]
fn operands_of_every_type_are_right_as_written_down() {
    let Some(mut model) = Model::attention() else { return };
    for (i, operands) in [F16, BF16].into_iter().enumerate() {
        for side in ["keys", "queries"] {
            let key = format!("attention_backward_reference_{side}_256");
            let options = Options { operands: Some(operands), rows: 20, keys: 33, ..PLAIN };
            right(&mut model, row(&key), options, i);
        }
    }
}

const SOME: [&str; 6] = [
    "attention_backward_keys_bf16_64",
    "attention_backward_keys_f16_32",
    "attention_backward_queries_bf16_64",
    "attention_backward_queries_f16_96",
    "attention_backward_reference_keys_256",
    "attention_backward_reference_queries_256",
];

/// By wgmma: more tiles than one, rows that see nothing, more chunks than a ring has stages, groups, and any cut.
#[test]
fn tiles_that_are_dealt_out_are_right() {
    let Some(mut model) = Model::attention() else { return };
    let cases = [
        Options { rows: 150, keys: 140, group: 2, kv_heads: 2, causal: true, ..PLAIN },
        Options { batch: 2, rows: 200, keys: 40, causal: true, hidden: true, ..PLAIN },
        Options { rows: 1, keys: 300, dims: [40, 24], dtypes: [BF16, BF16], ..PLAIN },
    ];
    for (i, side) in ["keys", "queries"].into_iter().enumerate() {
        let row = row(&format!("attention_backward_sm90_{side}_bf16_64"));
        for (j, options) in cases.into_iter().enumerate() {
            right(&mut model, row, options, i + j);
        }
        let case = Case::new(row, cases[i], 5);
        let whole = case.run(&mut model, Order::Late);
        for (tiles, chunks) in [(1, 1), (2, 3)] {
            let cut = case.run_cut(&mut model, tiles, chunks);
            assert_eq!(cut.found, "", "{side}");
            let equal = case.agree(&cut, &whole);
            assert!(equal, "{side}: {tiles} tiles by {chunks} chunks give other bits");
        }
    }
}

/// By wgmma: entries of other lengths beside each other, of which one is of no numbers and so are rows and keys that none
/// owns, and windows, by any cut.
#[test]
fn tiles_of_entries_are_right() {
    let Some(mut model) = Model::attention() else { return };
    let lens = &[[70, 90], [9, 17], [66, 70], [0, 9]];
    let packed = Options { lens, packed: true, rows: 150, keys: 200, ..PLAIN };
    let cases = [
        Options { kv_heads: 2, causal: true, spoiled: Some(1), dtypes: [BF16, BF16], ..packed },
        Options { group: 2, window: Some([20, 0]), spoiled: Some(0), dims: [64, 40], ..packed },
        Options {
            batch: 3,
            group: 2,
            lens: &[[66, 40], [66, 140], [66, 0]],
            rows: 66,
            keys: 140,
            window: Some([17, 30]),
            ..PLAIN
        },
    ];
    for (i, side) in ["keys", "queries"].into_iter().enumerate() {
        for (j, d) in ["bf16_64", "f16_128"].into_iter().enumerate() {
            let row = row(&format!("attention_backward_sm90_{side}_{d}"));
            // Of wide heads one.
            for (k, options) in cases.into_iter().enumerate().skip(2 * j) {
                right(&mut model, row, options, 2 * i + j + k);
            }
            let case = Case::new(row, cases[i + j], 5);
            let whole = case.run(&mut model, Order::Late);
            let cut = case.run_cut(&mut model, 2, 1);
            assert_eq!(cut.found, "", "{row:?}");
            assert!(case.agree(&cut, &whole), "{row:?}: a cut gives other bits");
        }
    }
}

/// More rows than keys, so that some see nothing; groups; head dims and strides of every kind; types of every kind.
#[test]
fn every_option_is_right() {
    let Some(mut model) = Model::attention() else { return };
    let cases = [
        Options { rows: 150, keys: 40, causal: true, ..PLAIN },
        Options { rows: 20, keys: 33, hidden: true, ..PLAIN },
        Options { batch: 2, kv_heads: 2, group: 3, rows: 20, keys: 33, causal: true, ..PLAIN },
        Options { dims: [23, 9], style: Style::Odd, dtypes: [BF16, BF16], ..PLAIN },
        Options { dims: [8, 31], style: Style::Turned, dtypes: [F16, F16], causal: true, ..PLAIN },
        Options { rows: 1, keys: 3, ..PLAIN },
    ];
    for (i, key) in SOME.into_iter().enumerate() {
        for (j, options) in cases.into_iter().enumerate() {
            right(&mut model, row(key), options, 10 * i + j);
        }
    }
}

/// Every option of scores, alone and together; entries of different lengths, packed or not, some of nothing, and what nobody
/// owns; each cut as well.
#[test]
fn every_option_of_scores_is_right() {
    let Some(mut model) = Model::attention() else { return };
    const LENS: &[[usize; 2]] = &[[30, 70], [30, 0], [30, 33]];
    const PACKED: &[[usize; 2]] = &[[3, 9], [70, 20], [0, 5], [17, 0], [40, 130]];
    let packed = Options { rows: 137, keys: 170, lens: PACKED, packed: true, group: 2, ..PLAIN };
    let cases = [
        Options { rows: 100, keys: 90, window: Some([20, 3]), ..PLAIN },
        Options { rows: 40, keys: 130, window: Some([5, 0]), group: 2, ..PLAIN },
        Options { rows: 40, keys: 50, softcap: 0.7, ..PLAIN },
        Options { rows: 35, keys: 50, alibi: true, group: 2, kv_heads: 2, ..PLAIN },
        Options { rows: 35, keys: 50, mask: true, style: Style::Odd, batch: 2, ..PLAIN },
        Options { batch: 3, rows: 30, keys: 70, lens: LENS, causal: true, mask: true, ..PLAIN },
        packed,
        Options { causal: true, softcap: 2.0, alibi: true, window: Some([30, 9]), ..packed },
    ];
    for (i, key) in SOME.into_iter().enumerate() {
        for (j, options) in cases.into_iter().enumerate() {
            right(&mut model, row(key), options, 10 * i + j);
            let case = Case::new(row(key), options, (10 * i + j) as u64);
            let whole = case.run(&mut model, Order::Late);
            let cut = case.run_cut(&mut model, 3, 1);
            assert_eq!(cut.found, "", "{key} {options:?}");
            assert!(case.agree(&cut, &whole), "{key} {options:?}: a cut gives other bits");
        }
    }
}

/// Nothing to attend to, nobody who attends, no head dim: gradients of zeros.
#[test]
fn gradients_of_nothing_are_zeros() {
    let Some(mut model) = Model::attention() else { return };
    let cases = [
        Options { rows: 0, ..PLAIN },
        Options { keys: 0, ..PLAIN },
        Options { dims: [16, 0], ..PLAIN },
    ];
    for (i, key) in SOME.into_iter().enumerate() {
        for (j, options) in cases.into_iter().enumerate() {
            right(&mut model, row(key), options, i + j);
        }
    }
}

#[test]
fn any_cut_of_tiles_and_chunks_gives_equal_bits() {
    let Some(mut model) = Model::attention() else { return };
    for (i, key) in SOME.into_iter().enumerate() {
        let long = Options { kv_heads: 2, rows: 140, keys: 140, causal: i % 2 == 0, ..PLAIN };
        let group = if key.contains("keys") { 2 } else { 1 };
        let case = Case::new(row(key), Options { group, ..long }, 5);
        let whole = case.run(&mut model, Order::Late);
        assert_eq!(whole.found, "");
        for (tiles, chunks) in [(1, 1), (2, 3)] {
            let cut = case.run_cut(&mut model, tiles, chunks);
            assert_eq!(cut.found, "", "{key}");
            let equal = case.agree(&cut, &whole);
            assert!(equal, "{key}: {tiles} tiles by {chunks} chunks give other bits");
        }
    }
}

/// Tiles, chunks and buckets of head dims are no part of the order.
#[test]
fn every_bucket_gives_equal_bits() {
    let Some(mut model) = Model::attention() else { return };
    for side in ["keys", "queries"] {
        let left = [32, 64, 96, 128, 256].map(|d| {
            let options = Options { causal: true, group: 2, rows: 70, keys: 40, ..PLAIN };
            let row = row(&format!("attention_backward_{side}_bf16_{d}"));
            let case = Case::new(row, options, 7);
            let outcome = case.run(&mut model, Order::Late);
            assert_eq!(outcome.found, "", "{side} {d}");
            (case, outcome)
        });
        let [(case, first), others @ ..] = &left;
        let equal = others.iter().all(|(_, other)| case.agree(first, other));
        assert!(equal, "{side}: a bucket gives other bits");
    }
}
