//! What the votes come to as rows, each checked as rows of files are: one that
//! cannot be trained is left out alone and listed with its answer and its reason.

use feedback::pairs::{self, Case, Dataset, LeftOut, PairOptions, Provenance, Reason, Split};
use feedback::{FeedbackError, Message};
use ids::{FeedbackId, InferenceId};
use model::BaseModel;
use serde::{Deserialize, Serialize};

use crate::data::{
    DataOptions, EvaluationSet, NearDuplicates, Problem, REFUSED_LISTED_MAX, Row, check_row, whole,
};
use crate::stage_files::Votes;
use crate::thumbs::{self, RatedAnswer};

/// What of the votes is trained or held out, and what was refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VotesReport {
    /// Rows that are trained or held out.
    pub kept: usize,
    /// Rows that were refused.
    pub refused: usize,
    /// These rows, the first [`REFUSED_LISTED_MAX`].
    pub refused_rows: Vec<RefusedVote>,
}

/// A row of votes that was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusedVote {
    /// The answers.
    pub inferences: Vec<InferenceId>,
    /// The votes on them.
    pub votes: Vec<FeedbackId>,
    /// Why.
    pub problem: Problem,
}

impl VotesReport {
    fn refuse(&mut self, inferences: &[InferenceId], votes: &[FeedbackId], problem: Problem) {
        self.refused += 1;
        if self.refused_rows.len() < REFUSED_LISTED_MAX {
            self.refused_rows.push(RefusedVote {
                inferences: inferences.to_vec(),
                votes: votes.to_vec(),
                problem,
            });
        }
    }

    /// Takes over what was left out when rows were made, `count` in all.
    fn take(&mut self, left_out: &[LeftOut], count: usize) {
        for row in left_out {
            let problem = match row.reason {
                Reason::Empty => Problem::Empty {
                    field: "answer".to_owned(),
                },
                Reason::Equal => Problem::Equal,
                Reason::Duplicate => Problem::Duplicate,
                Reason::Contaminated => Problem::InEvaluation,
                Reason::OverRaterCap => Problem::OverRaterCap,
                Reason::HasImage => Problem::HasImage,
            };
            self.refuse(&row.inferences, &row.votes, problem);
        }
        self.refused += count.saturating_sub(left_out.len());
    }
}

/// The rows of the votes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VoteRows {
    /// Pairs and praised answers.
    pub(crate) dataset: Dataset,
    /// Answers with thumbs alone, where a stage learns from them.
    pub(crate) rated: Vec<RatedAnswer>,
    pub(crate) report: VotesReport,
}

/// Rows that are compared with each other.
#[derive(Clone, Copy)]
enum Pool {
    Pairs,
    Praised,
    Good,
    Bad,
}

/// The rows so far of a pool, to find those that say nearly the same.
#[derive(Default)]
struct Seen {
    near: NearDuplicates,
    inferences: Vec<String>,
}

impl Seen {
    fn check(&mut self, row: &Row, inferences: &[InferenceId]) -> Result<(), Problem> {
        let Some((earlier, alike)) = self.near.insert(&whole(row)) else {
            let name = inferences.first().map_or("", InferenceId::as_str);
            self.inferences.push(name.to_owned());
            return Ok(());
        };
        Err(Problem::NearVote {
            inference: self.inferences.get(earlier).cloned().unwrap_or_default(),
            // A share of 0 to 1.
            percent: (100.0 * alike).round() as u32,
        })
    }
}

/// A row with what names it.
struct Voted<'a> {
    row: Row,
    split: Split,
    pool: Pool,
    inferences: &'a [InferenceId],
    votes: &'a [FeedbackId],
}

impl VoteRows {
    /// Makes the rows of these cases; rated ones only where a stage learns from
    /// thumbs alone.
    ///
    /// # Errors
    /// As [`pairs::build`].
    pub(crate) fn of(
        cases: &[Case],
        options: &PairOptions,
        with_thumbs: bool,
    ) -> Result<Self, FeedbackError> {
        let dataset = pairs::build(cases, options)?;
        let (rated, unrated) = match with_thumbs {
            true => thumbs::rated(cases, options),
            false => (Vec::new(), Vec::new()),
        };
        let mut report = VotesReport::default();
        let counts = &dataset.report;
        let count = counts.empty
            + counts.equal
            + counts.duplicates
            + counts.contaminated
            + counts.over_rater_cap
            + counts.with_images;
        report.take(&dataset.left_out, count);
        report.take(&unrated, unrated.len());
        let mut rows = Self {
            dataset,
            rated,
            report,
        };
        rows.report.kept = rows.count();
        Ok(rows)
    }

    /// Refuses every row that the base's template does not take, and of those to
    /// train what is too long, what `evaluation` asks and what an earlier row
    /// says nearly as well.
    ///
    /// # Errors
    /// As [`pairs::digest`].
    pub(crate) fn check(
        &mut self,
        base: &BaseModel,
        tokens_max: usize,
        evaluation: EvaluationSet,
    ) -> Result<(), FeedbackError> {
        let to_train = DataOptions {
            base: Some(base),
            tokens_max,
            evaluation,
            ..DataOptions::default()
        };
        let to_judge = DataOptions {
            base: Some(base),
            tokens_max: usize::MAX,
            ..DataOptions::default()
        };
        let mut seen: [Seen; 4] = Default::default();
        self.retain(|voted| match voted.split {
            Split::HeldOut => check_row(&voted.row, &to_judge),
            Split::Train => {
                check_row(&voted.row, &to_train)?;
                seen[voted.pool as usize].check(&voted.row, voted.inferences)
            }
        })
    }

    /// Refuses rows to train that overlap prompts which files hold out.
    ///
    /// # Errors
    /// As [`pairs::digest`].
    pub(crate) fn keep_apart<'a>(
        &mut self,
        held_out: impl Iterator<Item = &'a [Message]>,
    ) -> Result<(), FeedbackError> {
        let mut evaluation = EvaluationSet::default();
        held_out.for_each(|prompt| evaluation.add(prompt));
        self.retain(|voted| match voted.split {
            Split::Train if evaluation.holds(&voted.row) => Err(Problem::InEvaluation),
            _ => Ok(()),
        })
    }

    /// The rows as files are held against them.
    pub(crate) fn votes(&self) -> Votes<'_> {
        Votes {
            dataset: &self.dataset,
            rated: &self.rated,
        }
    }

    fn count(&self) -> usize {
        let dataset = &self.dataset;
        let pairs = dataset.train.len() + dataset.held_out.len();
        pairs + dataset.upvoted.len() + self.rated.len()
    }

    /// Keeps the rows that pass, and names anew what is left.
    fn retain(
        &mut self,
        mut check: impl FnMut(&Voted<'_>) -> Result<(), Problem>,
    ) -> Result<(), FeedbackError> {
        let (dataset, report) = (&mut self.dataset, &mut self.report);
        let before = report.refused;
        let mut keep = |voted: Voted<'_>| match check(&voted) {
            Ok(()) => true,
            Err(problem) => {
                report.refuse(voted.inferences, voted.votes, problem);
                false
            }
        };
        for pairs in [&mut dataset.train, &mut dataset.held_out] {
            pairs.retain(|pair| {
                let row = Row::Preference {
                    prompt: pair.prompt.clone(),
                    chosen: pair.chosen.clone(),
                    rejected: pair.rejected.clone(),
                };
                keep(Voted::of(row, pair.split, Pool::Pairs, &pair.provenance))
            });
        }
        dataset.upvoted.retain(|praised| {
            let row = Row::Chat {
                prompt: praised.prompt.clone(),
                answer: praised.answer.clone(),
            };
            keep(Voted::of(
                row,
                praised.split,
                Pool::Praised,
                &praised.provenance,
            ))
        });
        self.rated.retain(|rated| {
            keep(Voted {
                row: Row::Chat {
                    prompt: rated.prompt.clone(),
                    answer: rated.answer.clone(),
                },
                split: rated.split,
                pool: match rated.is_good {
                    true => Pool::Good,
                    false => Pool::Bad,
                },
                inferences: &rated.inferences,
                votes: &rated.votes,
            })
        });
        if report.refused > before {
            dataset.digest = pairs::digest(&dataset.train, &dataset.held_out, &dataset.upvoted)?;
        }
        self.report.kept = self.count();
        Ok(())
    }
}

impl<'a> Voted<'a> {
    fn of(row: Row, split: Split, pool: Pool, provenance: &'a Provenance) -> Self {
        Self {
            row,
            split,
            pool,
            inferences: &provenance.inferences,
            votes: &provenance.votes,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::tests::tiny;
    use crate::tests::votes::{case, correction, strict, thumbs};

    /// Each refused row's first answer and its reason.
    fn refused(rows: &VoteRows) -> Vec<(&str, &Problem)> {
        let listed = rows.report.refused_rows.iter();
        listed
            .map(|row| (row.inferences[0].as_str(), &row.problem))
            .collect()
    }

    #[test]
    fn an_answer_to_an_image_is_refused_by_name_whatever_learns_of_it() {
        let mut cases = [
            case(
                "a",
                "what?",
                "A stork.",
                "train",
                &[correction("r", "A heron.")],
            ),
            case("b", "where?", "Here.", "train", &[thumbs("r", true)]),
            case("c", "when?", "At noon.", "train", &[thumbs("r", false)]),
        ];
        for case in &mut cases[..2] {
            let image = feedback::MessageImage {
                digest: ids::Sha256Digest::of(b"an image"),
                bytes: 8,
                media_type: "image/png".to_owned(),
            };
            case.inference.messages[0].images.push(image);
        }
        let rows = VoteRows::of(&cases, &PairOptions::default(), true).unwrap();
        let expected = [("a", &Problem::HasImage), ("b", &Problem::HasImage)];
        assert_eq!(refused(&rows), expected);
        assert_eq!((rows.report.refused, rows.report.kept), (2, 1));
        assert_eq!(rows.rated[0].inferences[0].as_str(), "c");
        // nor where a row was made before, as a checkpoint holds them
        let row = Row::Chat {
            prompt: cases[0].inference.messages.clone(),
            answer: "A heron.".to_owned(),
        };
        let refused = check_row(&row, &DataOptions::default());
        assert_eq!(refused, Err(Problem::HasImage));
    }

    #[test]
    fn a_vote_that_cannot_be_trained_is_refused_alone() {
        let said = [
            "The harbour office opens at noon.",
            "Nobody has seen the old seal.",
            "Twelve boats left before the storm.",
            "A heron stands on the roof.",
            "Their archive burned down long ago.",
        ];
        let long = "far too long ".repeat(60);
        let cases = [
            case(
                "a",
                "when?",
                said[0],
                "train",
                &[correction("r", "At nine.")],
            ),
            case(
                "b",
                "odd one?",
                said[1],
                "train",
                &[correction("r", "It is here.")],
            ),
            case(
                "c",
                "odd too?",
                said[2],
                "held_out",
                &[correction("r", "Ten boats.")],
            ),
            case("d", "what bird?", said[3], "train", &[thumbs("r", true)]),
            case("e", "odd again?", said[4], "train", &[thumbs("r", true)]),
            case(
                "f",
                "asked elsewhere?",
                said[4],
                "train",
                &[thumbs("s", false)],
            ),
            case("g", "how long?", &long, "train", &[thumbs("s", false)]),
            case(
                "h",
                "when then?",
                said[0],
                "held_out",
                &[correction("r", "At ten.")],
            ),
        ];
        let mut rows = VoteRows::of(&cases, &PairOptions::default(), true).unwrap();
        let before = (rows.dataset.digest, rows.report.kept);
        let mut evaluation = EvaluationSet::default();
        evaluation.add(&[Message::new("user", "Asked elsewhere")]);
        rows.check(&strict(), 128, evaluation).unwrap();
        let found = refused(&rows);
        let of = |id: &str| {
            let mine = found.iter().filter(|(inference, _)| *inference == id);
            mine.map(|(_, problem)| *problem).collect::<Vec<_>>()
        };
        for id in ["b", "c"] {
            assert!(
                matches!(of(id)[..], [Problem::Template { .. }]),
                "{found:?}"
            );
        }
        // as a praised answer and as a rated one
        assert!(
            matches!(
                of("e")[..],
                [Problem::Template { .. }, Problem::Template { .. }]
            ),
            "{found:?}"
        );
        assert_eq!(of("f"), [&Problem::InEvaluation]);
        assert!(matches!(
            of("g")[..],
            [Problem::TooLong {
                tokens_max: 128,
                ..
            }]
        ));
        assert_eq!((found.len(), rows.report.refused), (6, 6));
        assert_eq!(
            (rows.dataset.train.len(), rows.dataset.held_out.len()),
            (1, 1)
        );
        assert_eq!((rows.dataset.upvoted.len(), rows.rated.len()), (1, 1));
        assert_eq!(rows.report.kept, before.1 - 6);
        assert_eq!(rows.report.refused_rows[0].votes[0].as_str(), "b-r");
        assert_ne!(rows.dataset.digest, before.0);
        // what is left has the name that it has by itself
        let left = [&cases[0], &cases[3], &cases[7]].map(Clone::clone);
        let alone = VoteRows::of(&left, &PairOptions::default(), true).unwrap();
        assert_eq!(rows.dataset.digest, alone.dataset.digest);
    }

    #[test]
    fn copies_and_what_files_hold_out_are_refused() {
        let text = "The archive of the northern office keeps every letter that was sent since \
                    1897 in boxes of grey cardboard that nobody has opened for years";
        let cases = [
            case(
                "a",
                "tell me",
                &format!("{text}."),
                "train",
                &[thumbs("r", false)],
            ),
            case(
                "b",
                "tell me!",
                &format!("{text}!!"),
                "train",
                &[thumbs("s", false)],
            ),
            // the other opinion is no copy
            case("c", "tell me:", text, "train", &[thumbs("t", true)]),
            case(
                "d",
                "which bird?",
                "A heron.",
                "train",
                &[thumbs("r", false)],
            ),
        ];
        let mut rows = VoteRows::of(&cases, &PairOptions::default(), true).unwrap();
        rows.check(tiny(), 256, EvaluationSet::default()).unwrap();
        let found = refused(&rows);
        assert!(
            matches!(
                found[..],
                [("a" | "b", Problem::NearVote { percent: 90.., .. })]
            ),
            "{found:?}"
        );
        let held_out = [Message::new("user", "Which bird")];
        rows.keep_apart([&held_out[..]].into_iter()).unwrap();
        assert_eq!(refused(&rows)[1], ("d", &Problem::InEvaluation));
        assert_eq!(rows.report.refused, 2);
    }

    /// The demo's corrections are several ways to ask for each fact, and what the
    /// proofs cast are, too: none of them is a copy, and none is in the replay set.
    #[test]
    fn ways_to_ask_for_one_fact_are_no_copies() {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/src/demo/data/");
        let read = |name: &str| std::fs::read_to_string(format!("{data}{name}")).unwrap();
        let domain: Value = serde_json::from_str(&read("domain.json")).unwrap();
        let mut cases = Vec::new();
        for fact in domain["facts"].as_array().unwrap() {
            let answer = fact["answer"].as_str().unwrap();
            for split in ["train", "held_out"] {
                for question in fact[split].as_array().unwrap() {
                    let id = format!("answer-{:04}", cases.len());
                    // the worst there is: a model that always says the same
                    let said = "I am sorry, I do not know anything about that.";
                    let vote = [correction("r", answer)];
                    cases.push(case(&id, question.as_str().unwrap(), said, split, &vote));
                }
            }
        }
        let corrected = cases.len();
        for line in read("general.jsonl").lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let answer = match &row["expect"] {
                Value::Array(any) => any[0].as_str().unwrap().to_owned(),
                one => one.as_str().unwrap().to_owned(),
            };
            let id = format!("general-{:04}", cases.len());
            let (prompt, vote) = (row["prompt"].as_str().unwrap(), [thumbs("r", true)]);
            cases.push(case(
                &id,
                prompt,
                &format!("It is {answer}."),
                "train",
                &vote,
            ));
        }
        let options = PairOptions {
            rater_pairs_max: 1000,
            ..PairOptions::default()
        };
        let mut rows = VoteRows::of(&cases, &options, true).unwrap();
        let before = (rows.dataset.train.len(), rows.dataset.held_out.len());
        let general = (rows.dataset.upvoted.len(), rows.rated.len());
        assert_eq!(before.0 + before.1, corrected);
        let mut evaluation = EvaluationSet::default();
        for line in read("replay.jsonl").lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            evaluation.add(&[Message::new("user", row["prompt"].as_str().unwrap())]);
        }
        rows.check(tiny(), 1024, evaluation).unwrap();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for row in &rows.report.refused_rows {
            *reasons.entry(row.problem.to_string()).or_default() += 1;
        }
        let after = (rows.dataset.train.len(), rows.dataset.held_out.len());
        assert_eq!(after, before, "{reasons:?}");
        assert_eq!(
            (rows.dataset.upvoted.len(), rows.rated.len()),
            general,
            "{reasons:?}"
        );
    }
}
