//! How likely held-out answers are that were called good or bad, under the
//! incumbent and under the candidate: what a run on thumbs alone is judged by.

use serde::{Deserialize, Serialize};

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
pub fn rated(scores: &[RatedScore]) -> RatedScores {
    let shift = |score: &RatedScore| (score.after - score.before) / score.tokens.max(1) as f64;
    let mean = |is_good: bool| {
        let shifts: Vec<f64> = scores
            .iter()
            .filter(|score| score.is_good == is_good)
            .map(shift)
            .collect();
        let sum: f64 = shifts.iter().sum();
        (shifts.len(), sum / shifts.len().max(1) as f64)
    };
    let ((good, good_shift_per_token), (bad, bad_shift_per_token)) = (mean(true), mean(false));
    let moved = |score: &&RatedScore| match score.is_good {
        true => shift(score) > 0.0,
        false => shift(score) < 0.0,
    };
    let right = scores.iter().filter(moved).count();
    RatedScores {
        good,
        bad,
        good_shift_per_token,
        bad_shift_per_token,
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
        let scores = rated(&[
            score(true, 10, -20.0, -10.0),
            score(true, 5, -5.0, -5.0),
            score(false, 4, -4.0, -8.0),
        ]);
        assert_eq!((scores.good, scores.bad), (2, 1));
        assert!((scores.good_shift_per_token - 0.5).abs() < 1e-12);
        assert!((scores.bad_shift_per_token + 1.0).abs() < 1e-12);
        assert!((scores.accuracy - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(rated(&[]), RatedScores::default());
    }
}
