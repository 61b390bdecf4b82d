//! Checked rows of files as examples, and which of them are held out. What a
//! row may be and whether it is any good is `data`'s to know.

use std::collections::BTreeMap;

use feedback::pairs::{PreferencePair, Provenance, Source, Split};
use ids::{BasisPoints, RaterId, Sha256Digest};
use model::BaseModel;

use crate::TrainerError;
use crate::data::{Row, SourcedRow};
use crate::examples::encode_answer;
use crate::pack::Sequence;
use crate::train::PairExample;

/// The rater of a pair from a file.
const RATER: &str = "training-file";
/// Parts of a whole, in a share.
const BUCKETS: u64 = 10_000;

/// Which rows are held out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldOut<'a> {
    /// Another one holds other prompts out.
    pub(crate) salt: &'a str,
    /// Of the prompts.
    pub(crate) share: BasisPoints,
}

impl<'a> HoldOut<'a> {
    /// The rows to train and those that are held out.
    pub(crate) fn split(self, rows: Vec<SourcedRow>) -> (Vec<SourcedRow>, Vec<SourcedRow>) {
        let is_held = self.of(&rows.iter().collect::<Vec<_>>());
        let (held_out, train) = rows.into_iter().partition(is_held);
        (train, held_out)
    }

    /// Which of these rows are held out: by each prompt's hash, one prompt at
    /// least where there are two.
    pub(crate) fn of(self, rows: &[&SourcedRow]) -> impl Fn(&SourcedRow) -> bool + use<'a> {
        let salt = self.salt.as_bytes();
        let share = u64::from(self.share.get());
        let place = move |row: &SourcedRow| {
            let messages = row.row.prompt().iter();
            let mut parts: Vec<(&str, &[u8])> = vec![("salt", salt)];
            parts.extend(messages.map(|m| (m.role.as_str(), m.content.as_bytes())));
            let digest = Sha256Digest::of_parts(&parts);
            let mut first = [0; 8];
            first.copy_from_slice(&digest.as_bytes()[..8]);
            u64::from_be_bytes(first)
        };
        let least = rows
            .iter()
            .copied()
            .map(place)
            .min_by_key(|place| place % BUCKETS);
        let is_alone = rows
            .iter()
            .copied()
            .map(place)
            .all(|place| Some(place) == least);
        move |row: &SourcedRow| {
            let place = place(row);
            !is_alone && (place % BUCKETS < share || Some(place) == least)
        }
    }
}

/// The answer that is learned of a row, after its prompt: of two the better
/// one. A text has no prompt, and none here.
///
/// # Errors
/// As [`encode_answer`].
pub(crate) fn answer(base: &BaseModel, row: &Row) -> Result<Option<Sequence>, TrainerError> {
    match (row, row.completions().first()) {
        (Row::Text { .. }, _) | (_, None) => Ok(None),
        (row, Some(answer)) => encode_answer(base, row.prompt(), answer).map(Some),
    }
}

/// The two answers of a row; none where it has not two.
///
/// # Errors
/// As [`encode_answer`].
pub(crate) fn pair(
    base: &BaseModel,
    row: &SourcedRow,
) -> Result<Option<PairExample>, TrainerError> {
    let Row::Preference {
        prompt,
        chosen,
        rejected,
    } = &row.row
    else {
        return Ok(None);
    };
    Ok(Some(PairExample {
        id: format!("line-{}", row.line),
        chosen: encode_answer(base, prompt, chosen)?,
        rejected: encode_answer(base, prompt, rejected)?,
    }))
}

/// A held-out row as the evaluation takes pairs; none where it has not two
/// answers.
pub(crate) fn held_out_pair(row: &Row) -> Option<PreferencePair> {
    let Row::Preference {
        prompt,
        chosen,
        rejected,
    } = row
    else {
        return None;
    };
    Some(PreferencePair {
        prompt: prompt.clone(),
        chosen: chosen.clone(),
        rejected: rejected.clone(),
        split: Split::HeldOut,
        tags: BTreeMap::new(),
        provenance: Provenance {
            inferences: Vec::new(),
            votes: Vec::new(),
            rater: RaterId::new(RATER).ok()?,
            source: Source::Demonstration,
            adapter: None,
            weight: 1.0,
        },
    })
}

#[cfg(test)]
mod tests {
    use feedback::Message;

    use super::*;

    fn row(question: &str) -> SourcedRow {
        SourcedRow {
            file: None,
            line: 1,
            row: Row::Chat {
                prompt: vec![Message::new("user", question)],
                answer: "a".to_owned(),
            },
            tokens: None,
        }
    }

    #[test]
    fn the_split_is_by_prompt_and_never_empty_on_either_side() {
        let hold_out = HoldOut {
            salt: "flywheel",
            share: BasisPoints::new(2000).unwrap_or_default(),
        };
        let rows: Vec<SourcedRow> = (0..40).map(|i| row(&i.to_string())).collect();
        let (train, held_out) = hold_out.split(rows.clone());
        assert_eq!(train.len() + held_out.len(), 40);
        assert!(
            !held_out.is_empty() && held_out.len() < 20,
            "{}",
            held_out.len()
        );
        assert_eq!(hold_out.split(rows), (train, held_out));
        let (train, held_out) = hold_out.split(vec![row("a"), row("b"), row("b")]);
        assert!(!train.is_empty() && !held_out.is_empty());
        let (train, held_out) = hold_out.split(vec![row("a"), row("a")]);
        assert_eq!(
            (train.len(), held_out.len()),
            (2, 0),
            "one prompt cannot be split"
        );
    }
}
