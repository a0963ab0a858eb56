//! The kernels of quantisation on the host model: every format there and back, tails of every kind, scales and
//! values to the bit, and the same by the simple kernels.

use crate::along::{passes, rows_of};
use crate::model::{Model, address, scratch};
use crate::tensor::{
    BF16, F8E4M3, F8E5M2, F16, F32, I8, LAYS, Lay, Random, Tensor, U32, assert_close, axes, decode,
    encode, launch, one_by_one, simple,
};
use leasehold_kernels::{
    Axes, DequantizeArgs, QuantizeCellsArgs, QuantizeRowsArgs, Rows, Streaming, StreamingReference,
    View,
};
use std::mem::offset_of;

const CODES: [u32; 3] = [F8E4M3, F8E5M2, I8];

fn largest(dtype: u32) -> f32 {
    [448.0, 57344.0, 127.0][dtype as usize - 3]
}

/// Scale of some elements: in f32, as it is defined.
fn scale_of(dtype: u32, x: impl Iterator<Item = f64>) -> f32 {
    x.fold(0.0, |m: f32, x| m.max(x.abs() as f32)) / largest(dtype)
}

/// The value that stands for an element.
fn code(dtype: u32, x: f64, scale: f32) -> f64 {
    let quotient = if scale == 0.0 { 0.0 } else { x as f32 / scale };
    let held = quotient.clamp(-largest(dtype), largest(dtype));
    decode(dtype, &encode(dtype, held.into()))
}

fn places(views: usize, count: usize, state: Option<usize>) -> Vec<usize> {
    (0..count).map(|i| views + size_of::<View>() * i).chain(state).collect()
}

pub(crate) fn rows_and_tensors_have_one_scale(model: &mut Model) {
    let mut random = Random(53);
    let shapes: [&[usize]; 6] =
        [&[3, 40], &[2, 2, 1, 500], &[2, 1001], &[1, 4099], &[2, 17_000], &[1, 33_000]];
    for (i, shape) in shapes.into_iter().cycle().take(12).enumerate() {
        let (tensor, coded) = (i >= 6, CODES[i % 3]);
        let n = *shape.last().expect("an axis");
        // A row of zeros has the scale 0.
        let value = |j: usize| if j < n && i == 1 { 0.0 } else { random.draw() * 3.0 };
        let x = Tensor::new([F32, BF16, F16][i % 3], shape, LAYS[i % 5], value);
        let out = Tensor::out(coded, shape, LAYS[(i + i / 5 + 1) % 5]);
        let of_rows = &shape[..shape.len() - 1];
        let scale = Tensor::out(F32, if tensor { &[1] } else { of_rows }, LAYS[i % 3]);
        let row = Streaming::QuantizeRows(Streaming::lanes(n as u64));
        let to = scale.view_without(2);
        let to = if tensor { View { outer: [0; 6], ..to } } else { to };
        let args = QuantizeRowsArgs {
            rows: Rows { state: address(3, 0), ..rows_of(&x, &row, address(3, 0)) },
            views: [x.view(0), out.view(1), to],
            tensor: tensor.into(),
            padding: 0,
        };
        let mut launches = passes(args.rows, &[0, 1]);
        if tensor {
            let clear = Rows { count: 1, piece_count: 1, ..args.rows };
            launches = vec![clear];
            launches.extend([1, 2].map(|pass| Rows { pass, ..args.rows }));
        }
        let mut buffers = [&x, &out, &scale].map(|t| t.bytes.clone()).to_vec();
        buffers.push(scratch(256));
        let state = offset_of!(QuantizeRowsArgs, rows) + offset_of!(Rows, state);
        let places = places(offset_of!(QuantizeRowsArgs, views), 3, Some(state));
        let (simply, threads) = (StreamingReference::QuantizeRows, args.rows.count);
        let by_one = simple(model, simply, threads, (&args, &places), &buffers);
        for rows in launches {
            let args = QuantizeRowsArgs { rows, ..args };
            buffers = launch(model, row, row.row_blocks(&rows), (&args, &places), &buffers);
        }
        let values = x.values();
        let whole = scale_of(coded, values.iter().copied());
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in values.chunks(n) {
            let scale = if tensor { whole } else { scale_of(coded, row.iter().copied()) };
            scales.push(f64::from(scale));
            codes.extend(row.iter().map(|&x| code(coded, x, scale)));
        }
        scales.truncate(scale.len());
        assert_eq!(scale.read(&buffers[2]), scales, "{shape:?}");
        assert_eq!(out.read(&buffers[1]), codes, "{shape:?} to {coded}");
        assert!(by_one[..3] == buffers[..3], "{shape:?} to {coded}: the simple kernel differs");
    }
}

/// A view whose last outer stride is that of rows.
fn cells_args(shape: &[usize], format: u32, views: [View; 4]) -> (QuantizeCellsArgs, [usize; 3]) {
    let [.., m, n] = *shape else { panic!("a matrix: {shape:?}") };
    let outer: Axes = axes(&shape[..shape.len() - 2]);
    let (down, across) = (m.div_ceil(128), n.div_ceil(128));
    let matrices: usize = shape[..shape.len() - 2].iter().product();
    let (down, across) = (down as u64, across as u64);
    let count = matrices as u64 * down * across;
    let (m, n) = (m as u64, n as u64);
    let args =
        QuantizeCellsArgs { outer, views, m, n, down, across, first: 0, count, format, padding: 0 };
    (args, [matrices, m as usize, n as usize])
}

pub(crate) fn cells_have_scales_of_their_own(model: &mut Model) {
    let mut random = Random(59);
    let shapes: [&[usize]; 3] = [&[2, 3, 129], &[130, 260], &[2, 1, 5, 128]];
    for (i, shape) in shapes.into_iter().cycle().take(6).enumerate() {
        let (square, coded) = (i >= 3, CODES[(i + i / 3) % 3]);
        let x = Tensor::new([BF16, F32][i % 2], shape, LAYS[i % 5], |_| random.draw());
        let out = Tensor::out(coded, shape, LAYS[(i + 2) % 5]);
        let mut of_scale = shape.to_vec();
        let [.., m, n] = &mut of_scale[..] else { panic!("a matrix") };
        (*m, *n) = (if square { m.div_ceil(128) } else { *m }, n.div_ceil(128));
        let scale = Tensor::out(F32, &of_scale, LAYS[i % 3]);
        let views = [x.view(0), out.view(1), scale.view(2), View::default()];
        let (args, [matrices, m, n]) = cells_args(shape, if square { 3 } else { 2 }, views);
        let mut buffers = [&x, &out, &scale].map(|t| t.bytes.clone()).to_vec();
        let places = places(offset_of!(QuantizeCellsArgs, views), 3, None);
        let cells = scale.len() as u64;
        let of_cells = QuantizeCellsArgs { count: cells, ..args };
        let simply = StreamingReference::QuantizeCells;
        let by_one = simple(model, simply, cells, (&of_cells, &places), &buffers);
        // One tile alone, then the others.
        for (first, count) in [(0, 1), (1, args.count - 1)] {
            let args = QuantizeCellsArgs { first, count, ..args };
            let row = Streaming::QuantizeCells;
            buffers = launch(model, row, count, (&args, &places), &buffers);
        }
        let values = x.values();
        let height = if square { 128 } else { 1 };
        let cell = |at: usize| {
            let (matrix, r, c) = (at / (m * n), at / n % m, at % n);
            (matrix * m.div_ceil(height) + r / height) * n.div_ceil(128) + c / 128
        };
        let mut highs = vec![0.0; matrices * m.div_ceil(height) * n.div_ceil(128)];
        for (at, x) in values.iter().enumerate() {
            highs[cell(at)] = f64::max(highs[cell(at)], x.abs());
        }
        let scales: Vec<f32> = highs.iter().map(|&x| scale_of(coded, [x].into_iter())).collect();
        let want: Vec<f64> =
            values.iter().enumerate().map(|(at, &x)| code(coded, x, scales[cell(at)])).collect();
        let wide: Vec<f64> = scales.iter().copied().map(f64::from).collect();
        assert_eq!(scale.read(&buffers[2]), wide, "{shape:?}");
        assert_eq!(out.read(&buffers[1]), want, "{shape:?} to {coded}");
        assert!(by_one == buffers, "{shape:?} to {coded}: the simple kernel differs");

        // And back.
        let back = Tensor::out(F32, shape, LAYS[(i + 1) % 5]);
        let (coded_view, mut by) = (out.view(0), scale.view(1));
        let axis = shape.len() - 2;
        let down = if square { std::mem::take(&mut by.outer[axis]) } else { 0 };
        let row = Streaming::Dequantize;
        let args = DequantizeArgs {
            range: back.range(&row),
            views: [coded_view, by, View::default(), back.view(2)],
            m: m as u64,
            height: height as u32,
            width: 128,
            down,
        };
        let at = offset_of!(DequantizeArgs, views);
        let places = self::places(at, 4, None);
        let buffers = [buffers[1].clone(), buffers[2].clone(), back.bytes.clone()];
        let after = launch(model, row, args.range.blocks(), (&args, &places), &buffers);
        let want: Vec<f64> = want
            .iter()
            .enumerate()
            .map(|(at, &x)| f64::from(x as f32 * scales[cell(at)]))
            .collect();
        assert_eq!(back.read(&after[2]), want, "{shape:?} from {coded}");
        let args = DequantizeArgs { range: one_by_one(args.range), ..args };
        let (row, threads) = (StreamingReference::Dequantize, args.range.count);
        let by_one = simple(model, row, threads, (&args, &places), &buffers);
        assert!(by_one == after, "{shape:?} from {coded}: the simple kernel differs");
    }
}

#[test]
fn groups_of_32_have_a_scale_and_a_minimum() {
    let Some(mut model) = Model::plain() else { return };
    let mut random = Random(61);
    for (i, shape) in [&[3, 160][..], &[2, 2, 96], &[131, 32]].into_iter().enumerate() {
        let n = *shape.last().expect("an axis");
        // One group of equal values, one of halves that tie.
        let value = |j: usize| match j / 32 {
            0 => 2.5,
            1 => (j % 32).min(30) as f64 / 2.0,
            _ => random.draw(),
        };
        let x = Tensor::new([F32, BF16, F16][i], shape, LAYS[i], value);
        let with = |last: usize| [&shape[..shape.len() - 1], &[last]].concat();
        let out = Tensor::out(U32, &with(n / 8), LAYS[i + 1]);
        let scale = Tensor::out([F16, F32, BF16][i], &with(n / 32), LAYS[i]);
        let min = Tensor::out([BF16, F32, F16][i], &with(n / 32), Lay::Dense);
        let views = [x.view(0), out.view(1), scale.view(2), min.view(3)];
        let (args, [_, m, _]) = cells_args(shape, 4, views);
        let buffers = [&x, &out, &scale, &min].map(|t| t.bytes.clone());
        let places = places(offset_of!(QuantizeCellsArgs, views), 4, None);
        let row = Streaming::QuantizeCells;
        let after = launch(&mut model, row, args.count, (&args, &places), &buffers);
        let of_cells = QuantizeCellsArgs { count: scale.len() as u64, ..args };
        let (simply, threads) = (StreamingReference::QuantizeCells, of_cells.count);
        let by_one = simple(&mut model, simply, threads, (&of_cells, &places), &buffers);
        assert!(by_one == after, "{shape:?}: the simple kernel differs");
        let (mut codes, mut scales, mut mins) = (Vec::new(), Vec::new(), Vec::new());
        for group in x.values().chunks(32) {
            let low = group.iter().fold(f64::INFINITY, |m, &x| m.min(x));
            let high = group.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
            scales.push((high - low) / 15.0);
            mins.push(low);
            let code = |x: &f64| match high - low {
                0.0 => 0,
                range => (15.0 * (x - low) / range).round_ties_even() as u32,
            };
            codes.extend(group.iter().map(code));
        }
        let words: Vec<f64> = codes
            .chunks(8)
            .map(|eight| f64::from((0..8).fold(0, |word, j| word | eight[j] << (4 * j))))
            .collect();
        assert_eq!(out.read(&after[1]), words, "{shape:?}");
        assert_close(&scale.read(&after[2]), &scales, scale.dtype, 1.0, "scales");
        assert_close(&min.read(&after[3]), &mins, min.dtype, 1.0, "minima");

        // And back.
        let back = Tensor::out(F32, shape, LAYS[(i + 2) % 5]);
        let row = Streaming::Dequantize;
        let args = DequantizeArgs {
            range: back.range(&row),
            views: [out.view(0), scale.view(1), min.view(2), back.view(3)],
            m: m as u64,
            height: 1,
            width: 32,
            down: 0,
        };
        let places = self::places(offset_of!(DequantizeArgs, views), 4, None);
        let buffers = [after[1].clone(), after[2].clone(), after[3].clone(), back.bytes.clone()];
        let got = launch(&mut model, row, args.range.blocks(), (&args, &places), &buffers);
        let (by, from) = (scale.read(&after[2]), min.read(&after[3]));
        let want: Vec<f64> = codes
            .iter()
            .enumerate()
            .map(|(j, &code)| f64::from(code) * by[j / 32] + from[j / 32])
            .collect();
        assert_close(&back.read(&got[3]), &want, F32, 4.0, "back");
        let args = DequantizeArgs { range: one_by_one(args.range), ..args };
        let (row, threads) = (StreamingReference::Dequantize, args.range.count);
        let by_one = simple(&mut model, row, threads, (&args, &places), &buffers);
        assert!(by_one == got, "{shape:?} back: the simple kernel differs");
    }
}

#[test]
fn a_row_of_nothing_has_a_scale() {
    let Some(mut model) = Model::plain() else { return };
    let one = Tensor::new(F32, &[3, 1], Lay::Dense, |_| 1.0);
    let (out, scale) = (Tensor::out(I8, &[3, 1], Lay::Dense), Tensor::out(F32, &[3], Lay::Odd));
    let row = Streaming::QuantizeRows(32);
    let args = QuantizeRowsArgs {
        rows: Rows { n: 0, count: 3, ..rows_of(&one, &row, 0) },
        views: [one.view(0), out.view(1), scale.view_without(2)],
        ..QuantizeRowsArgs::default()
    };
    let places = places(offset_of!(QuantizeRowsArgs, views), 3, None);
    let buffers = [&one, &out, &scale].map(|t| t.bytes.clone());
    let after = launch(&mut model, row, row.row_blocks(&args.rows), (&args, &places), &buffers);
    assert_eq!(scale.read(&after[2]), [0.0; 3]);
    assert_eq!(after[1], out.bytes);
}
