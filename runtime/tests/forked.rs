//! A child of a fork has the parent's handles but none of its threads: every call on a device opened before
//! answers `Forked`, none hangs; and a device of the child's own works.
#![cfg(all(unix, feature = "cpu"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use leasehold::backend::null::Null;
use leasehold::{DType, Device, Error, Kind, Map, Tensor};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whether `child` holds in a forked child, in time.
fn holds_in_a_child(child: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    let mut command = Command::new("true");
    command.stdin(Stdio::null());
    // SAFETY: the closure runs between fork and exec. It takes no lock of the parent, which is what is tested;
    // the C library's allocator is usable after a fork of a process with threads.
    unsafe {
        command
            .pre_exec(move || if child() { Ok(()) } else { Err(io::Error::other("it does not")) });
    }
    let spawned = std::thread::spawn(move || command.status().map(|status| status.success()));
    let began = Instant::now();
    while !spawned.is_finished() {
        if began.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    spawned.join().unwrap().unwrap_or(false)
}

fn is_forked<T>(result: Result<T, Error>) -> bool {
    let child = std::process::id();
    matches!(result.map_err(|e| e.kind().clone()), Err(Kind::Forked { pid }) if pid == child)
}

/// Every kind of call on `x`, a tensor of 9 elements that the parent made.
fn answers_forked(x: &Tensor) -> bool {
    let dev = x.device();
    let timeout = Some(Duration::from_secs(1));
    is_forked(dev.empty(DType::F32, &[3]))
        && is_forked(dev.wait(None))
        && is_forked(dev.wait(timeout))
        && is_forked(x.write(&[1f32; 9]))
        && is_forked(x.read::<f32>())
        && is_forked(Map::add(x, x).run())
        && is_forked(Map::add(x, x).into(x).try_run())
}

#[test]
fn a_forked_child_gets_an_error_and_may_open_its_own_device() {
    for dev in [Device::open_named("cpu"), Device::from_backend(Null::new(1 << 20).0)] {
        let dev = dev.unwrap();
        let x = dev.tensor([3, 3], &[1f32; 9]).unwrap();
        let reading = std::sync::Mutex::new(x.read::<f32>().unwrap());
        let (theirs, name) = (x.clone(), dev.caps().backend);
        let child = move || {
            let pending = is_forked(reading.lock().unwrap().wait(None));
            pending && answers_forked(&theirs)
        };
        assert!(holds_in_a_child(child), "{name}");
        // The parent's device is as it was, and what the child dropped is still here.
        let expected = if name == "null" { [0f32; 9] } else { [1f32; 9] };
        assert_eq!(x.read::<f32>().unwrap().wait(None).unwrap(), expected);
    }
    let own = || {
        let dev = Device::open_named("cpu").unwrap();
        let x = dev.tensor([2], &[1f32, 2.]).unwrap();
        let y = Map::add(&x, &x).run().and_then(|y| y.read::<f32>()?.wait(None));
        y.is_ok_and(|y| y == [2., 4.])
    };
    assert!(holds_in_a_child(own));
    assert!(!holds_in_a_child(|| false), "the test sees nothing");
}
