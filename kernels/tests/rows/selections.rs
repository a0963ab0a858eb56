//! The streaming kernels that select, on the host model: ties, both zeros, infinities and NaNs, in every form,
//! against the total order and the simple kernels; long rows cut between pieces.

use crate::along::{passes, rows_of};
use crate::model::{Model, address, scratch};
use crate::tensor::{BF16, F16, F32, I32, LAYS, Lay, Random, Tensor, U32, launch, simple};
use leasehold_kernels::{ArgMaxArgs, Rows, Streaming, StreamingReference, TopKArgs, View};
use std::mem::offset_of;

/// Numbers with many ties, and now and then what is no number.
fn drawn(random: &mut Random, i: usize) -> f64 {
    match i % 97 {
        13 => f64::NEG_INFINITY,
        40 => -0.0,
        41 => 0.0,
        60 if i > 600 => f64::NAN,
        _ => (random.draw() * 12.0).round() / 4.0,
    }
}

/// Places of a row, best first.
fn best(row: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
    order
}

fn places(views: usize, count: usize, rows: usize) -> Vec<usize> {
    let views = (0..count).map(|i| views + size_of::<View>() * i);
    views.chain([rows + offset_of!(Rows, state)]).collect()
}

pub(crate) fn the_first_largest_is_found(model: &mut Model) {
    let mut random = Random(43);
    for (i, (rows, n)) in
        [(9, 1), (3, 500), (2, 1001), (2, 4097), (1, 40_000)].into_iter().enumerate()
    {
        let dtype = [F32, BF16, F16][i % 3];
        let x = Tensor::new(dtype, &[rows, n], LAYS[i], |i| drawn(&mut random, i));
        let index = Tensor::out([I32, U32][i % 2], &[rows], LAYS[i % 3]);
        let row = Streaming::ArgMax(Streaming::lanes(n as u64));
        let args = ArgMaxArgs {
            rows: rows_of(&x, &row, address(2, 0)),
            views: [x.view(0), index.view_without(1)],
        };
        let mut launches = passes(args.rows, &[0]);
        if args.rows.pieces > 1 {
            launches.push(Rows { pass: 1, first_piece: 0, piece_count: 1, ..args.rows });
        }
        let mut buffers = vec![x.bytes.clone(), index.bytes.clone(), vec![0xff; 64]];
        let places = places(offset_of!(ArgMaxArgs, views), 2, offset_of!(ArgMaxArgs, rows));
        let (simply, threads) = (StreamingReference::ArgMax, args.rows.count);
        let by_one = simple(model, simply, threads, (&args, &places), &buffers);
        for rows in launches {
            let args = ArgMaxArgs { rows, ..args };
            buffers = launch(model, row, row.row_blocks(&rows), (&args, &places), &buffers);
        }
        let want: Vec<f64> = x.values().chunks(n).map(|row| best(row)[0] as f64).collect();
        assert_eq!(index.read(&buffers[1]), want, "{rows} rows of {n}");
        assert!(by_one[1] == buffers[1], "{rows} rows of {n}: the simple kernel differs");
    }
}

pub(crate) fn the_k_largest_are_sorted(model: &mut Model) {
    let mut random = Random(47);
    for (i, (rows, n, k)) in [
        (9, 1, 1),
        (3, 200, 8),
        (2, 500, 256),
        (2, 1001, 7),
        (1, 4096, 256),
        (1, 5000, 50),
        (1, 33_000, 256),
    ]
    .into_iter()
    .enumerate()
    {
        let dtype = [F32, BF16, F16][i % 3];
        let x = Tensor::new(dtype, &[rows, n], LAYS[i % 5], |i| drawn(&mut random, i));
        let value = Tensor::out(dtype, &[rows, k], LAYS[(i + 1) % 5]);
        let index = Tensor::out([U32, I32][i % 2], &[rows, k], LAYS[(i + 2) % 5]);
        let row = Streaming::TopK(Streaming::lanes(n as u64));
        let rows = Rows { state: address(3, 0), ..rows_of(&x, &row, 0) };
        let views = [x.view(0), value.view(1), index.view(2)];
        let args = TopKArgs { rows, views, k: k as u32, padding: 0 };
        let mut buffers = [&x, &value, &index].map(|t| t.bytes.clone()).to_vec();
        buffers.push(scratch(4 * rows.count * u64::from(row.state_words())));
        let places = places(offset_of!(TopKArgs, views), 3, offset_of!(TopKArgs, rows));
        let simply = StreamingReference::TopK;
        let by_one = simple(model, simply, rows.count, (&args, &places), &buffers);
        // Piece by piece, where there are several.
        for first_piece in 0..rows.pieces {
            let args = TopKArgs { rows: Rows { first_piece, piece_count: 1, ..rows }, ..args };
            let blocks = row.row_blocks(&args.rows);
            buffers = launch(model, row, blocks, (&args, &places), &buffers);
        }
        let (mut values, mut indices) = (Vec::new(), Vec::new());
        for row in x.values().chunks(n) {
            let best = best(row);
            values.extend(best[..k].iter().map(|&i| row[i].to_bits()));
            indices.extend(best[..k].iter().map(|&i| i as f64));
        }
        assert_eq!(index.read(&buffers[2]), indices, "{k} of {n}");
        let got: Vec<u64> = value.read(&buffers[1]).iter().map(|x| x.to_bits()).collect();
        assert_eq!(got, values, "{k} of {n}");
        assert!(by_one[1..3] == buffers[1..3], "{k} of {n}: the simple kernel differs");
    }
}

#[test]
fn a_negative_nan_is_smallest() {
    let Some(mut model) = Model::plain() else { return };
    let mut x = Tensor::new(F16, &[1, 4], Lay::Dense, |i| [0.0, -1.0, 2.0, f64::NEG_INFINITY][i]);
    // The sign bit of the first becomes that of a NaN.
    let at = x.bytes.len() - 8;
    let first = (0..at).find(|&i| x.bytes[i..i + 8] == [0, 0, 0, 0xbc, 0, 0x40, 0, 0xfc]);
    x.bytes[first.expect("the elements")..][..2].copy_from_slice(&0xfe01u16.to_le_bytes());
    let index = Tensor::out(U32, &[1, 4], Lay::Dense);
    let value = Tensor::out(F16, &[1, 4], Lay::Dense);
    let row = Streaming::TopK(32);
    let views = [x.view(0), value.view(1), index.view(2)];
    let args = TopKArgs { rows: rows_of(&x, &row, 0), views, k: 4, padding: 0 };
    let places = places(offset_of!(TopKArgs, views), 3, offset_of!(TopKArgs, rows));
    let buffers = [&x, &value, &index].map(|t| t.bytes.clone());
    let after = launch(&mut model, row, 1, (&args, &places), &buffers);
    assert_eq!(index.read(&after[2]), [2.0, 1.0, 3.0, 0.0]);
    let by_one = simple(&mut model, StreamingReference::TopK, 1, (&args, &places), &buffers);
    assert!(by_one == after, "the simple kernel differs");
}
