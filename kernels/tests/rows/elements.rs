//! The streaming kernels that go element by element, on the host model: every layout, against the same in f64, and
//! to the bit against the simple kernels.

use crate::model::Model;
use crate::tensor::{
    BF16, F16, F32, I8, I32, LAYS, Lay, Random, Tensor, U32, assert_close, axes, launch,
    one_by_one, simple,
};
use leasehold_kernels::{CopyArgs, MapArgs, Range, Streaming, StreamingReference, TurnArgs, View};
use std::mem::offset_of;

/// Tails of every kind: one axis and six, rows shorter than a vector and of whole ones.
const SHAPES: [&[usize]; 4] = [&[3000], &[5, 7, 19], &[2, 1, 3, 2, 4, 16], &[33, 3]];

/// Where the views of arguments are, from a place on.
fn places(from: usize, views: usize) -> Vec<usize> {
    (0..views).map(|i| from + size_of::<View>() * i).collect()
}

/// The parts of a range that odd cuts make.
fn cuts(range: Range) -> Vec<Range> {
    let cut = range.count / 3;
    let part = |first, count| Range { first, count, ..range };
    vec![part(0, cut), part(cut, 1), part(cut + 1, range.count - cut - 1)]
}

pub(crate) fn copies_move_bits(model: &mut Model) {
    let mut random = Random(3);
    for (i, width) in [1u32, 2, 4].into_iter().cycle().take(30).enumerate() {
        let (shape, from, to) = (SHAPES[i % 4], LAYS[i % 5], LAYS[i / 5 % 5]);
        let dtype = [I8, BF16, U32][i % 3];
        let x = Tensor::new(dtype, shape, from, |_| (random.draw() * 40.0).round().abs());
        let out = Tensor::out(dtype, shape, to);
        let row = Streaming::Copy(width);
        let (range, places) = (out.range(&row), places(offset_of!(CopyArgs, views), 2));
        let mut buffers = vec![x.bytes.clone(), out.bytes.clone()];
        let mut by_one = buffers.clone();
        let views = [x.view(0), out.view(1)];
        let parts = |range| if i % 2 == 0 { vec![range] } else { cuts(range) };
        for range in parts(range) {
            let args = CopyArgs { range, views };
            buffers = launch(model, row, range.blocks(), (&args, &places), &buffers);
        }
        assert_eq!(out.read(&buffers[1]), x.values(), "{shape:?} {from:?} {to:?}");
        for range in parts(one_by_one(range)) {
            let args = (&CopyArgs { range, views }, &places[..]);
            by_one = simple(model, StreamingReference::Copy, range.count, args, &by_one);
        }
        assert!(by_one == buffers, "{shape:?} {from:?} {to:?}: the simple kernel differs");
    }
}

pub(crate) fn copies_turn(model: &mut Model) {
    let mut random = Random(4);
    for (i, [entries, rows, columns]) in
        [[2, 70, 65], [1, 64, 128], [3, 5, 200]].into_iter().enumerate()
    {
        for (dtype, width) in [(I8, 1), (BF16, 2), (U32, 4)] {
            // Dense along rows: columns of a tensor of the turned shape.
            let turned = [entries, columns, rows];
            let lay = [Lay::Dense, Lay::Odd, Lay::Spread][i];
            let x = Tensor::new(dtype, &turned, lay, |_| (random.draw() * 40.0).round().abs());
            let out = Tensor::out(dtype, &[entries, rows, columns], LAYS[i]);
            let mut from = x.view(0);
            (from.outer[1], from.inner) = (from.inner, from.outer[1]);
            let (down, across) = (rows.div_ceil(64) as u64, columns.div_ceil(64) as u64);
            let args = TurnArgs {
                outer: axes(&[entries]),
                views: [from, out.view(1)],
                rows: rows as u64,
                columns: columns as u64,
                down,
                across,
                first: 0,
                count: 0,
            };
            let places = places(offset_of!(TurnArgs, views), 2);
            let mut buffers = vec![x.bytes.clone(), out.bytes.clone()];
            let tiles = entries as u64 * down * across;
            for [first, count] in [[0, tiles / 2], [tiles / 2, tiles - tiles / 2]] {
                let args = TurnArgs { first, count, ..args };
                let row = Streaming::CopyTurned(width);
                buffers = launch(model, row, count, (&args, &places), &buffers);
            }
            let values = x.values();
            let of = |at: usize| {
                let (e, r, c) = (at / (rows * columns), at / columns % rows, at % columns);
                values[(e * columns + c) * rows + r]
            };
            let want: Vec<f64> = (0..out.len()).map(of).collect();
            assert_eq!(out.read(&buffers[1]), want, "{rows} by {columns} of {width}");
            // The same views are those of a plain copy.
            let outer = axes(&[entries, rows]);
            let range = one_by_one(Range { outer, inner: columns as u64, first: 0, count: 0 });
            let args = CopyArgs { range, views: args.views };
            let places = self::places(offset_of!(CopyArgs, views), 2);
            let before = [x.bytes.clone(), out.bytes.clone()];
            let (row, args) = (StreamingReference::Copy, (&args, &places[..]));
            let by_one = simple(model, row, range.count, args, &before);
            assert!(by_one == buffers, "{rows} by {columns} of {width}: the simple kernel differs");
        }
    }
}

/// A map of two tensors, and what it gives in f64.
#[derive(Clone, Copy)]
struct Function {
    number: u32,
    pairs: bool,
    of: fn(f64, f64) -> f64,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function by its Taylor series, enough for what is drawn here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

pub(crate) fn every_function_maps(model: &mut Model) {
    let one = |number, of: fn(f64, f64) -> f64| Function { number, pairs: false, of };
    let two = |number, of: fn(f64, f64) -> f64| Function { number, pairs: true, of };
    let functions = [
        one(0, |x, _| x),
        one(1, |x, _| -x),
        one(2, |x, _| x.abs()),
        one(3, |x, _| x.exp()),
        one(4, |x, _| x.abs().ln()),
        one(5, |x, _| x.abs().sqrt()),
        one(6, |x, _| 1.0 / x.abs().sqrt()),
        one(7, |x, _| 1.0 / x),
        one(8, |x, _| x * x),
        one(9, |x, _| x.tanh()),
        one(10, |x, _| sigmoid(x)),
        one(11, |x, _| x.max(0.0)),
        one(12, |x, _| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))),
        one(13, |x, _| gelu_tanh(x)),
        one(14, |x, _| x * sigmoid(x)),
        two(15, |x, y| x + y),
        two(16, |x, y| x - y),
        two(17, |x, y| x * y),
        two(18, |x, y| x / y),
        two(19, f64::max),
        two(20, f64::min),
    ];
    let mut random = Random(5);
    let types = [[F32, F32, F32], [F16, BF16, F32], [BF16, BF16, BF16], [F32, F16, F16]];
    for (i, function) in functions.into_iter().enumerate() {
        let (shape, [tx, ty, to]) = (SHAPES[(i + 1) % 4], types[i % 4]);
        // Of these the argument is positive, and nowhere near a pole.
        let positive = (4..8).contains(&function.number);
        let mut draw = || match random.draw() * 2.0 {
            x if positive => x.abs() + 0.5,
            x => x + 0.25_f64.copysign(x),
        };
        let x = Tensor::new(tx, shape, LAYS[i % 5], |_| draw());
        let y = Tensor::new(ty, shape, LAYS[(i + 2) % 5], |_| draw());
        let out = Tensor::out(to, shape, LAYS[i / 5 % 5]);
        let row = Streaming::Map(if [tx, ty, to].contains(&F32) { 4 } else { 8 });
        let args = MapArgs {
            range: out.range(&row),
            views: [x.view(0), if function.pairs { y.view(1) } else { x.view(0) }, out.view(2)],
            function: function.number,
            scale: 0.5,
            shift: 1.0,
            padding: 0,
        };
        let buffers = [x.bytes.clone(), y.bytes.clone(), out.bytes.clone()];
        let places = places(offset_of!(MapArgs, views), 3);
        let blocks = args.range.blocks();
        let after = launch(model, row, blocks, (&args, &places), &buffers);
        let (xs, ys) = (x.values(), y.values());
        let want: Vec<f64> =
            xs.iter().zip(&ys).map(|(&x, &y)| 0.5 * (function.of)(x, y) + 1.0).collect();
        let scale = want.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        let what = format!("function {} of {shape:?}", function.number);
        assert_close(&out.read(&after[2]), &want, to, scale, &what);
        let args = MapArgs { range: one_by_one(args.range), ..args };
        let (row, threads) = (StreamingReference::Map, args.range.count);
        let by_one = simple(model, row, threads, (&args, &places), &buffers);
        assert!(by_one == after, "{what}: the simple kernel differs");
    }
}

#[test]
fn logarithms_and_exponentials_keep_their_edges() {
    let Some(mut model) = Model::plain() else { return };
    let inputs = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e-40, f64::NAN, 1.0];
    let x = Tensor::new(F32, &[8], Lay::Dense, |i| inputs[i]);
    let mut map = |number| {
        let out = Tensor::out(F32, &[8], Lay::Dense);
        let row = Streaming::Map(4);
        let (range, views) = (out.range(&row), [x.view(0), x.view(0), out.view(1)]);
        let args = MapArgs { range, views, function: number, scale: 1.0, shift: 0.0, padding: 0 };
        let places = places(offset_of!(MapArgs, views), 3);
        let buffers = [x.bytes.clone(), out.bytes.clone()];
        out.read(&launch(&mut model, row, 1, (&args, &places), &buffers)[1])
    };
    let ln = map(4);
    let exp = map(3);
    let low = f64::NEG_INFINITY;
    assert_eq!([ln[0], ln[1], ln[2], ln[7]], [low, low, f64::INFINITY, 0.0]);
    assert!(ln[3].is_nan() && ln[4].is_nan() && ln[6].is_nan() && (ln[5] + 92.1034).abs() < 1e-3);
    assert_eq!([exp[0], exp[1], exp[2], exp[3]], [1.0, 1.0, f64::INFINITY, 0.0]);
    assert!(exp[6].is_nan());
}

pub(crate) fn integers_wrap_and_repeat(model: &mut Model) {
    let mut random = Random(9);
    let shape = [6, 9];
    for (number, of) in [
        (15, (|x, y| x.wrapping_add(y)) as fn(i32, i32) -> i32),
        (16, |x, y| x.wrapping_sub(y)),
        (17, |x, y| x.wrapping_mul(y)),
        (19, |x, y| x.max(y)),
        (20, |x, y| x.min(y)),
    ] {
        for dtype in [I32, U32] {
            let mut draw = || f64::from(random.next() as u32);
            let mut word = || if dtype == I32 { f64::from(draw() as u32 as i32) } else { draw() };
            let x = Tensor::new(dtype, &shape, Lay::Odd, |_| word());
            let y = Tensor::new(dtype, &[6, 1], Lay::Dense, |_| word()).repeated(1, 9);
            let out = Tensor::out(dtype, &shape, Lay::Dense);
            let row = Streaming::MapIntegers;
            let args = MapArgs {
                range: out.range(&row),
                views: [x.view(0), y.view(1), out.view(2)],
                function: number,
                ..MapArgs::default()
            };
            let places = places(offset_of!(MapArgs, views), 3);
            let buffers = [x.bytes.clone(), y.bytes.clone(), out.bytes.clone()];
            let after = launch(model, row, 1, (&args, &places), &buffers);
            let want: Vec<f64> = x
                .values()
                .iter()
                .zip(y.values())
                .map(|(&x, y)| match (dtype, number) {
                    (U32, 19) => x.max(y),
                    (U32, 20) => x.min(y),
                    (U32, _) => f64::from(of(x as u32 as i32, y as u32 as i32) as u32),
                    _ => f64::from(of(x as i32, y as i32)),
                })
                .collect();
            assert_eq!(out.read(&after[2]), want, "function {number} of {dtype}");
            let args = MapArgs { range: one_by_one(args.range), ..args };
            let (row, threads) = (StreamingReference::Map, args.range.count);
            let by_one = simple(model, row, threads, (&args, &places), &buffers);
            assert!(by_one == after, "function {number} of {dtype}: the simple kernel differs");
        }
    }
}
