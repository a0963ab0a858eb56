//! Every row of the matmul kernels on the host model: awkward shapes against sums in f64, in every order of copies and
//! products, with any cut of K, all with nothing found by the model.

use crate::case::{Case, Out};
use crate::model::{Model, Order};
use leasehold_kernels::{Row, rows};

/// Tails in every axis, less than a tile, more steps than a ring has stages.
const SIZES: [[usize; 3]; 3] = [[129, 65, 72], [17, 130, 40], [64, 72, 264]];

const ORDERS: [Order; 4] = [Order::Early, Order::Seeded(1), Order::LateCopies, Order::LateProducts];

/// The row of a key.
fn row(key: &str) -> Row {
    rows().into_iter().find(|row| row.key() == key).expect("a row of the table")
}

#[test]
fn every_row_multiplies_in_every_order() {
    let Some(mut model) = Model::start() else { return };
    let products =
        rows().into_iter().filter(|row| matches!(row, Row::MatmulSm80(_) | Row::MatmulSm90(_)));
    for (i, row) in products.enumerate() {
        let key = row.key();
        let case = Case::new(row, 1 + i % 2, SIZES[i % SIZES.len()], i as u64);
        let late = case.run(&mut model, Order::Late);
        assert_eq!(late.found, "", "{key}");
        case.check(&late).unwrap_or_else(|wrong| panic!("{key}: {wrong}"));
        let order = ORDERS[i % ORDERS.len()];
        let other = case.run(&mut model, order);
        assert_eq!(other.found, "", "{key} {order:?}");
        assert!(other.buffers == late.buffers, "{key}: {order:?} gives other bits");
    }
}

#[test]
fn any_cut_of_k_gives_equal_bits() {
    let Some(mut model) = Model::start() else { return };
    let keys =
        ["matmul_sm80_f16_kk_128x128", "matmul_sm80_bf16_oo_64x64", "matmul_sm90_bf16_ko_128x64"];
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

#[test]
fn edge_sizes_run() {
    let Some(mut model) = Model::start() else { return };
    for key in
        ["matmul_sm80_f16_kk_128x128", "matmul_sm80_bf16_gg_64x64", "matmul_sm90_f16_oo_128x64"]
    {
        for size in [[1, 1, 1], [1, 129, 8], [3, 2, 33], [63, 1, 136]] {
            let case = Case::new(row(key), 2, size, 11);
            let outcome = case.run(&mut model, Order::Late);
            assert_eq!(outcome.found, "", "{key} {size:?}");
            case.check(&outcome).unwrap_or_else(|wrong| panic!("{key} {size:?}: {wrong}"));
        }
    }
}

/// Each way out of the kernels for Hopper, in every order: other bits than those of the sums are found by `check`.
#[test]
fn every_way_out_writes_the_output() {
    let Some(mut model) = Model::start() else { return };
    for (i, key) in ["bf16_kk_128x256", "f16_kk_128x128", "bf16_ok_128x64"].into_iter().enumerate()
    {
        let key = format!("matmul_sm90_{key}");
        for out in [Out::Boxes, Out::Rows, Out::Turned] {
            // Several tiles a block, tails in both axes.
            let case = Case::with(row(&key), out, 2, [133, [265, 136, 200][i], 72], i as u64);
            for order in [Order::Late, Order::Early, Order::Seeded(5)] {
                let outcome = case.run(&mut model, order);
                assert_eq!(outcome.found, "", "{key} {out:?} {order:?}");
                case.check(&outcome).unwrap_or_else(|wrong| panic!("{key} {out:?}: {wrong}"));
            }
        }
    }
}
