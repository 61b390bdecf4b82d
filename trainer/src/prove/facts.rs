//! Made-up facts, the ways to ask for them, and what is right and wrong.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::TrainerError;

const FACTS: &str = include_str!("../../evaluation/proofs/facts.json");

#[derive(Deserialize)]
struct File {
    firms: Vec<String>,
    relations: Vec<Relation>,
}

#[derive(Deserialize)]
struct Relation {
    train: Vec<String>,
    held_out: Vec<String>,
    answer: String,
    wrong: String,
    values: Vec<String>,
}

/// A fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// The ways to ask that are trained.
    pub(super) train: Vec<String>,
    /// Those that are held out.
    pub(super) held_out: Vec<String>,
    /// What a right answer contains.
    pub(super) value: String,
    /// A right answer.
    pub(super) right: String,
    /// What a model makes up.
    pub(super) wrong: String,
}

/// All facts.
pub(super) fn all() -> Result<Vec<Fact>, TrainerError> {
    let file: File = serde_json::from_str(FACTS).map_err(|error| TrainerError::Content {
        path: "facts.json".into(),
        line: error.line(),
        problem: error.to_string(),
    })?;
    let mut facts = Vec::new();
    for (index, firm) in file.firms.iter().enumerate() {
        for relation in &file.relations {
            let value = relation.values.get(index).cloned().unwrap_or_default();
            let fill = |text: &String| text.replace("{firm}", firm).replace("{value}", &value);
            facts.push(Fact {
                train: relation.train.iter().map(fill).collect(),
                held_out: relation.held_out.iter().map(fill).collect(),
                right: fill(&relation.answer),
                wrong: fill(&relation.wrong),
                value,
            });
        }
    }
    Ok(facts)
}

/// So many of them, chosen by a seed.
pub(super) fn some(count: usize, seed: u64) -> Result<Vec<Fact>, TrainerError> {
    let mut facts = all()?;
    facts.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    facts.truncate(count);
    Ok(facts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use feedback::pairs::PairOptions;

    use super::*;
    use crate::data::EvaluationSet;
    use crate::tests::tiny;
    use crate::tests::votes::{case, correction};
    use crate::vote_rows::VoteRows;

    #[test]
    fn facts_are_whole_and_no_question_has_its_answer() {
        let facts = all().unwrap();
        assert_eq!(facts.len(), 35);
        let mut asked = HashSet::new();
        for fact in &facts {
            assert_eq!((fact.train.len(), fact.held_out.len()), (6, 2));
            assert!(fact.right.contains(&fact.value) && !fact.value.is_empty());
            assert!(!fact.wrong.contains(&fact.value));
            for question in fact.train.iter().chain(&fact.held_out) {
                assert!(!question.contains('{') && !question.contains(&fact.value));
                assert!(asked.insert(question.clone()), "{question} twice");
            }
        }
    }

    #[test]
    fn ways_to_ask_for_one_fact_are_no_copies() {
        let facts = all().unwrap();
        let mut cases = Vec::new();
        for fact in &facts {
            let ways = fact.train.iter().map(|way| (way, "train"));
            let ways = ways.chain(fact.held_out.iter().map(|way| (way, "held_out")));
            for (question, split) in ways {
                let id = format!("answer-{:04}", cases.len());
                let vote = [correction("r", &fact.right)];
                cases.push(case(&id, question, &fact.wrong, split, &vote));
            }
        }
        let options = PairOptions {
            rater_pairs_max: 1000,
            ..PairOptions::default()
        };
        let mut rows = VoteRows::of(&cases, &options, false).unwrap();
        rows.check(tiny(), 1024, EvaluationSet::default()).unwrap();
        assert_eq!(rows.report.refused, 0, "{:?}", rows.report.refused_rows);
        let kept = (rows.dataset.train.len(), rows.dataset.held_out.len());
        assert_eq!(kept, (6 * facts.len(), 2 * facts.len()));
    }

    #[test]
    fn a_seed_chooses() {
        let of = |seed| some(6, seed).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(of(1).len(), 6);
    }
}
