//! The main job's numbers: the real model on the CPU against what PyTorch stored in `reference/embed.json`, and
//! the program `embed` as a person starts it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{EMBED, here, model};
use leasehold::{DType, Device};
use leasehold_examples::bert::{Bert, similarities};
use std::process::{Command, Output};

/// What `reference/embed.py` wrote.
#[derive(serde::Deserialize)]
struct Reference {
    sentences: Vec<String>,
    tokens: Vec<usize>,
    similarities: Vec<Vec<f64>>,
    embeddings: Vec<Vec<f64>>,
}

fn reference() -> Reference {
    let text = std::fs::read(here("tests/reference/embed.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The largest difference; NaN where anything is NaN, so that no bound holds.
fn distance(ours: &[f32], theirs: &[Vec<f64>]) -> f64 {
    let theirs: Vec<f64> = theirs.concat();
    assert_eq!(ours.len(), theirs.len());
    let apart = ours.iter().zip(theirs).map(|(&a, b)| (f64::from(a) - b).abs());
    apart.fold(0.0, |worst, x| if x.is_nan() || worst.is_nan() { f64::NAN } else { x.max(worst) })
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_embed"))
        .args(args)
        .env_remove("LEASEHOLD_FD")
        .output()
        .unwrap()
}

/// A set `LEASEHOLD_FD` names the only device: a bad one is an error, never another device.
#[test]
fn a_lease_that_is_none_is_an_error() {
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let bytes = |text: &'static str| std::ffi::OsString::from(text);
    let not_utf8 = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    let values = ["", "abc", "-1", "0x3", " 3", "99999", "99999999999999999999"].map(bytes);
    for value in values.into_iter().chain([not_utf8]) {
        not_a_lease(&value, std::process::Stdio::null());
    }
    not_a_lease(&bytes("0"), std::process::Stdio::null());
    not_a_lease(&bytes("0"), std::os::fd::OwnedFd::from(socket).into());
}

fn not_a_lease(value: &std::ffi::OsStr, stdin: std::process::Stdio) {
    let mut embed = Command::new(env!("CARGO_BIN_EXE_embed"));
    embed.args(["/nowhere", "a sentence"]).env("LEASEHOLD_FD", value).stdin(stdin);
    let Output { status, stdout, stderr } = embed.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    let named = format!("LEASEHOLD_FD is {:?}, allowed", value.to_string_lossy());
    assert!(text.contains(&named) && text.contains("open socket"), "{value:?}: {text}");
    assert!(status.code() == Some(1) && stdout.is_empty(), "{value:?}: {text}");
}

#[test]
fn embeddings_and_similarities_are_pytorchs() {
    let Some(model) = model(EMBED) else { return };
    let expected = reference();
    let device = Device::open_named("cpu").unwrap();
    // The stored numbers are f64; the bounds leave room for the roundings of six layers in each type.
    for (dtype, bound) in [(DType::F32, 1e-6), (DType::BF16, 5e-3)] {
        let bert = Bert::load(&model, &device, dtype).unwrap();
        let tokens = bert.tokens(&expected.sentences).unwrap();
        let lens: Vec<usize> = tokens.iter().map(|tokens| tokens.ids().len()).collect();
        assert_eq!(lens, expected.tokens);
        let embeddings = bert.embed(&tokens).unwrap();
        let table = similarities(&embeddings).unwrap().read::<f32>().unwrap().wait(None).unwrap();
        let embeddings = embeddings.read::<f32>().unwrap().wait(None).unwrap();
        let apart = distance(&embeddings, &expected.embeddings);
        assert!(apart <= bound, "{dtype}: embeddings differ by {apart:e}, allowed {bound:e}");
        let (apart, bound) = (distance(&table, &expected.similarities), 4.0 * bound);
        assert!(apart <= bound, "{dtype}: similarities differ by {apart:e}, allowed {bound:e}");
    }
}

#[test]
fn a_sentence_embeds_alike_alone_and_among_others() {
    let Some(model) = model(EMBED) else { return };
    let device = Device::open_named("cpu").unwrap();
    let bert = Bert::load(&model, &device, DType::F32).unwrap();
    let rows = |sentences: &[String]| {
        let embeddings = bert.embed(&bert.tokens(sentences).unwrap()).unwrap();
        embeddings.read::<f32>().unwrap().wait(None).unwrap()
    };
    let sentences = reference().sentences;
    let together = rows(&sentences);
    assert_eq!(together, rows(&sentences), "two runs, two results");
    for (sentence, row) in sentences.iter().zip(together.chunks(384)) {
        let alone = rows(std::slice::from_ref(sentence));
        let apart = distance(&alone, &[row.iter().map(|&x| f64::from(x)).collect()]);
        assert!(apart <= 1e-6, "{sentence:?}: differs by {apart:e}");
    }
}

#[test]
fn the_program_prints_the_table_alone_on_stdout() {
    let Some(model) = model(EMBED) else { return };
    let expected = reference();
    let mut args = vec!["--device", "cpu", model.to_str().unwrap()];
    args.extend(expected.sentences.iter().map(String::as_str));
    let output = run(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + expected.sentences.len(), "{text}");
    for (i, (line, row)) in lines[1..].iter().zip(&expected.similarities).enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], (i + 1).to_string());
        for (word, similarity) in words[1..].iter().zip(row) {
            let apart = (word.parse::<f64>().unwrap() - similarity).abs();
            assert!(apart <= 0.6e-4, "{word} printed, PyTorch has {similarity}");
        }
    }
}

#[test]
fn wrong_arguments_name_the_value_and_what_is_allowed() {
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (&[], 2, &["MODEL is missing", "usage: embed"]),
        (&["/nowhere"], 2, &["at least one SENTENCE"]),
        (&["--dtype", "f8", "m", "s"], 2, &["\"f8\"", "allowed f32, f16, bf16"]),
        (&["--bench", "0", "m", "s"], 2, &["\"0\"", "allowed 1 to 1000"]),
        (&["--speed", "m", "s"], 2, &["unknown option \"--speed\""]),
        (&["--device", "abacus", "m", "s"], 1, &["abacus", "cpu"]),
        (&["--device", "cpu", "/nowhere", "s"], 1, &["/nowhere/config.json", "No such file"]),
    ];
    for (args, code, parts) in cases {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(output.stdout.is_empty());
        for part in parts {
            assert!(text.contains(part), "{args:?}: {text:?} does not name {part:?}");
        }
    }
}
