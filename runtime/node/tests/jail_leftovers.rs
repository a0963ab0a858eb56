//! Nothing is left behind: not by a jail's end, not by a launcher that is killed at any step, not by
//! two hundred jails at once.

#![allow(clippy::unwrap_used)] // helpers of tests

mod jail_support;

use jail_support::*;
use leasehold_launcher::{Probe, Report, Step};
use leasehold_node::sandbox::{Jail, JobIo, KillReason, Profile, Reason};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    os::unix::process::CommandExt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const TREE_C: &str = r#"
#include <signal.h>
#include <unistd.h>
int main(void) {
    // A daemon by double fork, in a session of its own, deaf to TERM, and a child that stops itself.
    if (!fork()) { setsid(); signal(SIGTERM, SIG_IGN); if (!fork()) for (;;) pause(); _exit(0); }
    if (!fork()) { raise(SIGSTOP); for (;;) pause(); }
    usleep(2000);
    return 3;
}
"#;

/// Eight families of which only the youngest lives: each forks the next and exits, so that whoever looks for its process
/// finds it gone. The program itself ends after its argument's milliseconds.
const RABBITS_C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    for (int i = 0; i < 8; i++) if (!fork()) for (;;) { if (fork() > 0) _exit(0); if (argc > 2) usleep(500); }
    puts("born");
    fflush(stdout);
    usleep(1000 * atoi(argv[1]));
    return 3;
}
"#;

/// What of the host a jail could leave: mounts, namespaces, cgroups, processes, shared memory, files.
fn snapshot() -> BTreeMap<&'static str, BTreeSet<String>> {
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut processes = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    for pid in names("/proc").into_iter().filter(|n| n.parse::<u32>().is_ok()) {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let ours = shared().join("launcher").to_string_lossy().into_owned();
        let of_jail = read("cmdline").starts_with(&ours)
            || ["tree\n", "rabbits\n"].contains(&read("comm").as_str());
        // A dead process waits for the host's init to reap it, which is not ours to hurry.
        if of_jail && !read("status").contains("State:\tZ") {
            processes.insert(pid.clone());
            for kind in ["mnt", "pid", "net", "user", "ipc", "uts", "cgroup"] {
                let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"));
                namespaces.extend(link.ok().map(|l| l.to_string_lossy().into_owned()));
            }
        }
    }
    let me = std::process::id().to_string();
    let mut cgroups = BTreeSet::new();
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).into_iter().flatten().flatten().filter(|e| e.path().is_dir())
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("leasehold-{me}-")) {
                cgroups.insert(entry.path().to_string_lossy().into_owned());
            }
            if fs::symlink_metadata(entry.path()).is_ok_and(|m| m.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect();
    let shm = names("/dev/shm");
    let temporary = names("/tmp").into_iter().filter(|n| n.contains("leasehold")).collect();
    [
        ("processes", processes),
        ("namespaces", namespaces),
        ("cgroups", cgroups),
        ("mounts", mounts),
        ("shared memory", shm),
        ("temporary files", temporary),
    ]
    .into()
}

/// The host has one state, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dying processes need a moment, on a busy machine a long one; what is still there after half a minute was left behind.
fn assert_unchanged(mode: Mode, before: &BTreeMap<&str, BTreeSet<String>>, when: &str) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let now = snapshot();
        if now == *before {
            return;
        }
        assert!(Instant::now() < until, "{when}, {mode:?}: {before:?}\nnow {now:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_is_left_behind() {
    let _guard = alone();
    in_both_modes("nothing_is_left_behind", |mode| {
        let program = c_program("tree", TREE_C, &["-static"]);
        let policy = draft(mode, Profile::Compute, &program, &[]).check().unwrap();
        let before = snapshot();

        let ran = run_with(&launcher(), &policy, JobIo::default(), BTreeMap::new(), |_, _| {});
        assert_eq!(ran.record.exit_code(), 3, "{:?}", ran.record);
        assert_unchanged(mode, &before, "after a job with daemons");

        for step in Step::ALL {
            let only_root = matches!(step, Step::RootSources | Step::HostId);
            // No failpoint can be in the job's own exec.
            if *step == Step::Exec || (only_root && mode == Mode::Rootless) {
                continue;
            }
            let probe = Probe { stop_at: Some(*step), ..Probe::default() };
            let stopping = policy.clone().with_probe(probe);
            let jail = Jail::start(&probe_launcher(), &stopping, JobIo::default(), BTreeMap::new())
                .unwrap();
            let pid = rustix::process::Pid::from_raw(jail.launcher_pid() as i32).unwrap();
            let mut stopped = false;
            let record = jail.wait_and(|report| {
                if *report == Report::Stopped(*step) {
                    stopped = true;
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                }
            });
            assert!(stopped, "{step} was never reached: {record:?}");
            assert_eq!(record.reason, Reason::LauncherDied, "{step}");
            assert_unchanged(mode, &before, &format!("after a kill at {step}"));
        }
    });
}

/// 60: forks that race with the end of a job, however it comes, leave nobody.
#[test]
fn forks_that_race_with_the_end_leave_nobody() {
    let _guard = alone();
    in_both_modes("forks_that_race_with_the_end_leave_nobody", |mode| {
        let program = c_program("rabbits", RABBITS_C, &["-static"]);
        let before = snapshot();
        let processes = || snapshot()["processes"].difference(&before["processes"]).count();

        // Outside a jail they outlive the program that began them, and its death by a signal.
        let mut outside = std::process::Command::new(&program)
            .args(["60000", "slow"])
            .stdout(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        outside.stdout.take().unwrap().read_exact(&mut [0; 5]).unwrap();
        let group = rustix::process::Pid::from_raw(outside.id() as i32).unwrap();
        outside.kill().unwrap();
        outside.wait().unwrap();
        let alive = (0..1000).any(|_| processes() > 0);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        assert!(alive, "no rabbit outlived its program outside a jail");
        assert_unchanged(mode, &before, "after the rabbits outside");

        for end in ["its own", "a kill", "the launcher's death"] {
            for _ in 0..10 {
                let (stdout, writer) = pipe();
                let io = JobIo { stdout: Some(writer), ..JobIo::default() };
                let time = if end == "its own" { "3" } else { "60000" };
                let mut d = draft(mode, Profile::Compute, &program, &[time]);
                d.limits.pids = 64;
                let policy = d.check().unwrap();
                let jail = Jail::start(&launcher(), &policy, io, BTreeMap::new()).unwrap();
                let pid = rustix::process::Pid::from_raw(jail.launcher_pid() as i32).unwrap();
                let handle = jail.handle();
                let waiting = std::thread::spawn(|| jail.wait());
                fs::File::from(stdout).read_exact(&mut [0; 5]).unwrap();
                match end {
                    "a kill" => handle.kill(KillReason::Asked),
                    "its own" => {}
                    _ => {
                        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                    }
                }
                let record = waiting.join().unwrap();
                let expected = match end {
                    "a kill" => Reason::Killed(KillReason::Asked),
                    "its own" => Reason::Exited,
                    _ => Reason::LauncherDied,
                };
                assert_eq!(record.reason, expected, "{record:?}");
                assert_unchanged(mode, &before, &format!("after {end}"));
            }
        }
    });
}

#[test]
fn two_hundred_jails_at_once() {
    let _guard = alone();
    in_both_modes("two_hundred_jails_at_once", |mode| {
        let program = c_program("tree", TREE_C, &["-static"]);
        let policy = draft(mode, Profile::Compute, &program, &[]).check().unwrap();
        let before = snapshot();
        let start =
            || Jail::start(&launcher(), &policy, JobIo::default(), BTreeMap::new()).unwrap();
        let jails: Vec<Jail> = (0..200).map(|_| start()).collect();
        let codes: BTreeSet<i32> = jails.into_iter().map(|j| j.wait().exit_code()).collect();
        assert_eq!(codes, [3].into());
        assert_unchanged(mode, &before, "after 200 jails");
    });
}
