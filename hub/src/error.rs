//! Why a model could not be had by its name.

use std::path::PathBuf;

/// Why a model could not be had by its name.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name is not spelt as one.
    #[error("{name:?} is no model on the Hub, hf:ORG/REPO[/FILE.gguf][@REVISION]: {problem}")]
    Name {
        /// As it was given, cut to 200 characters.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// This program cannot fetch.
    #[error(
        "{name} is on the Hub, which this program was built without: build it with --features hf-hub, or give the path of a file"
    )]
    NotBuilt {
        /// The model.
        name: String,
    },
    /// There is no way to the Hub, or it cannot answer, and the file is not in the
    /// cache.
    #[error(
        "{endpoint} cannot be reached and {name} is not in {}: give the path of a file, or fetch it where there is a network ({reason})",
        cache.display()
    )]
    Unreachable {
        /// The model.
        name: String,
        /// The Hub's address.
        endpoint: String,
        /// Where files are kept.
        cache: PathBuf,
        /// What failed.
        reason: String,
    },
    /// As [`Self::Unreachable`], with some of the model's files in the cache.
    #[error(
        "{endpoint} cannot be reached and of {name} the cache lacks {}: fetch it where there is a network ({reason})",
        missing.join(", ")
    )]
    Incomplete {
        /// The model.
        name: String,
        /// The Hub's address.
        endpoint: String,
        /// The files that are not there.
        missing: Vec<String>,
        /// What failed.
        reason: String,
    },
    /// The Hub does not have it.
    #[error("the Hub has no {what}")]
    NotFound {
        /// What it lacks.
        what: String,
    },
    /// The Hub does not give it to us.
    #[error("the Hub refuses {name}: put a token that may read it into HF_TOKEN")]
    Refused {
        /// The model.
        name: String,
    },
    /// A transfer ended too early, again and again. What is there stays.
    #[error(
        "the transfer of {file} was interrupted at {have} of {size} bytes; run it again to go on"
    )]
    Interrupted {
        /// The file.
        file: String,
        /// Bytes that are there.
        have: u64,
        /// Bytes that it has.
        size: u64,
    },
    /// The Hub sent what cannot be used.
    #[error("what the Hub sent of {file} {problem}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The cache could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something that the Hub or its client says.
    #[error("the Hub failed: {reason}")]
    Failed {
        /// In its words.
        reason: String,
    },
}
