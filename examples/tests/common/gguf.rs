//! GGUF files as tests want them: a writer for sound and for hostile ones, and a tiny llama model that speaks bytes.

use leasehold_examples::gguf::CHATML;
use std::path::Path;

/// A file in the making; every part can be broken by hand.
#[derive(Clone)]
pub(crate) struct File {
    /// Name, number of the type, bytes of the value.
    pub(crate) fields: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor as the table has it.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Innermost first.
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
    /// In place of where the data is put.
    pub(crate) offset: Option<u64>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn list(kind: u32, values: impl ExactSizeIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((values.len() as u64).to_le_bytes());
    values.for_each(|value| bytes.extend(value));
    bytes
}

impl File {
    pub(crate) fn number(&mut self, name: &str, n: u32) {
        self.set(name, 4, n.to_le_bytes().to_vec());
    }

    pub(crate) fn float(&mut self, name: &str, x: f32) {
        self.set(name, 6, x.to_le_bytes().to_vec());
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.set(name, 8, text(value));
    }

    pub(crate) fn texts(&mut self, name: &str, values: &[String]) {
        self.set(name, 9, list(8, values.iter().map(|value| text(value))));
    }

    pub(crate) fn integers(&mut self, name: &str, values: &[i32]) {
        self.set(name, 9, list(5, values.iter().map(|n| n.to_le_bytes().to_vec())));
    }

    /// Adds a field, or replaces it.
    pub(crate) fn set(&mut self, name: &str, kind: u32, value: Vec<u8>) {
        self.fields.retain(|(known, ..)| known != name);
        self.fields.push((name.into(), kind, value));
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Adds a tensor of these values, rows of `columns`, stored as type `kind`.
    fn push(&mut self, name: &str, rows: usize, columns: usize, kind: u32) {
        let seed = self.tensors.len() as f32;
        let value = |i: usize| ((i as f32 + 31.0 * seed) * 0.7391).sin() * 0.5;
        let norm = name.ends_with("norm.weight");
        let value = |i| if norm { 1.0 + 0.1 * value(i) } else { value(i) };
        let half = |x: f32| leasehold::f16::from_f32(x).to_le_bytes();
        let count = rows * columns;
        let blocks = (0..count).step_by(32).map(|first| first..first + 32);
        let data = match kind {
            0 => (0..count).flat_map(|i| value(i).to_le_bytes()).collect(),
            1 => (0..count).flat_map(|i| half(value(i))).collect(),
            3 => blocks
                .flat_map(|block| {
                    let q = |i: usize| ((value(i) + 0.5) * 15.0).round() as u8;
                    let bytes = (block.start..block.start + 16).map(move |i| q(i) | q(i + 16) << 4);
                    [half(1.0 / 15.0), half(-0.5)].concat().into_iter().chain(bytes)
                })
                .collect(),
            _ => blocks
                .flat_map(|block| {
                    let bytes = block.map(move |i| (value(i) * 254.0).round() as i8 as u8);
                    half(1.0 / 254.0).into_iter().chain(bytes)
                })
                .collect(),
        };
        let dims = if rows == 1 { vec![columns as u64] } else { vec![columns as u64, rows as u64] };
        self.tensors.push(Tensor { name: name.into(), dims, kind, data, offset: None });
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.fields.len() as u64).to_le_bytes());
        for (name, kind, value) in &self.fields {
            bytes.extend(text(name));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset = (offset + tensor.data.len() as u64).next_multiple_of(32);
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(&tensor.data);
        }
        bytes
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// A llama model of two blocks and width 64, with tensors of every type. Its tokens are three control tokens, the 256
/// bytes, and ` a`.
pub(crate) fn tiny() -> File {
    let mut file = File { fields: Vec::new(), tensors: Vec::new() };
    file.text("general.architecture", "llama");
    let numbers = [
        ("block_count", 2),
        ("context_length", 2048),
        ("embedding_length", 64),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 16),
    ];
    numbers.iter().for_each(|(name, n)| file.number(&format!("llama.{name}"), *n));
    file.float("llama.rope.freq_base", 10_000.0);
    file.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    file.text("tokenizer.ggml.model", "gpt2");
    file.text("tokenizer.ggml.pre", "smollm");
    file.text("tokenizer.chat_template", CHATML);
    let plain = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut other = 255;
    let mut letter = |byte| {
        let code = if plain(byte) {
            byte
        } else {
            {
                other += 1;
                other
            }
        };
        char::from_u32(code).unwrap().to_string()
    };
    let mut tokens: Vec<String> =
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).into();
    tokens.extend((0..256).map(&mut letter));
    tokens.push("Ġa".into());
    let kinds: Vec<i32> = (0..tokens.len()).map(|i| if i < 3 { 3 } else { 1 }).collect();
    file.integers("tokenizer.ggml.token_type", &kinds);
    file.texts("tokenizer.ggml.merges", &["Ġ a".into()]);
    file.push("token_embd.weight", tokens.len(), 64, 8);
    file.texts("tokenizer.ggml.tokens", &tokens);
    for block in 0..2 {
        let mut push = |part: &str, rows, columns, kind| {
            file.push(&format!("blk.{block}.{part}.weight"), rows, columns, kind);
        };
        push("attn_norm", 1, 64, 0);
        push("attn_q", 64, 64, 3);
        push("attn_k", 32, 64, 8);
        push("attn_v", 32, 64, 3);
        push("attn_output", 64, 64, 1);
        push("ffn_norm", 1, 64, 1);
        push("ffn_gate", 96, 64, 3);
        push("ffn_up", 96, 64, 3);
        push("ffn_down", 64, 96, 0);
    }
    file.push("output_norm.weight", 1, 64, 0);
    file
}
