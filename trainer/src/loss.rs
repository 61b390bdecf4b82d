//! The losses as numbers: values and derivatives in f64, no tensors.
//!
//! The derivatives in each sequence's log-probability are what the backward
//! pass starts from, so the formulas can be read, and checked, here alone.

/// Sums of a pair's completion log-probabilities under policy and reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogProbs {
    /// log π(chosen).
    pub policy_chosen: f64,
    /// log π(rejected).
    pub policy_rejected: f64,
    /// log π_ref(chosen).
    pub reference_chosen: f64,
    /// log π_ref(rejected).
    pub reference_rejected: f64,
}

impl PairLogProbs {
    /// `(logπ − logref)` of the chosen answer.
    #[must_use]
    pub fn chosen_ratio(&self) -> f64 {
        self.policy_chosen - self.reference_chosen
    }

    /// `(logπ − logref)` of the rejected answer.
    #[must_use]
    pub fn rejected_ratio(&self) -> f64 {
        self.policy_rejected - self.reference_rejected
    }

    /// Δ: by how much more the policy moved towards the chosen answer.
    #[must_use]
    pub fn delta(&self) -> f64 {
        self.chosen_ratio() - self.rejected_ratio()
    }
}

/// A loss term of one pair, with its derivatives in the policy's log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairTerm {
    /// The loss.
    pub value: f64,
    /// ∂/∂ log π(chosen).
    pub by_chosen: f64,
    /// ∂/∂ log π(rejected).
    pub by_rejected: f64,
}

/// DPO's sigmoid loss: −log σ(βΔ).
#[must_use]
pub fn dpo_sigmoid(log_probs: &PairLogProbs, beta: f64) -> PairTerm {
    let z = beta * log_probs.delta();
    let slope = -beta * sigmoid(-z);
    PairTerm {
        value: softplus(-z),
        by_chosen: slope,
        by_rejected: -slope,
    }
}

/// log(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        x.exp() / (1.0 + x.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(policy_chosen: f64, policy_rejected: f64) -> PairLogProbs {
        let (reference_chosen, reference_rejected) = (-20.0, -15.0);
        PairLogProbs {
            policy_chosen,
            policy_rejected,
            reference_chosen,
            reference_rejected,
        }
    }

    #[test]
    fn an_unmoved_policy_loses_ln_2() {
        let term = dpo_sigmoid(&pair(-20.0, -15.0), 0.1);
        assert!((term.value - std::f64::consts::LN_2).abs() < 1e-12);
        assert!((term.by_chosen + 0.05).abs() < 1e-12);
    }

    #[test]
    fn derivatives_agree_with_finite_differences_and_extremes_stay_finite() {
        for (chosen, rejected) in [(-20.0, -15.0), (-3.0, -40.0), (-90.0, -1.0)] {
            let term = dpo_sigmoid(&pair(chosen, rejected), 0.3);
            let h = 1e-5;
            let up = dpo_sigmoid(&pair(chosen + h, rejected), 0.3).value;
            let down = dpo_sigmoid(&pair(chosen - h, rejected), 0.3).value;
            assert!(((up - down) / (2.0 * h) - term.by_chosen).abs() < 1e-8);
            let up = dpo_sigmoid(&pair(chosen, rejected + h), 0.3).value;
            let down = dpo_sigmoid(&pair(chosen, rejected - h), 0.3).value;
            assert!(((up - down) / (2.0 * h) - term.by_rejected).abs() < 1e-8);
        }
        let term = dpo_sigmoid(&pair(-1e6, 0.0), 1.0);
        assert!(term.value.is_finite() && term.by_chosen.is_finite());
    }
}
