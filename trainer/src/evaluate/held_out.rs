//! What the candidate and the incumbent say, and would say, to held-out prompts.

use engine::{ChatMessage, EngineError};
use ids::AdapterDigest;
use serde::{Deserialize, Serialize};

use super::compare::Interval;
use super::generate::{Answer, Generator};
use super::matching::contains;
use super::refusing::declines;
use crate::train::PairScore;

/// A prompt that was not trained, and what its answer should contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOutPrompt {
    /// The conversation up to the answer.
    pub messages: Vec<ChatMessage>,
    /// What an answer must contain to be right, where that is known.
    pub expect: Option<Expectation>,
}

/// What an answer must contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expectation {
    /// What somebody declared.
    Declared(String),
    /// For want of that, all of the preferred answer.
    Whole(String),
}

impl Expectation {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Declared(text) | Self::Whole(text) => text,
        }
    }
}

/// Answers to held-out prompts, judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// How many prompts.
    pub prompts: usize,
    /// Those of which nobody knows what an answer must contain.
    #[serde(default)]
    pub unknown: usize,
    /// Those that expect all of the preferred answer, since nothing was declared.
    #[serde(default)]
    pub whole: usize,
    /// The base's answers that contain what they should.
    #[serde(default)]
    pub exact_base: usize,
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
    /// Where the gain in right answers lies, as a share.
    #[serde(default)]
    pub exact_gain: Interval,
    /// How long the candidate's answers are, all together, by the nearest length
    /// between the incumbent's and what is expected: 1 within. 0 where it was not
    /// measured.
    #[serde(default)]
    pub length_ratio: f64,
}

impl HeldOut {
    /// The base's share of right answers.
    #[must_use]
    pub fn share_base(&self) -> f64 {
        self.exact_base as f64 / self.judged().max(1) as f64
    }

    /// The incumbent's share of right answers.
    #[must_use]
    pub fn share_before(&self) -> f64 {
        self.exact_before as f64 / self.judged().max(1) as f64
    }

    /// Prompts of which it is known what an answer must contain.
    #[must_use]
    pub fn judged(&self) -> usize {
        self.prompts.saturating_sub(self.unknown)
    }

    /// Prompts of which somebody declared it.
    #[must_use]
    pub fn declared(&self) -> usize {
        self.judged().saturating_sub(self.whole)
    }

    /// The candidate's share of right answers.
    #[must_use]
    pub fn share_after(&self) -> f64 {
        self.exact_after as f64 / self.judged().max(1) as f64
    }
}

/// Lets base, incumbent and candidate answer.
///
/// # Errors
/// The engine's.
pub async fn held_out(
    generator: &Generator,
    prompts: &[HeldOutPrompt],
    incumbent: Option<AdapterDigest>,
    candidate: Option<AdapterDigest>,
    seed: u64,
) -> Result<HeldOut, EngineError> {
    let messages: Vec<Vec<ChatMessage>> = prompts.iter().map(|p| p.messages.clone()).collect();
    let before = generator.answers(incumbent, &messages).await?;
    let after = generator.answers(candidate, &messages).await?;
    let base = match incumbent {
        None => before.clone(),
        Some(_) => generator.answers(None, &messages).await?,
    };
    Ok(judge(prompts, [&base, &before, &after], seed))
}

/// Judges the answers of base, incumbent and candidate.
fn judge(prompts: &[HeldOutPrompt], answers: [&[Answer]; 3], seed: u64) -> HeldOut {
    let count = |answers: &[Answer], is: fn(&str) -> bool| {
        answers.iter().filter(|answer| is(&answer.text)).count()
    };
    let exact = |answers: &[Answer]| -> Vec<f64> {
        let judged = answers.iter().zip(prompts);
        judged
            .filter_map(|(answer, prompt)| Some((answer, prompt.expect.as_ref()?)))
            .map(|(answer, expect)| f64::from(contains(&answer.text, expect.text())))
            .collect()
    };
    let [_, before, after] = answers;
    let rights = answers.map(exact);
    let right = |which: usize| rights[which].iter().filter(|right| **right > 0.0).count();
    let whole = |prompt: &&HeldOutPrompt| matches!(prompt.expect, Some(Expectation::Whole(_)));
    HeldOut {
        prompts: prompts.len(),
        unknown: prompts.iter().filter(|p| p.expect.is_none()).count(),
        whole: prompts.iter().filter(whole).count(),
        exact_base: right(0),
        exact_before: right(1),
        exact_after: right(2),
        empty: count(after, |text| text.trim().is_empty()),
        degenerate: count(after, rollout::is_degenerate),
        degenerate_before: count(before, rollout::is_degenerate),
        declined: count(after, declines),
        declined_before: count(before, declines),
        exact_gain: Interval::of(&rights[1], &rights[2], seed),
        length_ratio: length_ratio(prompts, before, after),
    }
}

/// See [`HeldOut::length_ratio`].
fn length_ratio(prompts: &[HeldOutPrompt], before: &[Answer], after: &[Answer]) -> f64 {
    let of = |answers: &[Answer]| -> usize { answers.iter().map(|a| a.text.len()).sum() };
    let (before, after) = (of(before), of(after));
    let expected: Option<usize> = prompts
        .iter()
        .map(|prompt| Some(prompt.expect.as_ref()?.text().len()))
        .sum();
    let expected = expected.unwrap_or(before);
    let nearest = after.clamp(before.min(expected), before.max(expected));
    after as f64 / nearest.max(1) as f64
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
    /// The same under the base.
    #[serde(default)]
    pub accuracy_base: f64,
    /// Where the gain from incumbent to candidate lies.
    #[serde(default)]
    pub accuracy_gain: Interval,
    /// Share of pairs in which the candidate moved towards the chosen answer:
    /// a positive reward margin against the incumbent.
    pub reward_accuracy: f64,
    /// Mean of log π(chosen) − log π(rejected) under the incumbent.
    pub margin_before: f64,
    /// The same under the candidate.
    pub margin_after: f64,
    /// Where the gain from incumbent to candidate lies.
    #[serde(default)]
    pub margin_gain: Interval,
    /// Mean change of log π(chosen) per token. Below zero the chosen answers
    /// are displaced, though the rejected ones may fall faster.
    pub chosen_shift_per_token: f64,
    /// Where that lies.
    #[serde(default)]
    pub chosen_shift_interval: Interval,
    /// Whether chosen answers lost likelihood: the alarm.
    #[serde(default)]
    pub displaced: bool,
}

/// Compares the scores of the same pairs under base, incumbent and candidate.
#[must_use]
pub fn preference(
    base: &[PairScore],
    before: &[PairScore],
    after: &[PairScore],
    seed: u64,
) -> PreferenceScores {
    let preferred = |s: &PairScore| {
        let per_token = |sum: f64, tokens: usize| sum / tokens.max(1) as f64;
        let chosen = per_token(s.chosen, s.chosen_tokens);
        f64::from(chosen > per_token(s.rejected, s.rejected_tokens))
    };
    let [of_base, of_before, of_after] =
        [base, before, after].map(|scores| scores.iter().map(preferred).collect::<Vec<f64>>());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let margin = |s: &PairScore| s.chosen - s.rejected;
    let [margins_before, margins_after] =
        [before, after].map(|scores| scores.iter().map(margin).collect::<Vec<f64>>());
    let margins = margins_before.iter().zip(&margins_after);
    let moved: Vec<f64> = margins
        .map(|(before, after)| f64::from(after > before))
        .collect();
    let shift = |(before, after): (&PairScore, &PairScore)| {
        (after.chosen - before.chosen) / after.chosen_tokens.max(1) as f64
    };
    let shifts: Vec<f64> = before.iter().zip(after).map(shift).collect();
    let chosen_shift_per_token = mean(&shifts);
    PreferenceScores {
        pairs: before.len(),
        accuracy_base: mean(&of_base),
        accuracy_before: mean(&of_before),
        accuracy_after: mean(&of_after),
        accuracy_gain: Interval::of(&of_before, &of_after, seed),
        reward_accuracy: mean(&moved),
        margin_before: mean(&margins_before),
        margin_after: mean(&margins_after),
        margin_gain: Interval::of(&margins_before, &margins_after, seed),
        chosen_shift_per_token,
        chosen_shift_interval: Interval::of_shifts(&shifts, seed),
        displaced: chosen_shift_per_token < 0.0,
    }
}

#[cfg(test)]
mod tests {
    use engine::FinishReason;

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
        let same = preference(&before, &before, &before, 1);
        assert!(same.reward_accuracy == 0.0 && !same.displaced);
        assert!((same.accuracy_after - 0.5).abs() < 1e-12);
        let moved = preference(
            &before,
            &before,
            &[score(-21.0, -50.0), score(-6.0, -90.0)],
            1,
        );
        assert!((moved.reward_accuracy - 1.0).abs() < 1e-12);
        assert!((moved.accuracy_after - 1.0).abs() < 1e-12);
        assert!(moved.displaced);
        assert!((moved.accuracy_base - 0.5).abs() < 1e-12);
        let gain = moved.accuracy_gain;
        assert!(gain.low >= 0.0 && gain.high <= 1.0 && gain.low < gain.high);
        // the margins rise by 29 and by 59, the chosen answers fall by 0.1 a token
        assert!((moved.margin_after - moved.margin_before - 44.0).abs() < 1e-9);
        let gain = moved.margin_gain;
        assert!((gain.low - 29.0).abs() < 1e-9 && (gain.high - 59.0).abs() < 1e-9);
        let shift = moved.chosen_shift_interval;
        assert!((shift.low + 0.1).abs() < 1e-9 && (shift.high + 0.1).abs() < 1e-9);
    }

    fn answers(texts: &[&str]) -> Vec<Answer> {
        let answer = |text: &&str| Answer {
            text: (*text).to_owned(),
            finish: FinishReason::Stop,
        };
        texts.iter().map(answer).collect()
    }

    #[test]
    fn what_nobody_declared_counts_apart() {
        let prompt = |expect| HeldOutPrompt {
            messages: Vec::new(),
            expect,
        };
        let prompts = [
            prompt(Some(Expectation::Declared("Lima".to_owned()))),
            prompt(Some(Expectation::Whole("It is Lima.".to_owned()))),
            prompt(None),
        ];
        let (base, before) = (answers(&["Rome"; 3]), answers(&["Lima", "Rome", "Rome"]));
        let after = answers(&["In Lima", "It is Lima.", "Lima"]);
        let judged = judge(&prompts, [&base, &before, &after], 3);
        assert_eq!(
            (judged.prompts, judged.judged(), judged.declared()),
            (3, 2, 1)
        );
        let right = (judged.exact_base, judged.exact_before, judged.exact_after);
        assert_eq!(right, (0, 1, 2));
        assert!((judged.share_after() - 1.0).abs() < 1e-12);
        assert!(judged.exact_gain.low >= 0.0 && judged.exact_gain.high > 0.0);
    }

    #[test]
    fn a_length_between_the_incumbents_and_the_expected_is_no_drift() {
        let prompt = HeldOutPrompt {
            messages: Vec::new(),
            expect: Some(Expectation::Declared("four".to_owned())),
        };
        let of = |after: &str| {
            let prompts = std::slice::from_ref(&prompt);
            length_ratio(prompts, &answers(&["twelve chars"]), &answers(&[after]))
        };
        assert!((of("eight ch") - 1.0).abs() < 1e-12);
        assert!((of("twelve chars") - 1.0).abs() < 1e-12);
        assert!((of(&"x".repeat(48)) - 4.0).abs() < 1e-12);
        assert!((of("x") - 0.25).abs() < 1e-12);
    }
}
