//! What the launcher says of its work: the numbered [`Step`]s, the [`Layer`]s with what is
//! enforced of each, and the messages that cross the socket between it and the node.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Defines a plain enum with a name per variant, and the list of all variants in their order.
macro_rules! named {
    ($(#[$meta:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $kind { $($(#[$doc])* #[serde(rename = $name)] $variant,)* }

        impl $kind {
            /// Every variant, in order.
            pub const ALL: &[$kind] = &[$($kind::$variant,)*];

            /// The name in messages and records.
            pub fn name(self) -> &'static str {
                match self { $($kind::$variant => $name,)* }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// The launcher's steps, in the order in which they are taken. The first five run in the
    /// launcher, the last in the job's process, all others in the jail's first process.
    Step {
        /// Receive and judge the policy and its descriptors.
        Policy = "policy",
        /// Root only: clone the mounts of all sources while the caller's rights are there.
        RootSources = "root-sources",
        /// Root only: become the job's host id for good.
        HostId = "host-id",
        /// Create the first process in new namespaces.
        Clone = "clone",
        /// Die with the launcher.
        Guard = "guard",
        /// Map the one id.
        MapIds = "map-ids",
        /// Join the job's cgroups, then hide them behind a new cgroup namespace.
        Cgroups = "cgroups",
        /// Forbid user namespaces below this one.
        UsernsLimit = "userns-limit",
        /// Name the machine.
        Hostname = "hostname",
        /// Rootless: clone the mounts of all sources inside the new mount namespace.
        Sources = "sources",
        /// An empty root.
        Root = "root",
        /// Attach the sources.
        Binds = "binds",
        /// Device nodes.
        Dev = "dev",
        /// /tmp, /dev/shm and /out.
        Scratch = "scratch",
        /// The synthetic /etc.
        Etc = "etc",
        /// /proc; needs the host's to be visible still.
        Proc = "proc",
        /// Change to the new root, detach the old, make the new one read-only.
        Pivot = "pivot",
        /// Resource limits and affinity.
        Limits = "limits",
        /// Put the given descriptors in place, mark all others to be closed.
        Descriptors = "descriptors",
        /// Drop every capability, lock the secure bits.
        Capabilities = "capabilities",
        /// No new privileges.
        NoNewPrivs = "no-new-privs",
        /// Landlock.
        Landlock = "landlock",
        /// Tell the node which layers hold.
        Tell = "tell",
        /// seccomp.
        Seccomp = "seccomp",
        /// Wait for the session that was promised, so that the jail is built while its job is admitted.
        Session = "session",
        /// Fork the job's process.
        Fork = "fork",
        /// Execute the program.
        Exec = "exec",
    }
}

impl Step {
    /// Its number in messages, from 1.
    pub fn number(self) -> u32 {
        self as u32 + 1
    }
}

named! {
    /// One means of containment, separately reported and, in tests, separately dropped.
    Layer {
        /// The job's host id is unprivileged and has no supplementary group.
        HostId = "host-id",
        /// User namespace with one mapped id.
        UserNamespace = "user-namespace",
        /// Mount namespace with a root of its own: only the sources exist.
        Root = "root",
        /// PID namespace; its first process is the launcher's.
        PidNamespace = "pid-namespace",
        /// Network namespace with nothing in it.
        NetNamespace = "net-namespace",
        /// IPC namespace.
        IpcNamespace = "ipc-namespace",
        /// UTS namespace.
        UtsNamespace = "uts-namespace",
        /// cgroup namespace.
        CgroupNamespace = "cgroup-namespace",
        /// No user namespace can be made below.
        UsernsLimit = "userns-limit",
        /// Sources and root are read-only, nosuid, nodev.
        ReadOnly = "read-only",
        /// /proc shows only the job's own processes.
        Proc = "proc",
        /// A /dev with five nodes.
        Dev = "dev",
        /// The environment holds only what the policy names.
        Environment = "environment",
        /// Only the given descriptors are open.
        Descriptors = "descriptors",
        /// rlimits; the number of processes counts per user namespace, so it is the job's own.
        Rlimits = "rlimits",
        /// Affinity to as many processors as the limit needs.
        Affinity = "affinity",
        /// cgroup memory limit, or its stand-in.
        Memory = "memory",
        /// Processor limit: a cgroup quota where it is no whole number, else the affinity alone.
        Cpu = "cpu",
        /// All capability sets empty, secure bits locked.
        Capabilities = "capabilities",
        /// PR_SET_NO_NEW_PRIVS.
        NoNewPrivs = "no-new-privs",
        /// Landlock: paths, TCP, scopes.
        Landlock = "landlock",
        /// The system call allow-list.
        Seccomp = "seccomp",
    }
}

impl Layer {
    /// Whether a job must not run without it, in any build.
    pub fn hard(self) -> bool {
        use Layer::{Affinity, Cpu, Landlock, Memory, UsernsLimit};
        !matches!(self, Affinity | Cpu | Landlock | Memory | UsernsLimit)
    }
}

/// How much of a layer is enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// All of it.
    Full,
    /// Some of it, and why not all.
    Partial(String),
    /// Nothing, and why.
    Absent(String),
}

/// One line of the record: a layer and what is enforced of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// The layer.
    pub name: Layer,
    /// How much of it is enforced.
    pub state: LayerState,
}

/// What the job's processes used, summed by the kernel as they were reaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode, in microseconds.
    pub user_us: u64,
    /// Processor time in the kernel, in microseconds.
    pub system_us: u64,
    /// Largest resident set of one process, in bytes.
    pub max_rss: u64,
}

/// The first message to the launcher: the policy, and which descriptors came with it, in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// [`crate::Policy::encode`].
    pub policy: Vec<u8>,
    /// A descriptor for the job's standard input.
    pub stdin: bool,
    /// A socket on which the job's session will come.
    pub session: bool,
    /// As many files by which a process joins a cgroup, open for writing.
    pub cgroups: u32,
    /// As many files by which it leaves them for their parents, or none where leaving is slow.
    pub exits: u32,
    /// What the caller says of the layers that it made itself: memory and cpu.
    pub layers: Vec<LayerReport>,
}

/// A later message to the launcher. The end of the socket means the same as `Kill`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Send this signal to the job's process.
    Signal(i32),
    /// End the jail now.
    Kill,
}

/// A message from the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A step failed; nothing of the job ran.
    Failed {
        /// Where.
        step: Step,
        /// The kernel's error number, or 0.
        errno: i32,
        /// What was tried.
        what: String,
    },
    /// The jail stands and the job is about to run.
    Ready(Vec<LayerReport>),
    /// Probe: boot-clock nanoseconds at the beginning of each step.
    Timings(Vec<(Step, u64)>),
    /// Probe: the launcher waits before this step for a third of a second, to be killed.
    Stopped(Step),
    /// The job's process ended with this wait status.
    Exited(i32),
    /// An output, by its place in the policy; the descriptor comes with the message.
    Output(u32),
    /// An output that is not there or is no regular file, and the kernel's error number.
    NoOutput(u32, i32),
    /// Every process of the job is gone. The last message: of the jail's first process if that is in no cgroup any more
    /// and only has to end, else of the launcher, when it has ended.
    Ended {
        /// The wall time was over.
        expired: bool,
        /// Nanoseconds from the first process's start to its end.
        wall_ns: u64,
        /// What the whole jail used.
        usage: Usage,
    },
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap_or_default()
}

/// Decodes a message; `None` if the bytes are no such message.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_from_one_in_order() {
        let numbers: Vec<u32> = Step::ALL.iter().map(|s| s.number()).collect();
        assert_eq!(numbers, (1..=Step::ALL.len() as u32).collect::<Vec<_>>());
    }
}
