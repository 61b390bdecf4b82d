//! What can be wrong with a model file, a text or an adapter, as types.
//!
//! The messages name the part that is wrong and never quote file contents
//! beyond names; which HTTP status each becomes is the gateway's knowledge.

use std::path::PathBuf;

use crate::architecture::Architecture;
use crate::lora::LoraError;

/// Why a base model, an encoding, a prompt or an adapter could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be opened, read or mapped.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no GGUF that can be read: wrong magic, cut off, or damaged.
    #[error("not a readable GGUF file at byte {offset}: {problem}")]
    Gguf {
        /// Where in the file.
        offset: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A count, length or size in the file is above what is accepted.
    #[error("{what} is {found}, above the limit of {max}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// A metadata value is missing, or of the wrong type or range.
    #[error("GGUF metadata {key}: {problem}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No code here computes this architecture.
    #[error("model architecture {0:?} is not supported (supported: {supported})", supported = Architecture::names())]
    UnsupportedArchitecture(String),
    /// No code here reads this tensor format.
    #[error("tensor {tensor:?} has the unsupported format {format}")]
    UnsupportedFormat {
        /// The tensor.
        tensor: String,
        /// The format's ggml name, or its number when it has no known name.
        format: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("tensor {0:?} is missing")]
    TensorMissing(String),
    /// The file has a tensor that the architecture does not compute with, so
    /// that the result would not be the model's.
    #[error("tensor {0:?} is not known to be a part of this architecture")]
    TensorUnexpected(String),
    /// A tensor has other dimensions than the configuration says.
    #[error("tensor {name:?} has shape {found:?}, not {expected:?}")]
    TensorShape {
        /// The tensor.
        name: String,
        /// What the configuration asks for: rows, then columns.
        expected: Vec<usize>,
        /// What the file has.
        found: Vec<usize>,
    },
    /// The bytes given for a matrix do not have the length of its shape.
    #[error("a {rows}×{cols} {format} matrix does not fit {found} bytes: {problem}")]
    MatrixSize {
        /// The block format's name.
        format: &'static str,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// The bytes given.
        found: usize,
        /// Why not.
        problem: &'static str,
    },
    /// A file of published weights cannot be read.
    #[error("safetensors: {0}")]
    Safetensors(String),
    /// The vocabulary makes no tokenizer, or a text could not be encoded.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template is wrong, refuses the conversation or uses too much.
    #[error("chat template: {0}")]
    Template(String),
    /// An adapter cannot be taken or written.
    #[error("adapter: {0}")]
    Adapter(#[from] LoraError),
}
