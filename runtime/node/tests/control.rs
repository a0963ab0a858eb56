//! The node's two processes, control and executor, as the program `leasehold-node` runs them: admission with proof of
//! possession, sessions, metering, the ledger's receipt, and what happens when one of them dies.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod served;

use leasehold::{Kind, Map, MapFn};
use leasehold_node::job::{Admitted, Grant, JobError, Node, Word};
use leasehold_node::keys::SecretKey;
use leasehold_node::ledger::Outcome;
use rustix::process::Signal;
use served::{device, executors, is_alive, signal, until, usage};
use std::path::PathBuf;

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_leasehold-node").into()
}

fn private() -> (Node, Grant, Admitted) {
    let (node, grant) = Node::private(program(), Some("cpu")).unwrap();
    let admitted = node.admit(&grant, None).unwrap();
    (node, grant, admitted)
}

#[test]
fn a_private_node_admits_runs_and_bills_a_trial() {
    let (node, _, admitted) = private();
    let dev = device(&admitted);
    let x = dev.tensor([4], &[1f32, 2., 3., 4.]).unwrap();
    let y = Map::unary(MapFn::Square, &x).run().unwrap();
    assert_eq!(y.read::<f32>().unwrap().wait(None).unwrap(), [1., 4., 9., 16.]);
    drop((x, y, dev));
    node.ended(Outcome::Exited(7)).unwrap();
    let usage = usage(node.word());
    assert_eq!((usage.ops, usage.outcome, usage.trial), (1, Outcome::Exited(7), true));
    assert!(usage.busy_ns > 0 && usage.zeroing_ns > 0 && usage.bytes_up == 16);
    assert_eq!(usage.job, admitted.job.0);
}

#[test]
fn several_processes_of_a_job_have_sessions_of_their_own() {
    let (node, _, admitted) = private();
    let (a, b) = (device(&admitted), device(&admitted));
    let (x, y) = (a.tensor([1], &[1f32]).unwrap(), b.tensor([1], &[2f32]).unwrap());
    assert_eq!(x.read::<f32>().unwrap().wait(None).unwrap(), [1.0]);
    assert_eq!(y.read::<f32>().unwrap().wait(None).unwrap(), [2.0]);
    node.ended(Outcome::Exited(0)).unwrap();
    assert!(usage(node.word()).memory_byte_s < u64::MAX);
}

#[test]
fn a_stolen_lease_and_a_foreign_key_are_refused() {
    let (node, grant) = Node::private(program(), Some("cpu")).unwrap();
    let thief = Grant { token: grant.token.clone(), holder: SecretKey::generate() };
    let JobError::Refused { why, .. } = node.admit(&thief, None).unwrap_err() else { panic!() };
    assert!(why.contains("proof of possession"), "{why}");
    let (other, _) = Node::private(program(), Some("cpu")).unwrap();
    let JobError::Refused { why, retryable } = other.admit(&grant, None).unwrap_err() else {
        panic!()
    };
    assert!(!retryable && !why.is_empty());
}

#[test]
fn a_killed_tenant_is_drained_and_settled() {
    let (node, _, admitted) = private();
    let dev = device(&admitted);
    let x = dev.tensor([1 << 20], &vec![1f32; 1 << 20]).unwrap();
    for _ in 0..100 {
        Map::unary(MapFn::Exp, &x).run().unwrap();
    }
    // The device and its queue vanish in the middle of the work.
    drop((x, dev));
    node.ended(Outcome::Signalled(9)).unwrap();
    let usage = usage(node.word());
    assert_eq!(usage.outcome, Outcome::Signalled(9));
    assert!(usage.ops <= 100);
}

#[test]
fn a_killed_executor_is_device_lost_and_the_job_is_told() {
    let (node, _, admitted) = private();
    let dev = device(&admitted);
    let x = dev.tensor([4], &[1f32; 4]).unwrap();
    dev.wait(None).unwrap();
    let [executor] = executors(node.private_pid().unwrap() as i32)[..] else { panic!() };
    signal(executor, Signal::KILL);
    assert!(matches!(node.word(), Word::Stop(Outcome::DeviceLost)));
    let read = x.read::<f32>().and_then(|mut read| read.wait(Some(served::PATIENCE)));
    assert!(matches!(read.unwrap_err().kind(), Kind::DeviceLost { .. }));
    assert_eq!(usage(node.word()).outcome, Outcome::DeviceLost);
}

#[test]
fn a_killed_private_control_leaves_no_executor() {
    let (node, _, admitted) = private();
    let dev = device(&admitted);
    let control = node.private_pid().unwrap() as i32;
    let [executor] = executors(control)[..] else { panic!("one executor") };
    signal(control, Signal::KILL);
    assert!(matches!(node.word(), Word::Gone));
    // Its only tenant's session ends as the tenant wants it to.
    dev.tensor([4], &[1f32; 4]).unwrap().read::<f32>().unwrap().wait(None).unwrap();
    drop(dev);
    until("the executor has gone", || (!is_alive(executor)).then_some(()));
}
