//! Asks a card what each instruction of the kernels does on it, and prints the dump: `probe IMAGE`, the image being what
//! the test `probe` compiled for the card's architecture. `README.md` tells how, and what becomes of a dump.
#![allow(clippy::expect_used, clippy::panic, reason = "its modules are those of tests")]

mod ask;
#[path = "../../../kernels/tests/cuda/mod.rs"]
mod cuda;
mod dump;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Of a card, which answers a section in microseconds.
const LIMITS: ask::Limits =
    ask::Limits { start: Duration::from_secs(20), section: Duration::from_secs(5) };

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match &words[..] {
        [image] => whole(image),
        // How this program starts itself.
        [image, from] => part(image, from),
        _ => Err("usage: probe IMAGE".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what is answered by this program's children, as it comes.
fn whole(image: &str) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = |from: usize| {
        let mut command = Command::new(&program);
        command.arg(image).arg(from.to_string());
        command
    };
    let missing = ask::ask(&child, LIMITS, &mut std::io::stdout())?;
    if missing.is_empty() { Ok(()) } else { Err(format!("missing: {}", missing.join("; "))) }
}

/// Answers from a section on.
fn part(image: &str, from: &str) -> Result<(), String> {
    let bytes = std::fs::read(image).map_err(|error| format!("{image}: {error}"))?;
    let from = from.parse().map_err(|error| format!("{from:?}: {error}"))?;
    let cuda = cuda::Cuda::open(Path::new("libcuda.so.1"))?;
    ask::answer((&cuda, &bytes), from, &|_| {}, &mut std::io::stdout())
}
