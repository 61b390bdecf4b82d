//! A micro-batch's loss as a function of log-probabilities: which sequences it
//! needs, and its derivative in each one's sum. No tensors.

use super::TrainConfig;
use super::batch::{Examples, Items, MicroBatch};
use super::metrics::StepMetrics;
use crate::loss::{PairLogProbs, kto};
use crate::pack::Sequence;

/// One micro-batch of an optimizer step.
pub(crate) struct Objective<'a> {
    examples: &'a Examples,
    config: &'a TrainConfig,
    micro: &'a MicroBatch,
    weights: Weights,
    /// KTO's estimate of the policy's distance from the reference.
    pub(crate) kl: f64,
}

/// How much each part of a micro-batch weighs in the step's loss.
struct Weights {
    /// Of one pair or rated answer: the mean of the micro-batches' means.
    item: f64,
    /// Of one token of a chosen answer, likewise.
    chosen_token: f64,
    /// Of one token of an answer to imitate: the mean over the step's tokens.
    plain_token: f64,
    /// Of one token of a retained example.
    retained_token: f64,
    /// Of one good, or bad, answer in the metrics.
    rated: [f64; 2],
}

impl<'a> Objective<'a> {
    /// One objective for each micro-batch of a step.
    pub(crate) fn of_step(
        examples: &'a Examples,
        config: &'a TrainConfig,
        micro_batches: &'a [MicroBatch],
    ) -> Vec<Self> {
        let share = 1.0 / micro_batches.len().max(1) as f64;
        let plain_tokens: usize = micro_batches
            .iter()
            .map(|micro| plain_tokens(examples, micro))
            .sum();
        let objective = |micro: &'a MicroBatch| Self {
            examples,
            config,
            micro,
            weights: Weights::new(examples, micro, share, plain_tokens),
            kl: 0.0,
        };
        micro_batches.iter().map(objective).collect()
    }

    /// The sequences of each example, then each retained example's one.
    pub(crate) fn groups(&self) -> Vec<Vec<&'a Sequence>> {
        let examples = self.examples;
        let retained = |&index: &usize| vec![&examples.retained[index].sequence];
        let items = self.micro.items.iter();
        items
            .map(|&index| examples.train.sequences(index))
            .chain(self.micro.retained.iter().map(retained))
            .collect()
    }

    /// [`mismatched`] of the micro-batch.
    pub(crate) fn mismatched(&self) -> Vec<Sequence> {
        let tokens_max = self.config.sequence_tokens_max;
        mismatched(&self.examples.train, &self.micro.items, tokens_max)
    }

    /// ∂loss/∂log-probability of every token of each of a group's sequences,
    /// given their sums under policy and reference. Adds to the metrics.
    pub(crate) fn slopes(
        &self,
        group: usize,
        policy: &[f64],
        reference: &[f64],
        metrics: &mut StepMetrics,
    ) -> [f64; 2] {
        let weights = &self.weights;
        let Some(&item) = self.micro.items.get(group) else {
            metrics.loss_retention -= weights.retained_token * policy[0];
            return [-self.config.retention.weight * weights.retained_token, 0.0];
        };
        match &self.examples.train {
            Items::Pairs(pairs) => {
                let pair = pairs[item].log_probs(policy, reference);
                self.pair(&pair, metrics)
            }
            Items::Plain(_) => {
                metrics.loss_sft -= weights.plain_token * policy[0];
                [-weights.plain_token, 0.0]
            }
            Items::Rated(rated) => {
                let ratio = policy[0] - reference[0];
                [
                    self.rated(ratio, policy[0], rated[item].is_good, metrics),
                    0.0,
                ]
            }
        }
    }

    fn pair(&self, pair: &PairLogProbs, metrics: &mut StepMetrics) -> [f64; 2] {
        let (beta, weight) = (self.config.beta, self.weights.item);
        let term = self.config.loss.term(pair, beta);
        metrics.loss_dpo += weight * term.value;
        metrics.loss_sft -= self.weights.chosen_token * pair.policy_chosen;
        metrics.rewards_chosen += weight * beta * pair.chosen_ratio();
        metrics.rewards_rejected += weight * beta * pair.rejected_ratio();
        metrics.rewards_margins += weight * beta * pair.delta();
        metrics.rewards_accuracies += if pair.delta() > 0.0 { weight } else { 0.0 };
        metrics.logps_chosen += weight * pair.policy_chosen;
        metrics.logps_rejected += weight * pair.policy_rejected;
        let sft = self.config.sft_weight * self.weights.chosen_token;
        [weight * term.by_chosen - sft, weight * term.by_rejected]
    }

    fn rated(&self, ratio: f64, policy: f64, is_good: bool, metrics: &mut StepMetrics) -> f64 {
        let config = self.config;
        let term = kto(ratio, self.kl, is_good, config.beta);
        let side = if is_good {
            config.kto.desirable_weight
        } else {
            config.kto.undesirable_weight
        };
        let weight = side * self.weights.item;
        metrics.loss_kto += weight * term.value;
        let share = self.weights.rated[usize::from(!is_good)];
        let (rewards, logps) = if is_good {
            (&mut metrics.rewards_chosen, &mut metrics.logps_chosen)
        } else {
            (&mut metrics.rewards_rejected, &mut metrics.logps_rejected)
        };
        *rewards += share * config.beta * ratio;
        *logps += share * policy;
        let is_right = (ratio > 0.0) == is_good && ratio != 0.0;
        metrics.rewards_accuracies += if is_right { self.weights.item } else { 0.0 };
        weight * term.by_answer
    }
}

fn plain_tokens(examples: &Examples, micro: &MicroBatch) -> usize {
    let Items::Plain(plain) = &examples.train else {
        return 0;
    };
    let tokens = |&i: &usize| plain[i].sequence.completion_len();
    micro.items.iter().map(tokens).sum()
}

impl Weights {
    fn new(examples: &Examples, micro: &MicroBatch, share: f64, plain_tokens: usize) -> Self {
        let retained = micro.retained.iter();
        let retained = retained.map(|&i| examples.retained[i].sequence.completion_len());
        let mut chosen = 0;
        let mut rated_as = [0usize; 2];
        match &examples.train {
            Items::Pairs(pairs) => {
                let tokens = |&i: &usize| pairs[i].chosen.completion_len();
                chosen = micro.items.iter().map(tokens).sum();
            }
            Items::Plain(_) => {}
            Items::Rated(rated) => micro
                .items
                .iter()
                .for_each(|&i| rated_as[usize::from(!rated[i].is_good)] += 1),
        }
        Self {
            item: share / micro.items.len().max(1) as f64,
            chosen_token: share / chosen.max(1) as f64,
            plain_token: 1.0 / plain_tokens.max(1) as f64,
            retained_token: share / retained.sum::<usize>().max(1) as f64,
            rated: rated_as.map(|count| share / count.max(1) as f64),
        }
    }
}
/// Each prompt with the answer to the one before it in the dataset, cut off after
/// `tokens_max` tokens, for KTO's estimate; none where nothing is rated, or where
/// there is only one. The pairing stays the same over epochs, so that the
/// reference's log-probabilities are computed once.
pub(crate) fn mismatched(train: &Items, items: &[usize], tokens_max: usize) -> Vec<Sequence> {
    let Items::Rated(rated) = train else {
        return Vec::new();
    };
    if rated.len() < 2 {
        return Vec::new();
    }
    let mismatched = items.iter().map(|&item| {
        let before = (item + rated.len() - 1) % rated.len();
        let (own, other) = (&rated[item].sequence, &rated[before].sequence);
        let prompt = own.tokens[..own.completion_start].iter();
        let answer = &other.tokens[other.completion_start..];
        Sequence {
            tokens: prompt.chain(answer).copied().take(tokens_max).collect(),
            completion_start: own.completion_start,
        }
    });
    mismatched.collect()
}
