//! The main job: `embed` as a leased job on a private node, against the same program on the local device. Root or
//! not, the bits are the same and the bill follows the table.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{here, model};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Held by each test: `examples/run` builds, and for a moment the programs that cargo replaces are not there.
static PROGRAMS: Mutex<()> = Mutex::new(());

const SENTENCES: [&str; 3] = ["A cat sits on the mat.", "Ein Hund bellt. 🐕", ""];

/// The program `leasehold`, which a build of the workspace puts beside `embed`.
fn leasehold() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_embed")).with_file_name("leasehold");
    assert!(path.is_file(), "{} is missing: cargo build --release --workspace", path.display());
    path
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn local(model: &Path) -> String {
    let mut embed = Command::new(env!("CARGO_BIN_EXE_embed"));
    stdout(embed.args(["--device", "cpu"]).arg(model).args(SENTENCES).output().unwrap())
}

#[test]
fn leased_and_local_print_the_same_table() {
    let Some(model) = model() else { return };
    let _programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = std::ffi::OsString::from("model=");
    input.push(&model);
    let mut job = Command::new(leasehold());
    job.args(["run", "--private", "--in"]).arg(input).arg("--");
    let leased = stdout(
        job.arg(env!("CARGO_BIN_EXE_embed")).arg("/in/model").args(SENTENCES).output().unwrap(),
    );
    let table = local(&model);
    let bill = leased.strip_prefix(&table);
    assert!(bill.is_some_and(|bill| bill.contains("trial")), "{leased}\n{table}");
}

#[test]
fn from_a_clone_by_one_command() {
    let Some(model) = model() else { return };
    if Command::new("cargo").arg("--version").output().is_err() {
        println!("skip: this user has no cargo to build with");
        return;
    }
    let _programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let leased = stdout(Command::new(here("run")).arg("embed").args(SENTENCES).output().unwrap());
    assert!(leased.starts_with(&local(&model)), "{leased}");
}
