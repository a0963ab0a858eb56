//! Control's side of an executor process: starting it or taking over one that outlived its control, telling it what
//! it may do, hearing what it did, and noticing its death.

use crate::executor::protocol::{
    Device, FromExecutor, PROTOCOL, PULSE_IDLE, PULSE_JOB, Terms, ToExecutor, Usage, Why,
};
use leasehold::wire::{Ends, Memfd, PAGE, Shared, from_bytes, receive, send};
use leasehold::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an executor may take to map a session.
const MAP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one that was found running may take to say what it does, in seconds: it may be in the middle of a slice.
const ADOPT_SECONDS: i64 = 30;
/// How long it may take to zero what is left and exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A running executor.
pub(super) struct Executor {
    socket: OwnedFd,
    pub(super) device: Device,
    waiting: Arc<Mutex<Waiting>>,
    pulse: Arc<Shared>,
    ears: JoinHandle<()>,
}

/// Who waits for which answer.
#[derive(Default)]
struct Waiting {
    sessions: HashMap<u64, Sender<Result<(), String>>>,
}

/// News of an executor.
pub(super) enum News {
    /// A job is over.
    Settled {
        /// The job.
        job: u64,
        /// What it used.
        usage: Usage,
    },
    /// The process has ended; the job whose work touched the device, 0: none.
    Died {
        /// The job.
        job: u64,
    },
}

/// What an executor kept while there was no control.
#[derive(Default)]
pub(super) struct Kept {
    /// Its jobs; what those that run may do, and their doors.
    pub(super) jobs: Vec<(u64, Option<(Terms, OwnedFd)>)>,
    /// The highest number of a session so far.
    pub(super) sessions: u64,
}

/// The process, as control holds it.
enum Process {
    Child(Child),
    /// One that another control started.
    Adopted(OwnedFd),
}

/// What an executor says first.
struct Greeting {
    device: Device,
    pulse: Shared,
    kept: Kept,
    pid: u32,
}

impl Executor {
    /// Starts `program executor --device NAME [--kernels FILE]`; `news` is called on a thread of its own. At `entrance`, a listening
    /// socket, a later control may take it over.
    ///
    /// # Errors
    /// The program cannot be started, or does not say what its device is.
    pub(super) fn start(
        program: &Path,
        device: &str,
        kernels: Option<&Path>,
        entrance: Option<&OwnedFd>,
        news: impl Fn(News) + Send + 'static,
    ) -> Result<Self> {
        let (socket, theirs) = leasehold::wire::pair()?;
        let child = Command::new(program)
            .args(["executor", "--device", device])
            .args(kernels.iter().flat_map(|file| [OsStr::new("--kernels"), file.as_os_str()]))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Ctrl-C at a terminal is for the job; the executor ends with its control.
            .process_group(0)
            .spawn()
            .map_err(|e| Error::system("start executor", e))?;
        let entrance: Vec<BorrowedFd<'_>> = entrance.map(AsFd::as_fd).into_iter().collect();
        let greeting = send(&socket, &PROTOCOL, &entrance).and_then(|()| greeting(&socket));
        Self::new(socket, Process::Child(child), greeting, news).map(|(executor, _)| executor)
    }

    /// Takes over the executor that listens at `path`, and hears what it kept; `None` when none does.
    ///
    /// # Errors
    /// One is there and does not say what it does.
    pub(super) fn adopt(
        path: &Path,
        news: impl Fn(News) + Send + 'static,
    ) -> Result<Option<(Self, Kept)>> {
        let Ok(socket) = super::sockets::connect(path) else { return Ok(None) };
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        let limit = Timespec { tv_sec: ADOPT_SECONDS, tv_nsec: 0 };
        if !matches!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1..)) {
            let why = format!("the running executor at {} does not answer", path.display());
            return Err(Kind::DeviceLost { why }.into());
        }
        let greeting = match greeting(&socket) {
            // It was about to end.
            Err(error) if matches!(error.kind(), Kind::DeviceLost { .. }) => return Ok(None),
            greeting => greeting?,
        };
        let process = Pid::from_raw(greeting.pid as i32)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|e| Error::system("pidfd_open", e.into()))?;
        Self::new(socket, Process::Adopted(process), Ok(greeting), news).map(Some)
    }

    fn new(
        socket: OwnedFd,
        mut process: Process,
        greeting: Result<Greeting>,
        news: impl Fn(News) + Send + 'static,
    ) -> Result<(Self, Kept)> {
        let Greeting { device, pulse, kept, .. } = greeting.inspect_err(|_| process.kill())?;
        let waiting = Arc::<Mutex<Waiting>>::default();
        let ears = socket.try_clone().map_err(|e| Error::system("dup", e))?;
        let (router, pulse) = (Arc::clone(&waiting), Arc::new(pulse));
        let listened = Arc::clone(&pulse);
        let ears = std::thread::Builder::new()
            .name("executor".into())
            .spawn(move || listen(&ears, process, &listened, &router, &news))
            .map_err(|e| Error::system("spawn", e))?;
        Ok((Self { socket, device, waiting, pulse, ears }, kept))
    }

    /// Tells of a job; `door` is kept for a control that may come after this one.
    pub(super) fn job(&self, job: u64, terms: Terms, door: &OwnedFd) -> Result<()> {
        send(&self.socket, &ToExecutor::Job { job, terms }, &[door.as_fd()])
    }

    pub(super) fn end(&self, job: u64, why: Why) -> Result<()> {
        send(&self.socket, &ToExecutor::End { job, why }, &[])
    }

    /// The job's record is written.
    pub(super) fn written(&self, job: u64) {
        // One that has gone remembers nothing.
        let _ = send(&self.socket, &ToExecutor::Written { job }, &[]);
    }

    /// Nanoseconds that the device's own threads spent beside what is billed, so far.
    pub(super) fn idle_ns(&self) -> u64 {
        self.pulse.position(PULSE_IDLE)
    }

    /// Lets the process go and waits for its end.
    pub(super) fn shut_down(&self) {
        // One that has gone needs no word.
        let _ = send(&self.socket, &ToExecutor::Shutdown, &[]);
        let begin = Instant::now();
        while !self.ears.is_finished() && begin.elapsed() < EXIT_TIMEOUT {
            std::thread::sleep(Duration::from_millis(1));
        }
        // One that hangs is killed by whoever hears that the conversation is over.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Hands the executor its end of a session and waits until it has mapped it.
    ///
    /// # Errors
    /// The executor refused or has gone.
    pub(super) fn session(&self, job: u64, session: u64, ends: &Ends) -> Result<(), String> {
        let (tell, told): (_, Receiver<Result<(), String>>) = channel();
        self.waiting().sessions.insert(session, tell);
        let [_, submit, staging, complete] = ends.tenant.fds();
        let fds = [ends.socket.as_fd(), submit, staging, complete];
        send(&self.socket, &ToExecutor::Session { job, session }, &fds)
            .map_err(|e| e.to_string())?;
        let answer = told.recv_timeout(MAP_TIMEOUT);
        self.waiting().sessions.remove(&session);
        answer.unwrap_or_else(|_| Err("the executor does not answer".into()))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Ends it, if it has not ended, and waits until it has.
    fn kill(&mut self) {
        match self {
            Self::Child(child) => {
                // It may be dead already; what counts is that nothing is left of it.
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Adopted(process) => {
                let _ = rustix::process::pidfd_send_signal(&*process, Signal::KILL);
                let _ = rustix::event::poll(&mut [PollFd::new(&*process, PollFlags::IN)], None);
            }
        }
    }
}

/// Hears what an executor says to a control that is new to it.
fn greeting(socket: &OwnedFd) -> Result<Greeting> {
    let lost = |why: &str| -> Error { Kind::DeviceLost { why: why.into() }.into() };
    let hear = || match receive(socket)? {
        Some((bytes, fds)) => Ok((from_bytes::<FromExecutor>(&bytes)?, fds.into_iter().next())),
        None => Err(lost("the executor ended at its start")),
    };
    let (FromExecutor::Device(device), Some(pulse)) = hear()? else {
        return Err(lost("the executor did not name its device"));
    };
    let pulse = Memfd::received(pulse, PAGE)?.map(false)?;
    let mut kept = Kept::default();
    loop {
        match hear()? {
            (FromExecutor::Kept { job, terms }, door) => kept.jobs.push((job, terms.zip(door))),
            (FromExecutor::Ready { pid, sessions }, _) => {
                kept.sessions = sessions;
                return Ok(Greeting { device, pulse, kept, pid });
            }
            _ => return Err(lost("the executor spoke out of turn")),
        }
    }
}

fn listen(
    socket: &OwnedFd,
    mut process: Process,
    pulse: &Shared,
    waiting: &Mutex<Waiting>,
    news: &dyn Fn(News),
) {
    let answer = |session: u64, answer: Result<(), String>| {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tell) = waiting.sessions.remove(&session) {
            // Whoever asked may have stopped waiting.
            let _ = tell.send(answer);
        }
    };
    while let Ok(Some((bytes, _))) = receive(socket) {
        match from_bytes(&bytes) {
            Ok(FromExecutor::Mapped { session }) => answer(session, Ok(())),
            Ok(FromExecutor::Refused { session, why }) => answer(session, Err(why)),
            Ok(FromExecutor::Settled { job, usage }) => news(News::Settled { job, usage }),
            // A greeting comes once, and what cannot be read ends the conversation.
            Ok(_) | Err(_) => break,
        }
    }
    process.kill();
    waiting.lock().unwrap_or_else(PoisonError::into_inner).sessions.clear();
    news(News::Died { job: pulse.position(PULSE_JOB) });
}
