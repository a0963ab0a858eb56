//! GGUF files that are damaged or hostile: each is an error that names what was found and what is allowed, and none a
//! panic or a large allocation. The sound one loads. `null` and the CPU run what is loaded.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Scratch;
use common::gguf::{File, tiny};
use leasehold::backend::null::Null;
use leasehold::{DType, Device};
use leasehold_examples::gguf::{Gguf, Vocabulary};
use leasehold_examples::llama::Llama;
use std::path::Path;

/// Everything that reading the file does, up to a model on a device.
fn load(path: &Path) -> Result<usize, String> {
    let file = Gguf::open(path).map_err(|error| error.to_string())?;
    let vocabulary = Vocabulary::load(&file).map_err(|error| error.to_string())?;
    let device = Device::from_backend(Null::new(1 << 30).0).unwrap();
    Llama::load(&file, vocabulary.len(), &device, DType::F32).map_err(|error| error.to_string())?;
    Ok(vocabulary.len())
}

/// What loading says of these bytes.
fn said_of(bytes: &[u8]) -> String {
    let folder = Scratch::new();
    let path = folder.0.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    load(&path).map_or_else(|error| error, |tokens| format!("{tokens} tokens"))
}

/// What loading says of the tiny model after a change.
fn said(change: impl FnOnce(&mut File)) -> String {
    let mut file = tiny();
    change(&mut file);
    said_of(&file.bytes())
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not name {part:?}");
    }
}

#[test]
fn the_sound_file_loads() {
    assert_eq!(said(|_| ()), "260 tokens");
    // An output of its own is used.
    let own = said(|file| {
        let mut output = file.tensor("token_embd.weight").clone();
        output.name = "output.weight".into();
        file.tensors.push(output);
    });
    assert_eq!(own, "260 tokens");
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = tiny().bytes();
    let folder = Scratch::new();
    let path = folder.0.join("model.gguf");
    // Every length of what comes before the tensors, or nearly; then some inside them.
    let lens = (0..whole.len().min(12_000)).step_by(7).chain((12_000..whole.len()).step_by(997));
    for len in lens.chain([whole.len() - 1]) {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = load(&path).expect_err("half a file loads");
        assert!(error.contains("model.gguf: byte "), "{len}: {error}");
    }
    std::fs::remove_file(&path).unwrap();
    contains(&load(&path).unwrap_err(), &["model.gguf: ", "No such file"]);
    contains(&load(&folder.0).unwrap_err(), &[&*folder.0.to_string_lossy()]);
}

/// A change of any one byte loads or is an error: nothing panics, nothing is allocated that the file cannot hold.
#[test]
fn any_byte_may_be_another() {
    let whole = tiny().bytes();
    let table = 12_000.min(whole.len());
    let mut errors = 0;
    for i in (0..table).step_by(3) {
        let mut bytes = whole.clone();
        bytes[i] ^= [0xff, 0x01, 0x80][i / 3 % 3];
        errors += usize::from(!said_of(&bytes).ends_with("tokens"));
    }
    assert!(errors > table / 3 / 3, "{errors} errors");
}

#[test]
fn heads_of_files() {
    let whole = tiny().bytes();
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        said_of(&bytes)
    };
    contains(&said_of(b""), &["byte 0", "magic", "0 bytes"]);
    contains(&changed(0, b"GGML"), &["magic is GGML, allowed GGUF"]);
    contains(&changed(4, &[9]), &["version is 9, allowed 2 or 3"]);
    contains(&changed(8, &[0xff; 8]), &["tensors is 18446744073709551615, allowed at most"]);
    contains(&changed(16, &[0xff; 7]), &["fields is", "allowed at most"]);
    // The first field's name, its text, and its type.
    contains(&changed(24, &[0xff; 8]), &["length of a field's name", "allowed at most"]);
    contains(&changed(32, &[0xff]), &["a field's name is invalid utf-8", "allowed UTF-8"]);
    contains(&changed(32 + 20, &[13]), &["type of general.architecture is 13", "0 to 12"]);
}

#[test]
fn fields() {
    let nested = |file: &mut File| file.set("x", 9, [9u32.to_le_bytes(), [0; 4], [0; 4]].concat());
    contains(&said(nested), &["element type of x is 9", "0 to 8, 10 to 12"]);
    let long = [&4u32.to_le_bytes()[..], &(1u64 << 60).to_le_bytes()].concat();
    contains(&said(|file| file.set("x", 9, long)), &["elements of x is 1152921504606846976"]);
    contains(&said(|file| file.set("x", 7, vec![2])), &["x is 2, allowed 0 or 1"]);
    let twice = |file: &mut File| file.fields.push(file.fields[0].clone());
    contains(&said(twice), &["general.architecture, allowed each name once"]);
    for n in [0, 3, 1 << 17] {
        let text = said(|file| file.number("general.alignment", n));
        contains(&text, &["general.alignment", &format!("Unsigned({n})"), "a power of two"]);
    }
    let numbers = [
        ("block_count", 0, "1 to 1024"),
        ("block_count", 1025, "1 to 1024"),
        ("embedding_length", 0, "1 to 1048576"),
        ("embedding_length", u32::MAX, "1 to 1048576"),
        ("feed_forward_length", 0, "1 to 1048576"),
        ("context_length", 0, "1 to 1048576"),
        ("attention.head_count", 0, "1 to 1048576"),
        ("attention.head_count", 5, "a divisor of the embedding length 64"),
        ("attention.head_count_kv", 3, "a divisor of the head count 4"),
        ("rope.dimension_count", 8, "the head dim 16"),
        ("attention.key_length", 32, "the head dim 16"),
    ];
    for (name, n, allowed) in numbers {
        let name = format!("llama.{name}");
        let text = said(|file| file.number(&name, n));
        contains(&text, &[&format!("field {name} is Unsigned({n}), allowed {allowed}")]);
    }
    for (name, value) in [("rope.freq_base", 1.0), ("attention.layer_norm_rms_epsilon", -1.0)] {
        let name = format!("llama.{name}");
        contains(&said(|file| file.float(&name, value)), &[&name, "Float("]);
        contains(&said(|file| file.float(&name, f32::NAN)), &[&name, "NaN"]);
        contains(&said(|file| file.fields.retain(|(n, ..)| *n != name)), &[&name, "missing"]);
        contains(&said(|file| file.number(&name, 2)), &[&name, "Unsigned(2)"]);
    }
    let texts = [
        ("general.architecture", "gpt2", "llama"),
        ("llama.rope.scaling.type", "yarn", "none"),
        ("tokenizer.ggml.model", "llama", "gpt2"),
        ("tokenizer.ggml.pre", "qwen2", "smollm"),
        ("tokenizer.chat_template", "{{ messages }}", "im_start"),
    ];
    for (name, value, allowed) in texts {
        contains(&said(|file| file.text(name, value)), &[name, value, allowed]);
    }
}

#[test]
fn tensors() {
    let table = |change: &dyn Fn(&mut common::gguf::Tensor)| {
        said(|file| change(file.tensor("blk.0.ffn_up.weight")))
    };
    let name = "blk.0.ffn_up.weight";
    contains(&table(&|t| t.dims.clear()), &[name, "is 0, allowed 1 to 4"]);
    contains(&table(&|t| t.dims = vec![32; 5]), &[name, "is 5, allowed 1 to 4"]);
    contains(&table(&|t| t.dims[1] = 0), &[name, "is 0, allowed 1 or more"]);
    contains(&table(&|t| t.dims[0] = 33), &[name, "33", "a multiple of 32 in Q4_1"]);
    contains(
        &table(&|t| t.kind = 2),
        &[name, "is 2, allowed 0 (F32), 1 (F16), 3 (Q4_1), 8 (Q8_0)"],
    );
    for dims in [vec![1 << 63, 1 << 63], vec![1 << 40, 1 << 20], vec![64, u64::MAX]] {
        contains(&table(&|t| t.dims = dims.clone()), &[name, "inside"]);
    }
    for offset in [1, 1 << 40, u64::MAX - 31] {
        let text = table(&|t| t.offset = Some(offset));
        contains(&text, &[name, &format!("offset {offset}"), "a multiple of 32, inside"]);
    }
    contains(&table(&|t| t.dims = vec![64, 95]), &[name, "Q4_1 [95, 64]", "of shape [96, 64]"]);
    contains(&table(&|t| t.name = "other".into()), &[name, "missing"]);
    let twice = |file: &mut File| file.tensors.push(file.tensors[0].clone());
    contains(&said(twice), &["token_embd.weight, allowed each name once"]);
    let more = |file: &mut File| {
        let mut more = file.tensors[0].clone();
        more.name = "rope_freqs.weight".into();
        file.tensors.push(more);
    };
    contains(&said(more), &["rope_freqs.weight", "there", "the tensors of a llama model"]);
    // Sizes for which no tensor is there are no reason to ask for memory.
    let wide = said(|file| {
        file.number("llama.embedding_length", 1 << 20);
        file.number("llama.rope.dimension_count", 1 << 18);
    });
    contains(&wide, &["token_embd.weight", "of shape [260, 1048576]"]);
    let blocks = said(|file| file.number("llama.block_count", 3));
    contains(&blocks, &["blk.2.attn_norm.weight", "missing"]);
}

#[test]
fn tokenizers() {
    let tokens = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let tokens_name = "tokenizer.ggml.tokens";
    let few = said(|file| file.texts(tokens_name, &tokens(&["a", "b"])));
    contains(&few, &["tokenizer.ggml.token_type", "a list of 260", "a list of 2 numbers"]);
    let plain = said(|file| file.integers("tokenizer.ggml.token_type", &[1; 260]));
    contains(&plain, &[tokens_name, "<|im_start|> as a control token"]);
    let merges = said(|file| file.texts("tokenizer.ggml.merges", &tokens(&["Ġ zzz"])));
    contains(&merges, &["model.gguf: tokenizer: "]);
    let merges = said(|file| file.texts("tokenizer.ggml.merges", &tokens(&["Ġ"])));
    contains(&merges, &["tokenizer.ggml.merges", "a space in each"]);
    let none = said(|file| file.texts(tokens_name, &[]));
    contains(&none, &["tokenizer.ggml.token_type", "a list of 0 numbers"]);
}

#[test]
fn text_that_the_tokens_cannot_spell() {
    let folder = Scratch::new();
    let path = folder.0.join("model.gguf");
    let mut file = tiny();
    // The byte 7 is no token of this model.
    let (_, _, value) =
        file.fields.iter_mut().find(|(n, ..)| n == "tokenizer.ggml.tokens").unwrap();
    let at = value.windows(2).position(|pair| pair == "ć".as_bytes()).unwrap();
    value[at..at + 2].copy_from_slice("Ж".as_bytes());
    file.write(&path);
    let vocabulary = Vocabulary::load(&Gguf::open(&path).unwrap()).unwrap();
    assert!(vocabulary.chat("a bell").is_ok());
    let error = vocabulary.chat("a \u{7} bell").unwrap_err().to_string();
    contains(&error, &["user\\na \\u{7} bell", "13 bytes, 12 of them in tokens"]);
}
