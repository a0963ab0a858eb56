//! Control's side of an executor process: starting it, telling it what it may do, hearing what it did, and noticing
//! its death.

use crate::executor::protocol::{Device, FromExecutor, PROTOCOL, Terms, ToExecutor, Usage, Why};
use leasehold::wire::{Ends, Memfd, PAGE, Shared, from_bytes, receive, send};
use leasehold::{Error, Kind, Result};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long an executor may take to map a session.
const MAP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running executor.
pub(super) struct Executor {
    socket: OwnedFd,
    pub(super) device: Device,
    waiting: Arc<Mutex<Waiting>>,
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

impl Executor {
    /// Starts `program executor --device NAME`; `news` is called on a thread of its own.
    ///
    /// # Errors
    /// The program cannot be started, or does not say what its device is.
    pub(super) fn start(
        program: &Path,
        device: &str,
        news: impl Fn(News) + Send + 'static,
    ) -> Result<Self> {
        let (socket, theirs) = leasehold::wire::pair()?;
        let mut child = Command::new(program)
            .args(["executor", "--device", device])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Ctrl-C at a terminal is for the job; the executor ends with its control.
            .process_group(0)
            .spawn()
            .map_err(|e| Error::system("start executor", e))?;
        let pulse = Memfd::new("leasehold-pulse", PAGE)?;
        // The page outlives the process: what it last wrote says whose work it was.
        send(&socket, &PROTOCOL, &[pulse.as_fd()])?;
        let first = receive(&socket).and_then(|packet| match packet {
            Some((bytes, _)) => from_bytes(&bytes),
            None => Err(Kind::DeviceLost { why: "the executor ended at its start".into() }.into()),
        });
        let device = match first {
            Ok(FromExecutor::Device(device)) => device,
            other => {
                let _ = child.kill();
                let _ = child.wait();
                let why = "the executor did not name its device".into();
                return Err(other.err().unwrap_or_else(|| Kind::DeviceLost { why }.into()));
            }
        };
        let waiting = Arc::<Mutex<Waiting>>::default();
        let ears = socket.try_clone().map_err(|e| Error::system("dup", e))?;
        let heard = pulse.map(false)?;
        let router = Arc::clone(&waiting);
        std::thread::Builder::new()
            .name("executor".into())
            .spawn(move || listen(&ears, child, &heard, &router, &news))
            .map_err(|e| Error::system("spawn", e))?;
        Ok(Self { socket, device, waiting })
    }

    pub(super) fn job(&self, job: u64, terms: Terms) -> Result<()> {
        send(&self.socket, &ToExecutor::Job { job, terms }, &[])
    }

    pub(super) fn end(&self, job: u64, why: Why) -> Result<()> {
        send(&self.socket, &ToExecutor::End { job, why }, &[])
    }

    pub(super) fn shut_down(&self) {
        // One that has gone needs no word.
        let _ = send(&self.socket, &ToExecutor::Shutdown, &[]);
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

fn listen(
    socket: &OwnedFd,
    mut child: Child,
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
            // Nothing else is said twice, and what cannot be read ends the conversation.
            Ok(FromExecutor::Device(_)) => {}
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    waiting.lock().unwrap_or_else(PoisonError::into_inner).sessions.clear();
    news(News::Died { job: pulse.position(0) });
}
