//! What the job may do with what it sees: limits, capabilities, Landlock, seccomp. Steps `limits`
//! to `seccomp`.

use crate::{
    inner::Inner,
    sys,
    trace::{During, Fault},
};
use leasehold_launcher::{Layer, LayerReport, LayerState, filter};
use std::os::fd::AsFd;

pub(crate) fn limits(inner: &mut Inner) -> Result<(), Fault> {
    if inner.wants(Layer::Affinity) {
        affinity(inner)?;
    }
    if !inner.wants(Layer::Rlimits) {
        return Ok(());
    }
    let limits = inner.policy().limits;
    let set = |what: &str, resource, value| sys::limit(resource, value).during(what);
    // Not 0: a pipe as core_pattern ignores 0, and takes 1 as the mark of a crash in itself.
    set("limiting core files", libc::RLIMIT_CORE, 1)?;
    // Counted per user namespace, so this is the job's own count; the init is one of them.
    set("limiting processes", libc::RLIMIT_NPROC, u64::from(limits.pids) + 1)?;
    set("limiting file sizes", libc::RLIMIT_FSIZE, limits.file)?;
    set("limiting descriptors", libc::RLIMIT_NOFILE, 4096)?;
    set("limiting locked memory", libc::RLIMIT_MEMLOCK, 8 << 20)?;
    set("limiting message queues", libc::RLIMIT_MSGQUEUE, 0)?;
    set("limiting real-time priority", libc::RLIMIT_RTPRIO, 0)?;
    set("limiting priority", libc::RLIMIT_NICE, 0)?;
    set("limiting pending signals", libc::RLIMIT_SIGPENDING, 4096)?;
    if !has_memory_cgroup(inner) {
        set("limiting private memory", libc::RLIMIT_DATA, limits.memory)?;
    }
    inner.full(Layer::Rlimits);
    Ok(())
}

fn has_memory_cgroup(inner: &Inner) -> bool {
    let full = |r: &LayerReport| r.name == Layer::Memory && r.state == LayerState::Full;
    inner.given.layers.iter().any(full)
}

/// Binds the job to as many processors as its limit needs, chosen by the launcher's process id so
/// that jobs spread.
fn affinity(inner: &mut Inner) -> Result<(), Fault> {
    let needed = inner.policy().limits.milli_cpus.div_ceil(1000) as usize;
    let allowed = sys::allowed_cpus().during("reading the affinity")?;
    if needed < allowed.len() {
        let first = sys::boot_ns() as usize / 1000 % allowed.len();
        let chosen: Vec<usize> =
            (0..needed).map(|i| allowed[(first + i) % allowed.len()]).collect();
        sys::set_cpus(&chosen).during("setting the affinity")?;
    }
    inner.full(Layer::Affinity);
    Ok(())
}

pub(crate) fn capabilities(inner: &mut Inner) -> Result<(), Fault> {
    if !inner.wants(Layer::Capabilities) {
        return Ok(());
    }
    // linux/securebits.h: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, and all four locks.
    const SECUREBITS: u64 = 0b1110_1111;
    sys::prctl(libc::PR_SET_SECUREBITS, SECUREBITS).during("locking the secure bits")?;
    for capability in 0.. {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // One past the last that this kernel knows.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => return Err(e).during("dropping the bounding set"),
        }
    }
    sys::drop_capability_sets().during("dropping the capability sets")?;
    inner.full(Layer::Capabilities);
    Ok(())
}

pub(crate) fn no_new_privs(inner: &mut Inner) -> Result<(), Fault> {
    // This process keeps the job's id; nobody may look into it or trace it. The job's program
    // becomes an ordinary process again when it is executed.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).during("hiding the jail's first process")?;
    // Without it the kernel takes no filter from an unprivileged process.
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).during("setting no_new_privs")?;
    inner.full(Layer::NoNewPrivs);
    Ok(())
}

// linux/landlock.h.
const FS_EXECUTE: u64 = 1;
const FS_WRITE_FILE: u64 = 1 << 1;
const FS_READ_FILE: u64 = 1 << 2;
const FS_READ_DIR: u64 = 1 << 3;
const FS_MAKE_CHAR: u64 = 1 << 6;
const FS_MAKE_SOCK: u64 = 1 << 9;
const FS_MAKE_BLOCK: u64 = 1 << 11;
const FS_TRUNCATE: u64 = 1 << 14;
const NET_ALL: u64 = 3;
const SCOPE_ALL: u64 = 3;

pub(crate) fn landlock(inner: &mut Inner) -> Result<(), Fault> {
    if !inner.wants(Layer::Landlock) {
        return Ok(());
    }
    let abi = match sys::landlock_abi() {
        Ok(abi) => abi,
        Err(e) => {
            inner.report(
                Layer::Landlock,
                LayerState::Absent(format!("no Landlock in this kernel: {e}")),
            );
            return Ok(());
        }
    };
    // Rights of files by ABI: 13 in the first, then refer, truncate, and from 5 device ioctls.
    let handled: u64 = match abi {
        1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        _ => (1 << 16) - 1,
    };
    let (net, scoped, size) = match abi {
        ..=3 => (0, 0, 8),
        4 | 5 => (NET_ALL, 0, 16),
        _ => (NET_ALL, SCOPE_ALL, 24),
    };
    let ruleset =
        sys::landlock_ruleset(handled, net, scoped, size).during("creating a Landlock ruleset")?;
    let read = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR;
    let scratch = handled & !(FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_MAKE_SOCK);
    let out = ("/out", scratch);
    let rules = [
        ("/", read),
        ("/dev", FS_WRITE_FILE | FS_TRUNCATE & handled),
        ("/tmp", scratch),
        ("/dev/shm", scratch),
    ];
    let outputs = !inner.policy().outputs.is_empty();
    for (path, rights) in rules.into_iter().chain(outputs.then_some(out)) {
        let place = sys::open_place(None, path).during(path)?;
        sys::landlock_allow(ruleset.as_fd(), place.as_fd(), rights).during(path)?;
    }
    sys::landlock_restrict(ruleset.as_fd()).during("entering the Landlock domain")?;
    inner.report(
        Layer::Landlock,
        match abi {
            ..=5 => LayerState::Partial(format!(
                "ABI {abi} lacks scopes of signals and abstract sockets"
            )),
            _ => LayerState::Full,
        },
    );
    Ok(())
}

pub(crate) fn seccomp(inner: &mut Inner) -> Result<(), Fault> {
    let probe = inner.policy().probe();
    if probe.without.contains(&Layer::Seccomp) {
        return Ok(());
    }
    sys::install_filter(&filter::assemble(probe.without_call)).during("installing the filter")
}
