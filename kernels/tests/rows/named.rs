//! Products of matrices that indices name, on the host model: the list that is made of indices of any kind, and each form of
//! kernel by such a list.

use crate::case::named::Names;
use crate::case::{Case, Out};
use crate::model::{Model, Order};
use leasehold_kernels::{MatrixPair, rows};

pub(crate) fn indices_of_any_kind_become_matrices_that_there_are(model: &mut Model) {
    let batches = [[1, 1, 1, 1], [2, 3, 4, 30], [1, 1, 7, 41], [1, 1, 1, 256]];
    for (i, batch) in batches.into_iter().enumerate() {
        for is_indexed in [[true, true], [true, false], [false, true]] {
            for bad in [3, 1000] {
                let names = Names { is_indexed, ..Names::new(batch, [5, 300], bad) };
                let all: u32 = batch.iter().product();
                let steps = [1, 1 << 33];
                // All at once, or those behind the first few.
                let first = if i % 2 == 1 { all / 3 } else { 0 };
                let outcome =
                    model.witnessed(|model| names.run(model, steps, [first, all - first]));
                assert_eq!(outcome.found, "");
                let list: Vec<MatrixPair> = bytemuck::pod_collect_to_vec(&outcome.buffers[2]);
                let (guard, list) = list.split_last().expect("a guard");
                assert_eq!(bytemuck::bytes_of(guard), [0xa5; 16], "past the list");
                let named = names.named();
                for (pair, wanted) in list.iter().zip(&named[first as usize..]) {
                    let wanted = wanted.map_or([MatrixPair::NONE; 2], |of| {
                        [of[0] as u64 * steps[0], of[1] as u64 * steps[1]]
                    });
                    assert_eq!([pair.a, pair.b], wanted, "{batch:?} {is_indexed:?}");
                }
                let fault: Vec<u32> = bytemuck::pod_collect_to_vec(&outcome.buffers[3]);
                let is_bad = named[first as usize..].contains(&None);
                assert_eq!(fault[0] == 1, is_bad, "{batch:?} {is_indexed:?}");
                let of = |side: usize| {
                    is_indexed[side]
                        && fault[2] == names.matrices[side]
                        && names.words[side].contains(&fault[1])
                };
                assert!(!is_bad || fault[1] >= fault[2] && (of(0) || of(1)), "{fault:?}");
            }
        }
    }
}

/// Every form that may have tiles without products, whole and cut, on few blocks and with each way out.
#[test]
fn products_find_the_matrices_that_indices_name() {
    let (Some(mut plain), Some(mut fast)) = (Model::plain(), Model::start()) else { return };
    let forms = [
        ("matmul_sm80_bf16_kk_64x64", Out::Odd),
        ("matmul_sm80_f16_gg_128x128", Out::Turned),
        ("matmul_sm80_tf32_oo_64x64", Out::Odd),
        ("matmul_sm90_bf16_kk_128x256", Out::Boxes),
        ("matmul_sm90_f16_oo_128x64", Out::Odd),
        ("matmul_sm90_bf16_ok_128x128", Out::Rows),
        ("matmul_sm90_bf16_ko_64x128_swapped", Out::Boxes),
        ("matmul_sm90_f16_kk_8x128_swapped", Out::Odd),
    ];
    for (i, (key, out)) in forms.into_iter().enumerate() {
        let row = rows().into_iter().find(|row| row.key() == key).expect("a row of the table");
        let entries = 5;
        let m = if key.ends_with("swapped") { 7 } else { 70 };
        let case = Case::with(row, out, entries, [m, 72, 136], i as u64).on(1 + i as u32 % 2);
        let batch = [1, 1, 1, entries as u32];
        let names = Names::new(batch, [entries as u32; 2], 4);
        let listed = names.run(&mut plain, case.steps(), [0, entries as u32]);
        assert_eq!(listed.found, "");
        let named = names.named();
        assert!(named.iter().filter(|of| of.is_none()).count() > 1, "{named:?}");
        let case = case.by_index(&named, listed.buffers[2].clone());
        for order in [Order::Late, [Order::Early, Order::Seeded(2), Order::LateProducts][i % 3]] {
            let outcome = case.run(&mut fast, order);
            assert_eq!(outcome.found, "", "{key} {order:?}");
            case.check(&outcome).unwrap_or_else(|wrong| panic!("{key} {order:?}: {wrong}"));
        }
        let cut = case.run_cut(&mut fast, 64);
        assert_eq!(cut.found, "", "{key} in two links");
        case.check(&cut).unwrap_or_else(|wrong| panic!("{key} in two links: {wrong}"));
    }
}
