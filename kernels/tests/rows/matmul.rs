//! Every row of the matmul kernels on the host model: awkward shapes against sums in f64, in every order of copies and
//! products, with any cut of K, all with nothing found by the model.

use crate::case::{Case, Out};
use crate::model::{Model, Order};
use leasehold_kernels::{Row, rows};

/// Tails in every axis, less than a tile, more steps than a ring has stages.
const SIZES: [[usize; 3]; 3] = [[129, 65, 72], [17, 130, 40], [64, 72, 264]];

/// The row of a key.
fn row(key: &str) -> Row {
    rows().into_iter().find(|row| row.key() == key).expect("a row of the table")
}

pub(crate) fn every_row_multiplies_in_every_order(model: &mut Model) {
    let products =
        rows().into_iter().filter(|row| matches!(row, Row::MatmulSm80(_) | Row::MatmulSm90(_)));
    for (i, row) in products.enumerate() {
        for (j, size) in SIZES.into_iter().enumerate() {
            let what = format!("{} {size:?}", row.key());
            let case = Case::new(row, 1 + (i + j) % 2, size, (i + j) as u64);
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
fn any_cut_of_k_gives_equal_bits() {
    let Some(mut model) = Model::start() else { return };
    let keys = [
        "matmul_sm80_f16_kk_128x128",
        "matmul_sm80_bf16_oo_64x64",
        "matmul_sm80_tf32_ko_64x64",
        "matmul_sm90_bf16_ko_128x64",
        "matmul_sm90_bf16_kk_256x256_by2",
        "matmul_sm90_f16_ko_128x128_ping_pong",
        "matmul_sm90_bf16_ko_64x128_swapped",
    ];
    for key in keys {
        let case = Case::new(row(key), 1, [65, 72, 200], 7);
        let whole = case.run(&mut model, Order::Late);
        assert_eq!(whole.found, "");
        for cut in [64, 128] {
            let cut_up = case.run_cut(&mut model, cut);
            assert_eq!(cut_up.found, "");
            assert!(cut_up.buffers[2] == whole.buffers[2], "{key}: cut at {cut} gives other bits");
        }
    }
}

/// Boxes of one group end with k of the next, or with what is no number; and some groups have none.
#[test]
fn groups_along_k_share_boxes() {
    let Some(mut model) = Model::start() else { return };
    let cases = [
        ("sm90_bf16_kk_128x256", Out::Rows, [33, 72, 98]),
        ("sm90_f16_ko_128x128", Out::Boxes, [64, 40, 87]),
        ("sm90_f16_ok_128x64", Out::Turned, [40, 65, 80]),
        ("sm90_bf16_oo_128x64", Out::Odd, [129, 33, 83]),
        ("sm80_bf16_oo_64x64", Out::Odd, [65, 33, 88]),
        ("sm80_f16_gg_64x64", Out::Rows, [33, 65, 79]),
    ];
    for (i, (key, out, size)) in cases.into_iter().enumerate() {
        let what = format!("{key} {out:?}");
        let groups = [70, 0, 1, 7];
        let case = Case::along_k(row(&format!("matmul_{key}")), out, size, &groups, 31 + i as u64);
        let late = case.run(&mut model, Order::Late);
        assert_eq!(late.found, "", "{what}");
        case.check(&late).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
        let order = [Order::Early, Order::Seeded(i as u64)][i % 2];
        let other = case.run(&mut model, order);
        assert_eq!(other.found, "", "{what} {order:?}");
        assert!(other.buffers == late.buffers, "{what}: {order:?} gives other bits");
        let cut = case.run_cut(&mut model, 64);
        assert_eq!(cut.found, "", "{what}");
        assert!(cut.buffers[2] == late.buffers[2], "{what}: a cut gives other bits");
    }
}

#[test]
fn edge_sizes_run() {
    let Some(mut model) = Model::start() else { return };
    for key in [
        "matmul_sm80_f16_kk_128x128",
        "matmul_sm80_bf16_gg_64x64",
        "matmul_sm80_tf32_ok_64x64",
        "matmul_sm80_tf32_gg_128x128",
        "matmul_sm90_f16_oo_128x64",
    ] {
        for size in [[1, 1, 1], [1, 129, 8], [3, 2, 33], [63, 1, 136]] {
            let case = Case::new(row(key), 2, size, 11);
            let outcome = case.run(&mut model, Order::Late);
            assert_eq!(outcome.found, "", "{key} {size:?}");
            case.check(&outcome).unwrap_or_else(|wrong| panic!("{key} {size:?}: {wrong}"));
        }
    }
}

/// Each way out of each form for Hopper, in every order, on grids of one block (or cluster) and more: other bits than those of
/// the sums are found by `check`.
#[test]
fn every_way_out_writes_the_output() {
    let Some(mut model) = Model::start() else { return };
    let cases = [
        ("bf16_kk_128x256", [133, 265], 2),
        ("f16_kk_128x128", [133, 136], 1),
        ("bf16_ok_128x64", [133, 200], 3),
        ("bf16_ko_256x256_by2", [300, 265], 1),
        ("f16_ok_256x128_ping_pong_by2", [300, 265], 1),
        ("bf16_oo_128x128_ping_pong", [270, 136], 1),
        ("f16_kk_64x256_ping_pong", [133, 265], 2),
        ("bf16_ko_64x128_swapped", [57, 265], 1),
        ("f16_kk_32x128_swapped", [33, 136], 2),
        ("bf16_kk_16x128_swapped", [5, 264], 1),
        ("f16_ko_8x128_swapped", [9, 129], 1),
    ];
    for (i, (key, [m, n], grid)) in cases.into_iter().enumerate() {
        let key = format!("matmul_sm90_{key}");
        for (j, out) in [Out::Boxes, Out::Rows, Out::Turned].into_iter().enumerate() {
            let case = Case::with(row(&key), out, 2, [m, n, 72], i as u64).on(grid);
            for order in [Order::Late, [Order::Early, Order::Seeded(5)][(i + j) % 2]] {
                let outcome = case.run(&mut model, order);
                assert_eq!(outcome.found, "", "{key} {out:?} {order:?}");
                case.check(&outcome).unwrap_or_else(|wrong| panic!("{key} {out:?}: {wrong}"));
            }
        }
    }
}

/// The order is the same: so are the bits.
#[test]
fn every_form_gives_equal_bits() {
    let Some(mut model) = Model::start() else { return };
    let of = |form: &str, model: &mut Model| {
        let row = row(&format!("matmul_sm90_bf16_ko_{form}"));
        let case = Case::new(row, 1, [70, 150, 200], 21);
        let outcome = case.run(model, Order::Late);
        assert_eq!(outcome.found, "", "{form}");
        outcome.buffers[2].clone()
    };
    let plain = of("128x64", &mut model);
    for form in ["256x256_by2", "128x128_ping_pong", "256x128_ping_pong_by2", "16x128_swapped"] {
        assert!(of(form, &mut model) == plain, "{form} gives other bits");
    }
}

/// Splits of K have an order of their own: its bits depend on their length alone, not on form, grid or cut.
pub(crate) fn splits_of_k_give_equal_bits_in_every_form(model: &mut Model) {
    let mut bits: Option<Vec<u8>> = None;
    let forms = ["128x64", "256x128_ping_pong_by2", "16x128_swapped"];
    for (i, form) in forms.into_iter().enumerate() {
        let row = row(&format!("matmul_sm90_bf16_ko_{form}"));
        let order = [Order::Late, Order::Early, Order::Seeded(3)][i];
        for (grid, by_tile) in [(3, false), (1, true)] {
            let case = Case::with(row, Out::Rows, 1, [20, 150, 328], 5).on(grid);
            let outcome = model.witnessed(|model| case.run_split(model, order, 128, by_tile));
            assert_eq!(outcome.found, "", "{form}");
            case.check(&outcome).unwrap_or_else(|wrong| panic!("{form}: {wrong}"));
            let got = &outcome.buffers[2];
            assert!(bits.get_or_insert_with(|| got.clone()) == got, "{form} gives other bits");
        }
    }
}
