//! Attempts through the descriptors that a job does hold: its session's socket and its standard streams. Numbered as in
//! docs/SECURITY.md.

#![allow(clippy::unwrap_used)] // helpers of tests

mod jail_support;

use jail_support::*;
use leasehold::remote::Remote;
use leasehold_node::job::Node;
use leasehold_node::sandbox::{Exit, Jail, JobIo, PolicyDraft, Profile, Promise, Reason};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::Command,
    time::Duration,
};

/// Acts on descriptor 3: prints how many messages came and how many descriptors with them.
const SESSION_C: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
enum { MANY = 250 };
static char control[CMSG_SPACE(MANY * sizeof(int))];
static int hear(int flags) { // the descriptors of one message, or an errno below zero
    char bytes[65536];
    struct iovec iov = {bytes, sizeof bytes};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(3, &m, flags) <= 0) return -(errno ? errno : EPIPE);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    return c ? (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
}
static int say(const char *text, int fds) {
    struct iovec iov = {(char *)text, strlen(text)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    memset(control, 0, sizeof control); // descriptor 0, again and again
    if (fds) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(fds * sizeof(int));
    }
    return sendmsg(3, &m, 0) < 0 ? -errno : 0;
}
int main(void) {
    printf("unasked %d\n", hear(MSG_DONTWAIT));
    printf("ask %d", say("\1", 0));
    printf(" %d\n", hear(0));
    say("\1", 0); // mapped
    int sent = 0, got = 0;
    for (int i = 0; i < 400; i++) {
        sent -= say("\377\377\377\377\377\377\377", MANY) == 0 ? -1 : 0;
        got += hear(0) == 0;
    }
    printf("flood %d %d\n", sent, got);
    return 0;
}
"#;

/// Types into the terminal that is the descriptor of its argument: prints an errno for each request.
const STUFF_C: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
static void ask(const char *name, long fd, unsigned long request, void *arg) {
    printf("%s %d\n", name, syscall(SYS_ioctl, fd, request, arg) < 0 ? errno : 0);
}
int main(int argc, char **argv) {
    int fd = atoi(argv[1]), n;
    ask("count", fd, FIONREAD, &n);
    setsid();
    ask("control", fd, TIOCSCTTY, 0);
    ask("stuff", fd, TIOCSTI, "x");
    ask("stuff high", fd, 0xdead00000000ul | TIOCSTI, "x");
    ask("paste", fd, 0x541c, "\3");
    return 0;
}
"#;

const SHELL: &str = "/usr/bin/dash";

fn shell(mode: Mode, script: &str) -> PolicyDraft {
    draft(mode, Profile::Compute, Path::new(SHELL), &["-c", script])
}

/// 51: the session's socket brings no descriptor but those that were asked for. 52: a flood of descriptors fills
/// nobody's table: each is closed at once, every message is answered, and the next who asks is served.
#[test]
fn a_session_passes_what_was_asked_and_keeps_nothing() {
    in_both_modes("a_session_passes_what_was_asked_and_keeps_nothing", |mode| {
        let program = c_program("session", SESSION_C, &["-static", "-w"]);
        let (node, grant) = Node::private(node_program(), Some("cpu")).unwrap();
        let admitted = node.admit(&grant, None).unwrap();
        let table = format!("/proc/{}/fd", node.private_pid().unwrap());
        let held = || fs::read_dir(&table).unwrap().count();
        let before = held();
        let (promise, session) = Promise::new().unwrap();
        promise.keep(&admitted.door).unwrap();
        let io = JobIo { session: Some(session), ..JobIo::default() };
        let policy = draft(mode, Profile::Compute, &program, &[]).check().unwrap();
        let ran = run_with(&launcher(), &policy, io, BTreeMap::new(), |_, _| {});
        assert_eq!(ran.stdout, "unasked -11\nask 0 4\nflood 400 400\n", "{:?}", ran.record);
        // 100 000 descriptors were sent; control holds none of them.
        let after = held();
        assert!(after < before + 8, "control held {before} descriptors, now {after}");
        Remote::on(admitted.door.as_fd()).unwrap();
    });
}

/// A terminal: what its owner reads and types, and what a program on it holds.
fn terminal() -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let owner = openpt(flags).unwrap();
    grantpt(&owner).unwrap();
    unlockpt(&owner).unwrap();
    let program = ioctl_tiocgptpeer(&owner, flags).unwrap();
    (owner.into(), program)
}

/// Reads until all programs have left the terminal, which is an error to its owner.
fn shown(mut owner: File) -> String {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = owner.read(&mut bytes) {
        all.extend_from_slice(&bytes[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// 34, 35: a job that was handed a terminal cannot type into it. A real caller hands it none.
#[test]
fn a_terminal_cannot_be_typed_into() {
    in_both_modes("a_terminal_cannot_be_typed_into", |mode| {
        let stuff = c_program("stuff", STUFF_C, &["-static", "-w"]);
        // Outside a jail it can, where the kernel is set to allow that to anybody.
        let legacy = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").unwrap_or("1".into());
        let (owner, program) = terminal();
        let out = Command::new(&stuff).arg("0").stdin(program).output().unwrap();
        if legacy.trim() == "1" {
            // A pseudo-terminal knows no pasting.
            let expected = "count 0\ncontrol 0\nstuff 0\nstuff high 0\npaste 25\n";
            assert_eq!(String::from_utf8_lossy(&out.stdout), expected);
            assert_eq!(shown(owner), "xx", "the terminal's echo of what was typed");
        }

        let (owner, program) = terminal();
        let io = JobIo { session: Some(promised(program)), ..JobIo::default() };
        let policy = draft(mode, Profile::Compute, &stuff, &["3"]).check().unwrap();
        let ran = run_with(&launcher(), &policy, io, BTreeMap::new(), |_, _| {});
        assert_eq!(ran.stdout, "count 0\ncontrol 1\nstuff 1\nstuff high 1\npaste 1\n");
        assert_eq!(shown(owner), "");
    });
}

/// 54: escape sequences reach files and pipes as they are, and a terminal spelled out; the job holds no terminal.
#[test]
fn a_terminal_shows_escape_sequences_and_obeys_none() {
    const TITLE: &str = "\u{1b}]0;owned\u{7}";
    in_both_modes("a_terminal_shows_escape_sequences_and_obeys_none", |mode| {
        let write = "printf 'plain\\n\\033]0;owned\\007\\n'";
        assert_eq!(run(shell(mode, write)).stdout, format!("plain\n{TITLE}\n"), "to a pipe");
        // Outside a jail the terminal gets them.
        let (owner, program) = terminal();
        File::from(program).write_all(TITLE.as_bytes()).unwrap();
        assert_eq!(shown(owner), TITLE);

        let (mut owner, program) = terminal();
        owner.write_all(b"typed\n").unwrap();
        let copy = || Some(program.try_clone().unwrap());
        let io = JobIo { stdin: copy(), stdout: copy(), stderr: copy(), session: None };
        drop(program);
        let held = "for fd in 0 1 2; do if [ -t $fd ]; then echo terminal $fd; fi; done";
        let script = format!("read x; echo got $x; {write}; printf '\\033c' >&2; {held}");
        let policy = shell(mode, &script).check().unwrap();
        let reader = std::thread::spawn(|| shown(owner));
        let record = Jail::start(&launcher(), &policy, io, BTreeMap::new()).unwrap().wait();
        assert_eq!(record.exit, Exit::Code(0), "{record:?}");
        // The terminal itself echoes what is typed and ends lines by two characters.
        let expected = "typed\r\ngot typed\r\nplain\r\n\\x1b]0;owned\\x07\r\n\\x1bc";
        assert_eq!(reader.join().unwrap(), expected);
    });
}

/// 54: a terminal that takes nothing holds up neither the job's end nor its record.
#[test]
fn a_blocked_terminal_holds_nobody() {
    in_both_modes("a_blocked_terminal_holds_nobody", |mode| {
        let (owner, program) = terminal();
        let mut d = shell(mode, "exec cat /dev/zero");
        d.limits.wall = Some(Duration::from_millis(300));
        let io = JobIo { stdout: Some(program), ..JobIo::default() };
        let policy = d.check().unwrap();
        let record = Jail::start(&launcher(), &policy, io, BTreeMap::new()).unwrap().wait();
        assert_eq!(record.reason, Reason::WallTime, "{record:?}");
        // Nobody has read a byte until now.
        drop(owner);
    });
}
