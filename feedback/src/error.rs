//! What can go wrong with feedback.

use ids::{FeedbackId, InferenceId};
use store::StoreError;

use crate::Metric;
use crate::token::TokenError;

/// Why feedback was not taken or read.
#[derive(Debug, thiserror::Error)]
pub enum FeedbackError {
    /// The answer is not known and no valid token speaks for it.
    #[error("no inference {0} is known")]
    UnknownInference(InferenceId),
    /// The idempotency id was used for another vote.
    #[error("the feedback id {0} was used for another vote")]
    IdConflict(FeedbackId),
    /// The vote names no rater and the answer has no unit to take for one.
    #[error("a rater is required: the inference has no user or session")]
    RaterRequired,
    /// A value that its metric does not allow.
    #[error("not a value of {metric}: {reason}")]
    InvalidValue {
        /// The metric.
        metric: Metric,
        /// What is wrong.
        reason: &'static str,
    },
    /// Too many tags, or one that is too long.
    #[error("the tags are not allowed: {0}")]
    InvalidTags(&'static str),
    /// The attribution token does not hold.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The answer is too long to be kept.
    #[error("the inference has {bytes} bytes, at most {bytes_max} are kept")]
    InferenceTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A group's or consumer's name that is empty, too long or not printable
    /// ASCII.
    #[error("{0:?} is no name of a group or consumer")]
    GroupName(String),
    /// Something stored does not read as what it should be.
    #[error("the stored {what} {id} cannot be read")]
    Corrupt {
        /// What it should be.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for FeedbackError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
