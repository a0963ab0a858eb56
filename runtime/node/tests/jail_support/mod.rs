//! What the jail tests share: the launcher and small programs built once per test process, and
//! every test run twice, as root and as an unprivileged user.

#![allow(dead_code, clippy::unwrap_used)] // each test program uses a part

use leasehold_launcher::Report;
use leasehold_node::sandbox::{
    HostId, Jail, JailHandle, JobIo, JobRecord, Launcher, PolicyDraft, Profile, Promise, Source,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::{fd::OwnedFd, unix::fs::PermissionsExt, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

/// The user and group of rootless tests, and the host id of jobs that root starts.
pub(crate) const TEST_ID: u32 = 64_123;
const SHARED_VAR: &str = "JAIL_TEST_SHARED";

/// Who starts the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Root,
    Rootless,
}

/// Runs the body as root, and then again as an unprivileged user in a child process; without root,
/// only the latter.
pub(crate) fn in_both_modes(test: &str, body: impl Fn(Mode)) {
    if !is_root() {
        if std::env::var_os(SHARED_VAR).is_none() {
            println!("skip: {test} as root: the tests do not run as root");
        }
        return body(Mode::Rootless);
    }
    body(Mode::Root);
    let shared = shared();
    let me = shared.join(format!("test-{test}"));
    copy_program(&std::env::current_exe().unwrap(), &me);
    let out = Command::new(&me)
        .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(SHARED_VAR, shared)
        .env("HOME", "/tmp")
        .current_dir("/")
        .uid(TEST_ID)
        .gid(TEST_ID)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    println!("--- rootless ---\n{text}");
    assert!(out.status.success() && text.contains("1 passed"), "rootless:\n{text}\n{errors}");
}

/// By a process of its own: a descriptor open for writing here could be inherited by a child that
/// another test forks at that moment, and the program would be busy.
fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder that the unprivileged user can read, with the launcher in it. Its name holds this
/// process's id; the next test process removes it.
pub(crate) fn shared() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        if let Some(path) = std::env::var_os(SHARED_VAR) {
            return path.into();
        }
        sweep();
        let path = std::env::temp_dir().join(format!("jail-test-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        for (name, flags) in [("launcher", &[][..]), ("launcher-probe", &["--probe"][..])] {
            copy_program(&built(flags), &path.join(name));
        }
        path
    })
}

/// Removes the folders of test processes that have ended.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let gone = |pid: &str| !Path::new("/proc").join(pid).exists();
        if name.strip_prefix("jail-test-").is_some_and(gone) {
            // Another test process may have swept it.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The launcher as it is shipped.
pub(crate) fn launcher() -> Launcher {
    Launcher::at(shared().join("launcher"))
}

/// The launcher that can leave out layers.
pub(crate) fn probe_launcher() -> Launcher {
    Launcher::at(shared().join("launcher-probe"))
}

/// The node's program, where the unprivileged user can run it.
pub(crate) fn node_program() -> PathBuf {
    shared_copy("leasehold-node", || env!("CARGO_BIN_EXE_leasehold-node").into())
}

/// The front as it is shipped, where the unprivileged user can run it.
pub(crate) fn front_program() -> PathBuf {
    shared_copy("leasehold", || built(&["--front"]))
}

fn shared_copy(name: &str, from: impl FnOnce() -> PathBuf) -> PathBuf {
    let path = shared().join(name);
    if !path.exists() {
        copy_program(&from(), &path);
    }
    path
}

/// What build-static.sh has built.
fn built(flags: &[&str]) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../launcher/build-static.sh");
    let out = Command::new(script).args(flags).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().into()
}

/// Compiles a C program from this folder once; `flags` go to the compiler.
pub(crate) fn c_program(name: &str, source: &str, flags: &[&str]) -> PathBuf {
    build(name, "c", source, |from, to| {
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-o"]).arg(to).arg(from).args(flags);
        cc
    })
}

/// Compiles a Rust program to a static executable once.
pub(crate) fn rust_program(name: &str, source: &str) -> PathBuf {
    build(name, "rs", source, |from, to| {
        let mut rustc = Command::new("rustc");
        rustc
            .args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-o"])
            .arg(to)
            .arg(from);
        rustc
    })
}

fn build(
    name: &str,
    ext: &str,
    source: &str,
    command: impl Fn(&Path, &Path) -> Command,
) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let program = shared().join(name);
    if !program.exists() {
        let from = shared().join(format!("{name}.{ext}"));
        let partial = shared().join(format!("{name}.part"));
        fs::write(&from, source).unwrap();
        let out = command(&from, &partial).output().unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        fs::rename(&partial, &program).unwrap();
    }
    program
}

/// A draft with the host id that `mode` needs.
pub(crate) fn draft(mode: Mode, profile: Profile, program: &Path, args: &[&str]) -> PolicyDraft {
    let mut draft = PolicyDraft::new(profile, Source::named(program), args);
    draft.host_id = (mode == Mode::Root).then_some(HostId { uid: TEST_ID, gid: TEST_ID });
    draft
}

/// What a job wrote, and its record.
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) record: JobRecord,
}

/// Runs a draft to its end with the shipped launcher.
pub(crate) fn run(draft: PolicyDraft) -> Ran {
    run_with(&launcher(), &draft.check().unwrap(), JobIo::default(), BTreeMap::new(), |_, _| {})
}

/// Runs a policy to its end; `act` sees every report and may kill or signal.
pub(crate) fn run_with(
    launcher: &Launcher,
    policy: &leasehold_node::sandbox::Policy,
    io: JobIo,
    outputs: BTreeMap<String, PathBuf>,
    mut act: impl FnMut(&Report, &JailHandle),
) -> Ran {
    let (out, out_writer) = pipe();
    let (err, err_writer) = pipe();
    let io = JobIo { stdout: Some(out_writer), stderr: Some(err_writer), ..io };
    let jail = Jail::start(launcher, policy, io, outputs).unwrap();
    let readers = [out, err].map(|fd| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            File::from(fd).take(16 << 20).read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    });
    let handle = jail.handle();
    let record = jail.wait_and(|report| act(report, &handle));
    let [stdout, stderr] = readers.map(|r| r.join().unwrap());
    Ran { stdout, stderr, record }
}

/// A socket that brings this session, as a job gets it once it is admitted.
pub(crate) fn promised(session: impl Into<OwnedFd>) -> OwnedFd {
    let (promise, socket) = Promise::new().unwrap();
    promise.keep(&session.into()).unwrap();
    socket
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}
