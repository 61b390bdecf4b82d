//! The learning rate over a run.

use serde::{Deserialize, Serialize};

/// How the rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays.
    Constant,
    /// In a straight line to zero.
    Linear,
    /// Along half a cosine to zero.
    Cosine,
}

/// The learning rate at `step` (from 0) of `steps`: a linear warm-up over
/// `warmup` steps to `peak`, then the decay.
#[must_use]
pub fn learning_rate(peak: f64, decay: Decay, warmup: usize, step: usize, steps: usize) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / (warmup + 1) as f64;
    }
    let left = steps.saturating_sub(warmup).max(1);
    let done = (step - warmup) as f64 / left as f64;
    match decay {
        Decay::Constant => peak,
        Decay::Linear => peak * (1.0 - done).max(0.0),
        Decay::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_to_the_peak_and_falls_towards_zero() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let rates: Vec<f64> = (0..20)
                .map(|s| learning_rate(1.0, decay, 4, s, 20))
                .collect();
            assert!(rates[..5].is_sorted() && rates[4..].is_sorted_by(|a, b| a >= b));
            assert!((rates[4] - 1.0).abs() < 1e-12 && rates[0] > 0.0);
            assert!(rates[19] > 0.0 && rates[19] < 0.1);
        }
        assert!((learning_rate(0.5, Decay::Constant, 0, 7, 8) - 0.5).abs() < 1e-12);
    }
}
