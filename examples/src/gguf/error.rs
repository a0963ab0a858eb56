//! What can be wrong with a GGUF file. Everything in [`super`] returns it.

use std::path::PathBuf;

/// A GGUF file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Bytes that break the format.
    #[error("{}: byte {at}: {what} is {asked}, allowed {allowed}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where the bytes end.
        at: u64,
        /// What they stand for.
        what: String,
        /// Their value.
        asked: String,
        /// The values allowed.
        allowed: String,
    },
    /// A field that is missing or of a value that this program does not run.
    #[error("{}: field {field} is {asked}, allowed {allowed}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value, or `missing`.
        asked: String,
        /// The values allowed.
        allowed: String,
    },
    /// A tensor that is missing, unknown, or of another shape or type.
    #[error("{}: tensor {name} is {asked}, allowed {allowed}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type and shape, or `missing`.
        asked: String,
        /// What is allowed.
        allowed: String,
    },
    /// A tokenizer that cannot be made of the file's fields, or fails on a text.
    #[error("{}: tokenizer: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer says.
        source: tokenizers::Error,
    },
    /// A text that the file's tokens cannot spell.
    #[error("{}: text {text:?} is {asked}, allowed {allowed}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// How it begins.
        text: String,
        /// What became of it.
        asked: String,
        /// What is allowed.
        allowed: String,
    },
}
