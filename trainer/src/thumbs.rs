//! Answers that were called good or bad, without a better one: KTO's rows.

use std::collections::HashMap;

use feedback::pairs::{Case, LeftOut, Overlap, PairOptions, Reason, Split, split_of};
use feedback::{Message, Value, VoteRecord};
use ids::{FeedbackId, InferenceId, RaterId, Sha256Digest, UnixMillis};
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
    /// The answer's names; several where it was given several times.
    #[serde(default)]
    pub(crate) inferences: Vec<InferenceId>,
    /// The votes that say so.
    #[serde(default)]
    pub(crate) votes: Vec<FeedbackId>,
}

/// A row with what decides whether it is kept.
struct Found {
    row: RatedAnswer,
    /// Names its text.
    key: Sha256Digest,
    /// Who said so first, and when.
    rater: RaterId,
    told: UnixMillis,
}

impl Found {
    fn left_out(&self, reason: Reason) -> LeftOut {
        LeftOut {
            inferences: self.row.inferences.clone(),
            votes: self.row.votes.clone(),
            reason,
        }
    }
}

/// The rated answers among `cases`, each text once, in an order of their own, and
/// what was left out. Where thumbs are even, or an answer is empty, there is
/// nothing to learn. As with pairs, no prompt is trained that overlaps a held-out
/// one, and no rater has more training rows than `options` say.
pub(crate) fn rated(cases: &[Case], options: &PairOptions) -> (Vec<RatedAnswer>, Vec<LeftOut>) {
    let mut left_out = Vec::new();
    let mut found: Vec<Found> = without_images(cases)
        .filter_map(|case| of(case, options))
        .collect();
    keep_apart(cases, options, &mut found, &mut left_out);
    merge(&mut found, &mut left_out);
    cap_raters(&mut found, options.rater_pairs_max, &mut left_out);
    found.sort_by_key(|one| one.key);
    (found.into_iter().map(|one| one.row).collect(), left_out)
}

/// Answers to images are no rows; the pairs' list says which they are.
fn without_images(cases: &[Case]) -> impl Iterator<Item = &Case> {
    cases.iter().filter(|case| !case.inference.has_images())
}

fn of(case: &Case, options: &PairOptions) -> Option<Found> {
    let (mut ups, mut downs) = (Vec::new(), Vec::new());
    for vote in case.votes.iter().filter(|vote| vote.is_current()) {
        match &vote.value {
            Value::Thumbs(true) => ups.push(vote),
            Value::Thumbs(false) => downs.push(vote),
            // with a correction it is a pair
            Value::Demonstration(_) => return None,
            Value::Rating(_) | Value::Comment(_) => {}
        }
    }
    let is_good = ups.len() > downs.len();
    let mut votes: Vec<&VoteRecord> = match ups.len() == downs.len() {
        true => return None,
        false if is_good => ups,
        false => downs,
    };
    votes.sort_by_key(|vote| (vote.created, &vote.id));
    let first = votes.first()?;
    let (prompt, answer) = (&case.inference.messages, case.inference.answer.trim());
    let texts = prompt
        .iter()
        .flat_map(|message| [message.role.as_bytes(), message.content.as_bytes()])
        .chain([answer.as_bytes()]);
    let parts: Vec<(&str, &[u8])> = texts.map(|part| ("", part)).collect();
    (!answer.is_empty()).then(|| Found {
        row: RatedAnswer {
            prompt: prompt.clone(),
            answer: answer.to_owned(),
            is_good,
            split: split_of(&case.inference, options),
            inferences: vec![case.inference.id.clone()],
            votes: votes.iter().map(|vote| vote.id.clone()).collect(),
        },
        key: Sha256Digest::of_parts(&parts),
        rater: first.rater.clone(),
        told: first.created,
    })
}

/// Drops training rows whose prompt is, or overlaps, a held-out one.
fn keep_apart(
    cases: &[Case],
    options: &PairOptions,
    found: &mut Vec<Found>,
    left_out: &mut Vec<LeftOut>,
) {
    let mut overlap = Overlap::default();
    let inferences = without_images(cases).map(|case| &case.inference);
    for held_out in inferences.filter(|one| split_of(one, options) == Split::HeldOut) {
        overlap.add(&held_out.messages);
    }
    found.retain(|one| {
        let apart = one.row.split == Split::HeldOut || !overlap.holds(&one.row.prompt);
        if !apart {
            left_out.push(one.left_out(Reason::Contaminated));
        }
        apart
    });
}

/// Makes one row of equal ones; where they are called different things, bad wins.
fn merge(found: &mut Vec<Found>, left_out: &mut Vec<LeftOut>) {
    found.sort_by_key(|one| (one.key, one.row.is_good));
    found.dedup_by(|again, first| {
        if again.key != first.key {
            return false;
        }
        if again.row.is_good == first.row.is_good {
            first.row.inferences.append(&mut again.row.inferences);
            first.row.votes.append(&mut again.row.votes);
        } else {
            left_out.push(again.left_out(Reason::Duplicate));
        }
        true
    });
}

/// Keeps the first training rows that each rater told.
fn cap_raters(found: &mut Vec<Found>, rows_max: usize, left_out: &mut Vec<LeftOut>) {
    found.sort_by(|a, b| (a.told, &a.row.votes).cmp(&(b.told, &b.row.votes)));
    let mut told: HashMap<RaterId, usize> = HashMap::new();
    found.retain(|one| {
        if one.row.split == Split::HeldOut {
            return true;
        }
        let count = told.entry(one.rater.clone()).or_default();
        *count += 1;
        let kept = *count <= rows_max;
        if !kept {
            left_out.push(one.left_out(Reason::OverRaterCap));
        }
        kept
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tests::votes::{case, thumbs};

    fn names(rows: &[LeftOut]) -> Vec<(&str, Reason)> {
        rows.iter()
            .map(|row| (row.inferences[0].as_str(), row.reason))
            .collect()
    }

    #[test]
    fn held_out_prompts_are_not_trained_and_each_rater_has_a_cap() {
        let long = "please tell me in a few words what the code of the harbour office in town is";
        let cases = [
            case(
                "a",
                &format!("Well, {long}?"),
                "one",
                "train",
                &[thumbs("r", true)],
            ),
            case(
                "b",
                &format!("So {long}!"),
                "two",
                "held_out",
                &[thumbs("r", false)],
            ),
            case("c", "what else?", "three", "train", &[thumbs("r", false)]),
            case("d", "and then?", "four", "train", &[thumbs("r", true)]),
            case("e", "is it so?", "five", "train", &[thumbs("s", true)]),
        ];
        let options = PairOptions {
            rater_pairs_max: 1,
            ..PairOptions::default()
        };
        let (rows, left_out) = rated(&cases, &options);
        let mut kept: Vec<&str> = rows.iter().map(|row| row.answer.as_str()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["five", "three", "two"]);
        assert_eq!(
            names(&left_out),
            [("a", Reason::Contaminated), ("d", Reason::OverRaterCap)]
        );
    }

    #[test]
    fn equal_rows_are_one_with_all_votes_and_bad_wins() {
        let cases = [
            case(
                "a",
                "q",
                "same",
                "train",
                &[thumbs("r", false), thumbs("s", false), thumbs("t", true)],
            ),
            case("b", "q", " same ", "train", &[thumbs("u", false)]),
            case("c", "q", "same", "train", &[thumbs("v", true)]),
            case(
                "d",
                "q",
                "even",
                "train",
                &[thumbs("r", false), thumbs("s", true)],
            ),
        ];
        let (rows, left_out) = rated(&cases, &PairOptions::default());
        assert_eq!(rows.len(), 1);
        assert!(!rows[0].is_good);
        let votes: Vec<&str> = rows[0].votes.iter().map(FeedbackId::as_str).collect();
        assert_eq!(votes, ["a-r", "a-s", "b-u"]);
        assert_eq!(rows[0].inferences.len(), 2);
        assert_eq!(names(&left_out), [("c", Reason::Duplicate)]);
    }
}
