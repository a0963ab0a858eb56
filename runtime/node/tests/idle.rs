//! A node whose tenants have nothing to do uses no CPU: control, the executor and the backend's threads all sleep
//! until somebody wakes them. CPU time does not depend on what else this machine does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use leasehold::remote::Remote;
use leasehold::{Device, Matmul};
use leasehold_node::job::Node;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Fields of `/proc/PID/stat` behind the name: 1 is the parent, 11 and 12 are ticks of user and of system time.
fn stat(process: &Path) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(process.join("stat")).ok()?;
    let fields = text.rsplit(')').next()?.split_whitespace();
    Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
}

/// CPU time of a process and its children, in ticks of 10 ms, and how many processes these are.
fn ticks(pid: u32) -> (u64, usize) {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let of_node = processes.filter_map(|entry| {
        let fields = stat(&entry.path())?;
        let is_it = entry.file_name() == *pid.to_string() || fields.get(1) == Some(&pid.into());
        is_it.then(|| fields[11] + fields[12])
    });
    of_node.fold((0, 0), |(ticks, count), more| (ticks + more, count + 1))
}

#[test]
fn an_idle_node_uses_no_cpu() {
    let program = env!("CARGO_BIN_EXE_leasehold-node").into();
    let (node, grant) = Node::private(program, Some("cpu")).unwrap();
    let admitted = node.admit(&grant, None).unwrap();
    let remote = Remote::on(admitted.door.as_fd()).unwrap();
    let dev = Device::from_engine(Box::new(remote), "test".into());
    // Large enough for all threads.
    let x = dev.tensor([256, 256], &[0.5f32; 256 * 256]).unwrap();
    let y = Matmul::new(&x, &x).run().unwrap();
    assert_eq!(y.read::<f32>().unwrap().wait(None).unwrap()[0], 64.0);

    std::thread::sleep(Duration::from_millis(200));
    let (before, processes) = ticks(node.private_pid().unwrap());
    assert!(processes >= 2, "control and executor, not {processes}");
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks(node.private_pid().unwrap()).0 - before;
    assert!(used <= 3, "{used} ticks of 10 ms in a second without work");

    // It still wakes.
    let z = Matmul::new(&y, &x).run().unwrap();
    assert_eq!(z.read::<f32>().unwrap().wait(None).unwrap()[0], 64.0 * 0.5 * 256.0);
}
