//! Asks a card for section after section, each written as soon as it is answered. A child process asks, so that one which
//! hangs or breaks its context costs a section and a few seconds: the next child goes on after it. The program `probe` is
//! both, and the tests of the host model are too.

use crate::cuda::Cuda;
use crate::dump::{self, Asked, LINE};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a child may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// To open the device and the image.
    pub(crate) start: Duration,
    /// For a section.
    pub(crate) section: Duration,
}

/// A child's part: answers from a section on until one fails. `before` is called with the name of each.
///
/// # Errors
/// The driver, before a section is asked, or the output.
pub(crate) fn answer(
    (cuda, image): (&Cuda, &[u8]),
    from: usize,
    before: &dyn Fn(&str),
    out: &mut dyn Write,
) -> Result<(), String> {
    let asked = Asked::open(cuda, image)?;
    let mut put = |text: String| {
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| e.to_string())
    };
    put(dump::head(&asked.device, asked.sections().map(|section| section.name)))?;
    for section in asked.sections().skip(from) {
        before(section.name);
        match asked.answer(section) {
            Ok(words) => put(dump::part(section.name, &words))?,
            // A fault stays with the context.
            Err(failure) => return put(dump::not_there(section.name, &failure.to_string())),
        }
    }
    Ok(())
}

/// What a child says, line by line, and itself.
struct Asking {
    child: Child,
    lines: Receiver<String>,
}

impl Asking {
    fn begin(mut command: Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let (tell, lines) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(Result::ok);
                lines.take_while(|line| tell.send(line.clone()).is_ok()).for_each(drop);
            });
        }
        Ok(Self { child, lines })
    }

    fn line(&self, limit: Duration) -> Result<String, String> {
        self.lines.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer in {} s", limit.as_secs()),
            RecvTimeoutError::Disconnected => "the process ended".into(),
        })
    }

    /// The device and the names of what it is asked for.
    fn head(&self, limit: Duration) -> Result<(String, Vec<String>), String> {
        let after = |word: &str| loop {
            // A test's program says other things first.
            if let Some(rest) = self.line(limit)?.strip_prefix(word) {
                break Ok::<String, String>(rest.into());
            }
        };
        let (device, names) = (after("device ")?, after("asked ")?);
        Ok((device, names.split(' ').map(String::from).collect()))
    }

    /// The next section as text, or that it is missing.
    fn part(&self, limit: Duration) -> Result<String, String> {
        let mut text = self.line(limit)? + "\n";
        let count = text.strip_prefix("section ").and_then(|rest| rest.trim().rsplit(' ').next());
        let count: usize = count.map_or(Ok(0), |n| n.parse().map_err(|_| format!("{text:?}")))?;
        for _ in 0..count.div_ceil(LINE) {
            text += &(self.line(limit)? + "\n");
        }
        Ok(text)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // One that the driver keeps is not waited for.
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}

/// Writes the dump of a card that children ask, each from a section on; what is missing, a line each.
///
/// # Errors
/// No child could open the device, or the output.
pub(crate) fn ask(
    child: &dyn Fn(usize) -> Command,
    limits: Limits,
    out: &mut dyn Write,
) -> Result<Vec<String>, String> {
    let mut put = |text: &str| {
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| e.to_string())
    };
    let (mut names, mut from, mut missing) = (Vec::new(), 0, Vec::new());
    while from == 0 || from < names.len() {
        let asking = Asking::begin(child(from)).map_err(|error| error.to_string())?;
        let opened = asking.head(limits.start);
        match opened {
            Ok((device, asked)) if from == 0 => {
                put(&dump::head(&device, asked.iter().map(String::as_str)))?;
                names = asked;
            }
            Ok(_) => {}
            Err(why) if from == 0 => return Err(why),
            Err(why) => {
                // What is left would cost as long each.
                let why = format!("the device does not open again: {why}");
                for name in &names[from..] {
                    put(&dump::not_there(name, &why))?;
                    missing.push(format!("{name}: {why}"));
                }
                return Ok(missing);
            }
        }
        while from < names.len() {
            let name = &names[from];
            from += 1;
            let text =
                asking.part(limits.section).unwrap_or_else(|why| dump::not_there(name, &why));
            put(&text)?;
            if let Some(why) = text.strip_prefix("missing ") {
                missing.push(why.trim().replacen(' ', ": ", 1));
                break;
            }
        }
    }
    Ok(missing)
}
