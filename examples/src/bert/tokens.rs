//! Sentences as token ids, and the padded batches that the forward pass takes.

use super::{Config, ModelError};
use std::path::{Path, PathBuf};
use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationDirection};

/// Tokens after which all-MiniLM-L6-v2 cuts a sentence, by its model card.
pub const MAX_TOKENS: usize = 256;

/// A sentence's token ids: at least one, each below the model's vocabulary.
#[derive(Clone, Debug)]
pub struct Tokens {
    ids: Vec<u32>,
    truncated: bool,
}

impl Tokens {
    /// The ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether the sentence was longer than what is embedded.
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

/// The model's tokenizer, with the limits that the model sets.
pub(super) struct Vocabulary {
    path: PathBuf,
    tokenizer: Tokenizer,
    size: usize,
    max_tokens: usize,
}

impl Vocabulary {
    pub(super) fn load(path: &Path, config: &Config) -> Result<Self, ModelError> {
        let failed = |source| ModelError::Tokenizer { path: path.into(), source };
        let json =
            std::fs::read(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(failed)?;
        // The file's own limits are for another use; sentences are cut and padded here.
        tokenizer.with_padding(None).with_truncation(None).map_err(failed)?;
        let max_tokens = MAX_TOKENS.min(config.max_position_embeddings);
        Ok(Self { path: path.into(), tokenizer, size: config.vocab_size, max_tokens })
    }

    pub(super) fn tokens(&self, sentence: &str) -> Result<Tokens, ModelError> {
        let (encoding, truncated) = self
            .encode(sentence)
            .map_err(|source| ModelError::Tokenizer { path: self.path.clone(), source })?;
        let unfit = |asked: String, allowed: String| {
            let sentence = sentence.chars().take(40).collect();
            Err(ModelError::Tokens { path: self.path.clone(), sentence, asked, allowed })
        };
        let ids = encoding.get_ids();
        if ids.is_empty() || ids.len() > self.max_tokens {
            return unfit(format!("{} tokens", ids.len()), format!("1 to {}", self.max_tokens));
        }
        match ids.iter().find(|&&id| id as usize >= self.size) {
            Some(id) => unfit(format!("token id {id}"), format!("0 to {}", self.size - 1)),
            None => Ok(Tokens { ids: ids.to_vec(), truncated }),
        }
    }

    /// The sentence cut to the limit with the special tokens around it, and whether it was cut.
    fn encode(&self, sentence: &str) -> tokenizers::Result<(Encoding, bool)> {
        let special = self.tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        let room = self.max_tokens.saturating_sub(special);
        let mut encoding = self.tokenizer.encode(sentence, false)?;
        let truncated = encoding.len() > room;
        encoding.truncate(room, 0, TruncationDirection::Right);
        Ok((self.tokenizer.post_process(encoding, None, true)?, truncated))
    }
}

/// Sentences padded to the longest of them.
pub(super) struct Batch {
    /// Tokens of the longest sentence.
    pub(super) width: usize,
    /// `[sentences, width]`, 0 after a sentence's end: a row of every vocabulary, and attended by none.
    pub(super) ids: Vec<u32>,
    /// Tokens of each sentence.
    pub(super) lens: Vec<u32>,
    /// `[sentences, width]`: one over the sentence's length for its own tokens, 0 after its end.
    pub(super) mean: Vec<f32>,
}

impl Batch {
    pub(super) fn new<'a>(sentences: impl Iterator<Item = &'a Tokens>) -> Self {
        let sentences: Vec<&[u32]> = sentences.map(Tokens::ids).collect();
        let width = sentences.iter().map(|ids| ids.len()).max().unwrap_or_default();
        let mut batch = Self { width, ids: Vec::new(), lens: Vec::new(), mean: Vec::new() };
        for ids in sentences {
            batch.lens.push(ids.len() as u32);
            batch.ids.extend_from_slice(ids);
            batch.mean.extend(ids.iter().map(|_| 1.0 / ids.len() as f32));
            let padded = batch.lens.len() * width;
            batch.ids.resize(padded, 0);
            batch.mean.resize(padded, 0.0);
        }
        batch
    }

    /// Sentences.
    pub(super) fn len(&self) -> usize {
        self.lens.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_pads_to_its_longest_sentence() {
        let tokens = |ids: &[u32]| Tokens { ids: ids.to_vec(), truncated: false };
        let batch = Batch::new([tokens(&[5, 6, 7]), tokens(&[8])].iter());
        assert_eq!((batch.len(), batch.width), (2, 3));
        assert_eq!(batch.ids, [5, 6, 7, 8, 0, 0]);
        assert_eq!(batch.lens, [3, 1]);
        assert_eq!(batch.mean, [1. / 3., 1. / 3., 1. / 3., 1., 0., 0.]);
    }
}
