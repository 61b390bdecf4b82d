//! Why an adapter could not be stored, read or taken from a folder.

use ids::{AdapterDigest, BaseDigest};

/// Why an adapter could not be stored, read or taken from a folder.
#[derive(Debug, thiserror::Error)]
pub enum AdapterStoreError {
    /// No such version is stored.
    #[error("the adapter {0} is not stored")]
    NotFound(AdapterDigest),
    /// What is stored is not what was written.
    #[error("the stored adapter {digest} is damaged: {what}")]
    Damaged {
        /// The version.
        digest: AdapterDigest,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file is empty or over its limit.
    #[error("{name} has {bytes} bytes; 1 to {max} are allowed")]
    Size {
        /// The file.
        name: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// More versions are stored than can be listed.
    #[error("more than {0} versions are stored")]
    TooMany(usize),
    /// The version was made for another base than the one that is served.
    #[error("the adapter was made for the base {adapter}, and {served} is served")]
    BaseMismatch {
        /// The base that it was made for.
        adapter: BaseDigest,
        /// The base that is served.
        served: BaseDigest,
    },
    /// The folder, or a file that must be in it, does not exist.
    #[error("{0} does not exist beneath the adapter root")]
    PathNotFound(String),
    /// The path is not allowed, whether it exists or not.
    #[error("the adapter path is not allowed: {0}")]
    PathInvalid(&'static str),
    /// Weights in a format that can run code when it is read.
    #[error("pickled weights ({0}) are refused: convert them to safetensors")]
    Pickle(&'static str),
    /// The location of the store cannot be used.
    #[error("the store's location cannot be used: {0}")]
    Location(String),
    /// A manifest could not be written as JSON.
    #[error("the lineage cannot be written: {0}")]
    Lineage(#[from] serde_json::Error),
    /// The storage failed.
    #[error("the adapter storage failed: {0}")]
    Storage(#[from] object_store::Error),
    /// The file system failed.
    #[error("the file system failed: {0}")]
    Io(#[from] std::io::Error),
}
