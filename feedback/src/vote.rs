//! Votes: their values and limits, how they are given, and how they are kept.

use std::collections::BTreeMap;
use std::fmt;

use ids::{AdapterDigest, FeedbackId, InferenceId, ModelName, RaterId, UnitId, UnixMillis};
use serde::{Deserialize, Serialize};
use store::Durability;

use crate::FeedbackError;

/// The longest comment.
pub const COMMENT_BYTES_MAX: usize = 16 * 1024;
/// The longest demonstration.
pub const DEMONSTRATION_BYTES_MAX: usize = 256 * 1024;
/// The most tags on one vote.
pub const TAGS_MAX: usize = 16;
/// The longest name of a tag.
pub const TAG_KEY_BYTES_MAX: usize = 64;
/// The longest value of a tag.
pub const TAG_VALUE_BYTES_MAX: usize = 1024;
/// The most votes in one page of an export.
pub const EXPORT_PAGE_MAX: usize = 1000;

/// What a vote says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "metric_name", content = "value", rename_all = "snake_case")]
pub enum Value {
    /// Up or down.
    Thumbs(bool),
    /// A finite number.
    Rating(f64),
    /// Free text about the answer.
    Comment(String),
    /// The answer that would have been preferred.
    Demonstration(String),
}

/// What kind of thing a vote says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// [`Value::Thumbs`].
    Thumbs,
    /// [`Value::Rating`].
    Rating,
    /// [`Value::Comment`].
    Comment,
    /// [`Value::Demonstration`].
    Demonstration,
}

impl Metric {
    /// The name on the wire and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Thumbs => "thumbs",
            Self::Rating => "rating",
            Self::Comment => "comment",
            Self::Demonstration => "demonstration",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Value {
    /// Its metric.
    #[must_use]
    pub const fn metric(&self) -> Metric {
        match self {
            Self::Thumbs(_) => Metric::Thumbs,
            Self::Rating(_) => Metric::Rating,
            Self::Comment(_) => Metric::Comment,
            Self::Demonstration(_) => Metric::Demonstration,
        }
    }

    /// Whether it speaks against the answer.
    #[must_use]
    pub const fn is_bad_case(&self) -> bool {
        matches!(self, Self::Thumbs(false) | Self::Demonstration(_))
    }

    /// Whether the metric allows it.
    ///
    /// # Errors
    /// [`FeedbackError::InvalidValue`] where it does not.
    pub fn check(&self) -> Result<(), FeedbackError> {
        let reason = match self {
            Self::Rating(rating) if !rating.is_finite() => "it must be finite",
            Self::Comment(text) | Self::Demonstration(text) if text.trim().is_empty() => {
                "it is empty"
            }
            Self::Comment(text) if text.len() > COMMENT_BYTES_MAX => "it is too long",
            Self::Demonstration(text) if text.len() > DEMONSTRATION_BYTES_MAX => "it is too long",
            _ => return Ok(()),
        };
        Err(FeedbackError::InvalidValue {
            metric: self.metric(),
            reason,
        })
    }
}

/// What a verified token says about an answer, for votes that come after the
/// answer's record is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// The answer.
    pub inference: InferenceId,
    /// The rollout that routed it.
    pub rollout: Option<ModelName>,
    /// Its arm.
    pub arm: Option<String>,
    /// The adapter version that answered.
    pub adapter: Option<AdapterDigest>,
    /// The unit that was assigned.
    pub unit: Option<UnitId>,
}

/// A vote as it is given.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVote {
    /// The idempotency id; none makes a new one.
    pub id: Option<FeedbackId>,
    /// The answer.
    pub inference: InferenceId,
    /// Who votes; none is the answer's unit.
    pub rater: Option<RaterId>,
    /// What the vote says.
    pub value: Value,
    /// Anything else, for those who read the votes.
    pub tags: BTreeMap<String, String>,
    /// From a token that was verified.
    pub attribution: Option<Attribution>,
}

impl NewVote {
    /// Whether the value and the tags are allowed.
    ///
    /// # Errors
    /// [`FeedbackError::InvalidValue`], [`FeedbackError::InvalidTags`], or
    /// [`FeedbackError::Token`] for a token of another answer.
    pub fn check(&self) -> Result<(), FeedbackError> {
        self.value.check()?;
        if self.tags.len() > TAGS_MAX {
            return Err(FeedbackError::InvalidTags("there are too many"));
        }
        for (key, value) in &self.tags {
            if key.is_empty() || key.len() > TAG_KEY_BYTES_MAX || value.len() > TAG_VALUE_BYTES_MAX
            {
                return Err(FeedbackError::InvalidTags(
                    "one is too long, or has no name",
                ));
            }
        }
        match &self.attribution {
            Some(token) if token.inference != self.inference => {
                Err(crate::token::TokenError::OtherInference.into())
            }
            _ => Ok(()),
        }
    }
}

/// What became of a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoteOutcome {
    /// It is the first of its rater on this metric of this answer.
    Recorded,
    /// It had been given already.
    Unchanged,
    /// It took the place of this one.
    Superseded(FeedbackId),
}

/// What the store says about a vote that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteReceipt {
    /// The vote's id: an earlier vote's where nothing changed.
    pub feedback_id: FeedbackId,
    /// What became of it.
    pub outcome: VoteOutcome,
    /// What the store promises about it.
    pub durability: Durability,
}

/// A vote as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VoteRecord {
    /// Its id.
    pub id: FeedbackId,
    /// The answer.
    pub inference: InferenceId,
    /// Who voted.
    pub rater: RaterId,
    /// What the vote says.
    #[serde(flatten)]
    pub value: Value,
    /// Anything else.
    pub tags: BTreeMap<String, String>,
    /// When it was given.
    pub created: UnixMillis,
    /// The adapter version that made the answer.
    pub adapter: Option<AdapterDigest>,
    /// The arm that the answer came from.
    pub arm: Option<String>,
    /// The rollout that routed the answer.
    pub rollout: Option<ModelName>,
    /// The unit that was assigned.
    pub unit: Option<UnitId>,
    /// The vote that took its place.
    pub superseded_by: Option<FeedbackId>,
    /// Whether it was taken back.
    pub retracted: bool,
}

impl VoteRecord {
    /// Whether it counts today.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.superseded_by.is_none() && !self.retracted
    }
}

/// A place in an export, to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub u64);
