//! Reads the cases out of a store.

use std::collections::BTreeMap;

use ids::InferenceId;

use super::Case;
use crate::{EXPORT_PAGE_MAX, FeedbackError, FeedbackStore, VoteRecord};

/// The most answers that are read; of more, those with the smallest ids, which
/// are the oldest, are left out.
pub const CASES_MAX: usize = 100_000;

/// All answers with current votes, by id. Answers that the store forgot are
/// left out.
///
/// # Errors
/// The store's.
pub async fn collect(store: &dyn FeedbackStore) -> Result<Vec<Case>, FeedbackError> {
    let mut votes: BTreeMap<InferenceId, Vec<VoteRecord>> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.export(after, EXPORT_PAGE_MAX).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (_, vote) in page.into_iter().filter(|(_, vote)| vote.is_current()) {
            votes.entry(vote.inference.clone()).or_default().push(vote);
        }
        while votes.len() > CASES_MAX {
            votes.pop_first();
        }
    }
    let mut cases = Vec::with_capacity(votes.len());
    for (id, votes) in votes {
        if let Some(inference) = store.inference(&id).await? {
            cases.push(Case { inference, votes });
        }
    }
    Ok(cases)
}
