//! The attempts that a jail must stop, one row each, numbered as in the threat notes that
//! docs/SECURITY.md repeats; and the ablation, which leaves out layers and names, for each attempt,
//! every layer that stops it.

#![allow(clippy::unwrap_used)] // helpers of tests

mod jail_support;

use jail_support::*;
use leasehold_launcher::Probe;
use leasehold_node::sandbox::{JobIo, Layer, Profile, Source};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::{
        fd::OwnedFd,
        unix::{net::UnixListener, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
};

/// Number, act, benign act of the same kind, results that count as stopped, and whether any user
/// outside a jail can do it. Results: an errno's number, or `sig N`.
type Attack = (u32, &'static str, &'static str, &'static [&'static str], bool);

const PERM: &[&str] = &["1"];
const NOENT: &[&str] = &["2"];
const NOSPC: &[&str] = &["28"];
const KILLED: &[&str] = &["sig 31"];

const ATTACKS: &[Attack] = &[
    (1, "shadow", "read_own", NOENT, false),
    (1, "host_marker", "read_own", NOENT, true),
    (2, "dotdot", "read_own", NOENT, true),
    (3, "chroot", "read_own", PERM, false),
    (4, "write_usr", "write_own", &["30"], false),
    (4, "write_in", "write_own", &["13", "30"], false),
    (4, "write_root", "write_own", &["30"], false),
    (4, "remount", "read_own", PERM, false),
    (5, "umount", "read_own", PERM, false),
    (6, "open_tree", "read_own", PERM, false),
    (6, "fsopen", "read_own", PERM, false),
    (6, "move_mount", "read_own", PERM, false),
    (10, "proc1_exe", "proc_self", NOENT, false),
    (10, "self_exe", "proc_self", &["13", "26", "30"], false),
    (11, "mknod_disk", "write_own", PERM, false),
    (11, "mknod_mem", "write_own", PERM, false),
    (11, "mknod_gpu", "write_own", PERM, false),
    (12, "suid", "read_own", PERM, true),
    (13, "filecap", "read_own", PERM, true),
    (14, "by_handle", "read_own", PERM, false),
    (15, "link_out", "write_own", &["18"], false),
    (16, "fill_tmp", "write_own", NOSPC, true),
    (16, "fill_shm", "write_own", NOSPC, true),
    (16, "inodes", "write_own", NOSPC, false),
    (17, "splice_ro", "read_own", PERM, true),
    (18, "core_pattern", "proc_self", NOENT, true),
    (18, "sysrq", "proc_self", NOENT, false),
    (18, "binfmt", "proc_self", NOENT, true),
    (19, "proc_host", "proc_self", NOENT, true),
    (20, "kcore", "proc_self", NOENT, false),
    (20, "kmsg", "proc_self", NOENT, false),
    (20, "keys", "proc_self", NOENT, true),
    (20, "timer_list", "proc_self", NOENT, false),
    (21, "sys", "read_own", NOENT, true),
    (21, "debugfs", "read_own", NOENT, false),
    (22, "gpu_nodes", "dev_null", NOENT, true),
    (22, "dev_kmsg", "dev_null", NOENT, false),
    (23, "mount_proc", "read_own", PERM, false),
    (23, "mount_sysfs", "read_own", PERM, false),
    (26, "setns", "fork", PERM, false),
    (27, "unshare_user", "fork", PERM, true),
    (27, "unshare_ns", "fork", PERM, false),
    (27, "clone_user", "fork", PERM, true),
    (27, "clone3", "fork", &["38"], true),
    (28, "io_uring", "fork", PERM, true),
    (29, "bpf", "fork", PERM, false),
    (29, "perf", "fork", PERM, false),
    (30, "userfaultfd", "fork", PERM, true),
    (31, "keyctl", "fork", PERM, true),
    (31, "add_key", "fork", PERM, true),
    (31, "request_key", "fork", PERM, false),
    (32, "ptrace", "fork", PERM, false),
    (32, "ptrace_child", "fork", PERM, true),
    (32, "vm_writev", "fork", PERM, false),
    (33, "pidfd_getfd", "fork", PERM, true),
    (34, "tiocsti", "fionread", PERM, false),
    (34, "tiocsti_high", "fionread", PERM, false),
    (35, "tioclinux", "fionread", PERM, false),
    (36, "int80", "fork", KILLED, true),
    (37, "x32", "fork", KILLED, false),
    (38, "personality", "personality_ask", PERM, true),
    (39, "loosen", "fork", PERM, true),
    (40, "capget", "fork", PERM, false),
    (40, "capset", "fork", PERM, false),
    (41, "nnp", "fork", PERM, true),
    (41, "ambient", "fork", PERM, false),
    (41, "securebits", "fork", PERM, false),
    (42, "setuid", "fork", PERM, false),
    (42, "setgid", "fork", PERM, false),
    (42, "setgroups", "fork", PERM, false),
    (43, "fifo", "fork", PERM, false),
    (43, "nice", "fork", PERM, false),
    (43, "ioprio", "fork", PERM, false),
    (44, "clock", "time", PERM, false),
    (44, "hostname", "time", PERM, false),
    (44, "reboot", "time", PERM, false),
    (44, "swapon", "time", PERM, false),
    (44, "module", "time", PERM, false),
    (44, "host_name", "time", NOENT, true),
    (45, "vsock", "pair", PERM, false),
    (45, "netlink", "pair", PERM, true),
    (45, "packet", "pair", PERM, false),
    (45, "alg", "pair", PERM, false),
    (45, "bluetooth", "pair", PERM, false),
    (45, "inet", "pair", PERM, true),
    (45, "inet6", "pair", PERM, false),
    (47, "fds", "fd0", &["9"], true),
    (48, "secret", "path", NOENT, true),
    (48, "proc1_env", "proc_self", NOENT, false),
    (56, "forkbomb", "fork", &["11"], false),
    (58, "memfd", "write_own", PERM, true),
    (58, "file_big", "write_own", &["27"], false),
    (61, "kill_host", "kill_self", &["3"], true),
    (62, "cgroup", "read_own", NOENT, true),
    (62, "cgroup_path", "proc_self", NOENT, false),
    (65, "affinity", "fork", PERM, true),
    (67, "loopback", "pair", PERM, true),
    (68, "abstract", "pair", PERM, true),
    (69, "pathname", "pair", PERM, true),
    (70, "shmget", "fork", PERM, true),
    (70, "mqueue", "fork", PERM, true),
];

/// Layers that the probe launcher can leave out. Not among them: user, mount and PID namespace and
/// the host id, on which all others and the end of every job stand; no_new_privs, without which an
/// unprivileged process gets no filter; memory and cpu, whose tests are of their own.
const DROPPABLE: &[Layer] = &[
    Layer::Root,
    Layer::NetNamespace,
    Layer::IpcNamespace,
    Layer::UtsNamespace,
    Layer::CgroupNamespace,
    Layer::UsernsLimit,
    Layer::ReadOnly,
    Layer::Proc,
    Layer::Dev,
    Layer::Environment,
    Layer::Descriptors,
    Layer::Rlimits,
    Layer::Capabilities,
    Layer::Landlock,
    Layer::Seccomp,
];

/// Things of the host that the attacker tries to reach, kept alive for a test. All are made here: what
/// the tests' caller happens to leave open or to set would make an attempt succeed outside by chance.
struct Host {
    attacker: PathBuf,
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    process: Child,
    _sockets: (UnixListener, UnixListener, std::net::TcpListener),
    _left_open: OwnedFd,
}

impl Host {
    fn new() -> Self {
        use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
        let attacker =
            c_program("attacker", include_str!("jail_support/attacker.c"), &["-static", "-w"]);
        // Not in /tmp, which every jail covers with its own.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let marker = dir.path().join("marker");
        fs::write(&marker, "host").unwrap();
        let socket = dir.path().join("socket");
        // The folder's own random name keeps tests of one process apart.
        let name = format!("jail{}", dir.path().to_string_lossy().replace('/', "-"));
        let abstract_socket =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let pathname = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let left_open = left_open(&marker);
        let process = process_above(1000);
        let show = |path: &PathBuf| path.to_string_lossy().into_owned();
        let env = [
            ("MARKER", show(&marker)),
            ("SOCKET", show(&socket)),
            ("ABSTRACT", name),
            ("PORT", tcp.local_addr().unwrap().port().to_string()),
            ("HOSTPID", process.id().to_string()),
            ("SECRET", secret_name()),
            // Tests of other processes have segments of their own.
            ("SHMKEY", std::process::id().to_string()),
            (
                "NODENAME",
                fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned(),
            ),
        ];
        let env: Vec<_> = env.map(|(k, v)| (k.to_owned(), v)).into();
        let made = Command::new(&attacker).arg("make_shm").envs(env.clone()).output().unwrap();
        assert_eq!(made.stdout, b"make_shm ok\n");
        let _sockets = (abstract_socket, pathname, tcp);
        Self { attacker, dir, env, process, _sockets, _left_open: left_open }
    }

    /// Runs all acts in one jail that lacks these layers.
    fn attack(&self, mode: Mode, without: &[Layer]) -> BTreeMap<String, String> {
        let mut d = draft(mode, Profile::Compute, &self.attacker, &acts());
        d.env.clone_from(&self.env);
        d.inputs.push(("text".into(), Source::named(self.dir.path().join("marker"))));
        d.limits.tmp = 16 << 20;
        d.limits.pids = 64;
        d.limits.milli_cpus = 1000;
        let probe = Probe { without: without.to_vec(), ..Probe::default() };
        let launcher = if without.is_empty() { launcher() } else { probe_launcher() };
        let policy = d.check().unwrap().with_probe(probe);
        let ran = run_with(&launcher, &policy, JobIo::default(), BTreeMap::new(), |_, _| {});
        assert_eq!(ran.record.exit_code(), 0, "{:?} {} {}", ran.record, ran.stdout, ran.stderr);
        results(&ran.stdout)
    }

    /// Runs the acts that any user may do outside, as that user.
    fn attack_outside(&self) -> BTreeMap<String, String> {
        let mut command = Command::new(&self.attacker);
        command.args(ATTACKS.iter().filter(|a| a.4).map(|a| a.1)).envs(self.env.clone());
        command.current_dir("/");
        if is_root() {
            command.uid(TEST_ID).gid(TEST_ID);
        }
        results(&String::from_utf8_lossy(&command.output().unwrap().stdout))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new(&self.attacker).arg("drop_shm").envs(self.env.clone()).output();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A descriptor that every child of this process inherits, as a careless caller leaves one.
fn left_open(path: &Path) -> OwnedFd {
    let file = fs::File::open(path).unwrap();
    let high = rustix::io::fcntl_dupfd_cloexec(&file, 1000).unwrap();
    rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
    high
}

/// A process of the host whose id no process of a jail has, where ids start again from 1.
fn process_above(id: u32) -> Child {
    loop {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        if child.id() > id {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The name of a variable that this process has and no jail is given.
fn secret_name() -> String {
    let given = ["PATH", "HOME", "TMPDIR", "LANG"];
    let name = |(name, _): (OsString, OsString)| name.into_string().ok();
    // cargo sets some, and so does every shell.
    std::env::vars_os().filter_map(name).find(|name| !given.contains(&name.as_str())).unwrap()
}

fn acts() -> Vec<&'static str> {
    let mut acts: Vec<&str> = ATTACKS.iter().flat_map(|a| [a.2, a.1]).collect();
    acts.sort_unstable();
    acts.dedup();
    acts
}

fn results(text: &str) -> BTreeMap<String, String> {
    let split = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    text.lines().filter_map(split).collect()
}

/// The shared memory segment of this process has one key, so one test at a time.
static ONE_HOST: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn every_attempt_is_stopped() {
    in_both_modes("every_attempt_is_stopped", |mode| {
        let _guard = ONE_HOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let host = Host::new();
        let inside = host.attack(mode, &[]);
        let mut wrong = Vec::new();
        for (number, act, benign, expected, _) in ATTACKS {
            if inside[*benign] != "ok" {
                wrong.push(format!("{number} {act}: the benign {benign} gave {}", inside[*benign]));
            }
            if !expected.contains(&inside[*act].as_str()) {
                wrong.push(format!(
                    "{number} {act}: {}, expected one of {expected:?}",
                    inside[*act]
                ));
            }
        }
        let outside = host.attack_outside();
        for (number, act, _, expected, free) in ATTACKS {
            if *free && expected.contains(&outside[*act].as_str()) {
                wrong.push(format!("{number} {act}: outside a jail too: {}", outside[*act]));
            }
        }
        assert!(wrong.is_empty(), "{mode:?}\n{}", wrong.join("\n"));
        println!("{mode:?}: {} attempts stopped", ATTACKS.len());
    });
}

/// Prints for each attempt the layers that stop it by themselves, and marks those without which it
/// succeeds. An attempt that no droppable layer stops must be stopped by what is never dropped.
#[test]
fn ablation() {
    in_both_modes("ablation", |mode| {
        let _guard = ONE_HOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let host = Host::new();
        let bare = host.attack(mode, DROPPABLE);
        let single = |layer: &Layer| {
            let others: Vec<Layer> = DROPPABLE.iter().copied().filter(|l| l != layer).collect();
            (*layer, host.attack(mode, &others), host.attack(mode, &[*layer]))
        };
        let runs: Vec<_> = DROPPABLE.iter().map(single).collect();
        let mut needed = std::collections::BTreeSet::new();
        let mut unexplained = Vec::new();
        println!("| # | attempt | stopped by (`*`: succeeds without it) |\n|---|---|---|");
        for (number, act, _, expected, _) in ATTACKS {
            let mut by = Vec::new();
            if expected.contains(&bare[*act].as_str()) {
                by.push("the base".to_owned());
            }
            for (layer, only, without) in &runs {
                let alone = !expected.contains(&bare[*act].as_str())
                    && only[*act] != bare[*act]
                    && only[*act] != "ok";
                let open = !expected.contains(&without[*act].as_str());
                if alone || open {
                    needed.insert(*layer);
                    by.push(format!("{layer}{}", if open { "\\*" } else { "" }));
                }
            }
            if by.is_empty() {
                unexplained.push(*act);
            }
            println!("| {number} | {act} | {} |", by.join(", "));
        }
        let idle: Vec<_> =
            DROPPABLE.iter().filter(|l| !needed.contains(l)).map(|l| l.name()).collect();
        println!("layers that no attempt of this table needs ({mode:?}): {idle:?}");
        assert!(unexplained.is_empty(), "nobody stops {unexplained:?}");
    });
}
