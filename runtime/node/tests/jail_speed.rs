//! `leasehold run` of a static program that does nothing, on a running node, beside bubblewrap's typical recipe: from
//! the start of the process to its end, interleaved in one run. Run by hand:
//! `cargo test --workspace --release --test jail_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)] // helpers of tests

mod jail_support;

use jail_support::*;
use leasehold_launcher::Probe;
use leasehold_node::{
    keys::read_public,
    lease::KeySet,
    sandbox::{Jail, JobIo, Profile},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const RUNS: usize = 500;
const NOOP_C: &str = "int main(void) { return 0; }";
const RECIPE: &str = "--unshare-all --die-with-parent --new-session --cap-drop ALL --ro-bind /usr /usr \
    --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/bin /bin --proc /proc --dev /dev \
    --tmpfs /tmp --clearenv";

/// A served node, a lease on it, and the holder's key.
struct Served {
    node: Child,
    dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let ok = |args: &[&str]| {
            let out = Command::new(front_program()).args(args).current_dir(&dir).output().unwrap();
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        ["issuer", "holder", "node"].iter().for_each(|key| ok(&["keys", "new", key]));
        let set = KeySet::of("owner".parse().unwrap(), read_public(&at("issuer.pub")).unwrap());
        fs::write(at("set.json"), serde_json::to_string(&set).unwrap()).unwrap();
        let socket = at("jobs.sock");
        let lease = "lease issue --key issuer --issuer owner --tenant t --holder holder.pub --audience n --cpus 64 \
            --out lease --node";
        let lease: Vec<&str> = lease.split_whitespace().chain([socket.to_str().unwrap()]).collect();
        ok(&lease);
        let mut node = Command::new(node_program());
        node.args("serve --name n --issuers set.json --key node --dir . --device cpu".split(' '));
        let node = node.current_dir(&dir).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(&socket)
            .is_err_and(|e| e.raw_os_error() == Some(2))
        {
            assert!(Instant::now() < until, "the node does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { node, dir }
    }

    fn run(&self, program: &Path) -> Command {
        let mut command = Command::new(front_program());
        command.args(["run", "--no-bill", "--lease"]).arg(self.dir.path().join("lease"));
        command.arg("--holder-key").arg(self.dir.path().join("holder")).arg("--").arg(program);
        command.env("LEASEHOLD_LAUNCHER", launcher().path()).stdout(Stdio::null());
        command
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.node.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.node.wait();
    }
}

#[test]
#[ignore = "a measurement"]
fn a_leased_run_is_no_slower_than_bubblewrap() {
    in_both_modes("a_leased_run_is_no_slower_than_bubblewrap", |mode| {
        let noop = c_program("noop", NOOP_C, &["-static"]);
        let served = Served::new();
        let mut ours = served.run(&noop);
        let mut bwrap = Command::new("bwrap");
        bwrap.args(RECIPE.split_whitespace());
        bwrap.arg("--ro-bind").args([&noop, &PathBuf::from("/app"), &PathBuf::from("/app")]);
        let time = |command: &mut Command| {
            let start = Instant::now();
            assert!(command.status().unwrap().success());
            start.elapsed()
        };
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..RUNS {
            times[0].push(time(&mut ours));
            times[1].push(time(&mut bwrap));
        }
        times.iter_mut().for_each(|t| t.sort_unstable());
        for (name, part) in [("min", 0), ("median", RUNS / 2), ("p95", RUNS * 95 / 100)] {
            let [ours, bwrap] = [&times[0], &times[1]].map(|t| t[part].as_secs_f64() * 1e3);
            println!(
                "{mode:?} {name}: {ours:.2} ms, bubblewrap {bwrap:.2} ms, {:.2}",
                ours / bwrap
            );
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn each_step_takes_its_time() {
    in_both_modes("each_step_takes_its_time", |mode| {
        let noop = c_program("noop", NOOP_C, &["-static"]);
        let policy = draft(mode, Profile::Compute, &noop, &[]).check().unwrap();
        let timed = policy.with_probe(Probe { timings: true, ..Probe::default() });
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
