//! The executor's own bounds, put on once its device is open and before the first word of a tenant: a record that broke
//! it would be left with what is listed here. The program's `main` calls it.

use leasehold::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};
use std::collections::BTreeMap;
use std::io;

/// How much of the system a device still needs when it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its threads and memory: nothing is opened, started or connected to any more.
    Processor,
    /// A driver, which opens files and starts threads as it likes: calls that none needs are refused.
    Driver,
}

/// What an executor on the processor may call. Descriptors come over sockets that it has.
const CALLS: &[(i64, &str)] = &[
    (libc::SYS_sendmsg, "words to control"),
    (libc::SYS_recvmsg, "words and descriptors from control"),
    (libc::SYS_sendto, "waking a tenant"),
    (libc::SYS_recvfrom, "a tenant's wake-ups"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "sleeping"),
    (libc::SYS_ppoll, "sleeping"),
    (libc::SYS_accept4, "the next control at the entrance"),
    (libc::SYS_ioctl, "that socket without blocking"),
    (libc::SYS_close, "sessions that end"),
    (libc::SYS_fstat, "the length of a session's memory"),
    (libc::SYS_fcntl, "its seals"),
    (libc::SYS_memfd_create, "the pulse's page"),
    (libc::SYS_ftruncate, "the pulse's page"),
    (libc::SYS_munmap, "memory"),
    (libc::SYS_mremap, "memory"),
    (libc::SYS_madvise, "memory"),
    (libc::SYS_brk, "memory"),
    (libc::SYS_futex, "threads that sleep and wake"),
    (libc::SYS_rseq, "threads of the pool that are still starting"),
    (libc::SYS_set_robust_list, "threads of the pool that are still starting"),
    (libc::SYS_sched_yield, "threads that spin"),
    (libc::SYS_sched_getaffinity, "how many threads there may be"),
    (libc::SYS_clock_gettime, "clocks that the vDSO does not have"),
    (libc::SYS_clock_nanosleep, "pauses"),
    (libc::SYS_nanosleep, "pauses"),
    (libc::SYS_getrandom, "seeds of hash tables"),
    (libc::SYS_getpid, "its number, for a later control"),
    (libc::SYS_gettid, "a thread's end"),
    (libc::SYS_write, "last words on standard error"),
    (libc::SYS_writev, "last words on standard error"),
    (libc::SYS_rt_sigaction, "signals"),
    (libc::SYS_rt_sigprocmask, "a thread's end"),
    (libc::SYS_rt_sigreturn, "signals"),
    (libc::SYS_sigaltstack, "a thread's end"),
    (libc::SYS_restart_syscall, "sleeping on after a signal"),
    (libc::SYS_exit, "a thread's end"),
    (libc::SYS_exit_group, "the end"),
];

/// Calls that no driver needs once its device is open, and that whoever broke an executor would like.
const REFUSED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_open_by_handle_at,
];

/// Refuses, with EPERM and for every thread for good, what an executor does not need from now on. No program that it
/// could start would gain rights.
///
/// # Errors
/// `System` when the kernel has no such filters: an executor does not serve without.
pub fn confine(reach: Reach) -> Result<()> {
    let filter = program(reach).map_err(|e| Error::system("seccomp", io::Error::other(e)))?;
    apply_filter_all_threads(&filter).map_err(|e| Error::system("seccomp", io::Error::other(e)))
}

fn program(reach: Reach) -> std::result::Result<BpfProgram, seccompiler::BackendError> {
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let (rules, otherwise, listed) = match reach {
        Reach::Processor => {
            let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
                CALLS.iter().map(|(call, _)| (*call, Vec::new())).collect();
            // Memory is never made executable.
            for call in [libc::SYS_mmap, libc::SYS_mprotect] {
                rules.insert(call, vec![having(2, libc::PROT_EXEC as u64, 0)?]);
            }
            // Threads of the pool that are still starting say their names.
            let name = libc::PR_SET_NAME as u64;
            rules.insert(libc::SYS_prctl, vec![having(0, u32::MAX.into(), name)?]);
            (rules, refuse, SeccompAction::Allow)
        }
        Reach::Driver => {
            let rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
            (rules, SeccompAction::Allow, refuse)
        }
    };
    SeccompFilter::new(rules, otherwise, listed, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// A rule that these bits of the argument of this index are so.
fn having(
    index: u8,
    bits: u64,
    value: u64,
) -> std::result::Result<SeccompRule, seccompiler::BackendError> {
    let equal = SeccompCmpOp::MaskedEq(bits);
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, equal, value)?;
    SeccompRule::new(vec![condition])
}
