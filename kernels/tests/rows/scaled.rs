//! The products of 8-bit values on the host model: every row against sums in f64, every granularity of scales, outputs of
//! 8 bits, any cut of K, any number of blocks, all with nothing found by the model.

use crate::case::scaled::{ALL, By, Case, Group, OUT, OUT_SCALE, Options, To, form};
use crate::model::{Model, Order};
use crate::tensor::{BF16, F8E4M3, F8E5M2, F16, F32, I8};
use leasehold_kernels::{Bytes, MatmulReference, MatmulSm80Bytes, Row, rows};
use std::collections::BTreeMap;

/// Tails in every axis, less than a tile, more steps than a ring has stages.
const SIZES: [[usize; 4]; 3] = [[1, 129, 65, 200], [2, 17, 130, 48], [1, 70, 200, 648]];

fn scaled_rows() -> Vec<Row> {
    rows()
        .into_iter()
        .filter(|row| matches!(row, Row::MatmulSm90Fp8(_) | Row::MatmulSm80Bytes(_)))
        .collect()
}

/// Blocks of a cluster that take tiles of groups would run ahead of each other.
fn takes_groups(row: &Row) -> bool {
    row.cluster() == 1
}

fn is_by_columns(row: &Row) -> bool {
    matches!(row, Row::MatmulSm90Fp8(row) if row.by_columns)
}

fn options(row: &Row, i: usize) -> Options {
    let [of_a, of_b] = match (row, form(row).types) {
        (Row::MatmulSm80Bytes(row), _) if row.values != Bytes::I8 => {
            [[F8E4M3, F8E5M2], [F8E5M2, F8E4M3], [F8E4M3, F8E4M3]][i % 3]
        }
        (_, types) => types,
    };
    let of_b_scales =
        if is_by_columns(row) { By::Chunk } else { [By::Block, By::Row, By::None][i % 3] };
    Options {
        size: SIZES[i % SIZES.len()],
        types: [of_a, of_b, [F32, BF16, F16][i % 3]],
        scales: [ALL[(i + 3) % 5], of_b_scales],
        to: To::Float,
        group: Group::None,
        interleaved: false,
        whole_epilogue: i % 2 == 1,
        boxed: false,
        seed: i as u64,
    }
}

/// The buffers after a run that has nothing to find and no value that is wrong.
fn checked(model: &mut Model, case: &Case, order: Order, what: &str) -> Vec<Vec<u8>> {
    let outcome = model.witnessed(|model| case.run(model, order, 2));
    assert_eq!(outcome.found, "", "{what}");
    case.judge(&outcome.buffers).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
    outcome.buffers
}

pub(crate) fn every_row_of_bytes_multiplies_in_every_order(model: &mut Model) {
    for (i, row) in scaled_rows().into_iter().enumerate() {
        for (j, size) in SIZES.into_iter().enumerate() {
            let what = format!("{} {size:?}", row.key());
            let case = Case::new(row, Options { size, ..options(&row, i + j) });
            let late = checked(model, &case, Order::Late, &what);
            for order in Order::others(i, j) {
                let other = case.run(model, *order, 3);
                assert_eq!(other.found, "", "{what} {order:?}");
                assert!(other.buffers == late, "{what}: {order:?} gives other bits");
            }
        }
    }
}

#[test]
fn scales_of_every_granularity_multiply() {
    let Some(mut model) = Model::start() else { return };
    for (i, [of_a, of_b]) in ALL.into_iter().flat_map(|a| ALL.map(|b| [a, b])).enumerate() {
        let mut rows = scaled_rows().into_iter();
        let is_one = |row: &Row| {
            form(row).types == [F8E4M3; 2]
                && (of_b == By::Chunk) == is_by_columns(row)
                && (of_b == By::Chunk || form(row).tile[0] == [64, 128][i % 8 / 7])
        };
        let hopper = rows.find(is_one).expect("a row");
        let values = [Bytes::I8, Bytes::Fp8AsF16, Bytes::Fp8][i % 3];
        let ampere = MatmulSm80Bytes { values, gathered: i % 2 == 0, tile: 64 };
        for row in [hopper, Row::MatmulSm80Bytes(ampere)] {
            let size = [[1, 140, 72, 264], [2, 72, 140, 264]][i % 2];
            let case = Case::new(row, Options { size, scales: [of_a, of_b], ..options(&row, i) });
            checked(&mut model, &case, Order::Late, &format!("{of_a:?} {of_b:?}"));
        }
    }
}

#[test]
fn outputs_of_bytes_have_scales() {
    let Some(mut model) = Model::start() else { return };
    let rows = scaled_rows();
    let rows: Vec<&Row> = rows.iter().filter(|row| form(row).tile[1] >= 128).collect();
    let outputs = [To::Given, To::Found].map(|to| [F8E4M3, F8E5M2, I8].map(|dtype| (to, dtype)));
    for (i, (to, dtype)) in outputs.into_iter().flatten().enumerate() {
        let row = rows[i % rows.len()];
        let mut options = Options { size: [2, 67, 300, 136], to, ..options(row, i) };
        options.types[2] = dtype;
        let case = Case::new(*row, options);
        checked(&mut model, &case, Order::Late, &format!("{to:?} {dtype}"));
    }
}

/// What no scale covers all of leaves as it does otherwise, and whole boxes stay inside the output.
#[test]
fn outputs_leave_in_boxes() {
    let Some(mut model) = Model::start() else { return };
    let rows = scaled_rows().into_iter().filter(|row| matches!(row, Row::MatmulSm90Fp8(_)));
    for (i, row) in rows.enumerate() {
        let of_b = if is_by_columns(&row) { By::Chunk } else { [By::Block, By::None][i % 2] };
        let whole = options(&row, i);
        let options = Options {
            size: [[2, 129, 65, 200], [1, 270, 264, 136], [3, 40, 130, 392]][i % 3],
            types: [whole.types[0], whole.types[1], [BF16, F16][i / 3 % 2]],
            scales: [[By::Chunk, By::Block, By::None][i % 3], of_b],
            whole_epilogue: false,
            boxed: true,
            ..whole
        };
        let case = Case::new(row, options);
        let late = checked(&mut model, &case, Order::Late, &format!("{} boxes", row.key()));
        for order in [Order::Early, Order::Seeded(5), Order::LateProducts] {
            let other = case.run(&mut model, order, 1);
            assert_eq!(other.found, "", "{} {order:?}", row.key());
            assert!(other.buffers == late, "{}: {order:?} gives other bits", row.key());
        }
    }
}

/// Its tiles of two rows find the scales of what no other kernel takes, those of columns that gate each other among it.
pub(crate) fn the_reference_gives_outputs_of_bytes_their_scales(model: &mut Model) {
    let sides = [[F8E4M3, F8E5M2], [I8; 2], [F8E5M2, F8E4M3], [F8E4M3; 2], [I8; 2]];
    for (i, scales) in ALL.into_iter().map(|a| [a, ALL[(a as usize + 2) % 5]]).enumerate() {
        let [of_a, of_b] = sides[i];
        for (finds, to) in [(true, To::Found), (false, To::Given)] {
            let options = Options {
                size: [3, 5, 140 << (i % 2), 136],
                types: [of_a, of_b, [I8, F8E4M3, F8E5M2][i % 3]],
                scales,
                to,
                group: [Group::None, Group::Contiguous, Group::Masked][i % 3],
                interleaved: i % 2 == 1,
                whole_epilogue: i / 2 % 2 == 0,
                boxed: false,
                seed: i as u64,
            };
            let case = Case::new(Row::MatmulReference(MatmulReference { finds }), options);
            let whole = checked(model, &case, Order::Late, &format!("{options:?}"));
            let cut = case.run_cut(model, Order::Seeded(3), 128);
            assert_eq!(cut.found, "", "{options:?}");
            for buffer in [OUT, OUT_SCALE] {
                assert!(cut.buffers[buffer] == whole[buffer], "{options:?}: other bits of a cut");
            }
        }
    }
}

#[test]
fn groups_and_gates_of_bytes() {
    let Some(mut model) = Model::start() else { return };
    let rows = scaled_rows();
    let rows = rows.iter().filter(|row| form(row).tile[1] >= 128 || form(row).tile[0] == 64);
    for (i, row) in rows.enumerate() {
        let group = match takes_groups(row) {
            true => [Group::Contiguous, Group::Masked, Group::None][i % 3],
            false => Group::None,
        };
        let (interleaved, is_wide) = (i / 3 % 2 == 0, form(row).tile[1] >= 128);
        let to = match i / 2 % 3 {
            1 => To::Given,
            2 if !interleaved && is_wide => To::Found,
            _ => To::Float,
        };
        let size = [3, 150, 74, 200];
        let mut options = Options { size, group, interleaved, to, ..options(row, i) };
        if to != To::Float {
            options.types[2] = F8E4M3;
        }
        let case = Case::new(*row, options);
        let what = format!("{} {group:?} {interleaved} {to:?}", row.key());
        let whole = checked(&mut model, &case, Order::Late, &what);
        if i % 2 == 0 {
            let cut = case.run_cut(&mut model, Order::Late, 128);
            assert!(
                cut.found.is_empty() && cut.buffers[OUT] == whole[OUT],
                "{what}: {}",
                cut.found
            );
        }
    }
}

#[test]
fn any_cut_and_any_tile_give_equal_bits() {
    let Some(mut model) = Model::start() else { return };
    // Of each kernel and type, under scales of chunks and of all of k.
    let mut firsts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let plain = scaled_rows().into_iter().filter(|row| !is_by_columns(row));
    for (i, row) in plain.enumerate() {
        for scales in [[By::Chunk, By::Block], [By::Row, By::Tensor]] {
            let size = [1, 130, 72, 392];
            let case =
                Case::new(row, Options { size, scales, types: of_first(&row), ..options(&row, 0) });
            let what = format!("{} {scales:?}", row.key());
            let whole = checked(&mut model, &case, Order::Late, &what);
            let cut = [128, 256][i % 2];
            let outcome = case.run_cut(&mut model, Order::Seeded(3), cut);
            assert_eq!(outcome.found, "", "{what}");
            assert!(outcome.buffers[OUT] == whole[OUT], "{what}: cut at {cut} gives other bits");
            let key = row.key();
            let name = key.split("_kk").next().and_then(|key| key.split("_gg").next());
            let kind = format!("{:?} {:?} {scales:?}", name, form(&row).types);
            let first = firsts.entry(kind).or_insert_with(|| whole[OUT].clone());
            assert!(*first == whole[OUT], "{what}: other bits than another tile's");
        }
    }
}

/// Types of both sides and an f32 output.
fn of_first(row: &Row) -> [u32; 3] {
    let [a, b] = form(row).types;
    [a, b, F32]
}

#[test]
fn every_float_of_eight_bits_becomes_what_it_is() {
    let Some(mut model) = Model::start() else { return };
    for (values, gathered) in
        [(Bytes::Fp8AsF16, false), (Bytes::Fp8AsF16, true), (Bytes::Fp8, false)]
    {
        let row = Row::MatmulSm80Bytes(MatmulSm80Bytes { values, gathered, tile: 64 });
        for dtype in [F8E4M3, F8E5M2] {
            let options = Options {
                size: [1, 256, 1, 1],
                types: [dtype, dtype, F32],
                scales: [By::None; 2],
                whole_epilogue: false,
                ..options(&row, 0)
            };
            let (got, want) = Case::new(row, options).run_all_codes(&mut model);
            for (code, (got, want)) in got.iter().zip(want).enumerate() {
                let is_same = *got == want || got.is_nan() && want.is_nan();
                assert!(is_same, "{code:#x} of {dtype}: {got}, not {want}");
            }
        }
    }
}
