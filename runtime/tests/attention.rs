//! The builder of attention: options that ask for the same in two ways give the same, and each option is what its name
//! says. How near the kernels are to the reference is the parity suite's matter.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use leasehold::{Attention, DType, Device, Kind, Result, Rule, Scatter, Tensor};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;

fn device() -> Device {
    Device::open_named("cpu").unwrap()
}

fn values(shape: &[usize], seed: f32) -> Vec<f32> {
    (0..shape.iter().product()).map(|i| (i as f32 * 0.37 + seed).sin() * 1.5).collect()
}

fn tensor(dev: &Device, shape: &[usize], seed: f32) -> Tensor {
    dev.tensor_of(shape, &values(shape, seed)).unwrap()
}

fn read(tensor: Result<Tensor>) -> Vec<f32> {
    tensor.unwrap().read::<f32>().unwrap().wait(None).unwrap()
}

/// Queries, keys and values of a batch.
fn qkv(dev: &Device, batch: usize, rows: usize, keys: usize) -> [Tensor; 3] {
    [
        tensor(dev, &[batch, HEADS, rows, DIM], 0.1),
        tensor(dev, &[batch, KV_HEADS, keys, DIM], 0.2),
        tensor(dev, &[batch, KV_HEADS, keys, DIM], 0.3),
    ]
}

fn near(ours: &[f32], theirs: &[f32], bound: f32) {
    assert_eq!(ours.len(), theirs.len());
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    assert!(apart.clone().all(|x| x <= bound), "{:?}", apart.fold(0f32, f32::max));
}

/// Keys appended to shuffled pages are the same keys, whether the lengths lie on the host or on the device.
#[test]
fn pages_hold_what_is_appended() {
    let dev = device();
    let (batch, rows, room, page) = (3, 4, 12, 4);
    let [q, k, v] = qkv(&dev, batch, rows, room);
    let lens = [12u32, 4, 7];
    let dense = read(Attention::new(&q, &k, &v).causal().lens(&lens).run());

    let pages = dev.tensor([3, 3], &[7u32, 2, 5, 0, 8, 1, 6, 3, 4]).unwrap();
    let cache = || tensor(&dev, &[9, KV_HEADS, page, DIM], 9.0);
    let (keys, values) = (cache(), cache());
    // In parts of four, up to the longest; each entry's own length then says what of it counts.
    for end in [4usize, 8, 12] {
        let ends = dev.tensor([3], &[end as i32; 3]).unwrap();
        for (from, to) in [(&k, &keys), (&v, &values)] {
            let part = from.narrow(2, end - 4, 4).unwrap();
            Scatter::append(&part, &pages, &ends, to).run().unwrap();
        }
    }
    let paged = || Attention::new(&q, &keys, &values).causal().paged(&pages);
    assert_eq!(read(paged().lens(&lens).run()), dense);
    let on_device = dev.tensor([3], &lens).unwrap();
    assert_eq!(read(paged().lens_on_device(&on_device, 12).run()), dense);
    // A length over the stated maximum is held to it, and told.
    let error = paged().lens_on_device(&on_device, 11).run().unwrap();
    let error = error.read::<f32>().unwrap().wait(None).unwrap_err();
    assert_eq!(*error.kind(), Kind::Index { value: 12, bound: 12 });
    let (out, lse) = dev
        .program(|p| {
            let (out, lse) = paged().lens_on_device(&on_device, 12).record_with_lse(p)?;
            p.output(&out)?;
            p.output(&lse)
        })
        .map(|program| {
            let out = program.replay().unwrap().clone();
            (out, program.outputs()[1].clone())
        })
        .unwrap();
    assert_eq!(read(Ok(out)), dense);
    let (_, expected) = paged().lens(&lens).run_with_lse().unwrap();
    assert_eq!(lse.shape(), [3, HEADS as u64, rows as u64]);
    assert_eq!(read(Ok(lse)), read(Ok(expected)));
}

/// Packed rows are the entries one after another; counts on the device are the same counts.
#[test]
fn packed_rows_are_their_entries() {
    let dev = device();
    let total = 11;
    let [q, k, v] = qkv(&dev, 1, total, total);
    let counts = [5u32, 0, 3];
    let host = read(Attention::new(&q, &k, &v).causal().rows(&counts).run());
    let on_device = dev.tensor([3], &counts).unwrap();
    let packed = Attention::new(&q, &k, &v).causal().rows_on_device(&on_device, 6);
    assert_eq!(read(packed.run()), host);
    // Keys of their own counts.
    let keys = read(Attention::new(&q, &k, &v).causal().rows(&counts).lens(&counts).run());
    assert_eq!(keys, host);
    let mut first = 0;
    for count in counts.map(|n| n as usize) {
        let [q, k, v] = [&q, &k, &v].map(|x| x.narrow(2, first, count).unwrap());
        let alone = read(Attention::new(&q, &k, &v).causal().run());
        let packed: Vec<f32> = (0..HEADS)
            .flat_map(|head| host[(head * total + first) * DIM..][..count * DIM].to_vec())
            .collect();
        assert_eq!(packed, alone);
        first += count;
    }
    // Rows that no entry owns.
    assert!(host[first * DIM..total * DIM].iter().all(|&x| x == 0.0));
}

/// Each function of the scores against a mask that says the same.
#[test]
fn functions_of_scores_are_what_they_are_called() {
    let dev = device();
    let n = 9;
    let [q, k, v] = qkv(&dev, 1, n, n);
    let attention = || Attention::new(&q, &k, &v);
    let mask = |value: &dyn Fn(usize, i32) -> f32| {
        let scores = (0..HEADS * n * n).map(|i| {
            let (head, row, key) = (i / n / n, i / n % n, i % n);
            value(head, key as i32 - row as i32)
        });
        dev.tensor([1, HEADS, n, n], &scores.collect::<Vec<_>>()).unwrap()
    };
    let hidden = |visible: bool| if visible { 0.0 } else { f32::NEG_INFINITY };

    let window = mask(&|_, far| hidden((-2..=1).contains(&far)));
    near(&read(attention().window(2, 1).run()), &read(attention().mask(&window).run()), 1e-6);
    let causal = mask(&|_, far| hidden(far <= 0));
    near(&read(attention().causal().run()), &read(attention().mask(&causal).run()), 1e-6);

    let slopes = [0.5f32, 0.25, 0.0, 2.0];
    let alibi = mask(&|head, far| -slopes[head] * far.abs() as f32);
    let on_device = dev.tensor([HEADS], &slopes).unwrap();
    near(&read(attention().alibi(&on_device).run()), &read(attention().mask(&alibi).run()), 1e-5);

    // A cap far above every score changes nothing, one near 0 makes all keys alike.
    let plain = read(attention().run());
    near(&read(attention().softcap(1e4).run()), &plain, 1e-4);
    let flat = read(attention().scale(0.0).run());
    near(&read(attention().softcap(1e-5).run()), &flat, 1e-4);
    assert!(plain.iter().zip(&flat).any(|(a, b)| (a - b).abs() > 0.1), "nothing to tell apart");

    // A sink as large as the other logits together halves the result.
    let (out, lse) = attention().run_with_lse().unwrap();
    let (out, lse) = (read(Ok(out)), read(Ok(lse)));
    for head in 0..HEADS {
        let sinks = dev.tensor([HEADS], &[lse[head * n]; HEADS]).unwrap();
        let with = read(attention().sinks(&sinks).run());
        let row = head * n * DIM..(head * n + 1) * DIM;
        let half: Vec<f32> = out[row.clone()].iter().map(|x| x / 2.0).collect();
        near(&with[row], &half, 1e-6);
    }
}

#[test]
fn wrong_options_are_told() {
    let dev = device();
    let [q, k, v] = qkv(&dev, 2, 3, 4);
    let counts = dev.tensor([2], &[1u32, 2]).unwrap();
    let pages = dev.tensor([2, 1], &[0u32, 1]).unwrap();
    let half = dev.empty(DType::F16, &[HEADS]).unwrap();
    let attention = || Attention::new(&q, &k, &v);
    let cases: Vec<(Result<Tensor>, Rule, &[&str])> = vec![
        (attention().paged(&pages).run(), Rule::Length, &["none", "host or device lengths"]),
        (attention().paged(&counts).lens(&[1, 1]).run(), Rule::Rank, &["pages"]),
        (attention().paged(&pages).lens(&[5, 1]).run(), Rule::Length, &["5", "at most 4"]),
        (attention().rows(&[1, 1]).run(), Rule::Packed, &["a batch of 1"]),
        (attention().lens_on_device(&counts, 5).run(), Rule::Length, &["5", "at most 4"]),
        (attention().lens_on_device(&pages, 4).run(), Rule::Length, &["lens"]),
        (attention().softcap(-1.0).run(), Rule::Finite, &["-1", "at least 0"]),
        (attention().softcap(f32::NAN).run(), Rule::Finite, &["NaN"]),
        (attention().sinks(&half).run(), Rule::StatDType, &["sinks", "f16", "f32"]),
        (attention().alibi(&q).run(), Rule::SameShape, &["alibi", "[2, 4, 3, 8]", "[4]"]),
    ];
    for (i, (result, rule, parts)) in cases.into_iter().enumerate() {
        let error = result.map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.rule(), Some(rule), "case {i}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "case {i}: {text:?}, {parts:?}");
    }
}
