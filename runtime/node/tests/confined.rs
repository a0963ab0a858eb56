//! What an executor can no longer do once it serves: the same acts succeed before it is confined, and then fail with
//! EPERM, on threads that were there before as well, while the device works on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold::backend::cpu::Cpu;
use leasehold::{Device, Matmul};
use leasehold_node::executor::{Reach, confine};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc::channel;

/// An act, and what it answers.
type Act = (&'static str, fn() -> io::Result<()>);

/// What no executor needs, whatever its device.
const PROGRAM: Act = ("a program", || {
    let mut child = Command::new("/bin/true").spawn()?;
    child.wait().map(drop)
});

/// What one on the processor does not need either.
const OTHERS: [Act; 4] = [
    ("a file", || std::fs::File::open("/proc/self/status").map(drop)),
    ("a socket", || UnixDatagram::unbound().map(drop)),
    ("a thread", || std::thread::Builder::new().spawn(|| {}).map(drop)),
    ("a folder", || {
        std::fs::create_dir("/tmp").or_else(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(e),
        })
    }),
];

/// Runs one of this file's ignored tests in a process of its own, since a filter stays for ever.
fn alone(test: &str) {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn a_confined_executor_starts_opens_and_connects_to_nothing() {
    alone("on_the_processor");
    alone("behind_a_driver");
}

fn refused(acts: &[Act]) {
    for (what, act) in acts {
        let error = act().err().unwrap_or_else(|| panic!("{what} is still there"));
        assert_eq!(error.raw_os_error(), Some(1), "{what}: {error}");
    }
}

#[test]
#[ignore = "started by the test above"]
fn on_the_processor() {
    let acts = [&OTHERS[..], &[PROGRAM]].concat();
    acts.iter().for_each(|(what, act)| act().unwrap_or_else(|e| panic!("{what}: {e}")));
    let dev = Device::from_backend(Cpu::with_threads(2).unwrap()).unwrap();
    let x = dev.tensor([256, 256], &[0.5f32; 1 << 16]).unwrap();
    let product = || {
        let y = Matmul::new(&x, &x).run().unwrap();
        y.read::<f32>().unwrap().wait(None).unwrap()
    };
    let before = product();
    let (go, told) = channel::<()>();
    let old = std::thread::spawn(move || {
        told.recv().unwrap();
        refused(&OTHERS);
    });
    // Threads that start meanwhile come up all the same.
    let starting = Cpu::with_threads(8).unwrap();
    confine(Reach::Processor).unwrap();
    drop(starting);
    refused(&acts);
    go.send(()).unwrap();
    old.join().unwrap();
    assert_eq!(before, product());
}

#[test]
#[ignore = "started by the test above"]
fn behind_a_driver() {
    confine(Reach::Driver).unwrap();
    refused(&[PROGRAM]);
    OTHERS.iter().for_each(|(what, act)| act().unwrap_or_else(|e| panic!("{what}: {e}")));
}
