//! Identities and units that every crate shares, as types.
//!
//! Knows nothing of storage, HTTP, models or time zones: it only names things,
//! checks their spelling and converts them. No IO; the one clock that reads
//! the system's time is behind the [`Clock`] trait.

mod clock;
mod digest;
mod name;
mod units;

pub use clock::{Clock, ManualClock, SystemClock, UnixMillis};
pub use digest::{AdapterDigest, BaseDigest, DatasetDigest, Sha256Digest};
pub use name::{
    AliasName, FeedbackId, FileId, InferenceId, JobId, ModelName, RaterId, TenantId, UnitId,
};
pub use units::{BasisPoints, Revision};

/// Why a text is not the identity or unit that it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("{0:?} is not a digest: it must read sha256: and 64 hexadecimal digits")]
    Digest(String),
    /// An id that is empty, too long, or has a character outside its alphabet.
    #[error("{value:?} is no {kind}: 1 to {max} characters out of letters, digits and {extra:?}")]
    Name {
        /// What it should have been, for example `adapter alias`.
        kind: &'static str,
        /// The text, cut to 64 characters.
        value: String,
        /// The most characters allowed.
        max: usize,
        /// The punctuation allowed beside letters and digits.
        extra: &'static str,
    },
    /// A share above one whole.
    #[error("{0} basis points are more than 10000")]
    BasisPoints(u32),
}
