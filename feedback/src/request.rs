//! A vote made ready for a store: checked, named, and with a digest by which
//! the same idempotency id with another body is told apart.

use ids::{FeedbackId, Sha256Digest};

use crate::{FeedbackError, NewVote};

pub(crate) struct Request {
    pub(crate) id: FeedbackId,
    /// Of what the caller sent, the id and the token left out.
    pub(crate) digest: String,
    /// `metric_name` and `value`.
    pub(crate) value: String,
    pub(crate) tags: String,
    pub(crate) vote: NewVote,
}

impl Request {
    pub(crate) fn new(vote: NewVote) -> Result<Self, FeedbackError> {
        vote.check()?;
        let id = vote.id.clone().unwrap_or_else(FeedbackId::generate);
        let corrupt = |_| FeedbackError::Corrupt {
            what: "vote",
            id: id.to_string(),
        };
        let value = serde_json::to_string(&vote.value).map_err(corrupt)?;
        let tags = serde_json::to_string(&vote.tags).map_err(corrupt)?;
        let rater = vote.rater.as_ref().map_or("", |rater| rater.as_str());
        let digest = Sha256Digest::of_parts(&[
            ("inference", vote.inference.as_str().as_bytes()),
            ("rater", rater.as_bytes()),
            ("value", value.as_bytes()),
            ("tags", tags.as_bytes()),
        ]);
        Ok(Self {
            id,
            digest: digest.hex(),
            value,
            tags,
            vote,
        })
    }
}
