//! `generate`: the real model on the CPU against what transformers stored in `reference/generate.json`, batches against
//! the same sequences alone, what a step asks of its device, and the program as a person starts it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::counting::Counting;
use common::gguf::tiny;
use common::{GENERATE, Scratch, here, model};
use leasehold::{DType, Device, Kind};
use leasehold_examples::gguf::{Gguf, Vocabulary};
use leasehold_examples::llama::{Generation, Llama, Room, Sampler};
use leasehold_examples::model::PAGE;
use std::path::Path;
use std::process::{Command, Output};

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// What `reference/generate.py` wrote.
#[derive(serde::Deserialize)]
struct Reference {
    prompts: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// The likeliest tokens, one after another, whatever ends a chat.
    answer: Vec<u32>,
    /// The largest error of transformers in f32 among the logits below.
    plain: f64,
    /// The least distance between a step's two largest logits.
    closest: f64,
    /// For each step, tokens and their logits before it.
    places: Vec<Vec<usize>>,
    logits: Vec<Vec<f64>>,
}

fn reference() -> Reference {
    let text = std::fs::read(here("tests/reference/generate.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn load(file: &Path, device: &Device, dtype: DType) -> (Vocabulary, Llama) {
    let file = Gguf::open(file).unwrap();
    let vocabulary = Vocabulary::load(&file).unwrap();
    let model = Llama::load(&file, vocabulary.len(), device, dtype).unwrap();
    (vocabulary, model)
}

fn tiny_on(device: &Device) -> Llama {
    let folder = Scratch::new();
    let path = folder.0.join("model.gguf");
    tiny().write(&path);
    load(&path, device, DType::F32).1
}

fn room(slots: usize, longest: usize) -> Room {
    Room { slots, longest, total: slots * longest }
}

/// `count` tokens after a prompt, alone in a batch of its own.
fn alone(model: &Llama, prompt: &[u32], count: usize) -> Vec<u32> {
    let longest = prompt.len() + count;
    let mut one = Generation::new(model, room(1, longest), None).unwrap();
    let mut tokens = vec![one.begin(0, prompt, longest).unwrap().unwrap()];
    while tokens.len() < count {
        tokens.extend(one.step().unwrap().map(|(_, token)| token));
    }
    tokens
}

#[test]
fn tokens_are_those_of_an_independent_tokenizer() {
    let Some(folder) = model(GENERATE) else { return };
    let vocabulary = Vocabulary::load(&Gguf::open(&folder.join(FILE)).unwrap()).unwrap();
    let Reference { prompts, ids, .. } = reference();
    for (prompt, ids) in prompts.iter().zip(&ids) {
        assert_eq!(&vocabulary.chat(prompt).unwrap(), ids, "{prompt:?}");
    }
}

/// The parity rule of the kernels' tests, for a whole model: the largest error against f64 is at most twice that of a
/// plain formula in f32, here transformers', plus twice the spacing of f32 at the largest logit.
#[test]
fn logits_of_64_tokens_are_those_of_transformers() {
    let Some(folder) = model(GENERATE) else { return };
    let expected = reference();
    let (prompt, answer) = (&expected.ids[0], &expected.answer);
    let device = Device::open_named("cpu").unwrap();
    let (_, model) = load(&folder.join(FILE), &device, DType::F32);
    let longest = prompt.len() + answer.len();
    let mut generation = Generation::new(&model, room(1, longest), None).unwrap();
    let mut token = generation.begin(0, prompt, longest).unwrap().unwrap();
    let largest = expected.logits.iter().flatten().fold(0f64, |most, x| most.max(x.abs()));
    let allowed = 2.0 * expected.plain + 2.0 * largest.log2().floor().exp2() * 2f64.powi(-23);
    assert!(expected.closest > 2.0 * allowed, "too close to tell tokens apart");
    let mut worst = 0f64;
    for (step, (places, logits)) in expected.places.iter().zip(&expected.logits).enumerate() {
        assert_eq!(token, answer[step], "step {step}");
        let ours = generation.logits(0).unwrap().read::<f32>().unwrap().wait(None).unwrap();
        for (&place, &exact) in places.iter().zip(logits) {
            let apart = (f64::from(ours[place]) - exact).abs();
            assert!(apart <= allowed, "step {step}, token {place}: {apart:e}, allowed {allowed:e}");
            worst = worst.max(apart);
        }
        token = generation.step().unwrap().next().unwrap().1;
    }
    println!(
        "largest error {worst:e}, transformers in f32 {:e}, allowed {allowed:e}",
        expected.plain
    );
}

/// Sequences come and go, each with a length of its own: none sees another.
#[test]
fn a_sequence_goes_alike_alone_and_among_others() {
    let device = Device::open_named("cpu").unwrap();
    let model = tiny_on(&device);
    let prompt = |seed: u32, len: u32| (0..len).map(|i| 3 + (i * i + seed * 31) % 256).collect();
    let prompts: Vec<Vec<u32>> =
        [(1, 5), (2, 40), (3, 1), (4, 17), (5, 16)].map(|(seed, len)| prompt(seed, len)).into();
    let counts = [30, 9, 33, 20, 1];
    let apart: Vec<Vec<u32>> =
        prompts.iter().zip(counts).map(|(prompt, count)| alone(&model, prompt, count)).collect();

    // Two slots for five sequences, and pages for less than two of the longest.
    let room = Room { slots: 2, longest: 49, total: 64 };
    let mut batch = Generation::new(&model, room, None).unwrap();
    let mut together = vec![Vec::new(); prompts.len()];
    let (mut slots, mut next, mut refused) = ([None; 2], 0, 0);
    while next < prompts.len() || slots.iter().any(Option::is_some) {
        while let (Some(slot), Some(prompt)) = (batch.free_slot(), prompts.get(next)) {
            let Some(token) = batch.begin(slot, prompt, prompt.len() + counts[next]).unwrap()
            else {
                refused += 1;
                break;
            };
            together[next].push(token);
            slots[slot] = Some(next);
            next += 1;
        }
        let tokens: Vec<_> = batch.step().unwrap().collect();
        for (slot, token) in tokens {
            let number: usize = slots[slot].unwrap();
            if together[number].len() < counts[number] {
                together[number].push(token);
            }
            if together[number].len() == counts[number] {
                batch.end(slot).unwrap();
                slots[slot] = None;
            }
        }
    }
    assert_eq!(together, apart);
    assert!(refused > 0, "the pages were never short");
    assert!(apart.iter().any(|tokens| tokens.iter().any(|t| t != &tokens[0])), "{apart:?}");
}

/// A prompt longer than what runs at once goes in by parts.
#[test]
fn a_prompt_in_parts_is_a_prompt() {
    let device = Device::open_named("cpu").unwrap();
    let model = tiny_on(&device);
    let prompt: Vec<u32> = (0..500).map(|i| 3 + i * i % 256).collect();
    let answer = alone(&model, &prompt, 40);
    for more in [0, 11, 12, 13, 39] {
        let longer = [&prompt[..], &answer[..more]].concat();
        assert_eq!(alone(&model, &longer, 1), answer[more..=more], "{more} more");
    }
}

#[test]
fn what_has_no_room_is_not_begun() {
    let device = Device::open_named("cpu").unwrap();
    let model = tiny_on(&device);
    let mut batch = Generation::new(&model, room(1, 20), None).unwrap();
    assert_eq!(batch.begin(0, &[], 5).unwrap(), None);
    assert_eq!(batch.begin(0, &[3; 40], 45).unwrap(), None);
    assert_eq!(batch.step().unwrap().count(), 0);
    assert_eq!(batch.begin(0, &[3; 6], 5).unwrap(), None);
    assert!(batch.begin(0, &[3], 5).unwrap().is_some());
    assert_eq!((batch.free_slot(), batch.begin(0, &[3], 5).unwrap()), (None, None));
    // A sequence that nobody ends fails where its page does, and writes into no other.
    let steps = (1..).take_while(|_| batch.step().is_ok()).count();
    assert_eq!(steps, PAGE - 1);
    let error = batch.step().map(drop).unwrap_err();
    assert!(matches!(error.kind(), Kind::Index { value: u32::MAX, .. }), "{error}");
}

/// One replay and the read of the tokens: no op is sent alone, nothing is written, nothing allocated.
#[test]
fn a_step_is_one_replay_and_one_read() {
    let (device, counts) = Counting::device();
    let model = tiny_on(&device);
    let mut batch = Generation::new(&model, room(3, 400), None).unwrap();
    for slot in 0..3 {
        batch.begin(slot, &[5; 7], 400).unwrap().unwrap();
    }
    let before = counts.all();
    for _ in 0..50 {
        assert_eq!(batch.step().unwrap().count(), 3);
    }
    let made: Vec<_> =
        counts.all().into_iter().zip(before).map(|((n, b), (_, a))| (n, b - a)).collect();
    let expected =
        [("alloc", 0), ("free", 0), ("write", 0), ("submit", 0), ("replay", 50), ("read", 50)];
    assert_eq!(made, expected);
}

#[test]
fn a_seed_draws_the_same_text_again() {
    let device = Device::open_named("cpu").unwrap();
    let model = tiny_on(&device);
    let drawn = |seed| {
        let sampler = Some(Sampler::new(1.0, seed));
        let mut batch = Generation::new(&model, room(2, 40), sampler).unwrap();
        let mut tokens = vec![batch.begin(1, &[9, 8, 7], 40).unwrap().unwrap()];
        for _ in 0..20 {
            tokens.extend(batch.step().unwrap().map(|(slot, token)| token + slot as u32 - 1));
        }
        tokens
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert_eq!(drawn(1).len(), 21);
}

/// The same text on an adapter of wgpu, as far as the tokens are not nearer to each other than roundings are.
#[test]
fn text_on_wgpu_is_that_of_the_cpu() {
    let Some(folder) = model(GENERATE) else { return };
    let Ok(device) = Device::open_named("wgpu:0") else {
        assert!(std::env::var_os("CI").is_none(), "CI has a software adapter");
        println!("skip: no Vulkan adapter; install mesa-vulkan-drivers");
        return;
    };
    let expected = reference();
    let (_, model) = load(&folder.join(FILE), &device, DType::F32);
    let (prompt, count) = (&expected.ids[0], 6);
    let longest = prompt.len() + count;
    let mut generation = Generation::new(&model, room(1, longest), None).unwrap();
    let first = generation.begin(0, prompt, longest).unwrap().unwrap();
    let mut tokens = vec![first];
    while tokens.len() < count {
        tokens.extend(generation.step().unwrap().map(|(_, token)| token));
    }
    // The stored steps are all further apart than any rounding.
    assert_eq!(tokens, expected.answer[..count]);
}

fn run(args: &[&str]) -> Output {
    let mut generate = Command::new(env!("CARGO_BIN_EXE_generate"));
    generate.args(args).env_remove("LEASEHOLD_FD").output().unwrap()
}

#[test]
fn the_program_prints_answers_alone_on_stdout() {
    let Some(folder) = model(GENERATE) else { return };
    let file = folder.join(FILE);
    let args = ["--device", "cpu", "--tokens", "9", "--prompt", "What is the capital of France?"];
    let Output { status, stdout, stderr } = run(&[&args[..], &[file.to_str().unwrap()]].concat());
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{said}");
    assert_eq!(String::from_utf8(stdout).unwrap(), "The capital of France is Paris.\n");
    let parts =
        ["prompt 37 tokens, ", "; decode 7 tokens, ", " tokens/s", "peak memory of this process"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
}

#[test]
fn wrong_arguments_name_the_value_and_what_is_allowed() {
    let folder = Scratch::new();
    let tiny_file = folder.0.join("tiny.gguf");
    tiny().write(&tiny_file);
    let tiny_file = tiny_file.to_str().unwrap();
    let long = "x".repeat(2000);
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&[], 2, &["at least one --prompt", "usage: generate"]),
        (&["--prompt", "a"], 2, &["MODEL is missing"]),
        (&["--prompt"], 2, &["--prompt needs a value"]),
        (&["m", "a prompt", "--prompt", "a"], 2, &["unexpected \"a prompt\""]),
        (&["--tokens", "0", "--prompt", "a", "m"], 2, &["--tokens is \"0\", allowed 1 to 4096"]),
        (&["--temperature", "-1", "--prompt", "a", "m"], 2, &["\"-1\", allowed 0 to 10"]),
        (&["--temperature", "NaN", "--prompt", "a", "m"], 2, &["\"NaN\", allowed 0 to 10"]),
        (&["--seed", "x", "--prompt", "a", "m"], 2, &["--seed is \"x\""]),
        (&["--dtype", "f8", "--prompt", "a", "m"], 2, &["\"f8\"", "allowed f32, f16, bf16"]),
        (&["--speed", "--prompt", "a", "m"], 2, &["unknown option \"--speed\""]),
        (&["--device", "cpu", "--prompt", "a", "/nowhere"], 1, &["/nowhere: No such file"]),
        (
            &["--device", "cpu", "--prompt", "a", "--prompt", &long, tiny_file],
            1,
            &["prompt 2 and its answer are ", "allowed 2048"],
        ),
    ];
    for (args, code, parts) in cases {
        let Output { status, stdout, stderr } = run(args);
        let text = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}: {text}");
        assert!(stdout.is_empty());
        for part in parts {
            assert!(text.contains(part), "{args:?}: {text:?} does not name {part:?}");
        }
    }
}
