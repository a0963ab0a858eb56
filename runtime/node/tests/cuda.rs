//! A served node on a CUDA device, whose driver is the host model: its kernels come from a file, its bits are those of a
//! local device, and when the device is lost its sessions hear it and the node goes on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../tests/model/mod.rs"]
mod model;
mod served;

use leasehold::{Attention, DType, Device, Error, Gather, Kind, Matmul, bf16};
use leasehold_node::job::{Admitted, Grant, JobError, Node, Word};
use leasehold_node::ledger::{Entry, Outcome};
use served::{PATIENCE, Served, device, until, usage};
use std::process::Command;

/// A product and attention on what it makes.
fn program(dev: &Device) -> Result<Vec<bf16>, Error> {
    let numbers = |count: usize| -> Vec<bf16> {
        (0..count).map(|i| bf16::from_f32((i * 37 % 101) as f32 / 50.0 - 1.0)).collect()
    };
    let x = dev.tensor([60, 64], &numbers(60 * 64))?;
    let w = dev.tensor([128, 64], &numbers(128 * 64))?;
    let h = Matmul::new(&x, &w.t()).silu().run()?;
    let heads = h.reshape(&[2, 30, 2, 64])?.permute(&[0, 2, 1, 3])?;
    let o = Attention::new(&heads, &heads, &heads).causal().run()?;
    o.read::<bf16>()?.wait(Some(PATIENCE))
}

/// A program of the same, and an index that lies on the device, replayed for some contents of its slot.
fn replays(dev: &Device) -> Result<Vec<f32>, Error> {
    let slot = dev.empty(DType::BF16, &[16, 64])?;
    let w = dev.tensor(
        [64, 64],
        &(0..64 * 64).map(|i| bf16::from_f32((i % 7) as f32 / 9.0)).collect::<Vec<_>>(),
    )?;
    let index = dev.tensor([2], &[3i32, 11])?;
    let program = dev.program(|p| {
        let h = Matmul::new(&slot, &w.t()).silu().record(p)?;
        let heads = h.reshape(&[1, 1, 16, 64])?;
        let o = Attention::new(&heads, &heads, &heads).causal().record(p)?;
        p.output(&Gather::new(&o.reshape(&[16, 64])?, &index).record(p)?)
    })?;
    let mut all = Vec::new();
    for seed in 1..4 {
        let x: Vec<_> =
            (0..16 * 64).map(|i| bf16::from_f32((i * seed % 13) as f32 / 8.0)).collect();
        program.write(&slot, &x)?;
        let rows = program.replay()?.read::<bf16>()?.wait(Some(PATIENCE))?;
        all.extend(rows.iter().map(|x| x.to_f32()));
    }
    program.write(&index, &[3i32, 16])?;
    let error = program.replay()?.read::<bf16>()?.wait(Some(PATIENCE)).unwrap_err();
    assert_eq!(*error.kind(), Kind::Index { value: 16, bound: 16 });
    Ok(all)
}

/// A node with a file of kernels, serving once this returns. It finds its device by itself.
fn serve(served: &mut Served, variables: &[(&str, &str)]) {
    model::pack("sm_90a").write(&served.dir.path().join("kernels")).unwrap();
    served.start_on(&["--kernels", "kernels"], variables);
}

/// A launch that fails with a status, so many after those by which a device is judged.
fn failing(served: &Served, status: u32, after: u64) -> String {
    let (kernels, calls) = (served.dir.path().join("kernels"), served.dir.path().join("calls"));
    model::pack("sm_90a").write(&kernels).unwrap();
    let judged = Command::new(env!("CARGO_BIN_EXE_leasehold-node"))
        .args(["judge", "--device", "cuda:0", "--kernels"])
        .arg(&kernels)
        .env(model::CALLS, &calls)
        .output()
        .unwrap();
    assert!(judged.status.success(), "{judged:?}");
    format!("cuLaunchKernel:{status}:{}:1", model::calls(&calls, "cuLaunchKernel") + after)
}

/// A job, once the node has an executor.
fn job(served: &Served, grant: &Grant) -> (Node, Admitted) {
    until("an executor is there", || {
        let node = served.connect();
        match node.admit(grant, None) {
            Ok(job) => Some((node, job)),
            Err(JobError::Refused { retryable: true, .. }) => None,
            Err(other) => panic!("{other}"),
        }
    })
}

#[test]
fn leased_bits_are_local_bits_on_cuda() {
    if !model::in_child("leased_bits_are_local_bits_on_cuda", &[]) {
        return;
    }
    let mut served = Served::new();
    serve(&mut served, &[]);
    let (node, job) = job(&served, &served.lease());
    let local = Device::from_backend(model::open()).unwrap();
    let leased = device(&job);
    assert_eq!(leased.numerics(), local.numerics());
    let (here, there) = (program(&local).unwrap(), program(&leased).unwrap());
    assert!(here.iter().zip(&there).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(here.len() == there.len() && here.iter().all(|x| x.is_finite()));
    assert_eq!(replays(&local).unwrap(), replays(&leased).unwrap());
    drop(leased);
    node.ended(Outcome::Exited(0)).unwrap();
    let usage = usage(node.word());
    assert!(usage.ops == 2 + 4 * 3 && usage.busy_ns > 0 && usage.bytes_up > 0, "{usage:?}");
    assert_eq!(served.stop().code(), Some(0));
}

/// Where strangers' ops run, no compiler does.
#[test]
fn a_node_serves_cuda_with_a_file_of_kernels_only() {
    if !model::in_child("a_node_serves_cuda_with_a_file_of_kernels_only", &[]) {
        return;
    }
    let served = Served::new();
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold-node"))
        .args(["serve", "--name", "node-a", "--issuers", "issuers", "--key", "key"])
        .args(["--dir", "node", "--device", "cuda:0"])
        .current_dir(&served.dir)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("--kernels: cuda:0 serves"), "{said}");
}

#[test]
fn a_lost_device_is_told_and_replaced() {
    if !model::in_child("a_lost_device_is_told_and_replaced", &[]) {
        return;
    }
    let mut served = Served::new();
    // Every executor's device fails after some launches.
    let fail = failing(&served, 700, 5);
    serve(&mut served, &[(model::FAIL, &fail)]);
    let grant = served.lease();
    let (node, first) = job(&served, &grant);
    let dev = device(&first);
    let error = (0..10).find_map(|_| program(&dev).err()).unwrap();
    assert!(matches!(error.kind(), Kind::DeviceLost { .. }), "{error}");
    assert!(matches!(dev.wait(None).unwrap_err().kind(), Kind::DeviceLost { .. }));
    assert!(matches!(node.word(), Word::Stop(Outcome::DeviceLost)));
    assert_eq!(usage(node.word()).outcome, Outcome::DeviceLost);
    let struck = Entry::Strike { lease: first.lease.0, job: first.job.0, strikes: 1 };
    assert!(served.ledger().contains(&struck));
    // The node's next executor has a device again.
    let (_node, next) = job(&served, &served.lease());
    assert!(program(&device(&next)).is_ok());
}

#[test]
fn a_launch_short_of_memory_fails_alone() {
    if !model::in_child("a_launch_short_of_memory_fails_alone", &[]) {
        return;
    }
    let mut served = Served::new();
    let fail = failing(&served, 2, 3);
    serve(&mut served, &[(model::FAIL, &fail)]);
    let (_node, job) = job(&served, &served.lease());
    let dev = device(&job);
    let runs: Vec<_> = (0..4).map(|_| program(&dev)).collect();
    let failed: Vec<&Error> = runs.iter().filter_map(|run| run.as_ref().err()).collect();
    assert!(
        failed.len() == 1 && matches!(failed[0].kind(), Kind::OutOfMemory { .. }),
        "{failed:?}"
    );
    assert_eq!(runs[0].as_ref().unwrap(), runs[3].as_ref().unwrap());
}

/// A device whose kernels are wrong is passed over, and the reason is told; a served one starts no executor on it.
#[test]
fn a_device_whose_kernels_are_wrong_is_not_owned() {
    if !model::in_child("a_device_whose_kernels_are_wrong_is_not_owned", &[]) {
        return;
    }
    let file = model::pack_file();
    for (idle, cuda, cpu) in [
        ("nothing", "chosen", "passed over for a better one"),
        ("softmax", "judged, softmax by softmax", "chosen"),
    ] {
        let told = Command::new(env!("CARGO_BIN_EXE_leasehold-node"))
            .arg("devices")
            .env(model::IDLE, idle)
            .env(leasehold::LEASEHOLD_KERNELS, &file)
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let says = |device: &str, why: &str| {
            told.lines().any(|line| line.starts_with(device) && line.contains(why))
        };
        assert!(says("cuda:0", cuda) && says("cpu", cpu), "{told}");
    }
}
