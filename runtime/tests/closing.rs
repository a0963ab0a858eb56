//! A device that nobody holds any more is closed, its threads included, before the last drop returns: a process that
//! exits while a driver's threads still close a device dies of it. Alone in its process, whose threads it counts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

#[allow(unreachable_pub, reason = "the other tests reach it through `common`")]
#[path = "common/adapter.rs"]
mod adapter;

use leasehold::{Device, Map, MapFn};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Queues more than is ever awaited, and drops everything.
fn use_and_drop(dev: Device) {
    let x = dev.tensor([1 << 16], &[0.5f32; 1 << 16]).unwrap();
    for _ in 0..200 {
        Map::unary(MapFn::Exp, &x).run().unwrap();
    }
    drop((x, dev));
}

#[test]
fn the_last_drop_closes_the_device_and_ends_its_threads() {
    let before = threads();
    let dev = Device::open_named("cpu").unwrap();
    assert!(threads() > before, "an engine has a thread of its own");
    use_and_drop(dev);
    assert_eq!(threads(), before);
    if let Some(wgpu) = adapter::open() {
        use_and_drop(Device::from_backend(wgpu).unwrap());
        assert_eq!(threads(), before);
    }
}
