//! Every system call of the launcher, one function each, and its only `unsafe` code. Called by the
//! other modules of the program; nothing here decides anything.
//!
//! The launcher is single-threaded from its start to its end, so a child may run ordinary code
//! after [`clone_child`].

use leasehold_launcher::{Usage, filter::Instruction};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_ulong},
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// Makes a system call whose arguments are all plain numbers.
fn number_call(number: c_long, args: [c_long; 5]) -> io::Result<c_long> {
    // SAFETY: callers in this file pass only calls that take no pointer in these arguments.
    check(unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) })
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: callers pass a descriptor that the kernel has just returned and nobody else holds.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

fn text(s: &str) -> io::Result<CString> {
    CString::new(s).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Takes the descriptor 0 for the launcher and moves it above the job's numbers.
pub(crate) fn take_control_socket() -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes numbers here.
    let fd = check(unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 16) }.into())?;
    Ok(owned(fd))
}

/// Receives one message and at most `N` descriptors, all close-on-exec.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    const CONTROL: usize = 512;
    let mut control = [0u64; CONTROL / 8];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    // `as _` here and below: glibc and musl give these fields different types.
    msg.msg_controllen = CONTROL as _;
    // SAFETY: msg points to the buffer and the control array, both alive here and of that length.
    let n =
        check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut msg, libc::MSG_CMSG_CLOEXEC) }
            as c_long)?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control array; the CMSG functions stay inside
    // msg_controllen, and each SCM_RIGHTS entry holds descriptors that are now ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const msg);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                let bytes = (*header).cmsg_len as usize - (data as usize - header as usize);
                for i in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const msg, header);
        }
    }
    Ok((n as usize, fds))
}

/// Sends one message, and a descriptor with it if there is one.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut control = [0u64; 8];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    if let Some(fd) = fd {
        msg.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN compute; the control array (64 bytes, aligned) holds the
        // one header and descriptor that are written through CMSG_FIRSTHDR.
        unsafe {
            msg.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const msg);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
    }
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_NOSIGNAL);
    // SAFETY: msg points to bytes and control, both alive here.
    check(unsafe { libc::sendmsg(fd, &raw const msg, flags) } as c_long)?;
    Ok(())
}

/// A child made by [`clone_child`]: its id in this PID namespace, and a descriptor of it.
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: Option<OwnedFd>,
}

/// Forks, into new namespaces if `flags` says so. `None` in the child.
pub(crate) fn clone_child(flags: c_int) -> io::Result<Option<Child>> {
    let mut pidfd: c_int = -1;
    // Plain clone, not clone3: its flags suffice here, and it is in the job's filter.
    let flags = c_ulong::from(flags as u32) | (libc::CLONE_PIDFD | libc::SIGCHLD) as c_ulong;
    // SAFETY: no CLONE_VM, so the child has its own copy of everything; stack 0 means the caller's;
    // the kernel writes one int to pidfd.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize)
    })?;
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(Child { pid: pid as i32, pidfd: (pidfd >= 0).then(|| owned(pidfd.into())) }))
}

/// A descriptor of this process, for [`is_readable`] to tell its end.
pub(crate) fn own_pidfd() -> io::Result<OwnedFd> {
    number_call(libc::SYS_pidfd_open, [std::process::id().into(), 0, 0, 0, 0]).map(owned)
}

/// Sends a signal by descriptor.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    number_call(libc::SYS_pidfd_send_signal, [pidfd.as_raw_fd().into(), signal.into(), 0, 0, 0])?;
    Ok(())
}

/// Sends a signal by id; -1 is every process that can be reached.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    number_call(libc::SYS_kill, [pid.into(), signal.into(), 0, 0, 0])?;
    Ok(())
}

/// Which of two descriptors has something to read or is closed, within `timeout_ms` (-1: for ever).
pub(crate) fn poll2(fds: [BorrowedFd<'_>; 2], timeout_ms: i32) -> io::Result<[bool; 2]> {
    let mut polled =
        fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: the array holds two entries.
    check(unsafe { libc::poll(polled.as_mut_ptr(), 2, timeout_ms) }.into())?;
    Ok(polled.map(|p| p.revents != 0))
}

/// Whether a descriptor has something to read; of a process's, whether it has ended.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(poll2([fd, fd], 0)?[0])
}

/// Waits for a child: its id, wait status and usage, its own children's included. `None`: no child
/// has ended (`block` false) or none is left.
pub(crate) fn wait(pid: i32, block: bool) -> io::Result<Option<(i32, i32, Usage)>> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { zeroed() };
    let flags = if block { 0 } else { libc::WNOHANG } | libc::__WALL;
    loop {
        // SAFETY: status and usage are writable and of the right types.
        match check(unsafe { libc::wait4(pid, &raw mut status, flags, &raw mut usage) }.into()) {
            Ok(0) => return Ok(None),
            Ok(pid) => return Ok(Some((pid as i32, status, usage_of(&usage)))),
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// What this process and those that it has reaped have used.
pub(crate) fn usage() -> io::Result<Usage> {
    let of = |who| {
        // SAFETY: all-zero is a valid rusage, which the kernel fills.
        unsafe {
            let mut usage: libc::rusage = zeroed();
            check(libc::getrusage(who, &raw mut usage).into())?;
            Ok::<_, io::Error>(usage_of(&usage))
        }
    };
    let (own, children) = (of(libc::RUSAGE_SELF)?, of(libc::RUSAGE_CHILDREN)?);
    Ok(Usage {
        user_us: own.user_us + children.user_us,
        system_us: own.system_us + children.system_us,
        max_rss: own.max_rss.max(children.max_rss),
    })
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let us = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    Usage {
        user_us: us(usage.ru_utime),
        system_us: us(usage.ru_stime),
        max_rss: usage.ru_maxrss as u64 * 1024,
    }
}

/// Blocks these signals so that [`next_signal`] can take them.
pub(crate) fn block_signals(signals: &[i32]) -> io::Result<()> {
    signal_mask(libc::SIG_BLOCK, signals)
}

/// The signals that this process ignores: a shell's background job is started with SIGINT ignored, nohup's with SIGHUP,
/// Rust's with SIGPIPE. Nothing else outlives an exec.
pub(crate) fn ignored_signals() -> Vec<i32> {
    let ignored = |signal: &i32| {
        // SAFETY: all-zero is a valid sigaction; nothing is set, and the old one is written there.
        unsafe {
            let mut old: libc::sigaction = zeroed();
            libc::sigaction(*signal, ptr::null(), &raw mut old) == 0
                && old.sa_sigaction == libc::SIG_IGN
        }
    };
    (1..=64).filter(ignored).collect()
}

/// Unblocks every signal and gives those that were ignored their default disposition again.
pub(crate) fn reset_signals(ignored: &[i32]) -> io::Result<()> {
    for signal in ignored {
        // SAFETY: SIG_DFL is a valid disposition.
        unsafe { libc::signal(*signal, libc::SIG_DFL) };
    }
    signal_mask(libc::SIG_SETMASK, &[])
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: all-zero is a valid sigset_t; sigaddset writes inside it.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        for s in signals {
            libc::sigaddset(&raw mut set, *s);
        }
        set
    }
}

fn signal_mask(how: c_int, signals: &[i32]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: set is a valid sigset_t; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(how, &raw const set, ptr::null_mut()) }.into())?;
    Ok(())
}

/// Waits for one of the blocked signals; also tells whether it came from outside this PID namespace.
pub(crate) fn next_signal(signals: &[i32]) -> io::Result<(i32, bool)> {
    let set = signal_set(signals);
    // SAFETY: all-zero is a valid siginfo_t; sigwaitinfo fills it, and for these signals the sender's
    // id is the active field.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        let signal = check(libc::sigwaitinfo(&raw const set, &raw mut info).into())?;
        Ok((signal as i32, info.si_pid() == 0))
    }
}

/// A prctl whose arguments are numbers.
pub(crate) fn prctl(option: c_int, arg: c_ulong) -> io::Result<()> {
    number_call(libc::SYS_prctl, [option.into(), arg as c_long, 0, 0, 0])?;
    Ok(())
}

/// The effective user id.
pub(crate) fn euid() -> u32 {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() }
}

/// The effective group id.
pub(crate) fn egid() -> u32 {
    // SAFETY: getegid cannot fail.
    unsafe { libc::getegid() }
}

/// How many supplementary groups this process has.
pub(crate) fn group_count() -> usize {
    // SAFETY: with size 0 the list is not written.
    unsafe { libc::getgroups(0, ptr::null_mut()) }.max(0) as usize
}

/// Becomes another user and group, without supplementary groups and for good.
pub(crate) fn become_id(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: an empty list is not read.
    check(unsafe { libc::setgroups(0, ptr::null()) }.into())?;
    let (u, g) = (uid.into(), gid.into());
    number_call(libc::SYS_setresgid, [g, g, g, 0, 0])?;
    number_call(libc::SYS_setresuid, [u, u, u, 0, 0])?;
    Ok(())
}

/// Opens `path` as a place only (O_PATH). With `beneath` it stays there and follows no symlink.
pub(crate) fn open_place(beneath: Option<BorrowedFd<'_>>, path: &str) -> io::Result<OwnedFd> {
    let resolve = match beneath {
        Some(_) => libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS,
        None => libc::RESOLVE_NO_MAGICLINKS,
    };
    openat2(beneath, path, libc::O_PATH, resolve)
}

fn openat2(
    dir: Option<BorrowedFd<'_>>,
    path: &str,
    flags: c_int,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid open_how.
    let mut how: libc::open_how = unsafe { zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    let dir = dir.map_or(libc::AT_FDCWD, |d| d.as_raw_fd());
    let path = text(path)?;
    // SAFETY: path ends in NUL, and how has the size that is told.
    check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir,
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })
    .map(owned)
}

/// Opens a file that the job left, for reading: no symlink is followed, no pipe or device waits.
pub(crate) fn open_left(path: &str) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let flags =
        libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: path ends in NUL.
    check(unsafe { libc::openat(libc::AT_FDCWD, path.as_ptr(), flags) }.into()).map(owned)
}

const OPEN_TREE_CLONE: c_long = 1;
const AT_RECURSIVE: c_long = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: c_long = 4;

/// Clones the mounts at and below a place, as a tree that is attached nowhere.
pub(crate) fn clone_tree(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | c_long::from(libc::O_CLOEXEC)
        | AT_RECURSIVE
        | c_long::from(libc::AT_EMPTY_PATH);
    // SAFETY: the path is an empty C string.
    check(unsafe { libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags) })
        .map(owned)
}

/// Attaches a cloned tree at a path of the current folder.
pub(crate) fn attach_tree(tree: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: both paths are C strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Mount attributes: read-only.
pub(crate) const RDONLY: u64 = 1;
/// Mount attributes: set-id bits and file capabilities have no effect.
pub(crate) const NOSUID: u64 = 2;
/// Mount attributes: device nodes have no effect.
pub(crate) const NODEV: u64 = 4;
/// Mount attributes: nothing can be executed.
pub(crate) const NOEXEC: u64 = 8;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Adds attributes to every mount of a tree.
pub(crate) fn set_tree_attributes(tree: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    mount_setattr(
        tree.as_raw_fd(),
        c"",
        c_long::from(libc::AT_EMPTY_PATH) | AT_RECURSIVE,
        attributes,
    )
}

/// Makes the root of this mount namespace, that mount alone, read-only.
pub(crate) fn seal_root() -> io::Result<()> {
    mount_setattr(libc::AT_FDCWD, c"/", 0, RDONLY)
}

fn mount_setattr(fd: RawFd, path: &CStr, flags: c_long, attributes: u64) -> io::Result<()> {
    let attr = MountAttr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: path is a C string, attr has the kernel's layout and the size that is told.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Cuts this mount namespace off from the host's mount events.
pub(crate) fn make_mounts_private() -> io::Result<()> {
    raw_mount(c"", c"/", None, libc::MS_REC | libc::MS_PRIVATE, c"")
}

/// Mounts a new tmpfs at `path`; `options` as in mount(8).
pub(crate) fn mount_tmpfs(path: &str, options: &str) -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    raw_mount(c"tmpfs", &text(path)?, Some(c"tmpfs"), flags, &text(options)?)
}

/// Mounts a new /proc at `path`.
pub(crate) fn mount_proc(path: &str, options: &str) -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    raw_mount(c"proc", &text(path)?, Some(c"proc"), flags, &text(options)?)
}

fn raw_mount(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
    data: &CStr,
) -> io::Result<()> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    let (source, target, data) = (source.as_ptr(), target.as_ptr(), data.as_ptr().cast());
    // SAFETY: all are C strings or null where the kernel takes null.
    check(unsafe { libc::mount(source, target, kind, flags, data) }.into())?;
    Ok(())
}

/// Makes the current folder the root, and detaches the old root with all its mounts.
pub(crate) fn pivot_here() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: the paths are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // SAFETY: as above. The old root lies over the new one at "." until it is detached.
    check(unsafe { libc::umount2(here, libc::MNT_DETACH) }.into())?;
    Ok(())
}

/// Enters a new namespace of the kinds in `flags`.
pub(crate) fn unshare(flags: c_int) -> io::Result<()> {
    number_call(libc::SYS_unshare, [flags.into(), 0, 0, 0, 0])?;
    Ok(())
}

/// Starts a session without a terminal.
pub(crate) fn new_session() -> io::Result<()> {
    number_call(libc::SYS_setsid, [0; 5])?;
    Ok(())
}

/// Sets the machine's name in this UTS namespace.
pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: name has that many bytes.
    check(unsafe { libc::sethostname(name.as_ptr().cast::<c_char>(), name.len()) }.into())?;
    Ok(())
}

/// The C library's type of RLIMIT constants.
#[cfg(target_env = "gnu")]
pub(crate) type Resource = libc::__rlimit_resource_t;
/// The C library's type of RLIMIT constants.
#[cfg(not(target_env = "gnu"))]
pub(crate) type Resource = c_int;

/// Sets the soft and hard limit of one resource; never raises a hard limit.
pub(crate) fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: old is writable, and the process is this one.
    check(unsafe { libc::prlimit(0, resource, ptr::null(), &raw mut old) }.into())?;
    let value = value.min(old.rlim_max);
    let new = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: new is a valid rlimit.
    check(unsafe { libc::prlimit(0, resource, &raw const new, ptr::null_mut()) }.into())?;
    Ok(())
}

/// The processors that this process may use.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: all-zero is an empty cpu_set_t; the kernel writes at most its size; CPU_ISSET reads
    // inside it.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        check(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set).into())?;
        Ok((0..libc::CPU_SETSIZE as usize).filter(|c| libc::CPU_ISSET(*c, &set)).collect())
    }
}

/// Binds this process and its children to these processors.
pub(crate) fn set_cpus(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: as in allowed_cpus; the indices come from there, so they are below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        cpus.iter().for_each(|c| libc::CPU_SET(*c, &mut set));
        check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set).into())?;
    }
    Ok(())
}

/// Puts a copy of `fd` at the number `at`, open across exec.
pub(crate) fn place_descriptor(fd: BorrowedFd<'_>, at: RawFd) -> io::Result<()> {
    let from = fd.as_raw_fd();
    let placed = if from == at {
        // dup2 on itself would leave it to be closed at exec.
        // SAFETY: an own, open descriptor.
        unsafe { libc::fcntl(at, libc::F_SETFD, 0) }
    } else {
        // SAFETY: the launcher owns nothing at the numbers 0 to 3 that this would close unseen.
        unsafe { libc::dup2(from, at) }
    };
    check(placed.into())?;
    Ok(())
}

/// Marks every descriptor from `first` on to be closed at exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: c_long = 4;
    number_call(
        libc::SYS_close_range,
        [first.into(), c_long::from(u32::MAX), CLOSE_RANGE_CLOEXEC, 0, 0],
    )?;
    Ok(())
}

/// Empties the permitted, effective and inheritable capability sets.
pub(crate) fn drop_capability_sets() -> io::Result<()> {
    // linux/capability.h: version 3, this process; two words of three empty sets.
    let header: [u32; 2] = [0x2008_0522, 0];
    let data = [0u32; 6];
    // SAFETY: header and data have the sizes that version 3 reads.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    Ok(())
}

/// The Landlock ABI of this kernel.
pub(crate) fn landlock_abi() -> io::Result<i64> {
    const LANDLOCK_CREATE_RULESET_VERSION: c_long = 1;
    number_call(libc::SYS_landlock_create_ruleset, [0, 0, LANDLOCK_CREATE_RULESET_VERSION, 0, 0])
}

/// A Landlock ruleset that handles these file-system rights, TCP rights and scopes.
pub(crate) fn landlock_ruleset(fs: u64, net: u64, scoped: u64, size: usize) -> io::Result<OwnedFd> {
    let attr = [fs, net, scoped];
    debug_assert!(size <= 24);
    // SAFETY: attr is the kernel's struct landlock_ruleset_attr, of which the first size bytes count.
    check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attr.as_ptr(), size, 0) })
        .map(owned)
}

/// Allows these rights below a place.
pub(crate) fn landlock_allow(
    ruleset: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    rights: u64,
) -> io::Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    const LANDLOCK_RULE_PATH_BENEATH: c_int = 1;
    let rule = PathBeneath { allowed_access: rights, parent_fd: place.as_raw_fd() };
    // SAFETY: rule has the kernel's packed layout.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    })?;
    Ok(())
}

/// Puts this process under the ruleset.
pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    number_call(libc::SYS_landlock_restrict_self, [ruleset.as_raw_fd().into(), 0, 0, 0, 0])?;
    Ok(())
}

/// Puts this process under a seccomp filter.
pub(crate) fn install_filter(program: &[Instruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    const SECCOMP_SET_MODE_FILTER: c_int = 1;
    let prog = Program { len: program.len() as u16, filter: program.as_ptr() };
    // SAFETY: prog is the kernel's struct sock_fprog over an array that lives through the call.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const prog)
    })?;
    Ok(())
}

/// Replaces this process by the program; returns only its failure.
pub(crate) fn execute(path: &str, argv: &[String], env: &[String]) -> io::Error {
    let strings =
        |list: &[String]| list.iter().map(|s| text(s)).collect::<io::Result<Vec<CString>>>();
    let (Ok(path), Ok(argv), Ok(env)) = (text(path), strings(argv), strings(env)) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(ptr::null())).collect()
    };
    let (argv, env) = (pointers(&argv).leak(), pointers(&env).leak());
    // SAFETY: both lists end in null and point to C strings that live until the exec.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, without the clean-up of the process it was forked from.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit does not return.
    unsafe { libc::_exit(code) }
}

/// Nanoseconds of the boot-time clock, which also runs while the machine sleeps.
pub(crate) fn boot_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: t is writable; this clock exists on every kernel that has the rest.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
