//! The main jobs: `embed` and `generate` as leased jobs on a private node, against the same programs on the local
//! device. Root or not, the bits are the same and the bill follows what they print.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{EMBED, GENERATE, here, model};
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
    let Some(model) = model(EMBED) else { return };
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

/// Two prompts of different lengths, so that the second is begun beside the first.
const CHAT: [&str; 6] =
    ["--prompt", "What is the capital of France?", "--prompt", "Count to three.", "--tokens", "12"];

#[test]
fn leased_and_local_generate_the_same_text() {
    let Some(model) = model(GENERATE) else { return };
    let _programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let mut generate = Command::new(env!("CARGO_BIN_EXE_generate"));
    let local = generate.args(["--device", "cpu"]).args(CHAT).arg(model.join(file));
    let local = stdout(local.output().unwrap());
    assert!(
        local.starts_with("> What is the capital of France?\nThe capital of France is Paris.\n> ")
    );
    let mut input = std::ffi::OsString::from("model=");
    input.push(&model);
    let mut job = Command::new(leasehold());
    job.args(["run", "--private", "--in"]).arg(input).arg("--").arg(env!("CARGO_BIN_EXE_generate"));
    let leased = job.args(CHAT).arg(Path::new("/in/model").join(file)).output().unwrap();
    let said = String::from_utf8_lossy(&leased.stderr).into_owned();
    let leased = stdout(leased);
    let bill = leased.strip_prefix(&local);
    assert!(bill.is_some_and(|bill| bill.contains("trial")), "{leased}\n{local}");
    // The weights, 538 MB as f32, are the device's: no copy of them is the job's.
    let peak = said.lines().find_map(|line| line.split_once("peak memory of this process "));
    let peak = peak.and_then(|(_, mib)| mib.strip_suffix(" MiB")?.parse::<u64>().ok());
    assert!(peak.is_some_and(|mib| mib < 250), "{said}");
}

#[test]
fn from_a_clone_by_one_command() {
    let (Some(embed), Some(_)) = (model(EMBED), model(GENERATE)) else { return };
    if Command::new("cargo").arg("--version").output().is_err() {
        println!("skip: this user has no cargo to build with");
        return;
    }
    let _programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let leased = stdout(Command::new(here("run")).arg("embed").args(SENTENCES).output().unwrap());
    assert!(leased.starts_with(&local(&embed)), "{leased}");
    let prompt = ["generate", "--tokens", "8", "--prompt", "What is the capital of France?"];
    let leased = stdout(Command::new(here("run")).args(prompt).output().unwrap());
    assert!(leased.starts_with("The capital of France is Paris.\n"), "{leased}");
    assert!(leased.contains("trial"), "{leased}");
}
