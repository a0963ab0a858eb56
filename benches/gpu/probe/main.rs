//! Asks a card what each instruction of the kernels does on it, and prints the dump: `probe IMAGE`, the image being what
//! the test `probe` compiled for the card's architecture. `README.md` tells how, and what becomes of a dump.
#![allow(clippy::expect_used, clippy::panic, reason = "its modules are those of tests")]

#[path = "../../../kernels/tests/cuda/mod.rs"]
mod cuda;
mod dump;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let images: Vec<String> = std::env::args().skip(1).collect();
    let [image] = &images[..] else {
        eprintln!("usage: probe IMAGE");
        return ExitCode::FAILURE;
    };
    match ask(image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what was answered, also where not all was.
fn ask(image: &str) -> Result<(), String> {
    let bytes = std::fs::read(image).map_err(|error| format!("{image}: {error}"))?;
    let (dump, result) = dump::Dump::of(&cuda::Cuda::open(Path::new("libcuda.so.1"))?, &bytes);
    let written = std::io::stdout().write_all(dump.write().as_bytes());
    written.map_err(|error| error.to_string())?;
    result
}
