//! The tokenizer inside a GGUF file: GPT-2's byte-level BPE with the pre-tokenizer `smollm`, and the chat format
//! ChatML. [`crate::llama`] and the program `generate` call it.

use super::{Gguf, GgufError, Value};
use std::path::PathBuf;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

/// The one chat format that is known: what the file says must be this, letter by letter.
pub const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// The type of a token that controls a chat and is no text.
const CONTROL: i64 = 3;

/// A tokenizer with the tokens that it makes.
pub struct Vocabulary {
    path: PathBuf,
    tokenizer: Tokenizer,
    tokens: Vec<Token>,
    begin: u32,
    end: u32,
}

/// A token: what it spells, or control.
enum Token {
    Text(Box<[u8]>),
    Control,
}

impl Vocabulary {
    /// The tokenizer of a file.
    ///
    /// # Errors
    /// `Field` for one that is missing or of another kind, `Tokenizer` for tokens and merges that do not fit.
    pub fn load(file: &Gguf) -> Result<Self, GgufError> {
        let known = [
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", "smollm"),
            ("tokenizer.chat_template", CHATML),
        ];
        for (name, known) in known {
            file.need(name, &format!("{known:?}"), |value| {
                matches!(value, Value::Text(text) if text == known).then_some(())
            })?;
        }
        let text = |value: &'_ Value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        let names = file.list("tokenizer.ggml.tokens", "a list of texts", text)?;
        let kinds_allowed = format!("a list of {} numbers", names.len());
        let kinds =
            file.list("tokenizer.ggml.token_type", &kinds_allowed, |value| match *value {
                Value::Signed(kind) => Some(kind),
                _ => None,
            })?;
        if kinds.len() != names.len() {
            let value = file.field("tokenizer.ggml.token_type");
            return Err(file.wrong("tokenizer.ggml.token_type", value, &kinds_allowed));
        }
        let merges_name = "tokenizer.ggml.merges";
        let pair = |value: &Value| match value {
            Value::Text(text) => text.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())),
            _ => None,
        };
        let merges = file.list(merges_name, "a list of texts with a space in each", pair)?;

        let failed = |source| GgufError::Tokenizer { path: file.path().into(), source };
        let ids: Vocab = names.iter().cloned().zip(0..).collect();
        let control = |name: &str| {
            let id = ids.get(name).copied().filter(|&id| kinds[id as usize] == CONTROL);
            let value = file.field("tokenizer.ggml.tokens");
            let allowed = format!("one with {name} as a control token");
            id.ok_or_else(|| file.wrong("tokenizer.ggml.tokens", value, &allowed))
        };
        let (begin, end) = (control("<|im_start|>")?, control("<|im_end|>")?);
        let bytes = byte_alphabet();
        let tokens = names.iter().zip(&kinds).map(|(name, &kind)| match kind {
            CONTROL => Token::Control,
            _ => Token::Text(spelled(name, &bytes)),
        });
        let tokens = tokens.collect();
        let bpe = BPE::builder().vocab_and_merges(ids, merges).build().map_err(failed)?;
        let mut tokenizer = Tokenizer::new(bpe);
        let split = vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
        tokenizer.with_pre_tokenizer(Some(Sequence::new(split)));
        Ok(Self { path: file.path().into(), tokenizer, tokens, begin, end })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The bytes that a token spells; none of a control token, which ends an answer, or of one that does not exist.
    pub fn bytes(&self, token: u32) -> Option<&[u8]> {
        match self.tokens.get(token as usize)? {
            Token::Text(bytes) => Some(bytes),
            Token::Control => None,
        }
    }

    /// The tokens of a chat in which the user has said `prompt` and the assistant is to answer. Control tokens that
    /// `prompt` writes out are text.
    ///
    /// # Errors
    /// `Text` when the file has no tokens for it.
    pub fn chat(&self, prompt: &str) -> Result<Vec<u32>, GgufError> {
        let turns = [("system", SYSTEM), ("user", prompt)];
        let mut ids = Vec::new();
        for (role, content) in turns {
            ids.push(self.begin);
            ids.extend(self.encode(&format!("{role}\n{content}"))?);
            ids.push(self.end);
            ids.extend(self.encode("\n")?);
        }
        ids.push(self.begin);
        ids.extend(self.encode("assistant\n")?);
        Ok(ids)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, GgufError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|source| GgufError::Tokenizer { path: self.path.clone(), source })?;
        let ids = encoding.get_ids();
        let spelled: Vec<u8> =
            ids.iter().filter_map(|&id| self.bytes(id)).flatten().copied().collect();
        if spelled == text.as_bytes() {
            return Ok(ids.to_vec());
        }
        let (path, begins) = (self.path.clone(), text.chars().take(40).collect());
        let asked = format!("{} bytes, {} of them in tokens", text.len(), spelled.len());
        Err(GgufError::Text {
            path,
            text: begins,
            asked,
            allowed: "text that the tokens spell".into(),
        })
    }
}

/// GPT-2's characters for bytes: printable ones stand for themselves, the others for characters from 256 on, in order.
fn byte_alphabet() -> [char; 256] {
    let mut next = 256u32;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

/// The bytes of a token; characters outside the alphabet as they are.
fn spelled(name: &str, alphabet: &[char; 256]) -> Box<[u8]> {
    let mut bytes = Vec::new();
    for c in name.chars() {
        match alphabet.iter().position(|&known| known == c) {
            Some(byte) => bytes.push(byte as u8),
            None => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes.into()
}

/// Text that grows by tokens, which may end in the middle of a character.
#[derive(Debug, Default)]
pub struct Spelling {
    /// The bytes of a character that has begun.
    begun: Vec<u8>,
}

impl Spelling {
    /// The text that is whole with these bytes. What is no UTF-8 and what would steer a terminal is `\u{fffd}`.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.begun.utf8_chunks() {
            text.extend(chunk.valid().chars().map(shown));
            used += chunk.valid().len();
            let open = used + chunk.invalid().len() == self.begun.len()
                && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            if !chunk.invalid().is_empty() && !open {
                text.push(char::REPLACEMENT_CHARACTER);
                used += chunk.invalid().len();
            }
        }
        self.begun.drain(..used);
        text
    }

    /// What is left when no more comes.
    pub fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.begun).is_empty() { "" } else { "\u{fffd}" }
    }
}

fn shown(c: char) -> char {
    if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests {
    use super::{Spelling, byte_alphabet, spelled};

    #[test]
    fn the_alphabet_is_gpt2s() {
        let alphabet = byte_alphabet();
        assert_eq!(spelled("Ġa", &alphabet)[..], *b" a");
        assert_eq!(spelled("Ċ", &alphabet)[..], *b"\n");
        assert_eq!(spelled("ÃĹ", &alphabet)[..], *"×".as_bytes());
        let all: std::collections::BTreeSet<char> = alphabet.into_iter().collect();
        assert_eq!((all.len(), alphabet[0], alphabet[173]), (256, 'Ā', 'Ń'));
    }

    #[test]
    fn text_comes_in_whole_characters() {
        let mut text = Spelling::default();
        let said: Vec<String> =
            "aé🐕z".as_bytes().chunks(1).map(|bytes| text.push(bytes)).collect();
        assert_eq!(said, ["a", "", "é", "", "", "", "🐕", "z"]);
        assert_eq!(text.push(b"x\xffy\x1b[2J\n"), "x\u{fffd}y\u{fffd}[2J\n");
        assert_eq!(text.push(b"\xf0\x9f"), "");
        assert_eq!((text.push(b"a"), text.end()), ("\u{fffd}a".into(), ""));
        assert_eq!((text.push(b"\xc3"), text.end(), text.end()), (String::new(), "\u{fffd}", ""));
    }
}
