//! What can be wrong with a model folder. Every loader of [`super`] returns it.

use std::path::PathBuf;

/// A model that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A configuration that is not JSON or lacks a field.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// A configuration that this program does not run.
    #[error("{}: {field} is {asked}, allowed {allowed}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        asked: String,
        /// The values allowed.
        allowed: String,
    },
    /// A tokenizer that cannot be loaded or fails on a sentence.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer says.
        source: tokenizers::Error,
    },
    /// A tokenizer that does not fit the model.
    #[error("{}: {sentence:?} has {asked}, allowed {allowed}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The sentence.
        sentence: String,
        /// What the tokenizer made of it.
        asked: String,
        /// What the model takes.
        allowed: String,
    },
    /// A weights file that is damaged.
    #[error("{}: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that is missing or of another shape or type.
    #[error("{}: tensor {name} is {asked}, allowed {allowed}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type and shape, or `missing`.
        asked: String,
        /// The type and shape that the configuration asks for.
        allowed: String,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] leasehold::Error),
}
