//! Answers that were called good or bad, without a better one: KTO's rows.

use feedback::pairs::{Case, PairOptions, Split, split_of};
use feedback::{Message, Value};
use ids::Sha256Digest;
use serde::{Deserialize, Serialize};

/// One answer and what it was called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RatedAnswer {
    /// The conversation up to the answer.
    pub(crate) prompt: Vec<Message>,
    /// The answer.
    pub(crate) answer: String,
    /// What the majority of thumbs says.
    pub(crate) is_good: bool,
    /// What the row is for.
    pub(crate) split: Split,
}

/// The rated answers among `cases`, each text once, in an order of their own.
/// Where thumbs are even, or an answer is empty, there is nothing to learn.
pub(crate) fn rated(cases: &[Case], options: &PairOptions) -> Vec<RatedAnswer> {
    let mut rows: Vec<RatedAnswer> = cases.iter().filter_map(|case| of(case, options)).collect();
    let key = |row: &RatedAnswer| {
        let messages = row.prompt.iter();
        let text: Vec<&str> = messages
            .flat_map(|m| [m.role.as_str(), m.content.as_str()])
            .chain([row.answer.as_str()])
            .collect();
        let text: Vec<(&str, &[u8])> = text.iter().map(|part| ("", part.as_bytes())).collect();
        Sha256Digest::of_parts(&text)
    };
    rows.sort_by_cached_key(|row| (key(row), row.is_good));
    rows.dedup_by(|a, b| a.prompt == b.prompt && a.answer == b.answer);
    rows
}

fn of(case: &Case, options: &PairOptions) -> Option<RatedAnswer> {
    let mut balance = 0i64;
    for vote in case.votes.iter().filter(|vote| vote.is_current()) {
        match &vote.value {
            Value::Thumbs(true) => balance += 1,
            Value::Thumbs(false) => balance -= 1,
            // with a correction it is a pair
            Value::Demonstration(_) => return None,
            Value::Rating(_) | Value::Comment(_) => {}
        }
    }
    let answer = case.inference.answer.trim();
    (balance != 0 && !answer.is_empty()).then(|| RatedAnswer {
        prompt: case.inference.messages.clone(),
        answer: answer.to_owned(),
        is_good: balance > 0,
        split: split_of(&case.inference, options),
    })
}
