//! Models of random weights for `embed` and `generate`, of the sizes of those that the examples fetch: what a lease costs them
//! is measured where the real ones cannot be had, and nothing that they say means anything. `host` calls it.

use super::data::{Fill, filled};
use leasehold::DType;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A tensor: its name and its shape, with the outermost dim first.
struct Weight {
    name: String,
    shape: Vec<usize>,
}

fn weight(name: impl Into<String>, shape: &[usize]) -> Weight {
    Weight { name: name.into(), shape: shape.into() }
}

impl Weight {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Normal numbers, each tensor its own; ones for a norm.
    fn bytes(&self, dtype: DType, seed: u64) -> Vec<u8> {
        let one: &[u8] = if dtype == DType::F32 { &[0, 0, 0x80, 0x3f] } else { &[0, 0x3c] };
        if self.name.ends_with("orm.weight") {
            return one.repeat(self.count());
        }
        let salt = self.name.bytes().fold(seed, |h, byte| h.wrapping_mul(31) + u64::from(byte));
        filled(Fill::Normal, dtype, self.count() as u64, salt)
    }
}

/// Sizes of an encoder: those of all-MiniLM-L6-v2, and of a rehearsal.
struct Bert {
    layers: usize,
    hidden: usize,
    inner: usize,
    heads: usize,
    words: usize,
    positions: usize,
}

const MINI_LM: Bert =
    Bert { layers: 6, hidden: 384, inner: 1536, heads: 12, words: 30_522, positions: 512 };
const TINY_BERT: Bert =
    Bert { layers: 2, hidden: 32, inner: 64, heads: 4, words: 64, positions: 64 };

/// A folder as `embed` takes it.
///
/// # Errors
/// What the system says of a file.
pub(super) fn bert(folder: &Path, is_tiny: bool, seed: u64) -> io::Result<()> {
    let of = if is_tiny { TINY_BERT } else { MINI_LM };
    let Bert { layers, hidden, inner, heads, words, positions } = of;
    let config = json!({
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_hidden_layers": layers, "vocab_size": words,
        "max_position_embeddings": positions, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    });
    // Every word is unknown, and a token.
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "[UNK]": 0 }, "unk_token": "[UNK]" },
    });
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), config.to_string())?;
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    safetensors(&folder.join("model.safetensors"), &of.weights(), seed)
}

impl Bert {
    fn weights(&self) -> Vec<Weight> {
        let Self { layers, hidden, inner, words, positions, .. } = *self;
        let mut all = vec![
            weight("embeddings.word_embeddings.weight", &[words, hidden]),
            weight("embeddings.position_embeddings.weight", &[positions, hidden]),
            weight("embeddings.token_type_embeddings.weight", &[2, hidden]),
        ];
        let mut pair = |name: String, shape: &[usize]| {
            all.push(weight(format!("{name}.weight"), shape));
            all.push(weight(format!("{name}.bias"), &shape[..1]));
        };
        pair("embeddings.LayerNorm".into(), &[hidden]);
        for layer in 0..layers {
            let mut of = |part: &str, shape: &[usize]| {
                pair(format!("encoder.layer.{layer}.{part}"), shape);
            };
            for part in ["self.query", "self.key", "self.value", "output.dense"] {
                of(&format!("attention.{part}"), &[hidden, hidden]);
            }
            of("attention.output.LayerNorm", &[hidden]);
            of("intermediate.dense", &[inner, hidden]);
            of("output.dense", &[hidden, inner]);
            of("output.LayerNorm", &[hidden]);
        }
        all
    }
}

/// A file of f32: the length of its table, the table, and the tensors one after the other.
fn safetensors(path: &Path, weights: &[Weight], seed: u64) -> io::Result<()> {
    let (mut table, mut at) = (Map::new(), 0);
    for weight in weights {
        let end = at + 4 * weight.count();
        let entry = json!({ "dtype": "F32", "shape": weight.shape, "data_offsets": [at, end] });
        table.insert(weight.name.clone(), entry);
        at = end;
    }
    let table = Value::Object(table).to_string();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(table.len() as u64).to_le_bytes())?;
    file.write_all(table.as_bytes())?;
    weights.iter().try_for_each(|weight| file.write_all(&weight.bytes(DType::F32, seed)))?;
    file.flush()
}

/// Sizes of a decoder: those of SmolLM2-135M, and of a rehearsal.
struct Llama {
    blocks: usize,
    width: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    tokens: usize,
}

const SMOL_LM: Llama =
    Llama { blocks: 30, width: 576, inner: 1536, heads: 9, kv_heads: 3, tokens: 49_152 };
const TINY_LLAMA: Llama =
    Llama { blocks: 2, width: 64, inner: 96, heads: 4, kv_heads: 2, tokens: 300 };
const CONTEXT: usize = 2048;

/// The one chat format that `generate` knows, letter by letter.
const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A file as `generate` takes it.
///
/// # Errors
/// What the system says of a file.
pub(super) fn llama(path: &Path, is_tiny: bool, seed: u64) -> io::Result<()> {
    let of = if is_tiny { TINY_LLAMA } else { SMOL_LM };
    let (fields, weights) = (of.fields(), of.weights());
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend((weights.len() as u64).to_le_bytes());
    head.extend((fields.len() as u64).to_le_bytes());
    for (name, kind, value) in fields {
        head.extend(text(name));
        head.extend(u32::to_le_bytes(kind));
        head.extend(value);
    }
    let mut offset = 0;
    for weight in &weights {
        head.extend(text(&weight.name));
        head.extend((weight.shape.len() as u32).to_le_bytes());
        weight.shape.iter().rev().for_each(|&dim| head.extend((dim as u64).to_le_bytes()));
        // f16.
        head.extend(1u32.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset = (offset + 2 * weight.count()).next_multiple_of(ALIGNED);
    }
    head.resize(head.len().next_multiple_of(ALIGNED), 0);
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&head)?;
    for weight in &weights {
        let mut bytes = weight.bytes(DType::F16, seed);
        if weight.name == TABLE {
            // No answer ends early: what ends one is less likely than any other token.
            bytes[..2 * CONTROL.len() * of.width].fill(0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNED), 0);
        file.write_all(&bytes)?;
    }
    file.flush()
}

/// What tensors of a GGUF file begin at multiples of.
const ALIGNED: usize = 32;
/// The embedding, by which tokens are chosen too.
const TABLE: &str = "token_embd.weight";
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn list(kind: u32, values: impl ExactSizeIterator<Item = Vec<u8>>) -> Vec<u8> {
    let count = (values.len() as u64).to_le_bytes();
    [kind.to_le_bytes().to_vec(), count.to_vec()].into_iter().chain(values).flatten().collect()
}

impl Llama {
    /// Names, numbers of types, and values.
    fn fields(&self) -> Vec<(&'static str, u32, Vec<u8>)> {
        const NUMBER: u32 = 4;
        const SIGNED: u32 = 5;
        const FLOAT: u32 = 6;
        const TEXT: u32 = 8;
        const LIST: u32 = 9;
        let Self { blocks, width, inner, heads, kv_heads, tokens } = *self;
        let number = |name, n: usize| (name, NUMBER, (n as u32).to_le_bytes().to_vec());
        let float = |name, x: f32| (name, FLOAT, x.to_le_bytes().to_vec());
        let word = |name, word: &str| (name, TEXT, text(word));
        let names = names(tokens);
        let kinds = (0..names.len()).map(|i| i32::from(i < CONTROL.len()) * 2 + 1);
        let kinds: Vec<Vec<u8>> = kinds.map(|kind| kind.to_le_bytes().to_vec()).collect();
        vec![
            word("general.architecture", "llama"),
            number("llama.block_count", blocks),
            number("llama.context_length", CONTEXT),
            number("llama.embedding_length", width),
            number("llama.feed_forward_length", inner),
            number("llama.attention.head_count", heads),
            number("llama.attention.head_count_kv", kv_heads),
            float("llama.rope.freq_base", 10_000.0),
            float("llama.attention.layer_norm_rms_epsilon", 1e-5),
            word("tokenizer.ggml.model", "gpt2"),
            word("tokenizer.ggml.pre", "smollm"),
            word("tokenizer.chat_template", CHATML),
            ("tokenizer.ggml.tokens", LIST, list(TEXT, names.iter().map(|name| text(name)))),
            ("tokenizer.ggml.token_type", LIST, list(SIGNED, kinds.into_iter())),
            ("tokenizer.ggml.merges", LIST, list(TEXT, std::iter::empty())),
        ]
    }

    fn weights(&self) -> Vec<Weight> {
        let Self { blocks, width, inner, heads, kv_heads, tokens } = *self;
        let keys = width / heads * kv_heads;
        let mut all = vec![weight(TABLE, &[tokens, width])];
        for block in 0..blocks {
            let parts: [(&str, &[usize]); 9] = [
                ("attn_norm", &[width]),
                ("attn_q", &[width, width]),
                ("attn_k", &[keys, width]),
                ("attn_v", &[keys, width]),
                ("attn_output", &[width, width]),
                ("ffn_norm", &[width]),
                ("ffn_gate", &[inner, width]),
                ("ffn_up", &[inner, width]),
                ("ffn_down", &[width, inner]),
            ];
            all.extend(
                parts.map(|(part, shape)| weight(format!("blk.{block}.{part}.weight"), shape)),
            );
        }
        all.push(weight("output_norm.weight", &[width]));
        all
    }
}

/// Control tokens, GPT-2's characters for the 256 bytes, and fillers that no text has.
fn names(count: usize) -> Vec<String> {
    let mut other = 255;
    let mut letter = |byte: u32| {
        let is_plain = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        other += u32::from(!is_plain);
        char::from_u32(if is_plain { byte } else { other }).unwrap_or('?').to_string()
    };
    let mut names: Vec<String> = CONTROL.map(String::from).into();
    names.extend((0..256).map(&mut letter));
    names.extend((names.len()..count).map(|i| format!("[filler {i}]")));
    names
}
