//! Stands between a job and its caller's terminal. A terminal obeys escape sequences, and one that a job holds could be
//! typed into; so the job gets a pipe, and what it writes reaches the terminal as text in which every control character
//! is spelled out. Files and pipes are handed to the job as they are. Used by [`super::Jail::start`].

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::fstat,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    fmt::Write as _,
    fs::File,
    io::{self, IsTerminal, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::Builder,
    time::Duration,
};

/// How long the end of a job waits for a terminal that takes nothing, such as one that was stopped by Ctrl-S.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is still on its way to terminals.
#[derive(Debug, Default)]
pub(super) struct Screens {
    relays: Vec<(Receiver<()>, Arc<AtomicU64>)>,
}

impl Screens {
    /// What the job gets as its standard output and error.
    pub(super) fn stand_before(&mut self, [out, err]: [OwnedFd; 2]) -> io::Result<[OwnedFd; 2]> {
        // One pipe for one terminal, so that lines keep their order.
        let same = out.is_terminal() && err.is_terminal() && place(&out)? == place(&err)?;
        let out = self.pipe_to(out)?;
        let err = if same { out.try_clone()? } else { self.pipe_to(err)? };
        Ok([out, err])
    }

    /// A pipe to `fd` if that is a terminal.
    fn pipe_to(&mut self, fd: OwnedFd) -> io::Result<OwnedFd> {
        if !fd.is_terminal() {
            return Ok(fd);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (tell, done) = channel();
        let progress = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&progress);
        Builder::new().name("screen".into()).spawn(move || {
            // A terminal that is gone takes the job's pipe with it.
            let _ = show(reader.into(), fd.into(), &counted);
            drop(tell);
        })?;
        self.relays.push((done, progress));
        Ok(writer)
    }

    /// Waits until all is shown, or until a terminal has taken nothing for [`PATIENCE`].
    pub(super) fn settle(self) {
        for (done, progress) in self.relays {
            let mut seen = progress.load(Ordering::Relaxed);
            while let Err(RecvTimeoutError::Timeout) = done.recv_timeout(PATIENCE) {
                let now = progress.load(Ordering::Relaxed);
                if now == seen {
                    break;
                }
                seen = now;
            }
        }
    }
}

fn place(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn show(mut from: File, mut to: File, progress: &AtomicU64) -> io::Result<()> {
    let mut spelling = Spelling::default();
    let mut bytes = [0; 4096];
    loop {
        let text = match from.read(&mut bytes) {
            Ok(0) => {
                let rest = std::mem::take(&mut spelling.rest);
                return to.write_all(spelling.text(&rest, true).as_bytes());
            }
            Ok(n) => spelling.feed(&bytes[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        // In pieces, so that a slow terminal shows progress.
        for piece in text.as_bytes().chunks(256) {
            to.write_all(piece)?;
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the job gets as its standard input: `fd`, or a pipe if that is a terminal, which could also be written to.
pub(super) fn typed(fd: OwnedFd) -> io::Result<OwnedFd> {
    if !fd.is_terminal() {
        return Ok(fd);
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Builder::new().name("typed".into()).spawn(move || pass_on(fd.into(), writer.into()))?;
    Ok(reader)
}

/// Passes on what is typed until the terminal's end, or until nobody is there to read it.
fn pass_on(mut from: File, mut to: File) {
    let mut bytes = [0; 4096];
    while let Ok(true) = waits_for(from.as_fd(), to.as_fd()) {
        match from.read(&mut bytes) {
            Ok(n @ 1..) if to.write_all(&bytes[..n]).is_ok() => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Whether something was typed; not, if the reading end of `to` is closed.
fn waits_for(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [
        PollFd::from_borrowed_fd(from, PollFlags::IN),
        PollFd::from_borrowed_fd(to, PollFlags::empty()),
    ];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds[1].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Turns bytes into text that no terminal obeys: line ends, tabs and what can be seen stay, and everything else is
/// spelled out, as `\x1b` or `\u{9b}`.
#[derive(Debug, Default)]
struct Spelling {
    /// An unfinished character, or a carriage return that may belong to a line end.
    rest: Vec<u8>,
}

impl Spelling {
    fn feed(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        self.text(&all, false)
    }

    /// `last`: nothing follows, so that nothing is kept for later.
    fn text(&mut self, mut bytes: &[u8], last: bool) -> String {
        let mut text = String::with_capacity(bytes.len());
        while !bytes.is_empty() {
            let (valid, after) = match std::str::from_utf8(bytes) {
                Ok(all) => (all, &[][..]),
                Err(e) => {
                    let (valid, after) = bytes.split_at(e.valid_up_to());
                    (std::str::from_utf8(valid).unwrap_or_default(), after)
                }
            };
            let whole = after.is_empty() && !last && valid.ends_with('\r');
            let shown = if whole { &valid[..valid.len() - 1] } else { valid };
            shown.replace("\r\n", "\n").chars().for_each(|c| spell(c, &mut text));
            if whole {
                self.rest.push(b'\r');
            }
            let Some((&first, _)) = after.split_first() else { break };
            // At most three bytes at the end may be the beginning of a character.
            if !last
                && after.len() < 4
                && std::str::from_utf8(after).is_err_and(|e| e.error_len().is_none())
            {
                self.rest.extend_from_slice(after);
                break;
            }
            let _ = write!(text, "\\x{first:02x}");
            bytes = &after[1..];
        }
        text
    }
}

/// Control characters, and those that turn the direction of a line around.
fn spell(c: char, text: &mut String) {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let _ = match c {
        '\n' | '\t' => text.write_char(c),
        '\0'..='\x1f' | '\x7f' => write!(text, "\\x{:02x}", c as u32),
        _ if c.is_control() || turns => write!(text, "\\u{{{:x}}}", c as u32),
        _ => text.write_char(c),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(pieces: &[&[u8]]) -> String {
        let mut spelling = Spelling::default();
        let mut text: String = pieces.iter().map(|p| spelling.feed(p)).collect();
        let rest = std::mem::take(&mut spelling.rest);
        text += &spelling.text(&rest, true);
        text
    }

    #[test]
    fn text_stays_and_controls_are_spelled_out() {
        let cases: [(&[u8], &str); 9] = [
            ("héllo\t世界 🙂\n".as_bytes(), "héllo\t世界 🙂\n"),
            (b"\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
            (b"a\r\nb\rc\r", "a\nb\\x0dc\\x0d"),
            (b"\x08\x7f\0", "\\x08\\x7f\\x00"),
            ("\u{9b}2J".as_bytes(), "\\u{9b}2J"),
            (b"\x9b2J\xff", "\\x9b2J\\xff"),
            ("\u{202e}txt".as_bytes(), "\\u{202e}txt"),
            (b"\xe4\xb8", "\\xe4\\xb8"),
            (b"\xe4\xb8A\xf0\x9f", "\\xe4\\xb8A\\xf0\\x9f"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(spelled(&[bytes]), expected, "{bytes:?}");
            // However the bytes come.
            let singly: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(spelled(&singly), expected, "{bytes:?} one by one");
        }
    }
}
