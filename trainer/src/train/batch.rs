//! Tokenized examples, and the order in which an epoch visits them.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::loss::PairLogProbs;
use crate::pack::Sequence;

/// A preference pair in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct PairExample {
    /// Which pair, for reports.
    pub id: String,
    /// The better answer after its prompt.
    pub chosen: Sequence,
    /// The worse answer after the same prompt.
    pub rejected: Sequence,
}

/// One good answer in tokens, trained without a counterpart.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainExample {
    /// Prompt and answer.
    pub sequence: Sequence,
}

/// One answer in tokens that was called good or bad.
#[derive(Debug, Clone, PartialEq)]
pub struct RatedExample {
    /// Prompt and answer.
    pub sequence: Sequence,
    /// What it was called.
    pub is_good: bool,
}

/// Examples of one kind, which decides what is learned from them.
#[derive(Debug, Clone, PartialEq)]
pub enum Items {
    /// Preferences: a loss of pairs.
    Pairs(Vec<PairExample>),
    /// Answers to imitate: cross entropy.
    Plain(Vec<PlainExample>),
    /// Answers that were rated: KTO.
    Rated(Vec<RatedExample>),
}

impl Default for Items {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

impl From<Vec<PairExample>> for Items {
    fn from(pairs: Vec<PairExample>) -> Self {
        Self::Pairs(pairs)
    }
}

impl Items {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(pairs) => pairs.len(),
            Self::Plain(plain) => plain.len(),
            Self::Rated(rated) => rated.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequences of one example: chosen and rejected, or the one.
    pub(crate) fn sequences(&self, index: usize) -> Vec<&Sequence> {
        match self {
            Self::Pairs(pairs) => vec![&pairs[index].chosen, &pairs[index].rejected],
            Self::Plain(plain) => vec![&plain[index].sequence],
            Self::Rated(rated) => vec![&rated[index].sequence],
        }
    }
}

/// What a run trains on and validates with.
#[derive(Debug, Clone, Default)]
pub struct Examples {
    /// What is trained.
    pub train: Items,
    /// The same, never trained.
    pub validation: Items,
    /// Plain examples against forgetting.
    pub retained: Vec<PlainExample>,
}

impl PairExample {
    /// The policy's unpadded tokens: prompt and answer, of both answers.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.chosen.tokens.len() + self.rejected.tokens.len()
    }

    /// What a loss takes, of the sums of its two answers.
    pub(crate) fn log_probs(&self, policy: &[f64], reference: &[f64]) -> PairLogProbs {
        PairLogProbs {
            policy_chosen: policy[0],
            policy_rejected: policy[1],
            reference_chosen: reference[0],
            reference_rejected: reference[1],
            chosen_tokens: self.chosen.completion_len(),
            rejected_tokens: self.rejected.completion_len(),
        }
    }
}

/// The indices of one micro-batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MicroBatch {
    pub(crate) items: Vec<usize>,
    pub(crate) retained: Vec<usize>,
}

/// Every example once in an order that the seed and the epoch determine, cut
/// into micro-batches; retained examples are dealt out round and round.
pub(crate) fn epoch(
    items: usize,
    retained: usize,
    epoch: usize,
    config: &super::TrainConfig,
) -> Vec<MicroBatch> {
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    rng.set_stream(1 + epoch as u64);
    let mut order: Vec<usize> = (0..items).collect();
    order.shuffle(&mut rng);
    let mut plain: Vec<usize> = (0..retained).collect();
    plain.shuffle(&mut rng);
    let wanted = if config.retention.weight > 0.0 {
        config.retention.per_micro_batch
    } else {
        0
    };
    let mut plain = plain.into_iter().cycle();
    order
        .chunks(config.micro_batch_pairs)
        .map(|chunk| {
            let retained = plain.by_ref().take(wanted.min(retained)).collect();
            MicroBatch {
                items: chunk.to_vec(),
                retained,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::TrainConfig;
    use super::*;

    #[test]
    fn an_epoch_visits_every_example_once_and_is_reproducible() {
        let mut config = TrainConfig {
            micro_batch_pairs: 4,
            ..TrainConfig::default()
        };
        config.retention.weight = 1.0;
        config.retention.per_micro_batch = 2;
        let first = epoch(10, 3, 0, &config);
        assert_eq!(first, epoch(10, 3, 0, &config));
        assert_ne!(first, epoch(10, 3, 1, &config));
        assert_eq!(first.len(), 3);
        let mut all: Vec<usize> = first.iter().flat_map(|m| m.items.clone()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert!(first.iter().all(|m| m.retained.len() == 2));
    }
}
