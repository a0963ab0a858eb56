//! Attempts against the making of a jail and against what a job leaves: paths that a job chose,
//! descriptors, floods, cores, limits, and a second job. Numbered as in docs/SECURITY.md.

#![allow(clippy::unwrap_used)] // helpers of tests

mod jail_support;

use jail_support::*;
use leasehold_node::sandbox::{Exit, JobIo, PolicyDraft, Profile, Reason, Source, Step};
use std::{
    collections::BTreeMap,
    fs,
    os::{fd::AsRawFd, unix::fs::symlink},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

const SHELL: &str = "/usr/bin/dash";

fn shell(mode: Mode, script: &str) -> PolicyDraft {
    draft(mode, Profile::Compute, std::path::Path::new(SHELL), &["-c", script])
}

/// 7, 9, 24, 25: a symlink or a magic link on the way of a source is refused, and nothing runs.
#[test]
fn sources_that_a_job_chose_stay_beneath() {
    in_both_modes("sources_that_a_job_chose_stay_beneath", |mode| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("good"), "good").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        symlink("/", dir.path().join("root")).unwrap();
        symlink("/etc/passwd", dir.path().join("sub/passwd")).unwrap();
        let with = |source: Source| {
            let mut d = shell(mode, "read x < /in/x; echo ran $x");
            d.inputs.push(("x".into(), source));
            run(d)
        };
        assert_eq!(with(Source::beneath(dir.path(), "good")).stdout, "ran good\n");
        let held = fs::File::open("/").unwrap();
        let magic = format!("/proc/{}/fd/{}/etc/passwd", std::process::id(), held.as_raw_fd());
        let cases = [
            (Source::beneath(dir.path(), "root/etc/passwd"), &[40][..]),
            (Source::beneath(dir.path(), "sub/passwd"), &[40]),
            (Source::beneath(dir.path(), "../../etc/passwd"), &[18]),
            // Rootless the kernel already hides the test's descriptors from the new user namespace.
            (Source::named(magic), &[40, 13]),
        ];
        for (source, expected) in cases {
            let ran = with(source.clone());
            let step = if mode == Mode::Root { Step::RootSources } else { Step::Sources };
            match ran.record.reason {
                Reason::LauncherFailed { step: at, errno, .. } => {
                    assert!(at == step && expected.contains(&errno), "{source:?}: {at} {errno}");
                }
                other => panic!("{source:?}: {other:?} {}", ran.stdout),
            }
            assert_eq!((ran.stdout.as_str(), ran.record.exit_code()), ("", 125));
        }
    });
}

/// 8: a folder swapped for a symlink while jails start never leads outside.
#[test]
fn a_swapped_folder_never_leads_outside() {
    in_both_modes("a_swapped_folder_never_leads_outside", |mode| {
        let dir = tempfile::tempdir().unwrap();
        let (folder, aside) = (dir.path().join("d"), dir.path().join("aside"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("hostname"), "inside").unwrap();
        let stop = AtomicBool::new(false);
        let (mut good, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&folder, &aside).unwrap();
                    symlink("/etc", &folder).unwrap();
                    fs::remove_file(&folder).unwrap();
                    fs::rename(&aside, &folder).unwrap();
                }
            });
            for _ in 0..200 {
                let mut d = shell(mode, "read x < /in/x; echo $x");
                d.inputs.push(("x".into(), Source::beneath(dir.path(), "d/hostname")));
                match run(d).stdout.as_str() {
                    "inside\n" => good += 1,
                    "" => refused += 1,
                    other => panic!("outside: {other:?}"),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        println!("{mode:?}: {good} inside, {refused} refused");
        assert_eq!(good + refused, 200);
    });
}

/// 46, 50: exactly the given descriptors, and nothing of the caller in environment or arguments.
#[test]
fn a_job_holds_exactly_what_it_was_given() {
    in_both_modes("a_job_holds_exactly_what_it_was_given", |mode| {
        let (session, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let io = JobIo { session: Some(promised(session)), ..JobIo::default() };
        // One descriptor more is the listing's own.
        let policy = shell(mode, "echo /proc/self/fd/*; export -p").check().unwrap();
        let ran = run_with(&launcher(), &policy, io, BTreeMap::new(), |_, _| {});
        let fds: Vec<&str> = ran.stdout.lines().next().unwrap().split(' ').collect();
        assert_eq!(
            fds[..4],
            ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/proc/self/fd/3"]
        );
        assert!(fds.len() <= 5, "{fds:?}");
        let mut names: Vec<&str> = ran
            .stdout
            .lines()
            .filter_map(|l| l.strip_prefix("export ")?.split('=').next())
            .filter(|n| *n != "PWD" && *n != "OLDPWD")
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "LANG", "LEASEHOLD_FD", "PATH", "TMPDIR"]);
    });
}

/// 53: a flood ends where the reader or the file limit says. 55: a crash leaves no core.
#[test]
fn floods_and_crashes_leave_the_disk_alone() {
    in_both_modes("floods_and_crashes_leave_the_disk_alone", |mode| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut d = shell(mode, "exec cat /dev/zero");
        d.limits.file = 1 << 20;
        let file = fs::File::create(&log).unwrap();
        let io = JobIo { stdout: Some(file.into()), ..JobIo::default() };
        let jail = leasehold_node::sandbox::Jail::start(
            &launcher(),
            &d.check().unwrap(),
            io,
            BTreeMap::new(),
        );
        let record = jail.unwrap().wait();
        assert_eq!(record.exit, Exit::Signal(25), "{record:?}");
        assert_eq!(fs::metadata(&log).unwrap().len(), 1 << 20);

        let ran = run(shell(mode, "ulimit -c; cd /tmp; kill -ABRT $$"));
        // One block of 512 bytes shows as 0; the limit itself is 1 byte.
        assert_eq!((ran.stdout.as_str(), ran.record.exit), ("0\n", Exit::Signal(6)));
    });
}

/// 64: a job that stops itself ends in time. 71: two jobs of one tenant do not see each other.
#[test]
fn time_ends_a_stopped_job_and_two_jobs_are_apart() {
    in_both_modes("time_ends_a_stopped_job_and_two_jobs_are_apart", |mode| {
        let mut d = shell(mode, "kill -STOP $$; echo awake");
        d.limits.wall = Some(Duration::from_millis(50));
        // Nothing else would ever end it.
        let ran = run(d);
        assert_eq!((ran.record.reason, ran.stdout.as_str()), (Reason::WallTime, ""));

        let mut first = shell(mode, "sleep 1 & wait");
        first.limits.wall = Some(Duration::from_millis(400));
        let first = first.check().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                run_with(&launcher(), &first, JobIo::default(), BTreeMap::new(), |_, _| {})
                    .record
                    .reason
            });
            std::thread::sleep(Duration::from_millis(100));
            let script = "n=0; for p in /proc/[0-9]*; do n=$((n+1)); done; echo $n; kill -KILL -1";
            let ran = run(shell(mode, script));
            assert_eq!(ran.stdout, "1\n");
            assert_eq!(other.join().unwrap(), Reason::WallTime, "the other job was hit");
        });
    });
}
