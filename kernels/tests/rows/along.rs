//! The streaming kernels that go along rows, on the host model: every form and layout against the same in f64, by
//! the host and by the simple kernels; rows of one piece and of several, cut anywhere.

use crate::model::{Model, scratch};
use crate::tensor::{BF16, F16, F32, LAYS, Lay, Random, Tensor, assert_close, launch, simple};
use leasehold_kernels::{
    NormArgs, NormBackwardArgs, ReduceArgs, Rows, SoftmaxArgs, Streaming, StreamingReference, View,
};
use std::mem::offset_of;

/// All rows of a tensor, as one row of the table takes them.
pub(crate) fn rows_of(x: &Tensor, row: &Streaming, state: u64) -> Rows {
    let n = *x.shape.last().expect("an axis") as u64;
    let pieces = (n as u32).div_ceil(row.piece()).max(1);
    Rows {
        outer: x.axes(),
        n,
        first: 0,
        count: x.len() as u64 / n.max(1),
        state: if pieces > 1 { state } else { 0 },
        pieces,
        first_piece: 0,
        piece_count: pieces,
        pass: 0,
    }
}

/// The launches of an op in pieces: each of its passes, cut once along pieces.
pub(crate) fn passes(rows: Rows, passes: &[u32]) -> Vec<Rows> {
    if rows.pieces == 1 {
        return vec![rows];
    }
    let cut = rows.pieces / 2;
    let halves = |pass| [[0, cut], [cut, rows.pieces - cut]].map(|[a, b]| (pass, a, b));
    let of = |(pass, first_piece, piece_count)| Rows { first_piece, piece_count, pass, ..rows };
    passes.iter().flat_map(|&pass| halves(pass)).map(of).collect()
}

/// Rows of these lengths, and layouts and types that change with them.
const CASES: [(usize, usize); 12] = [
    (3, 1),
    (9, 7),
    (5, 64),
    (2, 512),
    (3, 513),
    (2, 768),
    (2, 1001),
    (1, 4096),
    (2, 4100),
    (1, 16384),
    (2, 16390),
    (1, 40_000),
];

const TYPES: [[u32; 2]; 4] = [[F32, F32], [BF16, BF16], [F16, F32], [F32, F16]];

fn places(views: usize, count: usize, rows: usize) -> Vec<usize> {
    let views = (0..count).map(|i| views + size_of::<View>() * i);
    views.chain([rows + offset_of!(Rows, state)]).collect()
}

/// x and out of case `i`.
fn operands(i: usize, random: &mut Random) -> (Tensor, Tensor) {
    let (rows, n) = CASES[i % CASES.len()];
    let [from, to] = TYPES[i % 4];
    let shape: &[usize] = if rows == 9 { &[3, 1, 3, n] } else { &[rows, n] };
    let x = Tensor::new(from, shape, LAYS[i % 5], |_| random.draw() + 0.5);
    (x, Tensor::out(to, shape, LAYS[(i + i / 5) % 5]))
}

/// Bytes of what is known of pieces.
const STATE: u64 = 4096;

/// Where a simple kernel leaves what an output would be before it is rounded to its type.
fn unrounded(out: &Tensor, i: usize) -> Tensor {
    Tensor::out(F32, &out.shape, LAYS[(i + 2) % 5])
}

pub(crate) fn norms_agree(model: &mut Model) {
    let mut random = Random(11);
    for i in 0..2 * CASES.len() {
        let layer = i < CASES.len();
        let (x, out) = operands(i + usize::from(!layer), &mut random);
        let n = *x.shape.last().expect("an axis");
        let weight = Tensor::new(BF16, &[n], LAYS[(i + 1) % 3], |_| random.draw());
        let bias = Tensor::new(F32, &[n], LAYS[(i + 2) % 3], |_| random.draw());
        let row = Streaming::Norm(Streaming::lanes(n as u64));
        let beside = |view, present: bool| View { present: present.into(), ..view };
        let (weighs, shifts) = (i % 2 == 0, i % 3 == 0);
        let args = NormArgs {
            rows: rows_of(&x, &row, crate::model::address(4, 0)),
            views: [x.view(0), out.view(1)],
            weight: beside(weight.view(2), weighs),
            bias: beside(bias.view(3), shifts),
            epsilon: 1e-5,
            layer: layer.into(),
        };
        let mut buffers = [&x, &out, &weight, &bias].map(|t| t.bytes.clone()).to_vec();
        buffers.push(scratch(STATE));
        let places = places(offset_of!(NormArgs, views), 4, offset_of!(NormArgs, rows));
        for rows in passes(args.rows, if layer { &[0, 1, 2] } else { &[1, 2] }) {
            let args = NormArgs { rows, ..args };
            buffers = launch(model, row, row.row_blocks(&rows), (&args, &places), &buffers);
        }
        let (ws, bs) = (weight.values(), bias.values());
        let mut want = Vec::new();
        for row in x.values().chunks(n) {
            let mean = if layer { row.iter().sum::<f64>() / n as f64 } else { 0.0 };
            let squares = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            let factor = 1.0 / (squares + 1e-5).sqrt();
            want.extend(row.iter().enumerate().map(|(j, x)| {
                let y = (x - mean) * factor * if weighs { ws[j] } else { 1.0 };
                y + if shifts { bs[j] } else { 0.0 }
            }));
        }
        let what = format!("norm {i} of {:?}", x.shape);
        let got = out.read(&buffers[1]);
        assert_close(&got, &want, out.dtype, 4.0, &what);
        let plain = unrounded(&out, i);
        let args = NormArgs { views: [x.view(0), plain.view(1)], ..args };
        buffers[1].clone_from(&plain.bytes);
        let (row, threads) = (StreamingReference::Norm, args.rows.count);
        let by_one = simple(model, row, threads, (&args, &places), &buffers);
        assert_close(&got, &plain.read(&by_one[1]), out.dtype, 4.0, &what);
    }
}

pub(crate) fn gradients_of_norms_agree(model: &mut Model) {
    let mut random = Random(19);
    for (i, n) in [1, 40, 512, 520, 4096, 8000, 8200, 20_000].into_iter().enumerate() {
        let (layer, weighs) = (i % 2 == 0, i % 3 != 0);
        let shape: &[usize] = if n == 40 { &[2, 1, 3, 40] } else { &[2, n] };
        let [a, b] = TYPES[i % 4];
        let x = Tensor::new(a, shape, LAYS[i % 5], |_| random.draw() + 0.5);
        let d_out = Tensor::new(b, shape, LAYS[(i + 1) % 5], |_| random.draw());
        let weight = Tensor::new(BF16, &[n], LAYS[i % 3], |_| random.draw());
        let d_x = Tensor::out(a, shape, LAYS[(i + 2) % 5]);
        let terms = Tensor::out(F32, shape, LAYS[(i + 3) % 5]);
        let row = Streaming::NormBackward(Streaming::lanes_backward(n as u64));
        let args = NormBackwardArgs {
            rows: rows_of(&x, &row, crate::model::address(5, 0)),
            views: [x.view(0), d_out.view(1), d_x.view(2), terms.view(3)],
            weight: View { present: weighs.into(), ..weight.view(4) },
            epsilon: 1e-5,
            layer: layer.into(),
        };
        let mut buffers = [&x, &d_out, &d_x, &terms, &weight].map(|t| t.bytes.clone()).to_vec();
        buffers.push(scratch(STATE));
        let at = offset_of!(NormBackwardArgs, views);
        let places = places(at, 5, offset_of!(NormBackwardArgs, rows));
        for rows in passes(args.rows, if layer { &[0, 1, 2, 3] } else { &[1, 2, 3] }) {
            let args = NormBackwardArgs { rows, ..args };
            buffers = launch(model, row, row.row_blocks(&rows), (&args, &places), &buffers);
        }
        let (ws, xs, ds) = (weight.values(), x.values(), d_out.values());
        let (mut want, mut want_terms) = (Vec::new(), Vec::new());
        for (row, gradient) in xs.chunks(n).zip(ds.chunks(n)) {
            let mean_of = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
            let mean = if layer { mean_of(row) } else { 0.0 };
            let squares: Vec<f64> = row.iter().map(|x| (x - mean).powi(2)).collect();
            let factor = 1.0 / (mean_of(&squares) + 1e-5).sqrt();
            let y: Vec<f64> = row.iter().map(|x| (x - mean) * factor).collect();
            let g: Vec<f64> =
                (0..n).map(|j| gradient[j] * if weighs { ws[j] } else { 1.0 }).collect();
            let along: Vec<f64> = g.iter().zip(&y).map(|(g, y)| g * y).collect();
            let (shift, along) = (if layer { mean_of(&g) } else { 0.0 }, mean_of(&along));
            want.extend((0..n).map(|j| factor * (g[j] - shift - y[j] * along)));
            want_terms.extend((0..n).map(|j| gradient[j] * y[j]));
        }
        // A row of one element has no deviation but epsilon's.
        let scale = if n == 1 { 1000.0 } else { 8.0 };
        let what = format!("norm_backward of {shape:?}");
        let [got, got_terms] = [d_x.read(&buffers[2]), terms.read(&buffers[3])];
        assert_close(&got, &want, a, scale, &what);
        assert_close(&got_terms, &want_terms, F32, 8.0, &what);
        let plain = unrounded(&d_x, i);
        let views = [x.view(0), d_out.view(1), plain.view(2), terms.view(3)];
        buffers[2].clone_from(&plain.bytes);
        buffers[3].clone_from(&terms.bytes);
        let (row, threads) = (StreamingReference::NormBackward, args.rows.count);
        let args = NormBackwardArgs { views, ..args };
        let by_one = simple(model, row, threads, (&args, &places), &buffers);
        assert_close(&got, &plain.read(&by_one[2]), a, scale, &what);
        assert_close(&got_terms, &terms.read(&by_one[3]), F32, 8.0, &what);
    }
}

pub(crate) fn softmaxes_agree_and_hide(model: &mut Model) {
    let mut random = Random(13);
    for i in 0..CASES.len() + 1 {
        let (mut x, out) = operands(i, &mut random);
        let n = *x.shape.last().expect("an axis");
        if i == CASES.len() {
            // Some elements hidden, and all of one row.
            x = Tensor::new(F32, &x.shape, Lay::Dense, |j| {
                if j < n || j % 3 == 0 { f64::NEG_INFINITY } else { random.draw() }
            });
        }
        let row = Streaming::Softmax(Streaming::lanes(n as u64));
        let args = SoftmaxArgs {
            rows: rows_of(&x, &row, crate::model::address(2, 0)),
            views: [x.view(0), out.view(1)],
            scale: 3.0,
            padding: 0,
        };
        let mut buffers = vec![x.bytes.clone(), out.bytes.clone(), scratch(STATE)];
        let places = places(offset_of!(SoftmaxArgs, views), 2, offset_of!(SoftmaxArgs, rows));
        for rows in passes(args.rows, &[0, 1]) {
            let args = SoftmaxArgs { rows, ..args };
            buffers = launch(model, row, row.row_blocks(&rows), (&args, &places), &buffers);
        }
        let mut want = Vec::new();
        for row in x.values().chunks(n) {
            let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(3.0 * x));
            let exps: Vec<f64> = row
                .iter()
                .map(|x| if max == f64::NEG_INFINITY { 0.0 } else { (3.0 * x - max).exp() })
                .collect();
            let sum = exps.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            want.extend(exps.iter().map(|e| e / sum));
        }
        let largest = want.iter().fold(0.0, |m: f64, x| m.max(*x));
        let what = format!("softmax {i} of {:?}", x.shape);
        let got = out.read(&buffers[1]);
        assert_close(&got, &want, out.dtype, largest, &what);
        let plain = unrounded(&out, i);
        let args = SoftmaxArgs { views: [x.view(0), plain.view(1)], ..args };
        buffers[1].clone_from(&plain.bytes);
        let (row, threads) = (StreamingReference::Softmax, args.rows.count);
        let by_one = simple(model, row, threads, (&args, &places), &buffers);
        assert_close(&got, &plain.read(&by_one[1]), out.dtype, largest, &what);
    }
}

pub(crate) fn reductions_agree(model: &mut Model) {
    let mut random = Random(17);
    for i in 0..2 * CASES.len() {
        let across = i >= CASES.len();
        let (x, _) = operands(i, &mut random);
        let (n, dtype) = (*x.shape.last().expect("an axis"), TYPES[i % 4][1]);
        if across && n > 2000 {
            continue;
        }
        let count = x.len() / n;
        let out = Tensor::out(dtype, &x.shape[..x.shape.len() - 1], LAYS[i % 3]);
        let lanes = Streaming::Reduce(Streaming::lanes(n as u64));
        let row = if across { Streaming::ReduceAcross } else { lanes };
        let view = out.view_without(1);
        let args = ReduceArgs {
            rows: rows_of(&x, &row, crate::model::address(2, 0)),
            views: [x.view(0), view],
            function: i as u32 % 4,
            padding: 0,
        };
        let mut buffers = vec![x.bytes.clone(), out.bytes.clone(), scratch(STATE)];
        let mut launches = passes(args.rows, &[0]);
        if args.rows.pieces > 1 {
            launches.push(Rows { pass: 1, first_piece: 0, piece_count: 1, ..args.rows });
        }
        let places = places(offset_of!(ReduceArgs, views), 2, offset_of!(ReduceArgs, rows));
        for rows in launches {
            let args = ReduceArgs { rows, ..args };
            buffers = launch(model, row, row.row_blocks(&rows), (&args, &places), &buffers);
        }
        let values = x.values();
        let fold = |row: &[f64]| match i % 4 {
            0 => row.iter().sum(),
            1 => row.iter().sum::<f64>() / n as f64,
            2 => row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x)),
            _ => row.iter().fold(f64::INFINITY, |m, &x| m.min(x)),
        };
        let want: Vec<f64> = (0..count).map(|r| fold(&values[r * n..(r + 1) * n])).collect();
        let scale = if i % 4 == 0 { n as f64 } else { 2.0 };
        let what = format!("reduce {i} of {:?}", x.shape);
        let got = out.read(&buffers[1]);
        assert_close(&got, &want, dtype, scale, &what);
        let plain = unrounded(&out, i);
        let args = ReduceArgs { views: [x.view(0), plain.view_without(1)], ..args };
        buffers[1].clone_from(&plain.bytes);
        let (row, threads) = (StreamingReference::Reduce, args.rows.count);
        let by_one = simple(model, row, threads, (&args, &places), &buffers);
        assert_close(&got, &plain.read(&by_one[1]), dtype, scale, &what);
    }
}

#[test]
fn an_empty_row_reduces_to_the_neutral_element() {
    let Some(mut model) = Model::plain() else { return };
    for row in [Streaming::Reduce(32), Streaming::ReduceAcross] {
        for (function, want) in [0.0, 0.0, f64::NEG_INFINITY, f64::INFINITY].into_iter().enumerate()
        {
            let out = Tensor::out(F32, &[5], Lay::Dense);
            let x = Tensor::new(F32, &[5, 1], Lay::Dense, |_| 1.0);
            let rows = Rows { n: 0, count: 5, ..rows_of(&x, &row, 0) };
            let views = [x.view(0), out.view_without(1)];
            let args = ReduceArgs { rows, views, function: function as u32, padding: 0 };
            let places = places(offset_of!(ReduceArgs, views), 2, offset_of!(ReduceArgs, rows));
            let buffers = [x.bytes.clone(), out.bytes.clone()];
            let after =
                launch(&mut model, row, row.row_blocks(&args.rows), (&args, &places), &buffers);
            assert_eq!(out.read(&after[1]), [want; 5], "{row:?}");
            let simply = StreamingReference::Reduce;
            let by_one = simple(&mut model, simply, 5, (&args, &places), &buffers);
            assert!(by_one == after, "{row:?}: the simple kernel differs");
        }
    }
}
