//! The toy model in training: its gradients beside finite differences of a plain forward pass in f64 and beside PyTorch's
//! (`reference/train.py`), that it learns, that every run has the same bits, and that a GPU follows the CPU.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use leasehold::{Device, Tensor};
use leasehold_examples::training::{Config, Stream, Training};

const TOY: Config = Config::TOY;

fn read(tensor: &Tensor) -> Vec<f32> {
    tensor.read::<f32>().unwrap().wait(None).unwrap()
}

/// The first adapter, or `None` after saying so, which is a failure where CI could have installed a driver.
fn gpu() -> Option<Device> {
    if let Ok(device) = Device::open_named("wgpu:0") {
        return Some(device);
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has no wgpu adapter");
    println!("skip: no wgpu adapter (install mesa-vulkan-drivers)");
    None
}

/// A forward pass as its formulas say, in f64: the loss of tokens `ids` `[.., rows]` under parameters `w`.
fn loss(w: &[f64], ids: &[u32], targets: &[u32], rows: usize) -> f64 {
    let Config { tokens, width, heads, kv_heads, inner, blocks, .. } = TOY;
    let (dim, total) = (TOY.dim(), ids.len());
    let mut left = w;
    let mut next = |count: usize| left.split_off(..count).unwrap();
    let embedding = next(tokens * width);
    let row = |id: u32| &embedding[id as usize * width..][..width];
    let mut x: Vec<f64> = ids.iter().flat_map(|&id| row(id)).copied().collect();
    for _ in 0..blocks {
        let all = heads + 2 * kv_heads;
        let mut qkv = product(&rms(&x, next(width)), next(width * all * dim), width);
        for (i, head) in qkv.chunks_exact_mut(dim).enumerate() {
            if i % all < heads + kv_heads {
                turn(head, (i / all % rows) as f64);
            }
        }
        let mut attended = vec![0.0; total * width];
        for (i, out) in attended.chunks_exact_mut(dim).enumerate() {
            let (at, head) = (i / heads, i % heads);
            let kv_head = heads + head / (heads / kv_heads);
            let part = |at: usize, head: usize| &qkv[(at * all + head) * dim..][..dim];
            let seen = at - at % rows..=at;
            let score = |key| dot(part(at, head), part(key, kv_head)) / (dim as f64).sqrt();
            let weights = softmax(seen.clone().map(score).collect());
            for (key, weight) in seen.zip(weights) {
                let value = part(key, kv_head + kv_heads);
                out.iter_mut().zip(value).for_each(|(out, v)| *out += weight * v);
            }
        }
        add(&mut x, &product(&attended, next(width * width), width));
        let y = rms(&x, next(width));
        let gate = product(&y, next(width * inner), width);
        let up = product(&y, next(width * inner), width);
        let wide = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u);
        add(&mut x, &product(&wide.collect::<Vec<_>>(), next(inner * width), inner));
    }
    let normal = rms(&x, next(width));
    let of_row = |(normal, &target): (&[f64], &u32)| {
        let logits = (0..tokens as u32).map(|id| dot(normal, row(id))).collect();
        -softmax(logits)[target as usize].ln()
    };
    normal.chunks_exact(width).zip(targets).map(of_row).sum::<f64>() / total as f64
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x` `[.., k]` by `w` `[k, n]`.
fn product(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    let n = w.len() / k;
    let mut out = vec![0.0; x.len() / k * n];
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (x, w) in x.iter().zip(w.chunks_exact(n)) {
            out.iter_mut().zip(w).for_each(|(out, w)| *out += x * w);
        }
    }
    out
}

fn rms(x: &[f64], w: &[f64]) -> Vec<f64> {
    let normal = |row: &[f64]| {
        let factor = (dot(row, row) / w.len() as f64 + f64::from(TOY.epsilon)).sqrt().recip();
        row.iter().zip(w).map(|(x, w)| x * factor * w).collect::<Vec<_>>()
    };
    x.chunks_exact(w.len()).flat_map(normal).collect()
}

/// The halves of a head turned by their place.
fn turn(head: &mut [f64], place: f64) {
    let pairs = head.len() / 2;
    for i in 0..pairs {
        let frequency = f64::from(TOY.rope_base).powf(-(i as f64) / pairs as f64);
        let (sin, cos) = (place * frequency).sin_cos();
        let (a, b) = (head[i], head[i + pairs]);
        (head[i], head[i + pairs]) = (a * cos - b * sin, a * sin + b * cos);
    }
}

fn softmax(scores: Vec<f64>) -> Vec<f64> {
    let most = scores.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(x));
    let weights: Vec<f64> = scores.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Asserts that no element is further from `expected` than `tolerance` of the largest of its own parameter.
fn near(what: &str, gradients: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(gradients.len(), expected.len());
    let mut at = 0;
    for (name, shape) in TOY.shapes() {
        let range = at..at + shape.iter().product::<usize>();
        let largest = expected[range.clone()].iter().fold(0f64, |most, x| most.max(x.abs()));
        let pairs = gradients[range.clone()].iter().zip(&expected[range.clone()]);
        let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(largest > 1e-4, "{what}, {name}: nothing to compare");
        assert!(error <= tolerance * largest, "{what}, {name}: {error:e} of {largest:e}");
        at = range.end;
    }
}

#[test]
fn gradients_agree_with_finite_differences_and_with_pytorch() {
    const BATCH: [usize; 2] = [2, 6];
    let mut stream = Stream(7);
    let parameters = TOY.initial(&mut stream);
    let (ids, targets) = stream.sums(BATCH, TOY.tokens);
    let exact: Vec<f64> = parameters.iter().copied().map(f64::from).collect();
    let plain = loss(&exact, &ids, &targets, BATCH[1]);
    const STEP: f64 = 1e-5;
    let slope = |i: usize| {
        let mut moved = exact.clone();
        let mut at = |x| {
            moved[i] = x;
            loss(&moved, &ids, &targets, BATCH[1])
        };
        (at(exact[i] + STEP) - at(exact[i] - STEP)) / (2.0 * STEP)
    };
    let differences: Vec<f64> = (0..exact.len()).map(slope).collect();

    let stored: serde_json::Value =
        serde_json::from_str(include_str!("reference/train.json")).unwrap();
    let numbers = stored["gradients"].as_str().unwrap().split(' ');
    let pytorch: Vec<f64> = numbers.map(|number| number.parse().unwrap()).collect();
    assert!((stored["loss"].as_f64().unwrap() - plain).abs() < 1e-8, "{plain}");
    near("PyTorch beside finite differences", &pytorch, &differences, 1e-6);

    let devices = [Device::open_named("cpu").ok(), gpu()];
    for device in devices.into_iter().flatten() {
        let mut training = Training::new(&device, TOY, &parameters, BATCH, 0.01).unwrap();
        let found = f64::from(training.step(&ids, &targets).unwrap());
        assert!((found - plain).abs() < 1e-5, "{found} for {plain} on {}", device.name());
        let found = read(training.gradients()).into_iter().map(f64::from).collect::<Vec<_>>();
        near(device.name(), &found, &differences, 1e-5);
        near(device.name(), &found, &pytorch, 1e-5);
    }
}

const BATCH: [usize; 2] = [16, 8];

/// Losses of so many steps, each on a new batch, and the weights after them.
fn train(device: &Device, steps: usize) -> (Vec<f32>, Vec<f32>) {
    let mut stream = Stream(1);
    let parameters = TOY.initial(&mut stream);
    let mut training = Training::new(device, TOY, &parameters, BATCH, 0.01).unwrap();
    let step = |_| {
        let (ids, targets) = stream.sums(BATCH, TOY.tokens);
        training.step(&ids, &targets).unwrap()
    };
    let losses = (0..steps).map(step).collect();
    (losses, read(training.weights()))
}

#[test]
fn a_toy_task_is_learnt_and_every_run_has_the_same_bits() {
    let device = Device::open_named("cpu").unwrap();
    let (losses, weights) = train(&device, 400);
    let last = losses[390..].iter().sum::<f32>() / 10.0;
    assert!(losses[0] > 1.5 && last < 0.05, "{:?} to {last}", losses[0]);
    let (again, same) = train(&device, 400);
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&losses) == bits(&again) && bits(&weights) == bits(&same));
}

#[test]
fn ten_steps_on_a_gpu_follow_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let (cpu, _) = train(&Device::open_named("cpu").unwrap(), 10);
    let (gpu, _) = train(&gpu, 10);
    for (step, (a, b)) in cpu.iter().zip(&gpu).enumerate() {
        assert!((a - b).abs() <= 1e-4 * a, "step {step}: {a} on the CPU, {b}");
    }
}
