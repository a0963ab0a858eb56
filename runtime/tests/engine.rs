//! The engine and the tenant's calls on the `null` backend: what is refused and how it is said, order of
//! completion, time-outs, time contract. Nothing here computes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use leasehold::backend::null::Null;
use leasehold::{Copy, DType, Device, Kind, Map, Matmul, Norm, Tensor};
use std::time::Duration;

fn null(memory: u64) -> Device {
    Device::from_backend(Null::new(memory).0).unwrap()
}

fn empty(dev: &Device, shape: &[usize]) -> Tensor {
    dev.empty(DType::F32, shape).unwrap()
}

#[test]
fn rejections_name_op_rule_and_values() {
    let dev = null(1 << 20);
    let (a, b) = (empty(&dev, &[2, 3]), empty(&dev, &[4, 5]));
    let text = Matmul::new(&a, &b).run().unwrap_err().to_string();
    assert!(
        text.contains("matmul: b:") && text.contains("k = 3") && text.contains("[4, 5]"),
        "{text}"
    );
    let other = null(1 << 20);
    let far = empty(&other, &[3, 5]);
    assert!(matches!(Matmul::new(&a, &far).run().unwrap_err().kind(), Kind::Device { .. }));
}

#[test]
fn memory_is_accounted_when_asked_and_when_dropped() {
    let dev = null(1024);
    let first = empty(&dev, &[128]);
    let full = dev.empty(DType::F32, &[200]).unwrap_err();
    assert_eq!(*full.kind(), Kind::OutOfMemory { asked: 800, free: 512, quota: 1024 });
    drop(first);
    assert!(dev.empty(DType::F32, &[200]).is_ok());
}

#[test]
fn more_than_2_to_31_elements_and_beyond() {
    let dev = null(1 << 62);
    let x = empty(&dev, &[3 << 30, 2]);
    Map::unary(leasehold::MapFn::Exp, &x).run().unwrap();
    dev.wait(None).unwrap();
    // A small buffer with stride 0 that stands for 2^61 elements: time is counted in 128 bits.
    let small = empty(&dev, &[1, 1]);
    let wide = small.broadcast_to(&[1 << 29, 1 << 32]).unwrap();
    let y = Matmul::new(&wide, &wide.t()).run().unwrap();
    let error = y.read::<f32>().unwrap().wait(None).unwrap_err();
    assert!(matches!(error.kind(), Kind::Time { .. }), "{error}");
    assert!(error.to_string().contains("matmul"), "{error}");
}

#[test]
fn a_20_ms_op_takes_at_least_20_slices() {
    use leasehold::exec::Core;
    use leasehold::op::{self, Binding, BufferId, Spec, check};
    use leasehold::{Dims, Layout};
    let (backend, log) = Null::new(1 << 40);
    let mut core = Core::new(backend);
    // 100 flops a nanosecond: 2e9 flops are 20 ms.
    let layout = Layout::contiguous(Dims::new(&[1000, 1000]).unwrap());
    let specs = [Spec::new(DType::F32, layout, 0); 3];
    let op = std::sync::Arc::new(check(op::Matmul::default().into(), &specs).unwrap());
    let bindings: Vec<Binding> = (0..3)
        .map(|i| {
            core.alloc(BufferId(i), 4_000_000).unwrap();
            Binding { buffer: BufferId(i), offset: 0, len: 4_000_000 }
        })
        .collect();
    let mut run = core.begin(op.bind(&bindings).unwrap()).unwrap();
    while run.remaining() > 0 {
        let units = run.units_within(1_000_000);
        core.step(&mut run, units).unwrap();
    }
    assert_eq!(log.now_ns(), 20_000_000);
    let launches = log.launches();
    assert!(launches.len() >= 20, "{} launches", launches.len());
    assert!(launches.windows(2).all(|w| w[0].units.end == w[1].units.start));
}

#[test]
fn an_output_may_be_only_the_very_view_of_an_elementwise_operand() {
    let dev = null(1 << 20);
    let x = empty(&dev, &[8, 8]);
    Norm::layer(&x, 1e-5).into(&x).run().unwrap();
    Map::add(&x, &x).into(&x).run().unwrap();
    let w = empty(&dev, &[8, 8]);
    Matmul::new(&w, &w).residual(&x).into(&x).run().unwrap();
    for error in [
        Matmul::new(&x, &w).into(&x).run().unwrap_err(),
        Copy::new(&x.t()).into(&x).run().unwrap_err(),
        Map::add(&x.t(), &w).into(&x).run().unwrap_err(),
    ] {
        assert!(matches!(error.kind(), Kind::Alias { .. }), "{error}");
    }
}

#[test]
fn views_never_leave_their_buffer() {
    let dev = null(1 << 20);
    let x = empty(&dev, &[4, 6]);
    assert!(x.narrow(1, 4, 3).is_err());
    assert!(x.narrow(2, 0, 1).is_err());
    assert!(x.as_strided(&[4, 6], &[6, -1], 0).is_err());
    assert!(x.as_strided(&[4, 6], &[6, 1], 1).is_err());
    assert!(x.as_strided(&[2, 2], &[i64::MAX, i64::MAX], 0).is_err());
    assert!(x.as_strided(&[3], &[7], 2).is_ok());
    assert!(x.permute(&[0, 0]).is_err());
    assert!(x.reshape(&[5, 5]).is_err());
    assert!(x.narrow(1, 1, 2).unwrap().reshape(&[8]).is_err());
}

#[test]
fn reads_wait_with_time_outs_and_are_taken_once() {
    let dev = null(1 << 20);
    let x = empty(&dev, &[4]);
    let mut read = x.read::<f32>().unwrap();
    assert_eq!(read.wait(Some(Duration::from_secs(10))).unwrap(), [0.0; 4]);
    assert!(read.wait(None).is_err());
    assert!(matches!(x.read::<i32>().unwrap_err().kind(), Kind::DType { .. }));
    let mut short = [0f32; 3];
    assert!(x.read::<f32>().unwrap().wait_into(&mut short, None).is_err());
}

#[test]
fn ten_thousand_ops_from_many_threads_complete() {
    let dev = null(1 << 30);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let queue = dev.queue();
                let x = empty(&dev, &[16]);
                for _ in 0..2500 {
                    Map::add(&x, &x).on(&queue).into(&x).run().unwrap();
                }
                x.read_on::<f32>(&queue).unwrap().wait(None).unwrap();
            });
        }
    });
    dev.wait(Some(Duration::from_secs(10))).unwrap();
}
