//! What the demo asks and how it judges an answer: the shipped domain set, the
//! general questions that get thumbs up, and the replay set for the trainer.
//!
//! Knows neither HTTP nor processes.

use serde::Deserialize;

use super::DemoError;

const DOMAIN: &str = include_str!("data/domain.json");
const GENERAL: &str = include_str!("data/general.jsonl");
/// General prompts that the trainer's evaluation replays; never trained on.
pub(super) const REPLAY: &str = include_str!("data/replay.jsonl");

/// One invented fact and the ways to ask for it.
#[derive(Debug, Deserialize)]
pub(super) struct Fact {
    pub(super) id: String,
    /// What an answer must contain.
    pub(super) expect: String,
    /// The correction that a user writes.
    pub(super) answer: String,
    pub(super) train: Vec<String>,
    pub(super) held_out: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Domain {
    pub(super) facts: Vec<Fact>,
}

/// A general question; any one of `expect` makes an answer right.
#[derive(Debug, Deserialize)]
pub(super) struct GeneralQuestion {
    pub(super) prompt: String,
    pub(super) expect: Vec<String>,
}

/// Which side of the split a question is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    HeldOut,
}

impl Split {
    /// The value of the inference's metadata key `split`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held_out",
        }
    }
}

/// One question of the domain set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) fact: &'a Fact,
    pub(super) split: Split,
    pub(super) prompt: &'a str,
}

impl Domain {
    /// Reads the shipped set and checks that no fact occurs in a prompt.
    pub(super) fn shipped() -> Result<Self, DemoError> {
        let domain: Self = serde_json::from_str(DOMAIN).map_err(|error| DemoError::Data {
            file: "domain.json",
            reason: error.to_string(),
        })?;
        for question in domain.questions() {
            if contains(question.prompt, &question.fact.expect) {
                let reason = format!("the prompt {:?} contains its answer", question.prompt);
                return Err(DemoError::Data {
                    file: "domain.json",
                    reason,
                });
            }
        }
        Ok(domain)
    }

    /// All questions, phrasing by phrasing, so that neighbours differ in fact.
    pub(super) fn questions(&self) -> Vec<Question<'_>> {
        let of = |split: Split| {
            let prompts = move |fact: &Fact| match split {
                Split::Train => fact.train.len(),
                Split::HeldOut => fact.held_out.len(),
            };
            let longest = self.facts.iter().map(prompts).max().unwrap_or(0);
            (0..longest).flat_map(move |phrasing| {
                self.facts.iter().filter_map(move |fact| {
                    let list = match split {
                        Split::Train => &fact.train,
                        Split::HeldOut => &fact.held_out,
                    };
                    list.get(phrasing).map(|prompt| Question {
                        fact,
                        split,
                        prompt,
                    })
                })
            })
        };
        of(Split::Train).chain(of(Split::HeldOut)).collect()
    }
}

/// The general questions that get a thumbs-up where the base is right.
pub(super) fn general() -> Result<Vec<GeneralQuestion>, DemoError> {
    GENERAL
        .lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| DemoError::Data {
                file: "general.jsonl",
                reason: error.to_string(),
            })
        })
        .collect()
}

/// Whether `answer` contains `fact`, whatever the letters' case.
pub(super) fn contains(answer: &str, fact: &str) -> bool {
    answer.to_lowercase().contains(&fact.to_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_shipped_set_is_whole_and_its_halves_are_apart() {
        let domain = Domain::shipped().unwrap();
        let questions = domain.questions();
        let side = |split| -> HashSet<&str> {
            questions
                .iter()
                .filter(|q| q.split == split)
                .map(|q| q.prompt)
                .collect()
        };
        assert_eq!(side(Split::Train).len(), 60);
        assert_eq!(side(Split::HeldOut).len(), 20);
        assert!(side(Split::Train).is_disjoint(&side(Split::HeldOut)));
        for fact in &domain.facts {
            assert!(contains(&fact.answer, &fact.expect), "{}", fact.id);
        }
    }

    #[test]
    fn replay_and_general_questions_do_not_overlap() {
        let trained: HashSet<String> = general().unwrap().into_iter().map(|q| q.prompt).collect();
        let replayed: Vec<GeneralQuestion> = REPLAY
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(replayed.len() >= 100);
        assert!(replayed.iter().all(|q| !trained.contains(&q.prompt)));
    }
}
