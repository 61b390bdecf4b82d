//! Which epoch is the best, when validation no longer improves, and when a
//! run falls apart. No tensors.

use super::checkpoint::LossBits;
use super::metrics::EpochMetrics;

/// Steps whose mean loss is compared.
const WINDOW: usize = 8;
/// A run whose loss becomes this many times that of its first steps diverges.
const DIVERGED: f64 = 10.0;
/// Losses below this are not taken for a beginning: what starts at nothing
/// would diverge by the first fluctuation.
const BEGINNING_MIN: f64 = 0.1;

/// What epochs are compared by: the share of held-out answers that are given
/// exactly, and where that is the same, the held-out margin. A run goes on while
/// either rises.
pub(crate) fn rank(metrics: &EpochMetrics) -> (f64, f64) {
    (metrics.exact_match, metrics.margin)
}

/// The mean losses of the first and of the last steps, when the run diverges.
pub(crate) fn diverged(losses: &[LossBits]) -> Option<(f64, f64)> {
    if losses.len() < 2 * WINDOW {
        return None;
    }
    let mean = |losses: &[LossBits]| {
        let sum: f64 = losses.iter().map(|loss| loss.value()).sum();
        sum / losses.len() as f64
    };
    let first = mean(&losses[..WINDOW]);
    let last = mean(&losses[losses.len() - WINDOW..]);
    (last > DIVERGED * first.max(BEGINNING_MIN)).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(values: &[f64]) -> Vec<LossBits> {
        values.iter().map(|v| LossBits(v.to_bits())).collect()
    }

    #[test]
    fn exact_match_goes_before_the_margin_and_the_loss_does_not_count() {
        let of = |exact_match, margin, loss| {
            rank(&EpochMetrics {
                exact_match,
                margin,
                loss,
                ..EpochMetrics::default()
            })
        };
        assert!(of(0.5, 1.0, 9.0) > of(0.4, 9.0, 0.1));
        assert!(of(0.5, 1.1, 9.0) > of(0.5, 1.0, 0.1));
        assert_eq!(of(0.5, 1.0, 0.1), of(0.5, 1.0, 9.0));
    }

    #[test]
    fn only_a_loss_that_grows_and_stays_is_divergence() {
        let mut values = vec![0.7; 2 * WINDOW];
        assert_eq!(diverged(&losses(&values)), None);
        // one outlier
        values.extend([20.0]);
        assert_eq!(diverged(&losses(&values)), None);
        values.extend([20.0; WINDOW]);
        let (first, last) = diverged(&losses(&values)).unwrap_or_default();
        assert!((first - 0.7).abs() < 1e-12 && (last - 20.0).abs() < 1e-12);
        // too few steps to tell
        assert_eq!(diverged(&losses(&[0.1, 50.0, 50.0])), None);
        // a run that starts near zero
        let mut values = vec![1e-6; WINDOW];
        values.extend([0.5; WINDOW]);
        assert_eq!(diverged(&losses(&values)), None);
    }
}
