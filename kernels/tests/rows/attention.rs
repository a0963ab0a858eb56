//! Every row of the attention kernels on the host model: awkward shapes and every option against sums in f64, in every
//! order of copies and products, with any cut of the keys, all with nothing found by the model.

use crate::case::attention::{Case, ENTRIES, K, LSE, OUT, Options, PAGES, PLAIN, Q, V};
use crate::model::{Model, Order};
use leasehold_kernels::{Row, rows};

/// Rows and keys: tails of both, less than a tile and a chunk, more chunks than a ring has stages.
const SIZES: [[usize; 2]; 3] = [[90, 100], [7, 23], [33, 333]];

/// The row of a key.
fn row(key: &str) -> Row {
    rows().into_iter().find(|row| row.key() == key).expect("a row of the table")
}

/// Runs a case late, and holds it to its reference.
fn right(model: &mut Model, key: &str, options: Options, seed: u64) {
    let case = Case::new(row(key), options, seed);
    let outcome = case.run(model, Order::Late);
    assert_eq!(outcome.found, "", "{key} {options:?}");
    case.check(&outcome).unwrap_or_else(|wrong| panic!("{key} {options:?}: {wrong}"));
}

pub(crate) fn every_row_attends_in_every_order(model: &mut Model) {
    let forward = |row: &Row| {
        use Row::{AttentionPaged, AttentionReference, AttentionSm80, AttentionSm90};
        matches!(
            row,
            AttentionSm80(_) | AttentionSm90(_) | AttentionPaged(_) | AttentionReference(_)
        )
    };
    for (i, row) in rows().into_iter().filter(forward).enumerate() {
        for (j, [rows, keys]) in SIZES.into_iter().enumerate() {
            let causal = (i + j) % 2 == 1;
            let options = Options { causal, group: 1 + (i + j) % 3, rows, keys, ..PLAIN };
            let what = format!("{row:?} {options:?}");
            let case = Case::new(row, options, (i + j) as u64);
            let late = model.witnessed(|model| case.run(model, Order::Late));
            assert_eq!(late.found, "", "{what}");
            case.check(&late).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
            for order in Order::others(i, j) {
                let other = case.run(model, *order);
                assert_eq!(other.found, "", "{what} {order:?}");
                assert!(other.buffers == late.buffers, "{what}: {order:?} gives other bits");
            }
        }
    }
}

#[test]
fn every_option_is_right() {
    let Some(mut model) = Model::attention() else { return };
    let cases = [
        Options { batch: 2, kv_heads: 2, group: 2, rows: 70, keys: 129, ..PLAIN },
        Options { rows: 20, keys: 300, window: Some([17, 5]), ..PLAIN },
        Options { rows: 140, keys: 60, causal: true, ..PLAIN },
        Options { rows: 33, keys: 140, softcap: 3.0, alibi: true, group: 3, ..PLAIN },
        Options { rows: 33, keys: 140, mask: true, sinks: true, group: 2, ..PLAIN },
        Options { rows: 1, keys: 257, group: 9, causal: true, sinks: true, ..PLAIN },
        Options { rows: 5, keys: 70, dims: Some([40, 24]), group: 2, ..PLAIN },
    ];
    for key in [
        "attention_sm80_f16_64",
        "attention_sm90_bf16_64_64",
        "attention_paged_bf16_64",
        "attention_reference_256",
    ] {
        for (i, options) in cases.into_iter().enumerate() {
            right(&mut model, key, options, 20 + i as u64);
        }
    }
}

/// Chunks of 80 keys, and values of other head dims than the queries', with tails in all of them.
#[test]
fn wide_heads_are_right() {
    let Some(mut model) = Model::attention() else { return };
    let lens: &[[usize; 2]] = &[[9, 81], [9, 0], [9, 177]];
    let wide = Options { rows: 70, keys: 177, causal: true, ..PLAIN };
    let cases = [
        ("attention_sm90_bf16_256_256", Options { group: 3, rows: 50, ..wide }),
        ("attention_sm90_f16_256_256", Options { dims: Some([200, 136]), mask: true, ..wide }),
        ("attention_sm90_bf16_256_256", Options { batch: 3, rows: 9, lens, ..wide }),
        ("attention_sm90_f16_256_256", Options { window: Some([90, 3]), causal: false, ..wide }),
        ("attention_sm90_f16_192_128", Options { dims: Some([184, 120]), sinks: true, ..wide }),
    ];
    for (i, (key, options)) in cases.into_iter().enumerate() {
        right(&mut model, key, options, 80 + i as u64);
    }
}

/// What lies past an entry's keys is no number: nothing of it may reach an output.
#[test]
fn entries_of_many_lengths_are_right() {
    let Some(mut model) = Model::attention() else { return };
    let lens: &[[usize; 2]] = &[[30, 77], [30, 0], [30, 150]];
    let packed: &[[usize; 2]] = &[[3, 130], [0, 9], [70, 70], [1, 0]];
    let cases = [
        Options { batch: 3, rows: 30, keys: 150, group: 2, lens, causal: true, ..PLAIN },
        Options { batch: 4, rows: 80, keys: 220, lens: packed, packed: true, sinks: true, ..PLAIN },
    ];
    for key in ["attention_sm80_bf16_64", "attention_sm90_f16_64_64", "attention_paged_f16_64"] {
        for (i, options) in cases.into_iter().enumerate() {
            right(&mut model, key, options, 40 + i as u64);
        }
    }
}

#[test]
fn rows_that_lie_anyhow_and_keys_in_pages_are_right() {
    let Some(mut model) = Model::attention() else { return };
    let lens: &[[usize; 2]] = &[[30, 77], [30, 150]];
    let packed: &[[usize; 2]] = &[[3, 130], [70, 71]];
    let cases = [
        Options { rows: 50, keys: 90, odd: true, dims: Some([111, 97]), ..PLAIN },
        Options { batch: 2, rows: 30, keys: 150, page: 16, lens, causal: true, ..PLAIN },
        Options { batch: 2, rows: 80, keys: 130, page: 7, lens: packed, packed: true, ..PLAIN },
    ];
    for key in ["attention_sm80_f16_128", "attention_paged_bf16_128", "attention_reference_256"] {
        for (i, options) in cases.into_iter().enumerate() {
            right(&mut model, key, options, 60 + i as u64);
        }
    }
}

#[test]
fn any_cut_of_tiles_and_keys_gives_equal_bits() {
    let Some(mut model) = Model::attention() else { return };
    let keys = [
        "attention_sm80_bf16_32",
        "attention_sm80_f16_256",
        "attention_sm90_f16_128_64",
        "attention_sm90_f16_256_256",
        "attention_paged_f16_256",
        "attention_reference_256",
    ];
    for key in keys {
        let options = Options { rows: 40, keys: 300, group: 4, causal: true, ..PLAIN };
        let case = Case::new(row(key), options, 5);
        let whole = case.run(&mut model, Order::Late);
        assert_eq!(whole.found, "");
        for (tiles, chunks) in [(1, 1), (2, 2)] {
            let cut = case.run_cut(&mut model, tiles, chunks);
            assert_eq!(cut.found, "");
            let equal =
                cut.buffers[OUT] == whole.buffers[OUT] && cut.buffers[LSE] == whole.buffers[LSE];
            assert!(equal, "{key}: {tiles} tiles by {chunks} chunks give other bits");
        }
    }
}

/// More splits than are merged at once have the bits of splits that are merged one by one, launch after launch.
#[test]
fn splits_are_merged_as_one_by_one() {
    let Some(mut model) = Model::attention() else { return };
    let options = Options { rows: 1, keys: 70 * 128 + 5, group: 3, ..PLAIN };
    let case = Case::new(row("attention_paged_bf16_32"), options, 6);
    let whole = case.run(&mut model, Order::Late);
    assert_eq!(whole.found, "");
    case.check(&whole).unwrap_or_else(|wrong| panic!("{wrong}"));
    for chunks in [1, 33] {
        let cut = case.run_cut(&mut model, 1, chunks);
        assert_eq!(cut.found, "");
        assert!(cut.buffers[OUT] == whole.buffers[OUT] && cut.buffers[LSE] == whole.buffers[LSE]);
    }
}

/// What a tenant may have in a table of pages, at any time.
const HOSTILE: [u32; 4] = [u32::MAX, i32::MAX as u32, 1 << 31, 0xdead_beef];

/// A page that is not there reads as zeros: the same as a page of zeros, which the reference has.
#[test]
fn pages_that_are_not_there_read_as_zeros_and_are_told() {
    let Some(mut model) = Model::attention() else { return };
    for (i, key) in ["attention_paged_f16_64", "attention_sm80_bf16_32"].into_iter().enumerate() {
        for (j, bad) in HOSTILE.into_iter().enumerate() {
            let options = Options { rows: 2, keys: 70, page: 16, lens: &[[2, 70]], ..PLAIN };
            let mut case = Case::new(row(key), options, (10 * i + j) as u64);
            case.clear_page(0, j);
            let zeros = case.run(&mut model, Order::Late);
            case.check(&zeros).unwrap_or_else(|wrong| panic!("{key}: {wrong}"));
            assert_eq!(case.fault(&zeros), [0, 0, 0]);
            case.set_page(0, j, bad);
            let outcome = case.run(&mut model, Order::Late);
            assert_eq!(outcome.found, "", "{key} {bad:#x}");
            assert_eq!(case.fault(&outcome), [1, bad, case.args.pages.count]);
            assert!(outcome.buffers[OUT] == zeros.buffers[OUT], "{key}: {bad:#x} is not zeros");
        }
    }
}

/// A table in any order, with a page twice, that changes between two slices: no finding, and nothing outside the output.
#[test]
fn a_table_that_changes_between_slices_harms_nobody() {
    let Some(mut model) = Model::attention() else { return };
    for key in ["attention_paged_bf16_64", "attention_sm80_f16_32"] {
        let options = Options { rows: 3, keys: 300, page: 7, lens: &[[3, 300]], ..PLAIN };
        let case = Case::new(row(key), options, 3);
        let mut random = 88172645463325252u64;
        let outcome = case.run_cut_with(&mut model, 1, 1, |buffers| {
            let words: &mut [u32] = bytemuck::cast_slice_mut(&mut buffers[PAGES]);
            for (i, word) in words.iter_mut().enumerate() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                *word = [*word, HOSTILE[i % 4], random as u32, (random % 9) as u32]
                    [random as usize >> 40 & 3];
            }
        });
        assert_eq!(outcome.found, "", "{key}");
        assert_eq!(case.fault(&outcome)[0], 1, "{key}");
        case.check_gaps(&outcome).unwrap_or_else(|wrong| panic!("{key}: {wrong}"));
        for name in [Q, K, V, ENTRIES] {
            assert!(outcome.buffers[name] == case.buffers[name], "{key}: operand {name} changed");
        }
    }
}
