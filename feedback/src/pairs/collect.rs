//! Reads the cases out of a store.

use std::collections::BTreeMap;

use ids::InferenceId;

use super::Case;
use crate::{EXPORT_PAGE_MAX, FeedbackError, FeedbackStore, Inference, Value, VoteRecord};

/// The most answers that are read.
pub const CASES_MAX: usize = 100_000;
/// The most bytes that they and their votes take. Of more, as of more than
/// [`CASES_MAX`], those with the smallest ids, which are the oldest, are not read.
pub const CASES_BYTES_MAX: usize = 512 << 20;

/// The cases that were read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Collected {
    /// By id.
    pub cases: Vec<Case>,
    /// The newest answer that there was no room for; neither it nor any that is
    /// older was read.
    pub cut: Option<InferenceId>,
}

impl Collected {
    /// Whether what was voted on this answer was read, if there is anything.
    #[must_use]
    pub fn has_read(&self, inference: &InferenceId) -> bool {
        self.cut.as_ref() < Some(inference)
    }
}

/// The answers with current votes, by id: the newest that [`CASES_MAX`] and
/// [`CASES_BYTES_MAX`] have room for. Answers that the store forgot are left out.
///
/// # Errors
/// The store's.
pub async fn collect(store: &dyn FeedbackStore) -> Result<Collected, FeedbackError> {
    collect_within(store, CASES_MAX, CASES_BYTES_MAX).await
}

/// The same within other bounds.
///
/// # Errors
/// The store's.
pub async fn collect_within(
    store: &dyn FeedbackStore,
    cases_max: usize,
    bytes_max: usize,
) -> Result<Collected, FeedbackError> {
    let (votes, mut cut) = votes(store, cases_max, bytes_max).await?;
    let mut cases = Vec::with_capacity(votes.len());
    let mut bytes = 0usize;
    for (id, votes) in votes.into_iter().rev() {
        let Some(inference) = store.inference(&id).await? else {
            continue;
        };
        let of_votes: usize = votes.iter().map(vote_bytes).sum();
        bytes = bytes.saturating_add(of_votes + inference_bytes(&inference));
        if bytes > bytes_max {
            cut = Some(id);
            break;
        }
        cases.push(Case { inference, votes });
    }
    cases.reverse();
    Ok(Collected { cases, cut })
}

type Votes = BTreeMap<InferenceId, Vec<VoteRecord>>;

/// The current votes by answer, and the newest answer whose votes had no room.
async fn votes(
    store: &dyn FeedbackStore,
    cases_max: usize,
    bytes_max: usize,
) -> Result<(Votes, Option<InferenceId>), FeedbackError> {
    let (mut votes, mut bytes) = (Votes::new(), 0usize);
    let (mut after, mut cut) = (None, None::<InferenceId>);
    loop {
        let page = store.export(after, EXPORT_PAGE_MAX).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (_, vote) in page.into_iter().filter(|(_, vote)| vote.is_current()) {
            if cut.as_ref() >= Some(&vote.inference) {
                continue;
            }
            bytes += vote_bytes(&vote);
            votes.entry(vote.inference.clone()).or_default().push(vote);
        }
        while votes.len() > cases_max || bytes > bytes_max {
            let Some((id, oldest)) = votes.pop_first() else {
                break;
            };
            bytes -= oldest.iter().map(vote_bytes).sum::<usize>();
            cut = Some(id);
        }
    }
    Ok((votes, cut))
}

fn inference_bytes(inference: &Inference) -> usize {
    let messages = inference.messages.iter();
    let messages = messages.map(|message| message.role.len() + message.content.len());
    let metadata = inference.metadata.iter();
    let metadata = metadata.map(|(key, value)| key.len() + value.len());
    let texts = inference.answer.len() + messages.sum::<usize>() + metadata.sum::<usize>();
    size_of::<Inference>() + texts
}

fn vote_bytes(vote: &VoteRecord) -> usize {
    let tags = vote.tags.iter().map(|(key, value)| key.len() + value.len());
    let value = match &vote.value {
        Value::Comment(text) | Value::Demonstration(text) => text.len(),
        Value::Thumbs(_) | Value::Rating(_) => 0,
    };
    size_of::<VoteRecord>() + value + tags.sum::<usize>()
}
