//! What the tests of the examples share: scratch folders, the real models, tiny made-up ones, and skips.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod counting;
pub(crate) mod gguf;

use safetensors::tensor::{Dtype, TensorView, serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A folder that goes when the test ends.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("leasehold-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of this package, as seen from its folder.
pub(crate) fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) const EMBED: &str = "all-MiniLM-L6-v2";
pub(crate) const GENERATE: &str = "SmolLM2-135M-Instruct";

/// The folder of a model. Where it cannot be had the test is skipped, except under `CI=true`.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let output = Command::new(here("fetch-model")).arg(name).output().unwrap();
    if output.status.success() {
        return Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end()));
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let why = why.trim_end().lines().last().unwrap_or_default();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has no model: {why}");
    println!("skip: no model: {why}");
    None
}

/// Writes a model of one layer, hidden size 8, that knows the words `a` and `b`.
pub(crate) fn tiny_model(folder: &Path) {
    let shapes: [(&str, &[usize]); 19] = [
        ("embeddings.word_embeddings.weight", &[4, 8]),
        ("embeddings.position_embeddings.weight", &[6, 8]),
        ("embeddings.token_type_embeddings.weight", &[2, 8]),
        ("embeddings.LayerNorm.weight", &[8]),
        ("embeddings.LayerNorm.bias", &[8]),
        ("encoder.layer.0.attention.self.query.weight", &[8, 8]),
        ("encoder.layer.0.attention.self.query.bias", &[8]),
        ("encoder.layer.0.attention.self.key.weight", &[8, 8]),
        ("encoder.layer.0.attention.self.key.bias", &[8]),
        ("encoder.layer.0.attention.self.value.weight", &[8, 8]),
        ("encoder.layer.0.attention.self.value.bias", &[8]),
        ("encoder.layer.0.attention.output.dense.weight", &[8, 8]),
        ("encoder.layer.0.attention.output.dense.bias", &[8]),
        ("encoder.layer.0.attention.output.LayerNorm.weight", &[8]),
        ("encoder.layer.0.attention.output.LayerNorm.bias", &[8]),
        ("encoder.layer.0.intermediate.dense.weight", &[16, 8]),
        ("encoder.layer.0.intermediate.dense.bias", &[16]),
        ("encoder.layer.0.output.dense.weight", &[8, 16]),
        ("encoder.layer.0.output.dense.bias", &[8]),
    ];
    let norm: [(&str, &[usize]); 2] = [
        ("encoder.layer.0.output.LayerNorm.weight", &[8]),
        ("encoder.layer.0.output.LayerNorm.bias", &[8]),
    ];
    let tensors: Vec<(&str, Vec<usize>, Vec<u8>)> = shapes
        .iter()
        .chain(&norm)
        .map(|(name, shape)| {
            let count: usize = shape.iter().product();
            let data = (0..count).flat_map(|i| ((i % 7) as f32 * 0.1 - 0.3).to_le_bytes());
            (*name, shape.to_vec(), data.collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        (*name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    fs::write(folder.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    fs::write(folder.join("config.json"), CONFIG).unwrap();
    fs::write(folder.join("tokenizer.json"), TOKENIZER).unwrap();
}

const CONFIG: &str = r#"{
  "model_type": "bert", "hidden_act": "gelu", "hidden_size": 8, "intermediate_size": 16,
  "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 4,
  "max_position_embeddings": 6, "type_vocab_size": 2, "layer_norm_eps": 1e-12
}"#;

const TOKENIZER: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
  "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2, "far": 4}, "unk_token": "[UNK]"}
}"#;
