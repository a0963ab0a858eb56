//! The cost of a jail beside bubblewrap's typical recipe, interleaved in one run. Run by hand:
//! `cargo test --release --test jail_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)] // helpers of tests

mod jail_support;

use jail_support::*;
use leasehold_launcher::Probe;
use leasehold_node::sandbox::{Jail, JobIo, Profile};
use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

const RECIPE: &[&str] = &[
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--symlink",
    "usr/bin",
    "/bin",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--clearenv",
];

#[test]
#[ignore = "a measurement"]
fn a_jail_starts_no_slower_than_bubblewrap() {
    in_both_modes("a_jail_starts_no_slower_than_bubblewrap", |mode| {
        let noop = c_program("noop", "int main(void) { return 0; }", &["-static"]);
        let policy = draft(mode, Profile::Compute, &noop, &[]).check().unwrap();
        let shown = noop.to_string_lossy().into_owned();
        let ours = || {
            let jail =
                Jail::start(&launcher(), &policy, JobIo::default(), BTreeMap::new()).unwrap();
            assert_eq!(jail.wait().exit_code(), 0);
        };
        let bwrap = || {
            let mut command = Command::new("bwrap");
            command.args(RECIPE).args(["--ro-bind", &shown, "/app", "/app"]);
            assert!(command.status().unwrap().success());
        };
        let time = |act: &dyn Fn()| {
            let start = Instant::now();
            act();
            start.elapsed()
        };
        let mut times: [Vec<Duration>; 2] = Default::default();
        for _ in 0..300 {
            times[0].push(time(&ours));
            times[1].push(time(&bwrap));
        }
        for (name, times) in ["jail", "bubblewrap"].iter().zip(&mut times) {
            times.sort_unstable();
            println!(
                "{mode:?} {name}: min {:?} median {:?} p95 {:?}",
                times[0], times[150], times[285]
            );
        }
        let timed = policy.clone().with_probe(Probe { timings: true, ..Probe::default() });
        let mut steps: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for _ in 0..100 {
            let jail = Jail::start(&launcher(), &timed, JobIo::default(), BTreeMap::new()).unwrap();
            for pair in jail.wait().timings.windows(2) {
                steps.entry(pair[0].0).or_default().push(pair[1].1 - pair[0].1);
            }
        }
        for (step, mut ns) in steps {
            ns.sort_unstable();
            println!("  {step}: {} us", ns[ns.len() / 2] / 1000);
        }
    });
}
