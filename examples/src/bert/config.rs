//! `config.json` of a BERT model, checked: [`Config::load`] is the one place that makes a [`Config`].

use super::ModelError;
use std::ops::RangeInclusive;
use std::path::Path;

/// The part of a BERT configuration that the forward pass needs. Field names are the file's.
#[derive(Clone, Debug, serde::Deserialize)]
#[non_exhaustive]
pub struct Config {
    /// Always `bert`.
    pub model_type: String,
    /// Always `gelu`, the one by the error function.
    pub hidden_act: String,
    /// Always `absolute`.
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Heads; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Rows of the position table: the longest sentence.
    pub max_position_embeddings: usize,
    /// Rows of the token type table.
    pub type_vocab_size: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
}

/// The file's default.
fn absolute() -> String {
    "absolute".into()
}

/// No published encoder is near this in any size; products of two stay far from overflow.
const SIZES: RangeInclusive<usize> = 1..=1 << 20;

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// `Read`, `Json`, or `Config` with the field, its value and the values allowed.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let text =
            std::fs::read(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
        let config: Self = serde_json::from_slice(&text)
            .map_err(|source| ModelError::Json { path: path.into(), source })?;
        match config.complaint() {
            None => Ok(config),
            Some((field, asked, allowed)) => {
                Err(ModelError::Config { path: path.into(), field, asked, allowed })
            }
        }
    }

    /// The first field that breaks a rule, its value and what is allowed.
    fn complaint(&self) -> Option<(&'static str, String, String)> {
        let words = [
            ("model_type", &self.model_type, "bert"),
            ("hidden_act", &self.hidden_act, "gelu"),
            ("position_embedding_type", &self.position_embedding_type, "absolute"),
        ];
        if let Some((field, asked, allowed)) = words.into_iter().find(|(_, is, must)| is != must) {
            return Some((field, format!("{asked:?}"), format!("{allowed:?}")));
        }
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_hidden_layers", self.num_hidden_layers),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((field, asked)) = sizes.into_iter().find(|(_, n)| !SIZES.contains(n)) {
            let allowed = format!("{} to {}", SIZES.start(), SIZES.end());
            return Some((field, asked.to_string(), allowed));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let allowed = format!("a divisor of hidden_size {}", self.hidden_size);
            return Some(("num_attention_heads", self.num_attention_heads.to_string(), allowed));
        }
        let epsilon = self.layer_norm_eps;
        let sound = epsilon.is_finite() && epsilon >= 0.0;
        (!sound).then(|| ("layer_norm_eps", epsilon.to_string(), "0 or more, finite".into()))
    }
}
