//! The builders' options from outside: what they make of tensors agrees with plainer calls, and gradients agree with
//! finite differences.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold::{
    Activation, Attention, AttentionBackward, DType, Dequantize, Device, Group, Map, MapFn, Matmul,
    Norm, NormBackward, Quantize, QuantizeFormat, Quantized, Reduce, Scale, Tensor,
};

fn device() -> Device {
    Device::open_named("cpu").unwrap()
}

fn values(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37 + seed).sin() * 1.5).collect()
}

fn tensor(dev: &Device, shape: &[usize], seed: f32) -> Tensor {
    dev.tensor_of(shape, &values(shape.iter().product(), seed)).unwrap()
}

fn read(x: &Tensor) -> Vec<f32> {
    x.read::<f32>().unwrap().wait(None).unwrap()
}

fn close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (i, (x, y)) in got.iter().zip(want).enumerate() {
        assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "element {i}: {x} for {y}");
    }
}

#[test]
fn scaled_bytes_multiply_as_what_they_stand_for() {
    let dev = device();
    // A batch over one B: folded into rows, with the scales of both.
    let (x, w) = (tensor(&dev, &[2, 3, 200], 0.1), tensor(&dev, &[70, 200], 2.0));
    for dtype in [DType::I8, DType::F8E4M3] {
        let by = |x, format| Quantize::new(x, format).dtype(dtype).run().unwrap();
        let wide = |q: &Quantized| Dequantize::new(q).run().unwrap();
        let pairs = [
            (QuantizeFormat::Row, Scale::Row),
            (QuantizeFormat::Block1x128, Scale::Block1x128),
            (QuantizeFormat::Block128x128, Scale::Block128x128),
            (QuantizeFormat::Tensor, Scale::Tensor),
        ];
        for (format, scale) in pairs {
            let (a, b) = (by(&x, format), by(&w, format));
            // Scales of B lie as B does: turned.
            let of_b = match scale {
                Scale::Block1x128 | Scale::Block128x128 => b.scale.t(),
                _ => b.scale.clone(),
            };
            let y = Matmul::new(&a.values, &b.values.t())
                .scale_a(scale, &a.scale)
                .scale_b(scale, &of_b)
                .run()
                .unwrap();
            let plain = Matmul::new(&wide(&a), &wide(&b).t()).run().unwrap();
            assert_eq!((y.shape(), y.dtype()), (&[2, 3, 70][..], DType::F32));
            close(&read(&y), &read(&plain), 1e-5);
        }
    }
}

#[test]
fn every_output_of_a_product_is_given() {
    let dev = device();
    let (a, w) = (tensor(&dev, &[2, 5, 40], 0.1), tensor(&dev, &[40, 260], 2.0));
    let (c, bias) = (tensor(&dev, &[5, 260], 0.7), tensor(&dev, &[260], 1.1));
    let product = || Matmul::new(&a, &w).c(0.5, &c).bias(&bias).alpha(0.25);
    let made =
        product().gate_interleaved().silu().preactivation().quantize(DType::I8).run_all().unwrap();
    let before = read(&made.preactivation.unwrap());
    close(&before, &read(&product().run().unwrap()), 1e-6);
    let silu = |x: f32| x / (1.0 + (-x).exp());
    let gated: Vec<f32> = before.chunks(2).map(|pair| silu(pair[0]) * pair[1]).collect();
    let scale = made.scale.unwrap();
    assert_eq!((made.out.shape(), scale.shape()), (&[2, 5, 130][..], &[2, 5, 2][..]));
    let most = gated.iter().fold(0f32, |most, x| most.max(x.abs()));
    let format = QuantizeFormat::Block1x128;
    let q = Quantized { format, values: made.out, scale, min: None };
    let wide = read(&Dequantize::new(&q).run().unwrap());
    let worst = wide.iter().zip(&gated).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(worst <= 0.51 * most / 127.0, "{worst} of {most}");
    // By a scale of the caller's, in the steps of a program.
    let step = dev.tensor([1], &[0.125f32]).unwrap();
    let program = dev
        .program(|p| {
            let made = product().quantize_by(DType::I8, &step).preactivation().record_all(p)?;
            p.output(&made.out)?;
            p.output(&made.preactivation.unwrap())
        })
        .unwrap();
    program.replay().unwrap();
    let [codes, plain] = program.outputs() else { panic!("two outputs") };
    close(&read(plain), &before, 1e-6);
    let codes = codes.read::<i8>().unwrap().wait(None).unwrap();
    for (code, x) in codes.iter().zip(&before) {
        let x = x.clamp(-127.0 / 8.0, 127.0 / 8.0);
        assert!((f32::from(*code) / 8.0 - x).abs() < 0.0626, "{code} for {x}");
    }
}

#[test]
fn sizes_of_groups_may_be_on_either_side() {
    let dev = device();
    let (x, w) = (tensor(&dev, &[9, 33], 0.1), tensor(&dev, &[3, 33, 20], 2.0));
    let sizes = dev.tensor([3], &[4u32, 0, 3]).unwrap();
    let plain = |from: i64, rows: usize, group: i64| {
        let a = x.as_strided(&[rows, 33], &[33, 1], 33 * from).unwrap();
        let b = w.as_strided(&[33, 20], &[20, 1], 660 * group).unwrap();
        read(&Matmul::new(&a, &b).run().unwrap())
    };
    let mut want = [plain(0, 4, 0), plain(4, 3, 2)].concat();
    want.resize(9 * 20, 0.0);
    let host = Matmul::new(&x, &w).groups(Group::Contiguous, &[4, 0, 3]).run().unwrap();
    let there = Matmul::new(&x, &w).groups_on_device(Group::Contiguous, &sizes, 9).run().unwrap();
    close(&read(&host), &want, 1e-6);
    assert_eq!(read(&host), read(&there));
    // Runs of K: a sum for each.
    let (a, b) = (tensor(&dev, &[5, 9], 0.3), tensor(&dev, &[9, 4], 1.0));
    let runs = Matmul::new(&a, &b).groups(Group::K, &[4, 5]).run().unwrap();
    assert_eq!(runs.shape(), [2, 5, 4]);
    let all = read(&runs);
    let sum: Vec<f32> = all[..20].iter().zip(&all[20..]).map(|(x, y)| x + y).collect();
    close(&sum, &read(&Matmul::new(&a, &b).run().unwrap()), 1e-6);
}

#[test]
fn matrices_may_be_named_by_indices() {
    let dev = device();
    let (x, w) = (tensor(&dev, &[2, 3, 9, 33], 0.1), tensor(&dev, &[4, 33, 20], 2.0));
    let of = [3u32, 0, 3];
    let index = dev.tensor([3], &of).unwrap();
    // Broadcast along the first axis of the batch.
    let y = Matmul::new(&x, &w).index_b(&index).run().unwrap();
    assert_eq!(y.shape(), [2, 3, 9, 20]);
    let mut want = Vec::new();
    for entry in 0..6 {
        let a = x.as_strided(&[9, 33], &[33, 1], 297 * entry).unwrap();
        let b = w.as_strided(&[33, 20], &[20, 1], 660 * i64::from(of[entry as usize % 3])).unwrap();
        want.extend(read(&Matmul::new(&a, &b).run().unwrap()));
    }
    close(&read(&y), &want, 1e-6);
    // Offsets in units of five elements, of matrices that overlap; the second is none.
    let line = tensor(&dev, &[100], 0.3);
    let all = line.as_strided(&[10, 6, 8], &[5, 8, 1], 0).unwrap();
    let right = tensor(&dev, &[8, 4], 1.0);
    let bias = dev.tensor([1], &[0.5f32]).unwrap();
    let offsets = dev.tensor([2], &[7i32, -1]).unwrap();
    let y = Matmul::new(&all, &right).index_a(&offsets).bias(&bias).run().unwrap();
    let error = y.read::<f32>().unwrap().wait(None).unwrap_err();
    assert_eq!(*error.kind(), leasehold::Kind::Index { value: u32::MAX, bound: 10 });
    let offsets = dev.tensor([2], &[7i32, 2]).unwrap();
    let y = read(&Matmul::new(&all, &right).index_a(&offsets).bias(&bias).run().unwrap());
    for (offset, y) in [35, 10].into_iter().zip(y.chunks(24)) {
        let a = line.as_strided(&[6, 8], &[8, 1], offset).unwrap();
        close(y, &read(&Matmul::new(&a, &right).bias(&bias).run().unwrap()), 1e-6);
    }
}

/// Compares a gradient with `(f(x + h) - f(x - h)) / 2h`, every seventh element.
fn differences(x: &[f32], gradient: &[f32], f: impl Fn(&[f32]) -> f64) {
    let h = 1e-2;
    for i in (0..x.len()).step_by(7) {
        let at = |step: f32| {
            let mut moved = x.to_vec();
            moved[i] += step;
            f(&moved)
        };
        let slope = (at(h) - at(-h)) / (2.0 * f64::from(h));
        let got = f64::from(gradient[i]);
        assert!((got - slope).abs() < 4e-3 * (1.0 + slope.abs()), "{i}: {got} for {slope}");
    }
}

fn weighted(y: &Tensor, weights: &[f32]) -> f64 {
    read(y).iter().zip(weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
}

/// What options of attention read.
struct Beside {
    mask: Tensor,
    slopes: Tensor,
    sinks: Tensor,
    lens: Tensor,
}

fn with<'a>(option: usize, x: Attention<'a>, beside: &'a Beside) -> Attention<'a> {
    match option {
        0 => x,
        1 => x.causal(),
        2 => x.window(1, 2),
        3 => x.causal().window(2, 0).scale(0.9),
        4 => x.softcap(0.8),
        5 => x.mask(&beside.mask).softcap(2.0),
        6 => x.alibi(&beside.slopes).sinks(&beside.sinks),
        7 => x.lens(&[4]),
        8 => x.rows(&[2, 3]).lens(&[4, 2]).causal(),
        _ => x.rows(&[2, 3]).lens_on_device(&beside.lens, 6).sinks(&beside.sinks).window(3, 1),
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let dev = device();
    let shapes = [[1usize, 4, 5, 8], [1, 2, 6, 8], [1, 2, 6, 4]];
    let data: Vec<Vec<f32>> = shapes
        .iter()
        .zip([0.1, 0.9, 2.0])
        .map(|(s, seed)| values(s.iter().product(), seed))
        .collect();
    let make = |i: usize, data: &[f32]| dev.tensor(shapes[i], data).unwrap();
    let d_out = values(4 * 5 * 4, 0.4);
    let d = dev.tensor([1, 4, 5, 4], &d_out).unwrap();
    let beside = Beside {
        mask: tensor(&dev, &[4, 1, 6], 0.7),
        slopes: tensor(&dev, &[4], 1.3),
        sinks: tensor(&dev, &[4], 0.3),
        lens: dev.tensor([2], &[4u32, 2]).unwrap(),
    };
    for option in 0..10 {
        let forward = |i: usize, moved: &[f32]| {
            let [q, k, v] = [0, 1, 2].map(|j| make(j, if i == j { moved } else { &data[j] }));
            let y = with(option, Attention::new(&q, &k, &v), &beside).run_with_lse().unwrap();
            (q, k, v, y)
        };
        let (q, k, v, (out, lse)) = forward(3, &[]);
        let attention = with(option, Attention::new(&q, &k, &v), &beside);
        let gradients = AttentionBackward::new(&attention, &out, &lse, &d).run().unwrap();
        for (i, gradient) in gradients.iter().enumerate() {
            differences(&data[i], &read(gradient), |moved| {
                weighted(&forward(i, moved).3.0, &d_out)
            });
        }
    }
    let (x, w) = (values(3 * 20, 0.2), values(20, 1.0));
    let weight = dev.tensor([20], &w).unwrap();
    let d_y = values(60, 0.8);
    let d = dev.tensor([3, 20], &d_y).unwrap();
    for layer in [false, true] {
        let of = |x: &[f32], w: &[f32]| {
            let (x, w) = (dev.tensor([3, 20], x).unwrap(), dev.tensor([20], w).unwrap());
            let norm = if layer { Norm::layer(&x, 1e-3) } else { Norm::rms(&x, 1e-3) };
            weighted(&norm.weight(&w).run().unwrap(), &d_y)
        };
        let input = dev.tensor([3, 20], &x).unwrap();
        let back = match layer {
            true => NormBackward::layer(&input, &d, 1e-3),
            false => NormBackward::rms(&input, &d, 1e-3),
        };
        let (d_x, terms) = back.weight(&weight).run().unwrap();
        differences(&x, &read(&d_x), |x| of(x, &w));
        let d_w = Reduce::sum(&terms).axis(0).run().unwrap();
        differences(&w, &read(&d_w), |w| of(&x, w));
    }
}

#[test]
fn an_activation_may_be_given_by_name() {
    let dev = device();
    let (a, b) = (tensor(&dev, &[3, 8], 0.1), tensor(&dev, &[8, 4], 0.5));
    let y = Matmul::new(&a, &b).activation(Activation::GeluTanh).run().unwrap();
    let plain = Matmul::new(&a, &b).run().unwrap();
    let want = Map::unary(MapFn::GeluTanh, &plain).run().unwrap();
    close(&read(&y), &read(&want), 1e-6);
}
