//! Losses of a preferred and a rejected answer to the same prompt, by the
//! names of TRL's `loss_type`.

use serde::{Deserialize, Serialize};

use super::{sigmoid, sigmoid_slope, softplus};

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
    /// Tokens of the chosen answer.
    pub chosen_tokens: usize,
    /// Tokens of the rejected answer.
    pub rejected_tokens: usize,
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

    /// 1/|w| and 1/|l|.
    fn per_token(&self) -> [f64; 2] {
        [self.chosen_tokens, self.rejected_tokens].map(|tokens| 1.0 / tokens.max(1) as f64)
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

/// Which loss. r_w and r_l are logπ − logref of the two answers, Δ = r_w − r_l.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum PreferenceLoss {
    /// DPO (arXiv:2305.18290): −log σ(βΔ).
    #[default]
    Sigmoid,
    /// IPO (arXiv:2310.12036), per token: (r_w/|w| − r_l/|l| − 1/(2β))².
    Ipo,
    /// SLiC (arXiv:2305.10425): max(0, 1 − βΔ).
    Hinge,
    /// Robust DPO (arXiv:2403.00409): [−(1−ε) log σ(βΔ) + ε log σ(−βΔ)] / (1−2ε).
    Robust {
        /// ε, the share of pairs that may be the wrong way round; below ½.
        label_smoothing: f64,
    },
    /// APO-zero (arXiv:2408.06266): 1 − σ(βr_w) + σ(βr_l).
    ApoZero,
    /// DPO per token: −log σ(β(r_w/|w| − r_l/|l|)).
    SigmoidNorm,
    /// DPO-positive (arXiv:2402.13228): −log σ(β(Δ − λ·max(0, −r_w))).
    Dpop {
        /// λ: how much a fall of the chosen answer counts.
        lambda: f64,
    },
}

impl PreferenceLoss {
    /// What is wrong with its constants.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match *self {
            Self::Robust { label_smoothing: e } if !(0.0..0.5).contains(&e) => {
                Some(format!("label_smoothing {e} is not within 0 and 0.5"))
            }
            Self::Dpop { lambda } if !(0.0..=1e4).contains(&lambda) => {
                Some(format!("lambda {lambda} is not within 0 and 10000"))
            }
            _ => None,
        }
    }

    /// The loss of one pair.
    #[must_use]
    pub fn term(&self, pair: &PairLogProbs, beta: f64) -> PairTerm {
        let z = beta * pair.delta();
        match *self {
            Self::Sigmoid => of_margin(softplus(-z), -beta * sigmoid(-z)),
            Self::Hinge => of_margin((1.0 - z).max(0.0), if z < 1.0 { -beta } else { 0.0 }),
            Self::Robust { label_smoothing: e } => {
                let value = (1.0 - e) * softplus(-z) - e * softplus(z);
                let slope = -(1.0 - e) * sigmoid(-z) - e * sigmoid(z);
                of_margin(value / (1.0 - 2.0 * e), beta * slope / (1.0 - 2.0 * e))
            }
            Self::Ipo => {
                let [chosen, rejected] = pair.per_token();
                let margin = pair.chosen_ratio() * chosen - pair.rejected_ratio() * rejected;
                let off = margin - 1.0 / (2.0 * beta);
                PairTerm {
                    value: off * off,
                    by_chosen: 2.0 * off * chosen,
                    by_rejected: -2.0 * off * rejected,
                }
            }
            Self::SigmoidNorm => {
                let [chosen, rejected] = pair.per_token();
                let margin = pair.chosen_ratio() * chosen - pair.rejected_ratio() * rejected;
                let slope = -beta * sigmoid(-beta * margin);
                PairTerm {
                    value: softplus(-beta * margin),
                    by_chosen: slope * chosen,
                    by_rejected: -slope * rejected,
                }
            }
            Self::ApoZero => {
                let (w, l) = (beta * pair.chosen_ratio(), beta * pair.rejected_ratio());
                PairTerm {
                    value: sigmoid(-w) + sigmoid(l),
                    by_chosen: -beta * sigmoid_slope(w),
                    by_rejected: beta * sigmoid_slope(l),
                }
            }
            Self::Dpop { lambda } => {
                let fall = (-pair.chosen_ratio()).max(0.0);
                let z = beta * (pair.delta() - lambda * fall);
                let slope = -beta * sigmoid(-z);
                let by_fall = if fall > 0.0 { lambda } else { 0.0 };
                PairTerm {
                    value: softplus(-z),
                    by_chosen: slope * (1.0 + by_fall),
                    by_rejected: -slope,
                }
            }
        }
    }
}

/// A loss that depends on Δ alone.
fn of_margin(value: f64, slope: f64) -> PairTerm {
    PairTerm {
        value,
        by_chosen: slope,
        by_rejected: -slope,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: [PreferenceLoss; 7] = [
        PreferenceLoss::Sigmoid,
        PreferenceLoss::Ipo,
        PreferenceLoss::Hinge,
        PreferenceLoss::Robust {
            label_smoothing: 0.1,
        },
        PreferenceLoss::ApoZero,
        PreferenceLoss::SigmoidNorm,
        PreferenceLoss::Dpop { lambda: 5.0 },
    ];

    fn pair(policy_chosen: f64, policy_rejected: f64) -> PairLogProbs {
        PairLogProbs {
            policy_chosen,
            policy_rejected,
            reference_chosen: -20.0,
            reference_rejected: -15.0,
            chosen_tokens: 7,
            rejected_tokens: 4,
        }
    }

    #[test]
    fn an_unmoved_policy_loses_ln_2() {
        for loss in [
            PreferenceLoss::Sigmoid,
            PreferenceLoss::SigmoidNorm,
            PreferenceLoss::Dpop { lambda: 5.0 },
        ] {
            let term = loss.term(&pair(-20.0, -15.0), 0.1);
            assert!(
                (term.value - std::f64::consts::LN_2).abs() < 1e-12,
                "{loss:?}"
            );
        }
        let term = PreferenceLoss::Sigmoid.term(&pair(-20.0, -15.0), 0.1);
        assert!((term.by_chosen + 0.05).abs() < 1e-12);
    }

    #[test]
    fn derivatives_agree_with_finite_differences_and_extremes_stay_finite() {
        let h = 1e-5;
        for loss in ALL {
            for (chosen, rejected) in [(-20.5, -15.0), (-3.0, -40.0), (-90.0, -1.0)] {
                let value = |c, r| loss.term(&pair(c, r), 0.3).value;
                let term = loss.term(&pair(chosen, rejected), 0.3);
                let by_chosen = value(chosen + h, rejected) - value(chosen - h, rejected);
                let by_rejected = value(chosen, rejected + h) - value(chosen, rejected - h);
                for (differences, slope) in
                    [(by_chosen, term.by_chosen), (by_rejected, term.by_rejected)]
                {
                    let found = differences / (2.0 * h);
                    assert!(
                        (found - slope).abs() < 1e-7 * slope.abs().max(1.0),
                        "{loss:?}"
                    );
                }
            }
            let term = loss.term(&pair(-1e6, 0.0), 1.0);
            assert!(
                term.value.is_finite() && term.by_chosen.is_finite(),
                "{loss:?}"
            );
        }
    }

    #[test]
    fn constants_out_of_range_are_named_and_names_are_trls() {
        let read = |text: &str| serde_json::from_str::<PreferenceLoss>(text).unwrap();
        assert_eq!(read(r#"{"type": "apo_zero"}"#), PreferenceLoss::ApoZero);
        assert_eq!(
            read(r#"{"type": "sigmoid_norm"}"#),
            PreferenceLoss::SigmoidNorm
        );
        let half = read(r#"{"type": "robust", "label_smoothing": 0.5}"#);
        assert!(half.problem().unwrap().contains("label_smoothing"));
        assert!(ALL.iter().all(|loss| loss.problem().is_none()));
    }
}
