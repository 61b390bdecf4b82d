//! Log-probabilities of held-out examples, without a graph, and what they say.

use serde::Serialize;

use super::TrainConfig;
use super::batch::{Items, PairExample};
use super::metrics::EpochMetrics;
use super::reference::sum;
use crate::TrainerError;
use crate::forward::FrozenModel;
use crate::loss::kto;
use crate::pack::{Sequence, plan};
use crate::parameters::Parameters;

/// Sums of log-probabilities of one pair's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PairScore {
    /// log π(chosen).
    pub chosen: f64,
    /// log π(rejected).
    pub rejected: f64,
    /// Tokens of the chosen answer.
    pub chosen_tokens: usize,
    /// Tokens of the rejected answer.
    pub rejected_tokens: usize,
}

/// The scores of a list of pairs, in its order.
pub type Scores = Vec<PairScore>;

/// What examples score.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sums {
    /// For each example, the sum of each of its sequences.
    pub(crate) of: Vec<Vec<f64>>,
    /// For each example, whether greedy decoding gives its first sequence's
    /// completion token by token.
    pub(crate) is_given: Vec<bool>,
    /// For each example, how many tokens of its first sequence's completion are
    /// the likeliest after all before them, and how many there are.
    pub(crate) likeliest: Vec<(usize, usize)>,
}

/// Scores every pair under the base with `parameters`, or under the bare base.
///
/// # Errors
/// When a tensor operation fails.
pub fn score(
    model: &FrozenModel,
    parameters: Option<&Parameters>,
    pairs: &[PairExample],
    pack_rows_max: usize,
) -> Result<Scores, TrainerError> {
    let groups: Vec<Vec<&Sequence>> = pairs
        .iter()
        .map(|pair| vec![&pair.chosen, &pair.rejected])
        .collect();
    let sums = of_groups(model, parameters, &groups, pack_rows_max)?.of;
    let score = |(pair, sums): (&PairExample, Vec<f64>)| PairScore {
        chosen: sums[0],
        rejected: sums[1],
        chosen_tokens: pair.chosen.completion_len(),
        rejected_tokens: pair.rejected.completion_len(),
    };
    Ok(pairs.iter().zip(sums).map(score).collect())
}

/// The same for examples of any kind.
pub(crate) fn sums(
    model: &FrozenModel,
    parameters: Option<&Parameters>,
    items: &Items,
    pack_rows_max: usize,
) -> Result<Sums, TrainerError> {
    let groups: Vec<Vec<&Sequence>> = (0..items.len()).map(|i| items.sequences(i)).collect();
    of_groups(model, parameters, &groups, pack_rows_max)
}

fn of_groups(
    model: &FrozenModel,
    parameters: Option<&Parameters>,
    groups: &[Vec<&Sequence>],
    pack_rows_max: usize,
) -> Result<Sums, TrainerError> {
    let view = parameters.map(|p| p.view(false)).unwrap_or_default();
    let mut sums = Sums {
        of: groups.iter().map(|group| vec![0.0; group.len()]).collect(),
        is_given: vec![false; groups.len()],
        likeliest: vec![(0, 0); groups.len()],
    };
    for pack in plan(groups, pack_rows_max) {
        let (log_probs, is_likeliest) = model.scored(&pack, &view)?;
        for group in &pack.groups {
            for (range, into) in group.targets.iter().zip(&mut sums.of[group.index]) {
                *into = sum(&log_probs[range.clone()]);
            }
            let first = group.targets.first().cloned().unwrap_or_default();
            let first = &is_likeliest[first];
            let likeliest = first.iter().filter(|is| **is).count();
            sums.is_given[group.index] = likeliest == first.len();
            sums.likeliest[group.index] = (likeliest, first.len());
        }
    }
    Ok(sums)
}

/// What the held-out examples' sums say against those of the start.
pub(crate) fn judge(
    items: &Items,
    policy: &Sums,
    reference: &Sums,
    config: &TrainConfig,
) -> EpochMetrics {
    let mut judged = Judged::default();
    let share = 1.0 / items.len().max(1) as f64;
    for (index, (policy_sums, reference)) in policy.of.iter().zip(&reference.of).enumerate() {
        let is_wanted = match items {
            Items::Rated(rated) => rated[index].is_good,
            Items::Pairs(_) | Items::Plain(_) => true,
        };
        judged.given(is_wanted, policy.is_given[index]);
        if is_wanted {
            judged.likeliest(policy.likeliest[index]);
        }
        let policy = policy_sums;
        let ratio = policy[0] - reference[0];
        match items {
            Items::Pairs(pairs) => {
                let pair = pairs[index].log_probs(policy, reference);
                let per_token = 1.0 / pair.chosen_tokens.max(1) as f64;
                let loss = config.loss.term(&pair, config.beta).value
                    - config.sft_weight * pair.policy_chosen * per_token;
                judged.add(share, pair.delta(), loss);
                judged.shift(ratio * per_token);
            }
            Items::Plain(plain) => {
                let tokens = plain[index].sequence.completion_len();
                judged.add(share, ratio, 0.0);
                judged.shift(ratio / tokens.max(1) as f64);
                judged.tokens(policy[0], tokens);
            }
            Items::Rated(rated) => {
                let is_good = rated[index].is_good;
                let moved = if is_good { ratio } else { -ratio };
                judged.add(share, moved, kto(ratio, 0.0, is_good, config.beta).value);
                if is_good {
                    let tokens = rated[index].sequence.completion_len();
                    judged.shift(ratio / tokens.max(1) as f64);
                }
            }
        }
    }
    judged.metrics(config.beta)
}

#[derive(Default)]
struct Judged {
    accuracy: f64,
    moved: f64,
    loss: f64,
    shifts: (f64, usize),
    log_probs: (f64, usize),
    given: (f64, usize),
    likeliest: (f64, usize),
}

impl Judged {
    fn add(&mut self, share: f64, moved: f64, loss: f64) {
        self.accuracy += if moved > 0.0 { share } else { 0.0 };
        self.moved += share * moved;
        self.loss += share * loss;
    }

    fn shift(&mut self, per_token: f64) {
        self.shifts = (self.shifts.0 + per_token, self.shifts.1 + 1);
    }

    fn tokens(&mut self, log_prob: f64, tokens: usize) {
        self.log_probs = (self.log_probs.0 + log_prob, self.log_probs.1 + tokens);
    }

    /// Answers that are to be given, and those that are.
    fn given(&mut self, is_wanted: bool, is_given: bool) {
        if is_wanted {
            let one = if is_given { 1.0 } else { 0.0 };
            self.given = (self.given.0 + one, self.given.1 + 1);
        }
    }

    fn likeliest(&mut self, (likeliest, tokens): (usize, usize)) {
        let (sum, count) = self.likeliest;
        self.likeliest = (sum + likeliest as f64, count + tokens);
    }

    fn metrics(self, beta: f64) -> EpochMetrics {
        let mean = |(sum, count): (f64, usize)| sum / count.max(1) as f64;
        EpochMetrics {
            epoch: 0,
            accuracy: self.accuracy,
            margin: beta * self.moved,
            exact_match: mean(self.given),
            token_accuracy: mean(self.likeliest),
            loss: self.loss - mean(self.log_probs),
            chosen_shift_per_token: mean(self.shifts),
            best: false,
        }
    }
}
