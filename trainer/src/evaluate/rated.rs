//! How likely held-out answers are that were called good or bad, under the
//! incumbent and under the candidate: what a run on thumbs alone is judged by.

use serde::{Deserialize, Serialize};

use super::compare::Interval;

/// Changes of log-probability per token, of answers that were not trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RatedScores {
    /// Answers that were called good.
    pub good: usize,
    /// Answers that were called bad.
    pub bad: usize,
    /// Mean change of the good ones; 0 without any.
    pub good_shift_per_token: f64,
    /// Mean change of the bad ones; 0 without any.
    pub bad_shift_per_token: f64,
    /// Where the good ones' lies.
    #[serde(default)]
    pub good_shift_interval: Interval,
    /// Where the bad ones' lies.
    #[serde(default)]
    pub bad_shift_interval: Interval,
    /// Share of all that moved the right way.
    pub accuracy: f64,
}

/// One answer: what it was called, its tokens, and its log-probability before
/// and after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RatedScore {
    /// What it was called.
    pub is_good: bool,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Under the incumbent.
    pub before: f64,
    /// Under the candidate.
    pub after: f64,
}

/// Sums up.
#[must_use]
pub fn rated(scores: &[RatedScore], seed: u64) -> RatedScores {
    let shift = |score: &RatedScore| (score.after - score.before) / score.tokens.max(1) as f64;
    let shifts = |is_good: bool| -> Vec<f64> {
        let called = scores.iter().filter(|score| score.is_good == is_good);
        called.map(shift).collect()
    };
    let (good, bad) = (shifts(true), shifts(false));
    let mean = |shifts: &[f64]| shifts.iter().sum::<f64>() / shifts.len().max(1) as f64;
    let moved = |score: &&RatedScore| match score.is_good {
        true => shift(score) > 0.0,
        false => shift(score) < 0.0,
    };
    let right = scores.iter().filter(moved).count();
    RatedScores {
        good: good.len(),
        bad: bad.len(),
        good_shift_per_token: mean(&good),
        bad_shift_per_token: mean(&bad),
        good_shift_interval: Interval::of_shifts(&good, seed),
        bad_shift_interval: Interval::of_shifts(&bad, seed),
        accuracy: right as f64 / scores.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_own_mean_and_unmoved_answers_are_no_success() {
        let score = |is_good, tokens, before, after| RatedScore {
            is_good,
            tokens,
            before,
            after,
        };
        let answers = [
            score(true, 10, -20.0, -10.0),
            score(true, 5, -5.0, -5.0),
            score(false, 4, -4.0, -8.0),
        ];
        let scores = rated(&answers, 1);
        assert_eq!((scores.good, scores.bad), (2, 1));
        assert!((scores.good_shift_per_token - 0.5).abs() < 1e-12);
        assert!((scores.bad_shift_per_token + 1.0).abs() < 1e-12);
        assert!((scores.accuracy - 2.0 / 3.0).abs() < 1e-12);
        // a mean of two answers lies between them, of one where it is
        let (good, bad) = (scores.good_shift_interval, scores.bad_shift_interval);
        assert!(good.low.abs() < 1e-12 && (good.high - 1.0).abs() < 1e-12);
        assert!((bad.low + 1.0).abs() < 1e-12 && (bad.high + 1.0).abs() < 1e-12);
        assert_eq!(rated(&[], 1), RatedScores::default());
    }
}
