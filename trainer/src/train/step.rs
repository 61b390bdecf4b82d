//! One optimizer step: losses and gradients of its micro-batches.
//!
//! For each pack: log-probabilities with a graph, the losses and their
//! derivatives as plain numbers, then one backward pass that starts from
//! those derivatives.

use candle_core::Tensor;

use super::TrainConfig;
use super::batch::{Examples, MicroBatch};
use super::metrics::StepMetrics;
use super::reference::{ReferenceCache, sum};
use crate::TrainerError;
use crate::forward::FrozenModel;
use crate::loss::{PairLogProbs, dpo_sigmoid};
use crate::ops::tensor;
use crate::pack::{Pack, Sequence, plan};
use crate::parameters::{ParameterView, Parameters};

/// What a step needs to look at.
pub(crate) struct StepInput<'a> {
    pub(crate) model: &'a FrozenModel,
    pub(crate) parameters: &'a Parameters,
    pub(crate) start: &'a ParameterView,
    pub(crate) examples: &'a Examples,
    pub(crate) config: &'a TrainConfig,
}

/// How much each part of a micro-batch weighs in the step's loss.
struct Weights {
    /// Of a pair's sigmoid term.
    pair: f64,
    /// Of one token of a chosen answer.
    chosen_token: f64,
    /// Of one token of a retained example.
    retained_token: f64,
}

impl StepInput<'_> {
    /// Adds the gradients of the mean of the micro-batches' means to `sums`,
    /// and the metrics, weighted likewise, to `metrics`.
    pub(crate) fn accumulate(
        &self,
        micro_batches: &[MicroBatch],
        references: &mut ReferenceCache,
        sums: &mut [Vec<f32>],
        metrics: &mut StepMetrics,
    ) -> Result<(), TrainerError> {
        for micro in micro_batches {
            let groups = self.groups(micro);
            let weights = self.weights(micro, micro_batches.len());
            for pack in plan(&groups, self.config.pack_rows_max) {
                metrics.packed_rows += pack.tree.tokens.len() as u64;
                let surrogate = self.pack_loss(
                    &pack,
                    &groups,
                    micro.pairs.len(),
                    &weights,
                    references,
                    metrics,
                )?;
                self.parameters
                    .add_gradients(&surrogate.backward()?, sums)?;
            }
            let tokens: usize = groups.iter().flatten().map(|s| s.tokens.len()).sum();
            metrics.num_tokens += tokens as u64;
        }
        metrics.loss = metrics.loss_dpo
            + self.config.sft_weight * metrics.loss_sft
            + self.config.retention.weight * metrics.loss_retention;
        Ok(())
    }

    /// Each pair's two sequences, then each retained example's one.
    fn groups(&self, micro: &MicroBatch) -> Vec<Vec<&Sequence>> {
        let pair = |&index: &usize| {
            let pair = &self.examples.train[index];
            vec![&pair.chosen, &pair.rejected]
        };
        let plain = |&index: &usize| vec![&self.examples.retained[index].sequence];
        micro
            .pairs
            .iter()
            .map(pair)
            .chain(micro.retained.iter().map(plain))
            .collect()
    }

    fn weights(&self, micro: &MicroBatch, micro_batches: usize) -> Weights {
        let share = 1.0 / micro_batches as f64;
        let chosen = micro
            .pairs
            .iter()
            .map(|&i| self.examples.train[i].chosen.completion_len());
        let retained = micro
            .retained
            .iter()
            .map(|&i| self.examples.retained[i].sequence.completion_len());
        Weights {
            pair: share / micro.pairs.len().max(1) as f64,
            chosen_token: share / chosen.sum::<usize>().max(1) as f64,
            retained_token: share / retained.sum::<usize>().max(1) as f64,
        }
    }

    /// A scalar whose gradient is that of the pack's share of the loss:
    /// Σ log-probability · ∂loss/∂log-probability.
    fn pack_loss(
        &self,
        pack: &Pack,
        groups: &[Vec<&Sequence>],
        pairs: usize,
        weights: &Weights,
        references: &mut ReferenceCache,
        metrics: &mut StepMetrics,
    ) -> Result<Tensor, TrainerError> {
        let tensor_log_probs = self
            .model
            .log_probs(pack, &self.parameters.view(true), true)?;
        let log_probs = tensor_log_probs.to_vec1::<f32>()?;
        let reference = references.sums(self.model, self.start, pack, groups)?;
        let mut slopes = vec![0.0f32; log_probs.len()];
        for (group, reference) in pack.groups.iter().zip(&reference) {
            let sums = group
                .targets
                .iter()
                .map(|range| sum(&log_probs[range.clone()]));
            let sums: Vec<f64> = sums.collect();
            let by_token = if group.index < pairs {
                let pair = PairLogProbs {
                    policy_chosen: sums[0],
                    policy_rejected: sums[1],
                    reference_chosen: reference[0],
                    reference_rejected: reference[1],
                };
                self.pair_slopes(&pair, weights, metrics)
            } else {
                metrics.loss_retention -= weights.retained_token * sums[0];
                [-self.config.retention.weight * weights.retained_token, 0.0]
            };
            for (range, slope) in group.targets.iter().zip(by_token) {
                // Every token of a sequence has the same slope: the loss is a
                // function of their sum.
                slopes[range.clone()].fill(slope as f32);
            }
        }
        let len = slopes.len();
        Ok((tensor_log_probs * tensor(slopes, len)?)?.sum_all()?)
    }

    /// ∂loss/∂log-probability of the chosen and of the rejected tokens.
    fn pair_slopes(
        &self,
        pair: &PairLogProbs,
        weights: &Weights,
        metrics: &mut StepMetrics,
    ) -> [f64; 2] {
        let (beta, weight) = (self.config.beta, weights.pair);
        let term = dpo_sigmoid(pair, beta);
        metrics.loss_dpo += weight * term.value;
        metrics.loss_sft -= weights.chosen_token * pair.policy_chosen;
        metrics.rewards_chosen += weight * beta * pair.chosen_ratio();
        metrics.rewards_rejected += weight * beta * pair.rejected_ratio();
        metrics.rewards_margins += weight * beta * pair.delta();
        metrics.rewards_accuracies += if pair.delta() > 0.0 { weight } else { 0.0 };
        metrics.logps_chosen += weight * pair.policy_chosen;
        metrics.logps_rejected += weight * pair.policy_rejected;
        let sft = self.config.sft_weight * weights.chosen_token;
        [weight * term.by_chosen - sft, weight * term.by_rejected]
    }
}
