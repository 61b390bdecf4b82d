//! KTO (arXiv:2402.01306): answers that were called good or bad alone.

use super::{sigmoid, sigmoid_slope};

/// A loss term of one rated answer, with its derivative in the policy's
/// log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RatedTerm {
    /// The loss.
    pub value: f64,
    /// ∂/∂ log π(answer).
    pub by_answer: f64,
}

/// 1 − σ(β(r − kl)) of a good answer and 1 − σ(β(kl − r)) of a bad one, where
/// `ratio` is r = logπ − logref and `kl` the batch's estimate of the policy's
/// distance from the reference, which is not differentiated.
#[must_use]
pub fn kto(ratio: f64, kl: f64, is_good: bool, beta: f64) -> RatedTerm {
    let sign = if is_good { 1.0 } else { -1.0 };
    let z = sign * beta * (ratio - kl);
    RatedTerm {
        // 1 − σ(z), which does not cancel for large z
        value: sigmoid(-z),
        by_answer: -sign * beta * sigmoid_slope(z),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmoved_policy_loses_a_half_and_is_pushed_the_right_way() {
        let (good, bad) = (kto(0.0, 0.0, true, 0.1), kto(0.0, 0.0, false, 0.1));
        assert!((good.value - 0.5).abs() < 1e-12 && (bad.value - 0.5).abs() < 1e-12);
        assert!(good.by_answer < 0.0 && bad.by_answer > 0.0);
    }

    #[test]
    fn the_derivative_agrees_with_finite_differences() {
        let h = 1e-5;
        for (ratio, kl) in [(0.3, 0.0), (-7.0, 2.0), (40.0, 0.5)] {
            for is_good in [true, false] {
                let at = |ratio| kto(ratio, kl, is_good, 0.4).value;
                let slope = (at(ratio + h) - at(ratio - h)) / (2.0 * h);
                assert!((slope - kto(ratio, kl, is_good, 0.4).by_answer).abs() < 1e-8);
            }
        }
        let far = kto(-1e6, 0.0, true, 1.0);
        assert!((far.value - 1.0).abs() < 1e-12 && far.by_answer == 0.0);
    }
}
