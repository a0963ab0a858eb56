//! The job's system call allow-list as data, a reason per line, and its assembly into the classic
//! BPF that the kernel takes. Called by the launcher's `lockdown`; pure.
//!
//! A call that is not listed answers EPERM. Calls through another architecture's table (`int 0x80`,
//! x32) kill the process. `clone3` answers ENOSYS, so that libraries fall back to `clone`, whose
//! flags a filter can read. Arguments are compared by their low 32 bits, which is what the kernel
//! itself uses of them (a comparison of all 64 was bypassed in CVE-2019-10063).

use Need::{Kept, Shown};

/// What speaks for a line. The test `filter_lines_are_needed` of `leasehold-node` removes
/// each line once and fails where a line is tagged otherwise than found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it one of the test's programs fails.
    Shown,
    /// The test's programs end the same without it; the reason says who needs it.
    Kept,
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always allowed.
    Any,
    /// The argument of this index is one of these values.
    OneOf(u32, &'static [u32]),
    /// The argument of this index has none of these bits.
    NoBits(u32, u32),
}

/// One line of the allow-list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The call's name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: i64,
    /// When it is allowed.
    pub condition: Condition,
    /// Whether the tests show the need.
    pub need: Need,
    /// Why a job may make it.
    pub reason: &'static str,
}

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

const PR_SET_VMA: u32 = 0x5356_4d41;

macro_rules! lines {
    ($($call:ident $need:ident $(($condition:expr))? $reason:literal)*) => {
        &[$(Line {
            name: stringify!($call),
            number: paste_number!($call),
            condition: lines!(@condition $($condition)?),
            need: $need,
            reason: $reason,
        },)*]
    };
    (@condition) => { Condition::Any };
    (@condition $condition:expr) => { $condition };
}

macro_rules! paste_number {
    ($call:ident) => {
        calls::$call
    };
}

/// System call numbers by plain name.
#[allow(non_upper_case_globals)] // they bear the calls' own names
mod calls {
    macro_rules! numbers {
        ($($name:ident = $number:ident)*) => { $(pub(super) const $name: i64 = libc::$number;)* };
    }
    numbers! {
        read = SYS_read write = SYS_write readv = SYS_readv writev = SYS_writev
        pread64 = SYS_pread64 pwrite64 = SYS_pwrite64 lseek = SYS_lseek close = SYS_close
        close_range = SYS_close_range openat = SYS_openat
        newfstatat = SYS_newfstatat fstat = SYS_fstat statx = SYS_statx statfs = SYS_statfs
        fstatfs = SYS_fstatfs faccessat = SYS_faccessat faccessat2 = SYS_faccessat2
        getdents64 = SYS_getdents64 readlinkat = SYS_readlinkat getcwd = SYS_getcwd
        chdir = SYS_chdir fchdir = SYS_fchdir umask = SYS_umask mkdirat = SYS_mkdirat
        unlinkat = SYS_unlinkat renameat = SYS_renameat renameat2 = SYS_renameat2
        linkat = SYS_linkat symlinkat = SYS_symlinkat fchmod = SYS_fchmod
        fchmodat = SYS_fchmodat utimensat = SYS_utimensat truncate = SYS_truncate
        ftruncate = SYS_ftruncate fallocate = SYS_fallocate fsync = SYS_fsync
        fdatasync = SYS_fdatasync fadvise64 = SYS_fadvise64 flock = SYS_flock fcntl = SYS_fcntl
        dup = SYS_dup dup3 = SYS_dup3 pipe2 = SYS_pipe2 ioctl = SYS_ioctl
        copy_file_range = SYS_copy_file_range sendfile = SYS_sendfile
        mmap = SYS_mmap munmap = SYS_munmap mprotect = SYS_mprotect mremap = SYS_mremap
        madvise = SYS_madvise msync = SYS_msync mlock = SYS_mlock munlock = SYS_munlock
        brk = SYS_brk mincore = SYS_mincore
        futex = SYS_futex set_robust_list = SYS_set_robust_list rseq = SYS_rseq
        set_tid_address = SYS_set_tid_address membarrier = SYS_membarrier
        clone = SYS_clone execve = SYS_execve exit = SYS_exit exit_group = SYS_exit_group
        wait4 = SYS_wait4 waitid = SYS_waitid getpid = SYS_getpid getppid = SYS_getppid
        gettid = SYS_gettid getuid = SYS_getuid geteuid = SYS_geteuid getgid = SYS_getgid
        getegid = SYS_getegid getgroups = SYS_getgroups getresuid = SYS_getresuid
        getresgid = SYS_getresgid getpgid = SYS_getpgid setpgid = SYS_setpgid
        setsid = SYS_setsid getsid = SYS_getsid prctl = SYS_prctl prlimit64 = SYS_prlimit64
        getrusage = SYS_getrusage times = SYS_times sysinfo = SYS_sysinfo uname = SYS_uname
        getpriority = SYS_getpriority getcpu = SYS_getcpu
        sched_getaffinity = SYS_sched_getaffinity sched_yield = SYS_sched_yield
        sched_getscheduler = SYS_sched_getscheduler sched_getparam = SYS_sched_getparam
        getrandom = SYS_getrandom personality = SYS_personality capget = SYS_capget
        rt_sigaction = SYS_rt_sigaction rt_sigprocmask = SYS_rt_sigprocmask
        rt_sigreturn = SYS_rt_sigreturn rt_sigtimedwait = SYS_rt_sigtimedwait
        rt_sigsuspend = SYS_rt_sigsuspend rt_sigpending = SYS_rt_sigpending
        sigaltstack = SYS_sigaltstack kill = SYS_kill tgkill = SYS_tgkill
        restart_syscall = SYS_restart_syscall
        clock_gettime = SYS_clock_gettime clock_getres = SYS_clock_getres
        clock_nanosleep = SYS_clock_nanosleep nanosleep = SYS_nanosleep
        gettimeofday = SYS_gettimeofday setitimer = SYS_setitimer getitimer = SYS_getitimer
        timerfd_create = SYS_timerfd_create timerfd_settime = SYS_timerfd_settime
        ppoll = SYS_ppoll pselect6 = SYS_pselect6 epoll_create1 = SYS_epoll_create1
        epoll_ctl = SYS_epoll_ctl epoll_pwait = SYS_epoll_pwait eventfd2 = SYS_eventfd2
        socketpair = SYS_socketpair sendto = SYS_sendto recvfrom = SYS_recvfrom
        sendmsg = SYS_sendmsg recvmsg = SYS_recvmsg shutdown = SYS_shutdown
        getsockopt = SYS_getsockopt setsockopt = SYS_setsockopt
        getsockname = SYS_getsockname getpeername = SYS_getpeername
        pidfd_open = SYS_pidfd_open pidfd_send_signal = SYS_pidfd_send_signal
    }
    #[cfg(target_arch = "x86_64")]
    numbers! {
        open = SYS_open stat = SYS_stat lstat = SYS_lstat access = SYS_access
        readlink = SYS_readlink getdents = SYS_getdents mkdir = SYS_mkdir rmdir = SYS_rmdir
        unlink = SYS_unlink rename = SYS_rename link = SYS_link symlink = SYS_symlink
        chmod = SYS_chmod dup2 = SYS_dup2 pipe = SYS_pipe vfork = SYS_vfork fork = SYS_fork
        arch_prctl = SYS_arch_prctl poll = SYS_poll select = SYS_select pause = SYS_pause
        alarm = SYS_alarm epoll_wait = SYS_epoll_wait epoll_create = SYS_epoll_create
        getpgrp = SYS_getpgrp time = SYS_time
    }
}

/// The lines that every architecture has.
const COMMON: &[Line] = lines! {
    read Shown "files, pipes, the session"
    write Shown "files, pipes, the session"
    readv Kept "vectored reads of C and Rust libraries"
    writev Kept "vectored writes of C and Rust libraries"
    pread64 Shown "the dynamic loader reads program headers with it"
    pwrite64 Kept "safetensors, numpy and HDF5 write at offsets"
    lseek Kept "buffered files"
    close Shown "descriptors"
    close_range Kept "subprocess closes what the child shall not have"
    openat Shown "files"
    newfstatat Shown "stat of current C libraries"
    fstat Kept "stat of older C libraries and of static programs"
    statx Kept "stat of Rust's standard library"
    statfs Kept "free space before a large write"
    fstatfs Kept "free space before a large write"
    faccessat Kept "access() where the plain call is missing"
    faccessat2 Kept "access() with flags"
    getdents64 Shown "listing of folders"
    readlinkat Kept "symlinks, where the plain call is missing"
    getcwd Shown "relative paths"
    chdir Kept "working folder of a child process"
    fchdir Kept "walks over folder trees"
    umask Kept "modes of new files in archives"
    mkdirat Kept "new folders, where the plain call is missing"
    unlinkat Shown "removal, where the plain call is missing"
    renameat Kept "whole replacement of files, where the plain call is missing"
    renameat2 Kept "whole replacement of files without overwriting"
    linkat Kept "links, where the plain call is missing"
    symlinkat Kept "links, where the plain call is missing"
    fchmod Shown "modes of own files"
    fchmodat Kept "modes of own files, where the plain call is missing"
    utimensat Kept "times of own files in archives"
    truncate Kept "length of own files"
    ftruncate Kept "shared memory gets its length with it"
    fallocate Kept "space reserved before a large write"
    fsync Kept "durable writes; the files are memory, so it costs nothing"
    fdatasync Kept "durable writes; the files are memory, so it costs nothing"
    fadvise64 Kept "read-ahead of weights"
    flock Kept "lock files of caches"
    fcntl Shown "descriptor flags, file locks"
    dup Kept "descriptors"
    dup3 Kept "descriptors, where the plain call is missing"
    pipe2 Shown "pipes to child processes"
    ioctl Shown (Condition::OneOf(1, &[0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451]))
        "is it a terminal, how wide, how many bytes wait, non-blocking, close-on-exec"
    copy_file_range Kept "file copies of the Rust and Python libraries"
    sendfile Kept "file copies of the Rust and Python libraries"
    mmap Shown "memory"
    munmap Kept "memory"
    mprotect Shown "guard pages, relocation"
    mremap Kept "growing of large allocations"
    madvise Kept "return of memory"
    msync Kept "mapped files of numpy"
    mlock Kept "buffers that must stay; bounded by an rlimit"
    munlock Kept "the undoing of mlock"
    brk Kept "memory"
    mincore Kept "garbage collectors ask which pages are there"
    futex Shown "threads"
    set_robust_list Kept "each thread's start registers its locks; the C library goes on without"
    rseq Kept "each thread's start registers it; the C library goes on without"
    set_tid_address Kept "each process's start; its answer is only the thread's id"
    membarrier Kept "lock-free collections of Rust and C++"
    clone Shown (Condition::NoBits(0, NEW_NAMESPACES)) "threads and child processes, no namespaces"
    execve Shown "the job itself and its child processes"
    exit Shown "the end of a thread"
    exit_group Kept "the end of a process"
    wait4 Shown "the end of a child process"
    waitid Kept "the end of a child process, by descriptor"
    getpid Shown "own id"
    getppid Kept "own parent's id"
    gettid Shown "own id"
    getuid Shown "own id; Python's site and cache folders ask"
    geteuid Kept "own id; shells and Python ask"
    getgid Kept "own id; shells and Python ask"
    getegid Kept "own id; shells and Python ask"
    getgroups Kept "shells ask at their start"
    getresuid Kept "own ids, all three"
    getresgid Kept "own ids, all three"
    getpgid Kept "job control of shells"
    setpgid Kept "job control of shells"
    setsid Kept "child processes in a session of their own"
    getsid Kept "job control of shells"
    prctl Kept (Condition::OneOf(0, &[
        libc::PR_SET_NAME as u32,
        libc::PR_GET_NAME as u32,
        libc::PR_SET_PDEATHSIG as u32,
        libc::PR_GET_DUMPABLE as u32,
        libc::PR_GET_NO_NEW_PRIVS as u32,
        libc::PR_CAPBSET_READ as u32,
        libc::PR_GET_SECUREBITS as u32,
        PR_SET_VMA,
    ])) "thread names, names of memory areas, death with the parent; questions about own rights"
    prlimit64 Kept "reading limits; lowering them hurts only the job"
    getrusage Kept "own usage"
    times Kept "own usage"
    sysinfo Kept "size of memory, for caches and sorting"
    uname Kept "name of the system; platform modules ask"
    getpriority Kept "own priority; changing it is not allowed"
    getcpu Kept "which processor, where the vDSO has no answer"
    sched_getaffinity Kept "how many threads to start"
    sched_yield Kept "spin locks of BLAS and OpenMP"
    sched_getscheduler Kept "OpenMP asks before it starts threads"
    sched_getparam Kept "OpenMP asks before it starts threads"
    getrandom Kept "seeds of hash tables; fallbacks exist for all but large requests"
    personality Kept (Condition::OneOf(0, &[u32::MAX])) "the question alone"
    capget Kept "the question what one may do"
    rt_sigaction Shown "handlers"
    rt_sigprocmask Shown "masks"
    rt_sigreturn Kept "return from a handler"
    rt_sigtimedwait Shown "waiting for a signal, as the jail's own init does"
    rt_sigsuspend Kept "waiting for a signal"
    rt_sigpending Kept "waiting for a signal"
    sigaltstack Kept "stacks of handlers; every Rust thread has one"
    kill Shown "own processes; the PID namespace holds no others"
    tgkill Shown "abort() and thread libraries"
    restart_syscall Kept "the kernel itself resumes sleeps with it after a stop"
    clock_gettime Kept "time, where the vDSO has no answer"
    clock_getres Kept "resolution of clocks"
    clock_nanosleep Shown "sleep"
    nanosleep Kept "sleep of older C libraries"
    gettimeofday Kept "time, where the vDSO has no answer"
    setitimer Kept "time-outs"
    getitimer Kept "time-outs"
    timerfd_create Kept "time-outs of event loops"
    timerfd_settime Kept "time-outs of event loops"
    ppoll Kept "event loops"
    pselect6 Kept "event loops"
    epoll_create1 Kept "event loops"
    epoll_ctl Shown "event loops"
    epoll_pwait Kept "event loops"
    eventfd2 Kept "event loops of Rust"
    socketpair Shown (Condition::OneOf(0, &[libc::AF_UNIX as u32]))
        "event loops wake themselves by one; there is no socket() beside it"
    sendto Shown "the session, own socket pairs"
    recvfrom Kept "the session, own socket pairs"
    sendmsg Shown "the session passes descriptors; the jail's own init reports the end"
    recvmsg Kept "the session passes descriptors"
    shutdown Kept "the end of one direction of a socket pair"
    getsockopt Kept "the kind of an inherited socket"
    setsockopt Kept "time-outs of the session"
    getsockname Kept "the kind of an inherited socket"
    getpeername Kept "the kind of an inherited socket"
    pidfd_open Kept "waiting for a child in an event loop"
    pidfd_send_signal Kept "a signal to a child without a race on its id"
};

/// The older calls that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const ARCH: &[Line] = lines! {
    open Kept "files, in programs of other C libraries"
    stat Kept "stat, in programs of other C libraries"
    lstat Kept "stat, in programs of other C libraries"
    access Kept "the loader asks for its preload file; absence is as good"
    readlink Kept "symlinks"
    getdents Kept "listing of folders, in programs of other C libraries"
    mkdir Shown "new folders"
    rmdir Kept "removal"
    unlink Shown "removal"
    rename Shown "whole replacement of files"
    link Shown "links; named semaphores are made by one"
    symlink Kept "links"
    chmod Kept "modes of own files"
    dup2 Shown "descriptors of child processes"
    pipe Kept "pipes, in programs of other C libraries"
    vfork Kept "child processes of subprocess"
    fork Kept "child processes, in programs of other C libraries"
    arch_prctl Shown "thread-local storage"
    poll Shown "event loops; every Rust program's start"
    select Kept "event loops, in programs of other C libraries"
    pause Kept "waiting for a signal"
    alarm Kept "time-outs"
    epoll_wait Shown "event loops"
    epoll_create Kept "event loops, in programs of other C libraries"
    getpgrp Kept "job control of shells"
    time Kept "time, where the vDSO has no answer"
};
#[cfg(not(target_arch = "x86_64"))]
const ARCH: &[Line] = &[];

/// Every line of the allow-list.
pub fn lines() -> impl Iterator<Item = &'static Line> {
    COMMON.iter().chain(ARCH)
}

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JSET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RET: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

const X32_BIT: u32 = 0x4000_0000;
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Assembles the filter, less the line of the call `without`.
///
/// The numbers are found by halving: when a filter is loaded the kernel runs it for every call that
/// there is, to learn which are always allowed, and a chain of comparisons made that half of the cost.
pub fn assemble(without: Option<i64>) -> Vec<Instruction> {
    let kept: Vec<&Line> = lines().filter(|line| Some(line.number) != without).collect();
    let (plain, checked): (Vec<&Line>, Vec<&Line>) =
        kept.into_iter().partition(|line| line.condition == Condition::Any);

    let mut program = vec![
        op(LOAD, ARCH_AT, 0, 0),
        op(JEQ, AUDIT_ARCH, 1, 0),
        op(RET, KILL, 0, 0),
        op(LOAD, NUMBER_AT, 0, 0),
        op(JGE, X32_BIT, 0, 1),
        op(RET, KILL, 0, 0),
    ];
    for line in &checked {
        let block = condition(line.condition);
        program.push(op(JEQ, line.number as u32, 0, block.len() as u8));
        program.extend(block);
    }
    program.push(op(JEQ, libc::SYS_clone3 as u32, 0, 1));
    program.push(op(RET, ERRNO | libc::ENOSYS as u32, 0, 0));
    program.extend(find(&spans(plain.iter().map(|line| line.number as u32).collect())));
    program
}

/// Where in the order of all numbers allowed ones begin and end: each first number, and whether its span is allowed.
fn spans(mut allowed: Vec<u32>) -> Vec<(u32, bool)> {
    allowed.sort_unstable();
    let mut spans = vec![(0, false)];
    for number in allowed {
        match spans.last_mut() {
            // The span before ends where this number begins.
            Some(last) if last.0 == number => last.1 = true,
            _ => spans.push((number, true)),
        }
        spans.push((number + 1, false));
    }
    spans.dedup_by_key(|span| span.1);
    spans
}

/// Instructions that find the number's span and return what it says. A jump reaches 255 instructions, and so both halves
/// of 128 spans.
fn find(spans: &[(u32, bool)]) -> Vec<Instruction> {
    if let [(_, allowed)] = spans {
        let answer = if *allowed { ALLOW } else { ERRNO | libc::EPERM as u32 };
        return vec![op(RET, answer, 0, 0)];
    }
    let (low, high) = spans.split_at(spans.len() / 2);
    let (below, above) = (find(low), find(high));
    let mut all = vec![op(JGE, high[0].0, below.len() as u8, 0)];
    all.extend(below);
    all.extend(above);
    all
}

/// Instructions that decide a call by one argument and return.
fn condition(condition: Condition) -> Vec<Instruction> {
    // Low half of an argument on a little-endian machine.
    let load = |index: u32| op(LOAD, 16 + 8 * index, 0, 0);
    let refuse = op(RET, ERRNO | libc::EPERM as u32, 0, 0);
    let allow = op(RET, ALLOW, 0, 0);
    match condition {
        Condition::Any => vec![allow],
        Condition::NoBits(index, bits) => {
            vec![load(index), op(JSET, bits, 0, 1), refuse, allow]
        }
        Condition::OneOf(index, values) => {
            let mut block = vec![load(index)];
            for (i, value) in values.iter().enumerate() {
                block.push(op(JEQ, *value, (values.len() - i) as u8, 0));
            }
            block.extend([refuse, allow]);
            block
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut a = 0u32;
        let mut pc = 0;
        loop {
            let i = program[pc];
            pc += 1;
            match i.code {
                LOAD => {
                    a = match i.k {
                        0 => number,
                        4 => arch,
                        k => (args[(k as usize - 16) / 8] >> (8 * ((k - 16) % 8))) as u32,
                    }
                }
                RET => return i.k,
                _ => {
                    let yes = match i.code {
                        JEQ => a == i.k,
                        JGE => a >= i.k,
                        JSET => a & i.k != 0,
                        other => panic!("code {other:#x}"),
                    };
                    pc += usize::from(if yes { i.jt } else { i.jf });
                }
            }
        }
    }

    fn call(number: i64, args: [u64; 6]) -> u32 {
        run(&assemble(None), AUDIT_ARCH, number as u32, args)
    }

    #[test]
    fn every_number_is_decided_by_its_line() {
        let program = assemble(None);
        for number in 0..1024i64 {
            let args = [u64::from(u32::MAX); 6];
            let got = run(&program, AUDIT_ARCH, number as u32, args);
            let expected = match lines().find(|l| l.number == number).map(|l| l.condition) {
                Some(Condition::Any) => ALLOW,
                Some(Condition::OneOf(_, v)) if v.contains(&u32::MAX) => ALLOW,
                _ if number == libc::SYS_clone3 => ERRNO | 38,
                _ => ERRNO | 1,
            };
            assert_eq!(got, expected, "call {number}");
        }
    }

    #[test]
    fn arguments_are_judged_by_their_low_half() {
        let high = 0xdead_beef_0000_0000u64;
        assert_eq!(call(libc::SYS_ioctl, [0, high | 0x5401, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_ioctl, [0, high | 0x5412, 0, 0, 0, 0]), ERRNO | 1);
        assert_eq!(call(libc::SYS_clone, [0x11, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_clone, [high | 0x1000_0011, 0, 0, 0, 0, 0]), ERRNO | 1);
        assert_eq!(call(libc::SYS_socketpair, [1, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_socketpair, [16, 0, 0, 0, 0, 0]), ERRNO | 1);
    }

    #[test]
    fn foreign_tables_kill_and_each_line_stands_alone() {
        let program = assemble(None);
        assert_eq!(run(&program, 0x4000_0003, libc::SYS_read as u32, [0; 6]), KILL);
        assert_eq!(run(&program, AUDIT_ARCH, X32_BIT | 1, [0; 6]), KILL);
        for line in lines() {
            let less = assemble(Some(line.number));
            assert_eq!(
                run(&less, AUDIT_ARCH, line.number as u32, [0; 6]),
                ERRNO | 1,
                "{}",
                line.name
            );
        }
        let numbers: std::collections::HashSet<i64> = lines().map(|l| l.number).collect();
        assert_eq!(numbers.len(), lines().count(), "a call is listed twice");
    }
}
