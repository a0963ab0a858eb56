//! A served node through deaths and restarts: control is killed and its successor takes up what goes on, executors
//! die and are replaced within bounds, whoever takes one down is struck, and a node that is stopped leaves nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod served;

use leasehold::{Device, Kind, Map, MapFn, Matmul, Tensor};
use leasehold_node::control::{Config, serve};
use leasehold_node::job::{Admitted, Grant, JobError, Node, Word};
use leasehold_node::keys::read_secret;
use leasehold_node::lease::{KeySet, Lease};
use leasehold_node::ledger::{Bill, Entry, Of, Outcome, read};
use leasehold_node::time::boot_ns;
use rustix::process::Signal;
use served::{Served, device, executors, is_alive, refusal, signal, state, until, usage};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Adds one to each number; returns them.
fn add_one(x: &Tensor) -> Vec<f32> {
    Map::unary(MapFn::Identity, x).shift(1.0).into(x).run().unwrap();
    x.read::<f32>().unwrap().wait(Some(served::PATIENCE)).unwrap()
}

fn attach(node: &Node, grant: &Grant, job: &Admitted) {
    until("control is back", || match node.attach(grant, job.lease, job.job) {
        Ok(()) => Some(()),
        Err(JobError::Refused { why, .. }) => panic!("{why}"),
        Err(_) => None,
    });
}

#[test]
fn a_killed_controls_jobs_go_on_and_the_next_control_settles_them() {
    let mut served = Served::new();
    served.start();
    let (node, grant) = (served.connect(), served.lease());
    let job = node.admit(&grant, None).unwrap();
    let dev = device(&job);
    let x = dev.tensor([4], &[1f32; 4]).unwrap();
    assert_eq!(add_one(&x), [2.0; 4]);
    let [executor] = executors(served.pid())[..] else { panic!("one executor") };
    served.kill();
    assert!(matches!(node.word(), Word::Gone));
    // The session goes on; a new one waits at the door until there is a control again.
    assert_eq!(add_one(&x), [3.0; 4]);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| device(&job));
        served.start();
        attach(&node, &grant, &job);
        let other = other.join().unwrap();
        assert_eq!(add_one(&other.tensor([1], &[5f32]).unwrap()), [6.0]);
    });
    assert!(is_alive(executor) && executors(served.pid()).is_empty(), "adopted, not replaced");
    assert_eq!(add_one(&x), [4.0; 4]);
    // The lease's only place is taken, and only once.
    assert!(refusal(&served.connect(), &grant).unwrap().contains("at most 1"));
    drop((x, dev));
    node.ended(Outcome::Exited(3)).unwrap();
    let receipt = usage(node.word());
    assert_eq!((receipt.ops, receipt.outcome), (4, Outcome::Exited(3)));
    assert_eq!((receipt.sku.as_deref(), receipt.trial), (Some("cpu-hour"), true));
    assert!(receipt.busy_ns > 0 && receipt.bytes_up == 20 && receipt.start < receipt.end);
    assert_eq!(served.settled(&job), [receipt]);
    let mut bill = Bill::new(Of::Lease(job.lease.0));
    read(&served.folder().join("ledger"), vec![], vec![], |record| bill.add(&record)).unwrap();
    assert_eq!((bill.jobs, bill.ops, bill.records.len()), (1, 4, 1));
    // The adopted executor takes new jobs, and goes with its node.
    let next = served.connect();
    let again = next.admit(&grant, None).unwrap();
    assert_eq!(add_one(&device(&again).tensor([1], &[0f32]).unwrap()), [1.0]);
    next.ended(Outcome::Exited(0)).unwrap();
    assert_eq!(usage(next.word()).ops, 1);
    assert_eq!(served.stop().code(), Some(0));
    until("the executor has gone", || (!is_alive(executor)).then_some(()));
}

#[test]
fn a_deadline_that_passes_without_a_control_is_kept_and_settled_by_the_next() {
    let mut served = Served::new();
    served.start();
    let (node, grant) = (served.connect(), served.lease());
    let job = node.admit(&grant, Some(Duration::from_secs(3))).unwrap();
    served.kill();
    until("the deadline has passed", || (boot_ns() > job.deadline_ns + 100_000_000).then_some(()));
    served.start();
    attach(&node, &grant, &job);
    let word = match node.word() {
        Word::Stop(Outcome::Expired) => node.word(),
        word => word,
    };
    assert_eq!(usage(word).outcome, Outcome::Expired);
    assert_eq!(served.settled(&job).len(), 1);
}

#[test]
fn a_job_whose_executor_died_with_its_control_is_lost_once() {
    let mut served = Served::new();
    served.start();
    let (node, grant) = (served.connect(), served.lease());
    let job = node.admit(&grant, None).unwrap();
    let [executor] = executors(served.pid())[..] else { panic!("one executor") };
    served.kill();
    signal(executor, Signal::KILL);
    until("the executor has gone", || (!is_alive(executor)).then_some(()));
    served.start();
    let next = served.connect();
    let refused = next.attach(&grant, job.lease, job.job).unwrap_err();
    assert!(refused.to_string().contains(&job.job.to_string()), "{refused}");
    let [lost] = &served.settled(&job)[..] else { panic!("settled once") };
    assert_eq!((lost.outcome, lost.trial), (Outcome::NodeLost, true));
    // Its place is free.
    assert_eq!(refusal(&served.connect(), &grant), None);
}

/// A starter that went with control: the jail's end is seen at its door, and nothing is left of the job.
#[test]
fn a_job_without_its_starter_ends_with_its_jail() {
    let mut served = Served::new();
    served.start();
    let (node, grant) = (served.connect(), served.lease());
    let job = node.admit(&grant, None).unwrap();
    served.kill();
    let admitted = job.job;
    drop((node, job.door));
    served.start();
    let ended = until("the job is settled", || {
        served.ledger().into_iter().find_map(|entry| match entry {
            Entry::Settle(usage) if usage.job == admitted.0 => Some(usage.outcome),
            _ => None,
        })
    });
    assert_eq!(ended, Outcome::NodeLost);
}

#[test]
fn a_second_node_in_a_folder_is_refused_and_disturbs_nothing() {
    let mut served = Served::new();
    served.start();
    let (node, grant) = (served.connect(), served.lease());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_leasehold-node"))
        .args(["serve", "--name", "node-a", "--issuers", "issuers", "--key", "key"])
        .args(["--dir", "node", "--device", "cpu"])
        .current_dir(&served.dir)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("another node serves"), "{text}");
    assert!(node.admit(&grant, None).is_ok() && served.folder().join("admin.sock").exists());
}

#[test]
fn a_stopped_node_ends_its_jobs_and_leaves_its_ledger_alone() {
    for by in [Signal::TERM, Signal::INT] {
        let mut served = Served::new();
        served.start();
        let (node, grant) = (served.connect(), served.lease());
        let job = node.admit(&grant, None).unwrap();
        let x = device(&job).tensor([4], &[1f32; 4]).unwrap();
        assert_eq!(add_one(&x), [2.0; 4]);
        let [executor] = executors(served.pid())[..] else { panic!("one executor") };
        signal(served.pid(), by);
        assert!(matches!(node.word(), Word::Stop(Outcome::NodeLost)));
        assert_eq!(usage(node.word()).outcome, Outcome::NodeLost);
        let error = x.read::<f32>().and_then(|mut read| read.wait(None)).unwrap_err();
        assert_eq!(*error.kind(), Kind::Revoked);
        assert_eq!(served.stop().code(), Some(0));
        assert!(!is_alive(executor));
        let left = std::fs::read_dir(served.folder()).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["ledger"]);
    }
}

#[test]
fn a_revoked_lease_ends_its_jobs_and_admits_no_more() {
    let mut served = Served::new();
    served.start();
    let (grant, other) = (served.lease(), served.lease());
    let (node, beside) = (served.connect(), served.connect());
    let (job, bystander) = (node.admit(&grant, None).unwrap(), beside.admit(&other, None).unwrap());
    let x = device(&job).tensor([4], &[1f32; 4]).unwrap();
    let y = device(&bystander).tensor([4], &[1f32; 4]).unwrap();
    assert_eq!(add_one(&x), [2.0; 4]);
    let admin = served.folder().join("admin.sock");
    assert_eq!(Node::revoke(&admin, job.lease).unwrap(), 1);
    assert!(matches!(node.word(), Word::Stop(Outcome::Revoked)));
    assert_eq!(usage(node.word()).outcome, Outcome::Revoked);
    let error = x.read::<f32>().and_then(|mut read| read.wait(None)).unwrap_err();
    assert_eq!(*error.kind(), Kind::Revoked);
    assert_eq!(add_one(&y), [2.0; 4]);
    for _ in 0..2 {
        let why = refusal(&served.connect(), &grant).unwrap();
        assert!(why.contains("is revoked"), "{why}");
        // A restarted control does not forget.
        served.stop();
        served.start();
    }
    drop(served.connect());
    assert_eq!(Node::revoke(&admin, bystander.lease).unwrap(), 0, "its job went with the node");
}

/// Takes the executor down in the middle of the tenant's work.
fn take_down(executor: i32, dev: &Device) {
    let x = dev.tensor([1024, 1024], &vec![1e-3f32; 1 << 20]).unwrap();
    let y = Matmul::new(&x, &x).run().unwrap();
    until("the executor works", || {
        // Enough that it is at work whenever it is looked at.
        for _ in 0..20 {
            Matmul::new(&x, &x).into(&y).run().unwrap();
        }
        signal(executor, Signal::STOP);
        until("it stands still", || (state(executor)?.0 == 'T').then_some(()));
        if pulse(executor) != 0 {
            return Some(());
        }
        signal(executor, Signal::CONT);
        None
    });
    signal(executor, Signal::KILL);
}

/// The job whose work touches the device, as the executor's page says.
fn pulse(executor: i32) -> u64 {
    let fds =
        std::fs::read_dir(format!("/proc/{executor}/fd")).unwrap().map(|fd| fd.unwrap().path());
    let is_pulse = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("leasehold-pulse"))
    };
    let mut word = [0; 8];
    let path = fds.into_iter().find(is_pulse).unwrap();
    std::fs::File::open(path).unwrap().read_exact(&mut word).unwrap();
    u64::from_ne_bytes(word)
}

#[test]
fn whoever_takes_an_executor_down_twice_is_suspended_and_nobody_else() {
    let mut served = Served::new();
    served.start();
    let (grant, other) = (served.lease(), served.lease());
    for strikes in 1..=2 {
        let (node, job) = until("an executor is there", || node_with_job(&served, &grant));
        let [executor] = executors(served.pid())[..] else { panic!("one executor") };
        // A bystander loses its device, and gets no strike.
        let (beside, bystander) = node_with_job(&served, &other).unwrap();
        let dev = device(&job);
        take_down(executor, &dev);
        for (node, job) in [(&node, &job), (&beside, &bystander)] {
            assert!(matches!(node.word(), Word::Stop(Outcome::DeviceLost)));
            assert_eq!(usage(node.word()).outcome, Outcome::DeviceLost);
            assert_eq!(served.settled(job).len(), 1);
        }
        assert!(matches!(dev.wait(None).unwrap_err().kind(), Kind::DeviceLost { .. }));
        let struck = Entry::Strike { lease: job.lease.0, job: job.job.0, strikes };
        assert!(served.ledger().contains(&struck));
    }
    let (lease, _) = Lease::unverified(&grant.token).unwrap();
    let suspended = format!("lease {} is suspended after 2 strikes", lease.id);
    until("the third executor is there", || {
        let why = refusal(&served.connect(), &grant).unwrap();
        (!why.contains("no executor")).then(|| assert_eq!(why, suspended))
    });
    assert_eq!(refusal(&served.connect(), &other), None);
    // A restarted control does not forget.
    served.stop();
    served.start();
    assert_eq!(refusal(&served.connect(), &grant), Some(suspended));
}

/// A job, if the node has an executor at present.
fn node_with_job(served: &Served, grant: &Grant) -> Option<(Node, Admitted)> {
    let node = served.connect();
    match node.admit(grant, None) {
        Ok(job) => Some((node, job)),
        Err(JobError::Refused { why, retryable: true }) if why.contains("no executor") => None,
        Err(other) => panic!("{other}"),
    }
}

/// An executor program that counts its starts in `starts`, and fails while `broken` holds a number of failures.
const FAILING: &str = r#"#!/bin/sh
dir=$(dirname "$0")
echo start >>"$dir/starts"
left=$(cat "$dir/broken" 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) >"$dir/broken"
    exit 1
fi
exec "$dir/executor" "$@"
"#;

/// Serves in this process with an executor program that can be broken; `work` gets the file of the failures to come
/// and the executor's process.
fn with_breakable(work: impl FnOnce(&Served, &Path, &dyn Fn() -> i32)) {
    let served = Served::new();
    let dir = served.dir.path();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_leasehold-node"), dir.join("executor")).unwrap();
    let program = dir.join("program");
    std::fs::write(&program, FAILING).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let config = Config {
        node: "node-a".parse().unwrap(),
        pools: Vec::new(),
        issuers: KeySet::read(&dir.join("issuers")).unwrap(),
        key: read_secret(&dir.join("key")).unwrap(),
        old_keys: Vec::new(),
        device: "cpu".into(),
        kernels: None,
        program,
        ledger: served.folder().join("ledger"),
    };
    let executable = std::fs::canonicalize(env!("CARGO_BIN_EXE_leasehold-node")).unwrap();
    // Other tests of this process have children, too: ours runs from our folder's program.
    let executor = || {
        until("an executor is there", || {
            let mine = executors(std::process::id() as i32).into_iter().find(|pid| {
                std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == executable)
                    && std::fs::read(format!("/proc/{pid}/cmdline"))
                        .is_ok_and(|line| line.starts_with(dir.as_os_str().as_encoded_bytes()))
            })?;
            Some(mine)
        })
    };
    let folder = served.folder();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(config, &folder, move || _ = stopped.recv()).unwrap());
        // Its sockets are there before its executor is.
        let (node, _job) = node_with_job(&served, &served.lease()).unwrap();
        node.ended(Outcome::Exited(0)).unwrap();
        assert_eq!(usage(node.word()).outcome, Outcome::Exited(0));
        work(&served, &dir.join("broken"), &executor);
        drop(stop);
    });
}

fn starts(served: &Served) -> usize {
    std::fs::read_to_string(served.dir.path().join("starts")).unwrap_or_default().lines().count()
}

#[test]
fn an_executor_that_dies_at_its_start_is_started_again() {
    with_breakable(|served, broken, executor| {
        std::fs::write(broken, "3").unwrap();
        signal(executor(), Signal::KILL);
        // One that was killed, three that failed, one that serves. Before, control may not have noticed.
        until("a fifth is started", || (starts(served) == 5).then_some(()));
        let grant = served.lease();
        let (node, job) = until("an executor is there", || node_with_job(served, &grant));
        assert_eq!(add_one(&device(&job).tensor([1], &[1f32]).unwrap()), [2.0]);
        node.ended(Outcome::Exited(0)).unwrap();
        assert_eq!(usage(node.word()).ops, 1);
    });
}

#[test]
fn executors_that_keep_dying_are_given_up_after_a_bound() {
    with_breakable(|served, broken, executor| {
        std::fs::write(broken, "1000").unwrap();
        signal(executor(), Signal::KILL);
        let grant = served.lease();
        let why = until("no more are started", || {
            refusal(&served.connect(), &grant).filter(|why| why.contains("no more"))
        });
        assert!(why.contains("16 died in a row"), "{why}");
        assert_eq!(starts(served), 16, "the one that was killed and fifteen that failed");
    });
}
