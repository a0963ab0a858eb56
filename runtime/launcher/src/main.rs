//! The launcher: builds one jail and runs one job in it. Started by `leasehold-node`'s `sandbox`
//! module, which hands it a socket as descriptor 0; everything else comes over that socket.
//!
//! Three processes follow each other: this one receives the policy, sheds root's rights, creates
//! the namespaces and then only watches ([`watch`]); the jail's first process takes the numbered
//! steps ([`inner`]) and stays as its init; the job's process is forked from that and executes the
//! program. If this process dies, the first one gets SIGKILL, and with it the whole PID namespace.

mod inner;
mod lockdown;
mod root;
mod sys;
mod trace;
mod watch;

use inner::Inner;
use leasehold_launcher::{
    HostId, Layer, LayerReport, LayerState, Policy, Probe, Step,
    policy::MAX_POLICY_BYTES,
    report::{self, Start},
};
use std::os::fd::OwnedFd;
use trace::{During, Fault, Trace};

fn main() {
    let Ok(control) = sys::take_control_socket() else {
        eprintln!(
            "leasehold-launcher: descriptor 0 is no socket; leasehold run starts this program"
        );
        std::process::exit(125);
    };
    let mut trace = Trace::new(control);
    if let Err(fault) = launch(&mut trace) {
        trace.fail(fault);
        std::process::exit(125);
    }
}

/// What came with the first message.
struct Given {
    policy: Policy,
    stdin: Option<OwnedFd>,
    /// The socket on which the session comes; from step `session` on, the session itself.
    session: Option<OwnedFd>,
    cgroups: Vec<OwnedFd>,
    /// As in [`Start::exits`]: of all `cgroups`, or of none.
    exits: Vec<OwnedFd>,
    /// Signals that whoever started this program has ignored, and the job shall not.
    ignored: Vec<i32>,
    layers: Vec<LayerReport>,
}

fn launch(trace: &mut Trace) -> Result<(), Fault> {
    let mut given = receive(trace)?;
    let privileged = sys::euid() == 0;
    let sources = if privileged {
        trace.enter(Step::RootSources);
        Some(root::clone_sources(&given.policy)?)
    } else {
        None
    };
    let host_id = settle_host_id(trace, &mut given, privileged)?;

    trace.enter(Step::Clone);
    let launcher = sys::own_pidfd().during("opening a descriptor of the launcher")?;
    let started = sys::boot_ns();
    let flags = namespaces(&given.policy);
    let wall = given.policy.limits.wall;
    match sys::clone_child(flags).during("creating the namespaces")? {
        None => Inner::new(trace.clone(), given, host_id, launcher, sources, started).run(),
        Some(child) => {
            drop((given, sources, launcher));
            watch::watch(trace.socket(), child, started, wall);
            Ok(())
        }
    }
}

fn receive(trace: &mut Trace) -> Result<Given, Fault> {
    // While the policy is on its way.
    let ignored = sys::ignored_signals();
    let mut buffer = vec![0; MAX_POLICY_BYTES + 64 * 1024];
    let (n, fds) = sys::receive(trace.socket(), &mut buffer).during("receiving the policy")?;
    let start: Start =
        report::decode(&buffer[..n]).ok_or_else(|| Fault::new("reading the policy"))?;
    let policy = Policy::decode(&start.policy).map_err(|e| Fault::new(&e.to_string()))?;
    let asked = Probe { timings: false, ..policy.probe().clone() };
    if asked != Probe::default() && !cfg!(feature = "probe") {
        return Err(Fault::new("this launcher was built without probes"));
    }
    trace.follow(policy.probe());
    trace.enter(Step::Policy);
    let given = u32::from(start.stdin) + u32::from(start.session);
    let expected = (given + start.cgroups + start.exits) as usize;
    if fds.len() != expected {
        return Err(Fault::new(&format!(
            "{} descriptors came, {expected} were announced",
            fds.len()
        )));
    }
    let mut fds = fds.into_iter();
    let mut next = |is_there: bool| if is_there { fds.next() } else { None };
    let (stdin, session) = (next(start.stdin), next(start.session));
    let cgroups = fds.by_ref().take(start.cgroups as usize).collect();
    Ok(Given {
        policy,
        stdin,
        session,
        cgroups,
        exits: fds.collect(),
        ignored,
        layers: start.layers,
    })
}

/// Root becomes the job's host id; anybody else stays who he is.
fn settle_host_id(trace: &mut Trace, given: &mut Given, privileged: bool) -> Result<HostId, Fault> {
    let report = |state| LayerReport { name: Layer::HostId, state };
    if !privileged {
        let id = HostId { uid: sys::euid(), gid: sys::egid() };
        if given.policy.host_id.is_some_and(|asked| asked != id) {
            return Err(Fault::new(&format!(
                "only root can run the job as another than {}:{}",
                id.uid, id.gid
            )));
        }
        // An unprivileged process cannot shed its groups.
        let groups = sys::group_count();
        given.layers.push(report(match groups {
            0 => LayerState::Full,
            n => LayerState::Partial(format!("{n} supplementary groups of the caller are kept")),
        }));
        return Ok(id);
    }
    trace.enter(Step::HostId);
    let id =
        given.policy.host_id.ok_or_else(|| Fault::new("root must name the host id of the job"))?;
    sys::become_id(id.uid, id.gid).during("becoming the host id of the job")?;
    // The id change made /proc/self belong to root, and the id maps are written there.
    sys::prctl(libc::PR_SET_DUMPABLE, 1).during("making the launcher readable to itself")?;
    given.layers.push(report(LayerState::Full));
    Ok(id)
}

fn namespaces(policy: &Policy) -> i32 {
    let optional = [
        (Layer::NetNamespace, libc::CLONE_NEWNET),
        (Layer::IpcNamespace, libc::CLONE_NEWIPC),
        (Layer::UtsNamespace, libc::CLONE_NEWUTS),
    ];
    optional
        .iter()
        .filter(|(layer, _)| !policy.probe().without.contains(layer))
        .fold(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID, |all, (_, flag)| {
            all | flag
        })
}
