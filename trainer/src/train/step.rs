//! One optimizer step: losses and gradients of its micro-batches.
//!
//! For each pack: log-probabilities with a graph, the losses and their
//! derivatives as plain numbers, then one backward pass that starts from
//! those derivatives (`forward` knows how, and how much of the graph to keep).

use super::batch::{Examples, Items, MicroBatch};
use super::config::{Recompute, TrainConfig};
use super::metrics::StepMetrics;
use super::objective::Objective;
use super::reference::{ReferenceCache, sum};
use crate::TrainerError;
use crate::forward::{FrozenModel, Pass};
use crate::ops::dropout::Dropout;
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

impl StepInput<'_> {
    /// Adds the gradients of the step's loss to `sums`, and the metrics,
    /// weighted likewise, to `metrics`.
    pub(crate) fn accumulate(
        &self,
        micro_batches: &[MicroBatch],
        references: &mut ReferenceCache,
        sums: &mut [Vec<f32>],
        metrics: &mut StepMetrics,
    ) -> Result<(), TrainerError> {
        let objectives = Objective::of_step(self.examples, self.config, micro_batches);
        let share = 1.0 / objectives.len().max(1) as f64;
        for (micro, mut objective) in objectives.into_iter().enumerate() {
            objective.kl = self.kl(&objective.mismatched(), references)?;
            metrics.kl += share * objective.kl;
            let groups = objective.groups();
            let packs = plan(&groups, self.config.pack_rows_max);
            for (index, pack) in packs.iter().enumerate() {
                metrics.packed_rows += pack.tree.tokens.len() as u64;
                let pass = [
                    self.config.seed,
                    metrics.step as u64,
                    micro as u64,
                    index as u64,
                ];
                let pass = Pass {
                    pack,
                    parameters: self.parameters,
                    dropout: Dropout::new(self.config.lora.dropout, pass),
                    recompute: self.config.recompute == Recompute::Always,
                };
                let mut slopes = |log_probs: &[f32]| {
                    self.slopes(log_probs, pack, &groups, &objective, references, metrics)
                };
                self.model.add_gradients(&pass, &mut slopes, sums)?;
            }
            let tokens: usize = groups.iter().flatten().map(|s| s.tokens.len()).sum();
            metrics.num_tokens += tokens as u64;
        }
        let sft = match self.examples.train {
            Items::Plain(_) => 1.0,
            _ => self.config.sft_weight,
        };
        metrics.loss = metrics.loss_dpo
            + metrics.loss_kto
            + sft * metrics.loss_sft
            + self.config.retention.weight * metrics.loss_retention;
        if matches!(self.examples.train, Items::Rated(_)) {
            metrics.rewards_margins = metrics.rewards_chosen - metrics.rewards_rejected;
        }
        Ok(())
    }

    /// max(0, mean(logπ − logref)) of the mismatched sequences, without a graph.
    fn kl(
        &self,
        mismatched: &[Sequence],
        references: &mut ReferenceCache,
    ) -> Result<f64, TrainerError> {
        if mismatched.is_empty() {
            return Ok(0.0);
        }
        let groups: Vec<Vec<&Sequence>> = mismatched.iter().map(|s| vec![s]).collect();
        let policy = self.parameters.view(false);
        let mut total = 0.0;
        for pack in plan(&groups, self.config.pack_rows_max) {
            let log_probs = self.model.log_probs(&pack, &policy, false)?;
            let log_probs = log_probs.to_vec1::<f32>()?;
            let reference = references.sums(self.model, self.start, &pack, &groups)?;
            for (group, reference) in pack.groups.iter().zip(&reference) {
                total += sum(&log_probs[group.targets[0].clone()]) - reference[0];
            }
        }
        Ok((total / mismatched.len() as f64).max(0.0))
    }

    /// ∂loss/∂log-probability of each of the pack's targets.
    fn slopes(
        &self,
        log_probs: &[f32],
        pack: &Pack,
        groups: &[Vec<&Sequence>],
        objective: &Objective<'_>,
        references: &mut ReferenceCache,
        metrics: &mut StepMetrics,
    ) -> Result<Vec<f32>, TrainerError> {
        // imitation has no reference
        let reference = match self.examples.train {
            Items::Plain(_) => vec![Vec::new(); pack.groups.len()],
            _ => references.sums(self.model, self.start, pack, groups)?,
        };
        let mut slopes = vec![0.0f32; log_probs.len()];
        for (group, reference) in pack.groups.iter().zip(&reference) {
            let sums = group
                .targets
                .iter()
                .map(|range| sum(&log_probs[range.clone()]));
            let sums: Vec<f64> = sums.collect();
            let by_token = objective.slopes(group.index, &sums, reference, metrics);
            for (range, slope) in group.targets.iter().zip(by_token) {
                // Every token of a sequence has the same slope: the loss is a
                // function of their sum.
                slopes[range.clone()].fill(slope as f32);
            }
        }
        Ok(slopes)
    }
}
