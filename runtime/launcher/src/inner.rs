//! The jail's first process: takes the numbered steps inside the new namespaces, forks the job, and
//! stays as its init. Called by `main` in the child of the clone; never returns.

use crate::{
    Given, lockdown,
    root::{self, Sources},
    sys,
    trace::{During, Fault, Trace},
};
use leasehold_launcher::{
    HostId, Layer, LayerReport, LayerState, Policy, Report, SESSION_FD, Step, report::encode,
};
use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

/// The job's user and group as seen inside the jail.
const INNER_ID: u32 = 1000;
/// Signals that the node may pass on to the job.
const FORWARDED: [i32; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

pub(crate) struct Inner {
    trace: Trace,
    pub(crate) given: Given,
    host_id: HostId,
    launcher: OwnedFd,
    sources: Option<Sources>,
    started: u64,
    /// Whether the node hears of the end before this process has ended.
    leaves: bool,
}

type Act = fn(&mut Inner) -> Result<(), Fault>;

/// The steps of this process in their order. Three places in it were found by trying: sources are
/// cloned after the new mount namespace exists (a tree of the old one cannot be attached, unless
/// root cloned it), /proc is mounted while the host's is still visible, and PDEATHSIG is set after
/// the last change of ids, which clears it.
const STEPS: [(Step, Act); 19] = [
    (Step::Guard, Inner::guard),
    (Step::MapIds, Inner::map_ids),
    (Step::Cgroups, Inner::cgroups),
    (Step::UsernsLimit, Inner::userns_limit),
    (Step::Hostname, Inner::hostname),
    (Step::Sources, Inner::sources),
    (Step::Root, root::make_root),
    (Step::Binds, Inner::binds),
    (Step::Dev, root::make_dev),
    (Step::Scratch, root::make_scratch),
    (Step::Etc, root::make_etc),
    (Step::Proc, root::make_proc),
    (Step::Pivot, root::enter_root),
    (Step::Limits, lockdown::limits),
    (Step::Descriptors, Inner::descriptors),
    (Step::Capabilities, lockdown::capabilities),
    (Step::NoNewPrivs, lockdown::no_new_privs),
    (Step::Landlock, lockdown::landlock),
    (Step::Tell, Inner::tell_layers),
];

impl Inner {
    pub(crate) fn new(
        trace: Trace,
        given: Given,
        host_id: HostId,
        launcher: OwnedFd,
        sources: Option<Sources>,
        started: u64,
    ) -> Self {
        let leaves = given.exits.len() == given.cgroups.len();
        Self { trace, given, host_id, launcher, sources, started, leaves }
    }

    pub(crate) fn run(mut self) -> ! {
        if let Err(fault) = self.build() {
            self.trace.fail(fault);
            sys::exit_now(125);
        }
        sys::exit_now(0);
    }

    fn build(&mut self) -> Result<(), Fault> {
        // Blocked before anybody hears that the jail is ready: a signal sent at once waits for the job.
        let signals: Vec<i32> = FORWARDED.into_iter().chain([libc::SIGCHLD]).collect();
        sys::block_signals(&signals).during("blocking signals")?;
        for (step, act) in STEPS {
            self.trace.enter(step);
            act(self)?;
        }
        // What the job needs is put together before the filter is on.
        self.trace.enter(Step::Seccomp);
        lockdown::seccomp(self)?;
        self.trace.enter(Step::Session);
        self.take_session()?;
        self.trace.enter(Step::Fork);
        match sys::clone_child(0).during("forking the job")? {
            None => self.execute(),
            Some(job) => {
                self.given.session = None;
                let _ = sys::place_descriptor(self.trace.socket(), SESSION_FD);
                self.init(job.pid, &signals);
                Ok(())
            }
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.given.policy
    }

    /// Whether a layer is to be built: always, but for a test that leaves it out.
    pub(crate) fn wants(&mut self, layer: Layer) -> bool {
        let wanted = !self.policy().probe().without.contains(&layer);
        if !wanted {
            self.report(layer, LayerState::Absent("left out by a probe".to_owned()));
        }
        wanted
    }

    pub(crate) fn report(&mut self, name: Layer, state: LayerState) {
        self.given.layers.push(LayerReport { name, state });
    }

    pub(crate) fn full(&mut self, layer: Layer) {
        self.report(layer, LayerState::Full);
    }

    fn guard(&mut self) -> Result<(), Fault> {
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
            .during("tying the jail to the launcher")?;
        // The launcher may have died before that.
        if sys::is_readable(self.launcher.as_fd()).during("looking at the launcher")? {
            sys::exit_now(125);
        }
        sys::new_session().during("starting a session")
    }

    fn map_ids(&mut self) -> Result<(), Fault> {
        let write = |file: &str, text: String| std::fs::write(file, text).during(file);
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/uid_map", format!("{INNER_ID} {} 1", self.host_id.uid))?;
        write("/proc/self/gid_map", format!("{INNER_ID} {} 1", self.host_id.gid))?;
        self.full(Layer::UserNamespace);
        self.full(Layer::PidNamespace);
        for layer in [Layer::NetNamespace, Layer::IpcNamespace, Layer::UtsNamespace] {
            if self.wants(layer) {
                self.full(layer);
            }
        }
        Ok(())
    }

    fn cgroups(&mut self) -> Result<(), Fault> {
        for door in std::mem::take(&mut self.given.cgroups) {
            // The kernel judges by who opened the file, so the job's id may write it.
            File::from(door).write_all(b"0").during("joining the job's cgroups")?;
        }
        if self.wants(Layer::CgroupNamespace) {
            sys::unshare(libc::CLONE_NEWCGROUP).during("creating the cgroup namespace")?;
            self.full(Layer::CgroupNamespace);
        }
        Ok(())
    }

    fn userns_limit(&mut self) -> Result<(), Fault> {
        if self.wants(Layer::UsernsLimit) {
            // This file is the current user namespace's own.
            match std::fs::write("/proc/sys/user/max_user_namespaces", "0") {
                Ok(()) => self.full(Layer::UsernsLimit),
                Err(e) => self.report(Layer::UsernsLimit, LayerState::Absent(e.to_string())),
            }
        }
        Ok(())
    }

    fn hostname(&mut self) -> Result<(), Fault> {
        if self.policy().probe().without.contains(&Layer::UtsNamespace) {
            return Ok(());
        }
        sys::set_hostname("leasehold").during("naming the machine")
    }

    fn sources(&mut self) -> Result<(), Fault> {
        sys::make_mounts_private().during("making the mounts private")?;
        if self.sources.is_none() {
            self.sources = Some(root::clone_sources(self.policy())?);
        }
        Ok(())
    }

    fn binds(&mut self) -> Result<(), Fault> {
        let trees = self.sources.as_mut().map(|s| std::mem::take(&mut s.trees)).unwrap_or_default();
        root::attach_sources(self, trees)
    }

    fn descriptors(&mut self) -> Result<(), Fault> {
        let null = File::open("/dev/null").during("opening /dev/null")?;
        let stdin = self.given.stdin.take().unwrap_or_else(|| null.into());
        sys::place_descriptor(stdin.as_fd(), 0).during("placing standard input")?;
        if self.wants(Layer::Descriptors) {
            sys::close_on_exec_from(SESSION_FD).during("marking descriptors to be closed")?;
            self.full(Layer::Descriptors);
        }
        self.wants(Layer::Environment).then(|| self.full(Layer::Environment));
        Ok(())
    }

    /// Takes the session from the socket that promises it. A socket that ends instead ends the jail.
    fn take_session(&mut self) -> Result<(), Fault> {
        let Some(promise) = self.given.session.take() else { return Ok(()) };
        let what = "waiting for the session";
        let (_, fds) = sys::receive(promise.as_fd(), &mut [0; 8]).during(what)?;
        let session = fds.into_iter().next().ok_or_else(|| Fault::new("no session came"))?;
        // The promise may have the session's number, and nothing else that is still needed has.
        drop(promise);
        sys::place_descriptor(session.as_fd(), SESSION_FD).during("placing the session")?;
        self.given.session = Some(session);
        Ok(())
    }

    /// Refuses to go on without a hard layer; with a strict policy, without any whole layer.
    fn tell_layers(&mut self) -> Result<(), Fault> {
        let without = &self.policy().probe().without;
        for layer in Layer::ALL.iter().filter(|l| **l != Layer::Seccomp && !without.contains(l)) {
            let state = self.given.layers.iter().find(|r| r.name == *layer).map(|r| &r.state);
            let enough = match state {
                Some(LayerState::Full) => true,
                Some(LayerState::Partial(_)) => !self.policy().strict,
                Some(LayerState::Absent(_)) | None => !layer.hard() && !self.policy().strict,
            };
            if !enough {
                return Err(Fault::new(&format!(
                    "layer {layer} is {state:?}, which this policy does not allow"
                )));
            }
        }
        // The filter comes last and is not optional: if it fails, nothing runs.
        if self.wants(Layer::Seccomp) {
            self.full(Layer::Seccomp);
        }
        self.trace.tell_timings();
        self.trace.tell(&Report::Ready(self.given.layers.clone()));
        Ok(())
    }

    /// The job's process: executes the program, or says why not.
    fn execute(&mut self) -> ! {
        let policy = &self.given.policy;
        let mut env = policy.environment(self.given.session.is_some());
        if policy.probe().without.contains(&Layer::Environment) {
            env.extend(std::env::vars().map(|(k, v)| format!("{k}={v}")));
        }
        let path = self.sources.as_ref().map_or("", |s| s.program.as_str());
        let failure = match sys::reset_signals(&self.given.ignored) {
            Ok(()) => sys::execute(path, &policy.argv, &env),
            Err(e) => e,
        };
        let what = format!("executing {path}");
        self.trace.fail(Fault::of(&failure, &what).at(Step::Exec));
        sys::exit_now(127);
    }

    /// Reaps, passes signals on, and after the job's end takes down what it left and hands over
    /// its outputs.
    fn init(&mut self, job: i32, signals: &[i32]) {
        let status = loop {
            match sys::next_signal(signals) {
                Ok((libc::SIGCHLD, _)) => {
                    if let Some(status) = reap(job) {
                        break status;
                    }
                }
                // From inside the jail nobody may use this process as a relay.
                Ok((signal, true)) => {
                    let _ = sys::kill(job, signal);
                }
                _ => {}
            }
        };
        self.trace.tell(&Report::Exited(status));
        let _ = sys::kill(-1, libc::SIGKILL);
        while let Ok(Some(_)) = sys::wait(-1, true) {}
        for (i, name) in self.policy().outputs.iter().enumerate() {
            self.hand_over(i as u32, &format!("/out/{name}"));
        }
        let left = self.leaves && std::mem::take(&mut self.given.exits).into_iter().all(leave);
        if let (true, Ok(usage)) = (left, sys::usage()) {
            let wall_ns = sys::boot_ns() - self.started;
            self.trace.tell(&Report::Ended { expired: false, wall_ns, usage });
        }
    }

    fn hand_over(&self, index: u32, path: &str) {
        let refused = |errno| self.trace.tell(&Report::NoOutput(index, errno));
        match sys::open_left(path).map(File::from) {
            Err(e) => refused(e.raw_os_error().unwrap_or(0)),
            Ok(file) => match file.metadata() {
                Ok(m) if m.is_file() => {
                    let message = encode(&Report::Output(index));
                    if sys::send(self.trace.socket(), &message, Some(file.as_fd())).is_err() {
                        refused(libc::EIO);
                    }
                }
                _ => refused(libc::EINVAL),
            },
        }
    }
}

/// Leaves a cgroup, so that it can be removed while this process ends: taking the namespaces down waits for the kernel.
fn leave(exit: OwnedFd) -> bool {
    File::from(exit).write_all(b"0").is_ok()
}

/// Reaps every process that has ended; the job's wait status if it is among them.
fn reap(job: i32) -> Option<i32> {
    let mut found = None;
    while let Ok(Some((pid, status, _))) = sys::wait(-1, false) {
        if pid == job {
            found = Some(status);
        }
    }
    found
}
