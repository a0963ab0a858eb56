//! Tests on the host model as a CUDA driver: each runs again in a child that finds the model's `libcuda.so.1` first, with
//! variables that say how the model behaves. Tests of the runtime and of the node include this file.

// Each test program uses a part.
#![allow(dead_code)]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../kernels/tests/driver/mod.rs"]
pub(crate) mod driver;

use leasehold::backend::cuda::{Cuda, Pack};
use leasehold_kernels::rows;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set in the child.
const IN_CHILD: &str = "LEASEHOLD_TEST_MODEL";
/// How the model behaves: an architecture, when work is done, calls that fail, rows that do nothing, and
/// a file for how often each function was called.
pub(crate) const ARCH: &str = "LEASEHOLD_MODEL_ARCH";
pub(crate) const ORDER: &str = "LEASEHOLD_MODEL_ORDER";
pub(crate) const FAIL: &str = "LEASEHOLD_MODEL_FAIL";
pub(crate) const IDLE: &str = "LEASEHOLD_MODEL_IDLE";
pub(crate) const CALLS: &str = "LEASEHOLD_MODEL_CALLS";
/// Names the folder of what is remembered.
pub(crate) const CACHE: &str = "XDG_CACHE_HOME";

/// The folder of the model's library, built once; `None` where there is no C++ compiler, as a skip.
pub(crate) fn folder() -> Option<&'static PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(|| driver::folder(&rows())).as_ref()
}

/// Runs this test in a child on the model, unless this is that child; then it says so.
pub(crate) fn in_child(test: &str, variables: &[(&str, &str)]) -> bool {
    if std::env::var_os(IN_CHILD).is_some() {
        return true;
    }
    let Some(folder) = folder() else { return false };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .env(IN_CHILD, "1")
        // Nothing that another model did is remembered.
        .env(CACHE, "/dev/null")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{variables:?}: {said}{errors}");
    let told = said.lines().filter(|line| line.contains("cases"));
    told.for_each(|line| println!("{variables:?}: {line}"));
    false
}

/// A pack of names: the model knows its rows by them.
pub(crate) fn pack(arch: &str) -> Pack {
    Pack::made("the host model", &[arch], |row, _| Ok([row.key().as_bytes(), &[0]].concat()))
        .unwrap()
}

/// A file of it, in a folder that nobody else may write to.
pub(crate) fn pack_file() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model-pack");
    DirBuilder::new().mode(0o700).recursive(true).create(&folder).unwrap();
    let file = folder.join("kernels");
    pack("sm_90a").write(&file).unwrap();
    file
}

/// The model's device.
pub(crate) fn open() -> Cuda {
    let devices = Cuda::enumerate().unwrap();
    let (ordinal, caps) = &devices[0];
    assert!(caps.name.starts_with("Host model"), "{caps:?}");
    Cuda::open_with(*ordinal, &pack(caps.arch)).unwrap()
}

/// How often a process called a function, or any where it has no name, by the file of [`CALLS`] that it left.
pub(crate) fn calls(file: &Path, function: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let counts = text.lines().filter_map(|line| line.split_once(' '));
    let of = counts.filter(|(name, _)| function.is_empty() || *name == function);
    of.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
}
