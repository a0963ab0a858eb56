//! The library as a tenant meets it, on every device of this machine: failed outputs and their first cause, waits
//! that end in time, full queues, queues beside each other, loss, and input that is wrong in every way.
#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::scripted::{LIBRARY, LONG, Script, Scripted};
use leasehold::backend::Backend;
use leasehold::exec::Core;
use leasehold::op::{self, Spec, check};
use leasehold::{
    Attention, Copy, DType, Device, Dims, Error, Fault, Gather, Kind, Layout, Map, MapFn, Matmul,
    Norm, Queue, Read, Reduce, Rule, Softmax, Tensor, bf16, f16,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// The CPU, and the first wgpu adapter where there is one.
fn devices() -> Vec<Device> {
    let cpu = std::iter::once(Device::open_named("cpu").unwrap());
    #[cfg(feature = "wgpu")]
    let cpu = cpu.chain(common::adapter::open().map(|gpu| Device::from_backend(gpu).unwrap()));
    cpu.collect()
}

/// A device that finishes nothing until its script says so, and a tensor that it has.
fn held(values: &[f32]) -> (Device, Script, Tensor) {
    let (backend, script) = Scripted::new(1 << 20);
    let dev = Device::from_backend(backend).unwrap();
    let x = dev.tensor([values.len()], values).unwrap();
    dev.wait(None).unwrap();
    script.hold();
    (dev, script, x)
}

fn read(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    tensor.read::<f32>()?.wait(None)
}

#[test]
fn handles_go_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Device>();
    shared::<Queue>();
    shared::<Tensor>();
    shared::<Error>();
    shared::<Read<f32>>();
}

#[test]
fn a_failed_output_fails_its_readers_with_the_first_cause_and_nothing_else() {
    for dev in devices() {
        let table = dev.tensor([3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let (bad, worse) = (dev.tensor([2], &[1u32, 7]).unwrap(), dev.tensor([1], &[-1]).unwrap());
        let other = Map::add(&table, &table).run().unwrap();
        let failed = Gather::new(&table, &bad).run().unwrap();
        let norm = Norm::rms(&failed, 1e-5).run().unwrap();
        // Two causes: the first operand's came first.
        let both = Map::add(&norm, &Gather::new(&table, &worse).run().unwrap()).run().unwrap();
        let product = Matmul::new(&table, &both.t()).run().unwrap();
        for reader in
            [&failed, &norm, &both, &product, &product.t(), &failed.narrow(0, 0, 1).unwrap()]
        {
            let error = read(reader).unwrap_err();
            assert_eq!(*error.kind(), Kind::Index { value: 7, bound: 3 }, "{dev:?}: {error}");
            assert_eq!((error.op(), error.fault()), (Some("gather"), Fault::Tenant));
            assert!(!error.retryable());
        }
        assert_eq!(read(&other).unwrap(), [2., 4., 6., 8., 10., 12.]);
        assert_eq!(read(&table).unwrap(), [1., 2., 3., 4., 5., 6.]);
        let good = Gather::new(&table, &dev.tensor([1], &[2i32]).unwrap()).run().unwrap();
        assert_eq!(read(&good).unwrap(), [5., 6.]);
        // A wait tells the first error since the last, once.
        let error = dev.wait(None).unwrap_err();
        assert_eq!(*error.kind(), Kind::Index { value: 7, bound: 3 });
        dev.wait(None).unwrap();
    }
}

#[test]
fn hostile_indices_fault_on_every_device() {
    for dev in devices() {
        let table = dev.tensor([4], &[1f32, 2., 3., 4.]).unwrap();
        for bad in [-1, i32::MAX, i32::MIN, 4] {
            let index = dev.tensor([1], &[bad]).unwrap();
            let error = read(&Gather::new(&table, &index).run().unwrap()).unwrap_err();
            assert_eq!(*error.kind(), Kind::Index { value: bad as u32, bound: 4 }, "{dev:?}");
        }
    }
}

#[test]
fn waits_end_in_time_and_may_be_tried_again() {
    let (dev, script, x) = held(&[1f32, 2., 3.]);
    let y = Map::add(&x, &x).run().unwrap();
    let mut reading = y.read::<f32>().unwrap();
    let began = Instant::now();
    let timeout = Some(Duration::from_millis(30));
    let is_timeout = |error: &Error| {
        assert_eq!(*error.kind(), Kind::Timeout { waited_ms: 30 });
        assert!(error.retryable() && error.fault() == Fault::Tenant);
    };
    is_timeout(&reading.wait(timeout).unwrap_err());
    is_timeout(&reading.wait_into(&mut [0.; 3], timeout).unwrap_err());
    is_timeout(&dev.wait(timeout).unwrap_err());
    assert!(!reading.ready());
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(90) && waited < 10 * SECOND, "{waited:?}");
    script.release();
    assert_eq!(reading.wait(None).unwrap(), [2., 4., 6.]);
    assert!(reading.ready());
}

#[test]
fn a_full_queue_blocks_run_and_refuses_try_run() {
    let (_dev, script, x) = held(&[0f32]);
    let step = || Map::unary(MapFn::Identity, &x).shift(1.0).into(&x);
    let (mut queued, limit) = (0, 1 << 20);
    let refused = loop {
        match step().try_run() {
            Ok(_) => queued += 1,
            Err(error) => break error,
        }
        assert!(queued < limit, "the queue never fills");
    };
    let Kind::QueueFull { limit } = *refused.kind() else { panic!("{refused}") };
    assert!(refused.retryable() && queued >= limit, "{queued} queued, limit {limit}");
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| step().run().map(drop));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!blocked.is_finished(), "run did not wait for room");
        script.release();
        blocked.join().unwrap().unwrap();
    });
    assert_eq!(read(&x).unwrap(), [(queued + 1) as f32]);
}

#[test]
fn a_lost_device_ends_every_wait() {
    let (dev, script, x) = held(&[1f32, 2., 3.]);
    let y = Map::add(&x, &x).run().unwrap();
    let mut pending = y.read::<f32>().unwrap();
    script.lose();
    let later = Map::add(&y, &y).run().unwrap();
    for error in [
        pending.wait(Some(10 * SECOND)).unwrap_err(),
        read(&later).unwrap_err(),
        read(&x).unwrap_err(),
        dev.wait(Some(10 * SECOND)).unwrap_err(),
    ] {
        assert!(matches!(error.kind(), Kind::DeviceLost { .. }), "{error}");
        assert!(error.retryable() && error.fault() == Fault::Device);
    }
}

#[test]
fn a_lost_gpu_ends_every_wait() {
    #[cfg(feature = "wgpu")]
    if let Some(gpu) = common::adapter::open() {
        gpu.lose();
        let dev = Device::from_backend(gpu).unwrap();
        // Each call may succeed or fail, none may hang or panic; what reads the tensor fails.
        if let Ok(x) = dev.tensor([3], &[1f32, 2., 3.]) {
            let error = Map::add(&x, &x).run().and_then(|y| read(&y)).unwrap_err();
            assert!(matches!(error.kind(), Kind::DeviceLost { .. }), "{error}");
        }
        let error = dev.wait(Some(10 * SECOND)).unwrap_err();
        assert!(matches!(error.kind(), Kind::DeviceLost { .. }), "{error}");
    }
}

#[test]
fn a_dropped_device_and_dropped_tensors_finish_what_is_read() {
    for dev in devices() {
        let mut reading = {
            let x = dev.tensor([300, 300], &[0.5f32; 90_000]).unwrap();
            Matmul::new(&x, &x).run().unwrap().read::<f32>().unwrap()
        };
        drop(dev);
        assert!(reading.wait(None).unwrap().iter().all(|x| *x == 75.0));
    }
    for dev in devices() {
        // A read that nobody waits for, and a device that goes with it.
        let x = dev.tensor([2], &[1f32, 2.]).unwrap();
        drop(x.read::<f32>().unwrap());
        drop(x);
    }
}

#[test]
fn queues_wait_for_each_others_writes_and_reads() {
    for dev in devices() {
        let (one, two) = (dev.queue(), dev.queue());
        let x = dev.tensor([64, 64], &[1f32; 4096]).unwrap();
        let mut expected = 1f32;
        for _ in 0..50 {
            // Read by one queue before the other writes, written before the first reads.
            let y = Matmul::new(&x, &x).alpha(1.0 / 64.0).on(&one).run().unwrap();
            Map::unary(MapFn::Identity, &x).scale(0.5).shift(0.25).into(&x).on(&two).run().unwrap();
            let mean = Map::add(&y, &x).scale(0.5).on(&one).into(&x).run().unwrap();
            expected = (expected * expected + expected * 0.5 + 0.25) * 0.5;
            if expected < 0.3 {
                expected = 1.0;
                mean.write_on(&two, &[1f32; 4096]).unwrap();
            }
        }
        let got = x.read_on::<f32>(&two).unwrap().wait(None).unwrap();
        assert!(got.iter().all(|x| (x - expected).abs() < 1e-4), "{} for {expected}", got[0]);
    }
}

#[test]
fn many_threads_share_a_device() {
    for dev in devices() {
        std::thread::scope(|scope| {
            for i in 0..8 {
                let dev = &dev;
                scope.spawn(move || {
                    let queue = dev.queue();
                    for n in 1..12usize {
                        let data: Vec<f32> = (0..n * n).map(|x| (x % 7 + i) as f32).collect();
                        let x = dev.tensor([n, n], &data).unwrap();
                        let y = Map::add(&x, &x).on(&queue).run().unwrap();
                        let got = y.read_on::<f32>(&queue).unwrap().wait(None).unwrap();
                        assert!(got.iter().zip(&data).all(|(y, x)| *y == 2.0 * x));
                    }
                });
            }
        });
        dev.wait(Some(60 * SECOND)).unwrap();
    }
}

#[test]
fn every_dtype_goes_up_and_down() {
    for dev in devices() {
        macro_rules! round_trip {
            ($($t:ty: $values:expr),*) => {$({
                let values: [$t; 4] = $values;
                let x = dev.tensor([2, 2], &values).unwrap();
                assert_eq!(x.read::<$t>().unwrap().wait(None).unwrap(), values, "{dev:?}");
                let turned = x.t().read::<$t>().unwrap().wait(None).unwrap();
                assert_eq!(turned, [values[0], values[2], values[1], values[3]], "{dev:?}");
            })*};
        }
        round_trip!(
            f32: [1.5, -0.0, f32::MAX, f32::NEG_INFINITY],
            f16: [1.5, 0.0, -2.0, 65504.0].map(f16::from_f32),
            bf16: [1.5, 0.0, -2.0, 3e38].map(bf16::from_f32),
            i32: [1, -1, i32::MIN, i32::MAX],
            u32: [1, 0, 1 << 31, u32::MAX]
        );
        // Moved where the backend moves bytes, else said.
        let bytes = dev.tensor([2, 2], &[1i8, -2, 3, -4]).unwrap();
        assert_eq!(bytes.read::<i8>().unwrap().wait(None).unwrap(), [1, -2, 3, -4]);
        match bytes.t().read::<i8>().and_then(|mut read| read.wait(None)) {
            Ok(turned) => assert_eq!(turned, [1, 3, -2, -4]),
            Err(error) => assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{error}"),
        }
    }
}

/// As many times -128 squared as i32 holds are summed without wrapping round; one more is refused.
#[test]
fn the_longest_product_of_i8_is_exact() {
    const K: usize = 131_071;
    for dev in devices() {
        let bytes = |k| dev.tensor([1, k], &vec![i8::MIN; k]).unwrap();
        let row = bytes(K);
        let sum = read(&Matmul::new(&row, &row.t()).run().unwrap()).unwrap();
        assert_eq!(sum, [(K * 128 * 128) as f32], "{dev:?}");
        let longer = bytes(K + 1);
        let error = Matmul::new(&longer, &longer.t()).run().unwrap_err();
        assert_eq!(error.rule(), Some(Rule::Limit), "{error}");
        assert!(error.to_string().contains("131072") && error.to_string().contains("131071"));
    }
}

/// Sizes of zero are no special case: nothing to compute, or a sum of nothing.
#[test]
fn tensors_without_elements() {
    for dev in devices() {
        let none = dev.tensor::<f32, 2>([0, 4], &[]).unwrap();
        let wide = dev.tensor::<f32, 2>([4, 0], &[]).unwrap();
        let four = dev.tensor([4], &[1f32, 2., 3., 4.]).unwrap();
        assert!(read(&Matmul::new(&none, &wide).run().unwrap()).unwrap().is_empty());
        let product = Matmul::new(&wide, &none).bias(&four).run().unwrap();
        assert_eq!(read(&product).unwrap(), [1f32, 2., 3., 4.].repeat(4));
        for y in [
            Norm::layer(&none, 1e-5).weight(&four).run().unwrap(),
            Softmax::new(&none).run().unwrap(),
            Softmax::new(&wide).run().unwrap(),
            Map::add(&none, &four).run().unwrap(),
            Reduce::mean(&none).run().unwrap(),
            Copy::new(&none.t()).run().unwrap(),
            Gather::new(&four, &dev.tensor::<u32, 1>([0], &[]).unwrap()).run().unwrap(),
            none.broadcast_to(&[9, 0, 4]).unwrap(),
        ] {
            assert!(read(&y).unwrap().is_empty(), "{y:?}");
        }
        assert_eq!(read(&Reduce::sum(&wide).run().unwrap()).unwrap(), [0.0; 4]);
        let heads = dev.empty(DType::F32, &[1, 2, 3, 4]).unwrap();
        let keys = dev.empty(DType::F32, &[1, 2, 0, 4]).unwrap();
        let (out, lse) = Attention::new(&heads, &keys, &keys).run_with_lse().unwrap();
        assert_eq!(read(&out).unwrap(), [0.0; 24]);
        assert_eq!(read(&lse).unwrap(), [f32::NEG_INFINITY; 6]);
        // A table of no rows has no good index.
        let index = dev.tensor([1], &[0u32]).unwrap();
        let error = read(&Gather::new(&none, &index).run().unwrap()).unwrap_err();
        assert_eq!(*error.kind(), Kind::Index { value: 0, bound: 0 }, "{dev:?}");
        dev.wait(None).unwrap_err();
    }
}

/// What was asked and what is allowed stand in each message.
#[test]
fn wrong_input_is_told_with_both_values() {
    for dev in devices() {
        let f = |shape: &[usize]| dev.empty(DType::F32, shape).unwrap();
        let i = dev.tensor([2], &[1i32, 0]).unwrap();
        let (square, row) = (f(&[3, 3]), f(&[4]));
        let half = dev.empty(DType::BF16, &[3, 3]).unwrap();
        let q = f(&[1, 6, 5, 8]);
        let huge = f(&[1]).broadcast_to(&[1 << 31, 1 << 31]).unwrap();
        let cases: Vec<(Result<Tensor, Error>, Rule, &[&str])> = vec![
            (Matmul::new(&square, &row).run(), Rule::Rank, &["[4]", "rank 2"]),
            (Matmul::new(&square, &f(&[2, 3])).run(), Rule::InnerDim, &["[2, 3]", "k = 3"]),
            (Matmul::new(&square, &half).run(), Rule::SameDType, &["b", "bf16", "f32"]),
            (Matmul::new(&square, &square).bias(&row).run(), Rule::SameShape, &["[3, 3]", "[4]"]),
            (Matmul::new(&f(&[2, 3, 3]), &f(&[4, 3, 3])).run(), Rule::Batch, &["[4]", "[2]"]),
            (Matmul::new(&square, &square).alpha(f32::NAN).run(), Rule::Finite, &["NaN", "finite"]),
            (Matmul::new(&square, &square).dtype(DType::I32).run(), Rule::Float, &["i32", "f32"]),
            (Matmul::new(&square, &square).into(&row).run(), Rule::OutDims, &["[4]", "[3, 3]"]),
            (Attention::new(&q, &f(&[1, 4, 5, 8]), &q).run(), Rule::HeadGroups, &["4", "6"]),
            (Attention::new(&q, &q, &q).lens(&[6]).run(), Rule::Length, &["6", "at most 5"]),
            (Attention::new(&q, &q, &q).lens(&[1, 2]).run(), Rule::Length, &["2 lengths", "1"]),
            (Attention::new(&row, &q, &q).run(), Rule::Rank, &["[4]", "sequence"]),
            (Attention::new(&q, &q, &q).mask(&row).run(), Rule::SameShape, &["[4]"]),
            (Norm::layer(&square, -1.0).run(), Rule::Epsilon, &["-1", "at least 0"]),
            (Norm::layer(&square, 0.1).weight(&row).run(), Rule::InnerDim, &["[4]", "[3]"]),
            (Norm::layer(&i, 0.1).run(), Rule::Float, &["i32", "f32, f16, bf16"]),
            (Softmax::new(&f(&[])).run(), Rule::Rank, &["[]", "rank 1"]),
            (Map::add(&square, &row).run(), Rule::Batch, &["[4]", "[3, 3]"]),
            (Map::unary(MapFn::Add, &row).run(), Rule::OperandCount, &["1", "2 of Add"]),
            (Map::unary(MapFn::Exp, &i).run(), Rule::Arithmetic, &["Exp of i32", "f32"]),
            (Gather::new(&square, &row).run(), Rule::IndexDType, &["f32", "i32, u32"]),
            (Copy::new(&half).dtype(DType::F32).run(), Rule::SameDType, &["f32", "bf16"]),
            (dev.tensor([2, 2], &[1f32]), Rule::OutDims, &["1 elements", "[2, 2]"]),
            (dev.empty(DType::F32, &[1; 7]), Rule::Rank, &["7 dimensions", "6"]),
            (row.broadcast_to(&[3, 3]), Rule::SameShape, &["[3, 3]", "[4]"]),
            (row.reshape(&[5]), Rule::OutDims, &["[5]", "4 elements"]),
            (row.narrow(0, 3, 2), Rule::Axis, &["2 entries from 3", "[4]"]),
            (row.permute(&[1]), Rule::Axis, &["[1]", "0..1"]),
            (row.as_strided(&[4], &[-1], 0), Rule::OutInjective, &["-1", "from 0"]),
            (row.as_strided(&[2], &[4], 0), Rule::InBounds, &["20", "16"]),
            (Map::unary(MapFn::Neg, &huge).run(), Rule::Elements, &["2147483648", "2^62"]),
        ];
        for (n, (result, rule, parts)) in cases.into_iter().enumerate() {
            let error = result.map(|t| panic!("case {n} gave {t:?}")).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.rule(), Some(rule), "case {n}: {text}");
            assert!(parts.iter().all(|part| text.contains(part)), "case {n}: {text:?}, {parts:?}");
            assert_eq!((error.fault(), error.retryable()), (Fault::Tenant, false), "{text}");
        }
        let error = row.write(&[1u32; 4]).unwrap_err();
        assert!(error.to_string().contains("u32, allowed f32"), "{error}");
        let error = row.write(&[1f32; 5]).unwrap_err();
        assert!(error.to_string().contains("5 elements, allowed 4"), "{error}");
        let error = square.t().write(&[1f32; 9]).unwrap_err();
        assert!(error.to_string().contains("row-major"), "{error}");
        // Nothing of all this is an error of the device.
        dev.wait(None).unwrap();
    }
}

/// Shapes that no memory holds are refused where memory is asked for, with the numbers.
#[test]
fn what_does_not_fit_is_refused() {
    for dev in devices() {
        let one = dev.tensor([1, 1], &[1f32]).unwrap();
        let wide = one.broadcast_to(&[1 << 20, 1 << 20]).unwrap();
        let memory = dev.caps().max_alloc.to_string();
        let asked = (4u64 << 40).to_string();
        for error in [
            wide.read::<f32>().unwrap_err(),
            Copy::new(&wide).run().unwrap_err(),
            Map::add(&wide, &wide).run().unwrap_err(),
            Matmul::new(&wide, &wide.t()).run().unwrap_err(),
            dev.empty(DType::F32, &[1 << 40]).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error.kind(), Kind::Unsupported { .. }), "{text}");
            assert!(text.contains(&memory) && text.contains(&asked), "{text}");
        }
        let error = dev.empty(DType::F32, &[usize::MAX, usize::MAX]).unwrap_err();
        assert!(error.to_string().contains(&usize::MAX.to_string()), "{error}");
        // What is reduced away costs no memory, only time that is counted.
        if dev.caps().backend == "cpu" {
            let row = one.broadcast_to(&[1, 1 << 25]).unwrap();
            assert_eq!(read(&Reduce::mean(&row).run().unwrap()).unwrap(), [1.0]);
        }
        dev.wait(None).unwrap();
    }
}

/// What a vendor's library refuses runs by the best of our plans that fit a unit.
#[test]
fn what_a_library_refuses_is_ours() {
    let (backend, _) = Scripted::new(1 << 20);
    let spec = Spec::new(DType::F32, Layout::contiguous(Dims::new(&[64, 64]).unwrap()), 0);
    let op = Arc::new(check(op::Matmul::default().into(), &[spec; 3]).unwrap());
    let ours = backend.candidates(&op).unwrap();
    let backend = backend.with_library();
    let names = backend.candidates(&op).unwrap();
    let names: Vec<&str> = names.iter().take(2).map(|plan| plan.kernel).collect();
    assert_eq!(names, [LIBRARY, LONG]);
    assert_eq!(Core::new(backend).plan(&op).unwrap(), ours[0]);
}

#[test]
fn memory_comes_back_when_tensors_go() {
    let (backend, _) = Scripted::new(1 << 20);
    let dev = Device::from_backend(backend).unwrap();
    for _ in 0..50 {
        let x = dev.empty(DType::F32, &[100_000]).unwrap();
        let y = Map::unary(MapFn::Neg, &x).run().unwrap();
        let error = Map::unary(MapFn::Neg, &y).run().unwrap_err();
        let (asked, quota) = (400_000, 1 << 20);
        assert_eq!(*error.kind(), Kind::OutOfMemory { asked, free: quota - 800_000, quota });
        assert!(error.retryable() && error.op() == Some("map"));
    }
}
