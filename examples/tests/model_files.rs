//! Model folders with one thing wrong each: the message names the value and what was allowed. They run on the
//! `null` device, which accepts every op and computes nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Scratch, tiny_model};
use leasehold::backend::null::Null;
use leasehold::{DType, Device};
use leasehold_examples::bert::{Bert, similarities};
use std::fs;
use std::path::Path;

fn load(model: &Path) -> Result<Bert, String> {
    let device = Device::from_backend(Null::new(1 << 30).0).unwrap();
    Bert::load(model, &device, DType::F32).map_err(|error| error.to_string())
}

/// What loading says after `change` of the text of `file`.
fn said(file: &str, change: impl Fn(&str) -> String) -> String {
    let folder = Scratch::new();
    tiny_model(&folder.0);
    let path = folder.0.join(file);
    let text = fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text, "the change changed nothing");
    fs::write(&path, changed).unwrap();
    load(&folder.0).map(|_| "accepted".to_string()).unwrap_or_else(|error| error)
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not name {part:?}");
    }
}

#[test]
fn the_sound_model_loads_and_every_op_is_accepted() {
    let folder = Scratch::new();
    tiny_model(&folder.0);
    let bert = load(&folder.0).unwrap();
    let tokens = bert.tokens(&["a", "a b a b a b a b", "b a b"]).unwrap();
    let lens: Vec<_> = tokens.iter().map(|tokens| tokens.ids().len()).collect();
    assert_eq!(lens, [1, 6, 3], "cut at the model's positions");
    let cut: Vec<_> = tokens.iter().map(|tokens| tokens.truncated()).collect();
    assert_eq!(cut, [false, true, false]);
    let embeddings = bert.embed(&tokens).unwrap();
    assert_eq!(embeddings.shape(), [3, 8]);
    let table = similarities(&embeddings).unwrap();
    assert_eq!(table.read::<f32>().unwrap().wait(None).unwrap().len(), 9);
}

#[test]
fn more_sentences_than_a_batch_are_accepted() {
    let folder = Scratch::new();
    tiny_model(&folder.0);
    let bert = load(&folder.0).unwrap();
    let embeddings = bert.embed(&bert.tokens(&["a b"; 70]).unwrap()).unwrap();
    assert_eq!(embeddings.read::<f32>().unwrap().wait(None).unwrap().len(), 70 * 8);
}

#[test]
fn configurations() {
    let config = |from: &str, to: &str| said("config.json", |text| text.replace(from, to));
    contains(&config("\"bert\"", "\"gpt2\""), &["config.json", "model_type", "gpt2", "bert"]);
    contains(&config("\"gelu\"", "\"relu\""), &["hidden_act", "relu", "gelu"]);
    contains(&config("heads\": 2", "heads\": 3"), &["num_attention_heads is 3", "hidden_size 8"]);
    contains(&config("heads\": 2", "heads\": 0"), &["num_attention_heads is 0", "1 to 1048576"]);
    contains(&config("\"vocab_size\": 4", "\"vocab_size\": 4000000000"), &["4000000000"]);
    contains(&config("1e-12", "-1"), &["layer_norm_eps is -1", "0 or more"]);
    contains(&config("\"hidden_size\": 8,", ""), &["missing field `hidden_size`"]);
    contains(&config("{", "["), &["config.json", "line 2 column"]);
    contains(&config("\"vocab_size\": 4", "\"vocab_size\": -4"), &["-4"]);
}

#[test]
fn tensors_of_another_shape_or_missing() {
    let text = said("config.json", |text| text.replace("_size\": 16", "_size\": 32"));
    contains(&text, &["intermediate.dense.weight", "F32 [16, 8]", "F32 [32, 8]"]);
    let text = said("config.json", |text| text.replace("layers\": 1", "layers\": 2"));
    contains(&text, &["encoder.layer.1.attention.self.query.weight", "missing"]);
}

#[test]
fn damaged_weights() {
    let folder = Scratch::new();
    tiny_model(&folder.0);
    let path = folder.0.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 7, 100, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        contains(&load(&folder.0).map(|_| ()).unwrap_err(), &["model.safetensors: "]);
    }
    fs::remove_file(&path).unwrap();
    contains(&load(&folder.0).map(|_| ()).unwrap_err(), &["model.safetensors: No such file"]);
}

#[test]
fn tokenizers() {
    contains(&said("tokenizer.json", |_| "{}".into()), &["tokenizer.json: "]);
    contains(
        &said("tokenizer.json", |text| text.replace("WordLevel", "Morse")),
        &["tokenizer.json: "],
    );
    let folder = Scratch::new();
    tiny_model(&folder.0);
    let bert = load(&folder.0).unwrap();
    let tokens = |text: &str| bert.tokens(&[text]).map(|_| ()).unwrap_err().to_string();
    contains(&tokens("far"), &["\"far\"", "token id 4", "0 to 3"]);
    contains(&tokens(""), &["0 tokens", "1 to 6"]);
}
