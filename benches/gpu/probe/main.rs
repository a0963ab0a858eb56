//! Asks a card what each instruction of the kernels does on it, and prints the dump: `probe IMAGE`, the image being what
//! the test `probe` compiled for the card's architecture. `README.md` tells how, and what becomes of a dump.
#![allow(clippy::expect_used, clippy::panic, reason = "its modules are those of tests")]

#[path = "../../../kernels/tests/cuda/mod.rs"]
#[allow(dead_code, reason = "a part of what tests call")]
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
    let dumped = std::fs::read(image)
        .map_err(|error| format!("{image}: {error}"))
        .and_then(|image| dump::Dump::of(&cuda::Cuda::open(Path::new("libcuda.so.1"))?, &image));
    let written = dumped.and_then(|dump| {
        let mut out = std::io::stdout();
        out.write_all(dump.write().as_bytes()).map_err(|error| error.to_string())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}
