//! What the candidate and the incumbent say, and would say, to held-out prompts.

use engine::{ChatMessage, EngineError};
use ids::AdapterDigest;
use serde::{Deserialize, Serialize};

use super::generate::{Answer, Generator};
use super::matching::contains;
use super::refusing::declines;
use crate::train::PairScore;

/// A prompt that was not trained, and what its answer should contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOutPrompt {
    /// The conversation up to the answer.
    pub messages: Vec<ChatMessage>,
    /// What an answer must contain to be right.
    pub expect: String,
}

/// Answers to held-out prompts, judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// How many prompts.
    pub prompts: usize,
    /// The incumbent's answers that contain what they should.
    pub exact_before: usize,
    /// The candidate's.
    pub exact_after: usize,
    /// The candidate's answers that are empty.
    pub empty: usize,
    /// The candidate's answers that go round in circles.
    pub degenerate: usize,
    /// The incumbent's answers that do.
    pub degenerate_before: usize,
    /// The candidate's answers that decline to answer.
    #[serde(default)]
    pub declined: usize,
    /// The incumbent's.
    #[serde(default)]
    pub declined_before: usize,
}

impl HeldOut {
    /// The incumbent's share of right answers.
    #[must_use]
    pub fn share_before(&self) -> f64 {
        self.exact_before as f64 / self.prompts.max(1) as f64
    }

    /// The candidate's share of right answers.
    #[must_use]
    pub fn share_after(&self) -> f64 {
        self.exact_after as f64 / self.prompts.max(1) as f64
    }
}

/// Lets incumbent and candidate answer.
///
/// # Errors
/// The engine's.
pub async fn held_out(
    generator: &Generator,
    prompts: &[HeldOutPrompt],
    incumbent: Option<AdapterDigest>,
    candidate: Option<AdapterDigest>,
) -> Result<HeldOut, EngineError> {
    let messages: Vec<Vec<ChatMessage>> = prompts.iter().map(|p| p.messages.clone()).collect();
    let before = generator.answers(incumbent, &messages).await?;
    let after = generator.answers(candidate, &messages).await?;
    let exact = |answers: &[Answer]| {
        let judged = answers.iter().zip(prompts);
        judged
            .filter(|(answer, prompt)| contains(&answer.text, &prompt.expect))
            .count()
    };
    let degenerate = |answers: &[Answer]| {
        answers
            .iter()
            .filter(|answer| rollout::is_degenerate(&answer.text))
            .count()
    };
    let declined = |answers: &[Answer]| answers.iter().filter(|a| declines(&a.text)).count();
    Ok(HeldOut {
        prompts: prompts.len(),
        exact_before: exact(&before),
        exact_after: exact(&after),
        empty: after
            .iter()
            .filter(|answer| answer.text.trim().is_empty())
            .count(),
        degenerate: degenerate(&after),
        degenerate_before: degenerate(&before),
        declined: declined(&after),
        declined_before: declined(&before),
    })
}

/// How held-out pairs are ranked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferenceScores {
    /// How many pairs.
    pub pairs: usize,
    /// Share of pairs whose chosen answer is the more likely one per token,
    /// under the incumbent.
    pub accuracy_before: f64,
    /// The same under the candidate.
    pub accuracy_after: f64,
    /// Share of pairs in which the candidate moved towards the chosen answer:
    /// a positive reward margin against the incumbent.
    pub reward_accuracy: f64,
    /// Mean of log π(chosen) − log π(rejected) under the incumbent.
    pub margin_before: f64,
    /// The same under the candidate.
    pub margin_after: f64,
    /// Mean change of log π(chosen) per token. Below zero the chosen answers
    /// are displaced, though the rejected ones may fall faster.
    pub chosen_shift_per_token: f64,
}

impl PreferenceScores {
    /// Whether chosen answers lost likelihood.
    #[must_use]
    pub fn displaced(&self) -> bool {
        self.chosen_shift_per_token < 0.0
    }
}

/// Compares the scores of the same pairs under incumbent and candidate.
#[must_use]
pub fn preference(before: &[PairScore], after: &[PairScore]) -> PreferenceScores {
    let share = 1.0 / before.len().max(1) as f64;
    let mut scores = PreferenceScores {
        pairs: before.len(),
        ..PreferenceScores::default()
    };
    let preferred = |s: &PairScore| {
        let per_token = |sum: f64, tokens: usize| sum / tokens.max(1) as f64;
        let chosen = per_token(s.chosen, s.chosen_tokens);
        if chosen > per_token(s.rejected, s.rejected_tokens) {
            share
        } else {
            0.0
        }
    };
    for (before, after) in before.iter().zip(after) {
        scores.accuracy_before += preferred(before);
        scores.accuracy_after += preferred(after);
        let (margin_before, margin_after) = (
            before.chosen - before.rejected,
            after.chosen - after.rejected,
        );
        scores.reward_accuracy += if margin_after > margin_before {
            share
        } else {
            0.0
        };
        scores.margin_before += share * margin_before;
        scores.margin_after += share * margin_after;
        let tokens = after.chosen_tokens.max(1) as f64;
        scores.chosen_shift_per_token += share * (after.chosen - before.chosen) / tokens;
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmoved_candidate_has_no_reward_accuracy() {
        let score = |chosen, rejected| PairScore {
            chosen,
            rejected,
            chosen_tokens: 10,
            rejected_tokens: 20,
        };
        let before = [score(-20.0, -20.0), score(-5.0, -30.0)];
        let same = preference(&before, &before);
        assert!(same.reward_accuracy == 0.0 && !same.displaced());
        assert!((same.accuracy_after - 0.5).abs() < 1e-12);
        let moved = preference(&before, &[score(-21.0, -50.0), score(-6.0, -90.0)]);
        assert!((moved.reward_accuracy - 1.0).abs() < 1e-12);
        assert!((moved.accuracy_after - 1.0).abs() < 1e-12);
        assert!(moved.displaced());
    }
}
