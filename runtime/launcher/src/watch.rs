//! The launcher's last task: it waits for the jail's end, ends it when the wall time is over, when
//! it is told to, or when the node is gone, and says what the jail used.

use crate::sys::{self, Child};
use leasehold_launcher::{
    Report,
    report::{Order, decode, encode},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

pub(crate) fn watch(control: BorrowedFd<'_>, child: Child, started: u64, wall: Option<Duration>) {
    // From here on nobody may look into or trace this process, which shares the job's host id.
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0);
    let Child { pid, pidfd: Some(pidfd) } = child else {
        let _ = sys::kill(child.pid, libc::SIGKILL);
        return;
    };
    let deadline =
        wall.map(|w| started.saturating_add(u64::try_from(w.as_nanos()).unwrap_or(u64::MAX)));
    let end = || {
        let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
    };
    let (mut expired, mut node_gone) = (false, false);
    loop {
        let left = deadline.filter(|_| !expired).map(|d| d.saturating_sub(sys::boot_ns()));
        if left == Some(0) {
            expired = true;
            end();
            continue;
        }
        let timeout =
            left.map_or(-1, |ns| i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let watched = if node_gone { pidfd.as_fd() } else { control };
        match sys::poll2([watched, pidfd.as_fd()], timeout) {
            Ok([_, true]) => break,
            Ok([true, _]) => match read_order(control) {
                Some(Order::Signal(signal)) => {
                    let _ = sys::pidfd_signal(pidfd.as_fd(), signal);
                }
                Some(Order::Kill) => end(),
                None => {
                    node_gone = true;
                    end();
                }
            },
            _ => {}
        }
    }
    let usage = match sys::wait(pid, true) {
        Ok(Some((_, _, usage))) => usage,
        _ => Default::default(),
    };
    let ended = Report::Ended { expired, wall_ns: sys::boot_ns() - started, usage };
    let _ = sys::send(control, &encode(&ended), None);
}

/// The node's next order; `None` when the node has closed its end.
fn read_order(control: BorrowedFd<'_>) -> Option<Order> {
    let mut buffer = [0; 64];
    let (n, _) = sys::receive(control, &mut buffer).ok()?;
    decode(&buffer[..n])
}
