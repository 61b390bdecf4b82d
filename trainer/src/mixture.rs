//! What of several kinds of material is trained, drawn by a seed, and what
//! that came to. Knows counts only.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Kinds of material.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// Question, thinking, answer.
    Reasoning,
    /// Conversations.
    #[default]
    Dialogue,
    /// General answers, replayed so that they are not forgotten.
    General,
}

impl Category {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Reasoning, Self::Dialogue, Self::General];
}

/// The shares that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixture {
    /// Of reasoning in what is learned.
    pub reasoning: f64,
    /// Of dialogue in what is learned.
    pub dialogue: f64,
    /// General replay, as a share of all that is trained.
    pub general: f64,
}

impl Default for Mixture {
    fn default() -> Self {
        Self {
            reasoning: 0.25,
            dialogue: 0.75,
            general: 0.1,
        }
    }
}

/// What was really drawn, by category.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// Examples that there were: reasoning, dialogue, general.
    pub available: [usize; 3],
    /// Examples that are trained.
    pub drawn: [usize; 3],
    /// Their shares.
    pub shares: [f64; 3],
}

impl Mixture {
    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let shares = [self.reasoning, self.dialogue, self.general];
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            return Some("a share of the mixture is not within 0 and 1".to_owned());
        }
        if self.general >= 1.0 || self.reasoning + self.dialogue <= 0.0 {
            return Some("the mixture leaves nothing to learn".to_owned());
        }
        None
    }

    /// How many of each category: as many as keep the shares without taking
    /// an example twice. A category of which there is nothing leaves its share
    /// to the others; too little general material only shortens the replay.
    fn counts(&self, available: [usize; 3]) -> [usize; 3] {
        let learned = [self.reasoning, self.dialogue];
        let present = |i: usize| learned[i] > 0.0 && available[i] > 0;
        let whole: f64 = (0..2).filter(|&i| present(i)).map(|i| learned[i]).sum();
        let total = (0..2)
            .filter(|&i| present(i))
            .map(|i| available[i] as f64 * whole / learned[i])
            .fold(f64::INFINITY, f64::min);
        let count = |i: usize| match present(i) {
            // a category that is present gives one example at least
            true => ((total * learned[i] / whole).round() as usize).clamp(1, available[i]),
            false => 0,
        };
        let (reasoning, dialogue) = (count(0), count(1));
        let general = (reasoning + dialogue) as f64 * self.general / (1.0 - self.general);
        let general = (general.round() as usize).min(available[2]);
        [reasoning, dialogue, general]
    }

    /// Draws from pools of these sizes: indices into each, in the order of the
    /// pools, and what that came to.
    #[must_use]
    pub fn draw(&self, available: [usize; 3], seed: u64) -> ([Vec<usize>; 3], Drawn) {
        let drawn = self.counts(available);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let indices = [0, 1, 2].map(|i| {
            let mut all: Vec<usize> = (0..available[i]).collect();
            all.shuffle(&mut rng);
            all.truncate(drawn[i]);
            all.sort_unstable();
            all
        });
        let total: usize = drawn.iter().sum();
        let shares = drawn.map(|n| n as f64 / total.max(1) as f64);
        let report = Drawn {
            available,
            drawn,
            shares,
        };
        (indices, report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_nothing_is_drawn_twice() {
        let mixture = Mixture::default();
        let cases = [
            // there is enough of everything but dialogue
            ([1000, 75, 1000], [25, 75, 11]),
            // too little reasoning shortens dialogue
            ([10, 1000, 1000], [10, 30, 4]),
            // none of a kind
            ([0, 90, 100], [0, 90, 10]),
            ([50, 0, 0], [50, 0, 0]),
            ([100, 300, 5], [100, 300, 5]),
            ([0, 0, 10], [0, 0, 0]),
        ];
        for (available, expected) in cases {
            let (indices, drawn) = mixture.draw(available, 7);
            assert_eq!(drawn.drawn, expected, "of {available:?}");
            for (pool, (picked, count)) in indices.iter().zip(expected).enumerate() {
                assert_eq!(picked.len(), count);
                assert!(picked.is_sorted_by(|a, b| a < b));
                assert!(picked.iter().all(|&i| i < available[pool]));
            }
        }
        let (a, b) = (mixture.draw([0, 90, 100], 7), mixture.draw([0, 90, 100], 7));
        assert_eq!(a, b);
        assert_ne!(a.0[2], mixture.draw([0, 90, 100], 8).0[2]);
    }

    #[test]
    fn what_was_drawn_is_told_as_shares() {
        let (_, drawn) = Mixture::default().draw([25, 75, 1000], 1);
        assert!((drawn.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((drawn.shares[2] - 0.1).abs() < 0.01);
        let nothing = Mixture {
            reasoning: 0.0,
            dialogue: 0.0,
            ..Mixture::default()
        };
        assert!(nothing.problem().is_some());
    }
}
