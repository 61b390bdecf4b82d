//! Votes as events that groups of consumers work through.

use ids::{FeedbackId, InferenceId};
use serde::{Deserialize, Serialize};

use crate::FeedbackError;

/// After this many deliveries without an acknowledgement an event is a dead
/// letter.
pub const DELIVERIES_MAX: u32 = 5;
/// The longest name of a group and of a consumer.
pub const GROUP_BYTES_MAX: usize = 64;
/// The most events in one claim.
pub(crate) const CLAIM_MAX: usize = 1000;

/// An event's place in the order of all events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub u64);

/// What happened to a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was given, perhaps in place of an earlier one.
    Voted,
    /// It was taken back.
    Retracted,
}

impl Change {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Voted => "voted",
            Self::Retracted => "retracted",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Voted, Self::Retracted]
            .into_iter()
            .find(|change| change.as_str() == text)
    }
}

/// One change of one vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteEvent {
    /// The vote.
    pub vote: FeedbackId,
    /// The answer that it is about.
    pub inference: InferenceId,
    /// What happened.
    pub change: Change,
    /// Whether the vote speaks against the answer: a thumbs-down, or a
    /// demonstration of a better one.
    pub bad_case: bool,
}

/// An event in a consumer's hands, until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The event's id, for the acknowledgement.
    pub event: EventId,
    /// What happened.
    pub vote: VoteEvent,
    /// How often it was delivered to the group, this time included.
    pub deliveries: u32,
}

pub(crate) fn check_names(group: &str, consumer: &str) -> Result<(), FeedbackError> {
    for name in [group, consumer] {
        let printable = name.bytes().all(|b| b.is_ascii_graphic());
        if name.is_empty() || name.len() > GROUP_BYTES_MAX || !printable {
            return Err(FeedbackError::GroupName(
                name.chars().take(GROUP_BYTES_MAX).collect(),
            ));
        }
    }
    Ok(())
}
