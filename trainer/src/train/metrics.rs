//! What a run reports, by the names that other trainers use.

use serde::{Deserialize, Serialize};

use super::checkpoint::Curve;
use crate::forward::FrozenModel;
use crate::parameters::Parameters;

/// One optimizer step.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StepMetrics {
    /// From 1.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Epochs done, as a fraction.
    pub epoch: f64,
    /// The whole loss.
    pub loss: f64,
    /// Its term of pairs.
    #[serde(rename = "loss/dpo")]
    pub loss_dpo: f64,
    /// Its term of rated answers.
    #[serde(rename = "loss/kto")]
    pub loss_kto: f64,
    /// The cross entropy on the chosen answers, or those to imitate, unweighted.
    #[serde(rename = "loss/sft")]
    pub loss_sft: f64,
    /// The cross entropy on retained examples, unweighted.
    #[serde(rename = "loss/retention")]
    pub loss_retention: f64,
    /// β(logπ − logref) of the chosen answers.
    #[serde(rename = "rewards/chosen")]
    pub rewards_chosen: f64,
    /// β(logπ − logref) of the rejected answers.
    #[serde(rename = "rewards/rejected")]
    pub rewards_rejected: f64,
    /// Share of pairs with the greater reward on the chosen answer.
    #[serde(rename = "rewards/accuracies")]
    pub rewards_accuracies: f64,
    /// Difference of the rewards.
    #[serde(rename = "rewards/margins")]
    pub rewards_margins: f64,
    /// log π of the chosen answers.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: f64,
    /// log π of the rejected answers.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: f64,
    /// KTO's estimate of the policy's distance from the reference.
    pub kl: f64,
    /// Norm of the gradient before it is cut.
    pub grad_norm: f64,
    /// The rate of this step.
    pub learning_rate: f64,
    /// Unpadded policy tokens since the start.
    pub num_tokens: u64,
    /// Rows that were computed for them: shared prefixes count once.
    pub packed_rows: u64,
    /// Seconds since the start; not in the curve, which has no clock.
    #[serde(skip)]
    pub seconds: f64,
}

/// A validation after an epoch (or, as epoch 0, before the first).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Epochs done.
    pub epoch: usize,
    /// Share of held-out examples that moved the right way against the
    /// reference: pairs with a positive margin, good answers that became more
    /// likely, bad ones that became less.
    #[serde(rename = "eval/rewards/accuracies")]
    pub accuracy: f64,
    /// Mean β·Δ of the held-out pairs; β times the mean move of rated or
    /// imitated answers in the right direction.
    #[serde(rename = "eval/rewards/margins")]
    pub margin: f64,
    /// Share of the held-out answers that are to be given which greedy decoding
    /// gives, token by token.
    #[serde(rename = "eval/exact_match", default)]
    pub exact_match: f64,
    /// Share of the tokens of those answers that are the likeliest after all
    /// before them.
    #[serde(rename = "eval/mean_token_accuracy", default)]
    pub token_accuracy: f64,
    /// Mean loss of the held-out examples.
    #[serde(rename = "eval/loss")]
    pub loss: f64,
    /// Mean change of log π(chosen) per token against the reference, over what
    /// is chosen, good or imitated; below zero it is being displaced.
    #[serde(rename = "eval/displacement")]
    pub chosen_shift_per_token: f64,
    /// Whether this epoch's adapter is the best so far.
    pub best: bool,
}

impl EpochMetrics {
    /// Whether what is to be answered has become less likely than it was at the start,
    /// and what an operator is told then.
    #[must_use]
    pub fn displacement(&self) -> Option<String> {
        let (epoch, lost) = (self.epoch, -self.chosen_shift_per_token);
        (lost > 0.0).then(|| {
            format!(
                "epoch {epoch}: the answers to be given lose likelihood, {lost:.4} nat a token \
                 (where pairs are learned, an sft term or the loss dpop is against that)"
            )
        })
    }
}

/// Receives a run's progress.
pub trait Observer {
    /// After each optimizer step.
    fn step(&mut self, metrics: &StepMetrics);
    /// After each validation.
    fn epoch(&mut self, metrics: &EpochMetrics);
    /// Before the first step: what was reported up to the checkpoint, nothing
    /// where there is none. Whatever was reported after it will be again.
    fn resumed(&mut self, _curve: &Curve) {}
}

/// An observer that looks away.
pub struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &StepMetrics) {}
    fn epoch(&mut self, _: &EpochMetrics) {}
}

/// The line by which PEFT reports what is trained.
#[must_use]
pub fn parameter_report(model: &FrozenModel, parameters: &Parameters) -> String {
    let trainable = parameters.len();
    let all = model.parameter_count() + trainable;
    let percent = 100.0 * trainable as f64 / all as f64;
    format!(
        "trainable params: {} || all params: {} || trainable%: {percent:.4}",
        with_commas(trainable),
        with_commas(all)
    )
}

fn with_commas(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_apart() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (139_399_488, "139,399,488"),
        ];
        for (n, text) in cases {
            assert_eq!(super::with_commas(n), text);
        }
    }
}
