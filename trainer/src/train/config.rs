//! How to train: the recipe.

use serde::{Deserialize, Serialize};

use super::adamw::AdamWConfig;
use super::schedule::Decay;
use crate::TrainerError;
use crate::loss::PreferenceLoss;

/// The most epochs, ranks, pairs and rows that a recipe may ask for.
const EPOCHS_MAX: usize = 100;
const RANK_MAX: usize = 256;
const MICRO_BATCH_PAIRS_MAX: usize = 1024;
const ROWS_MAX: usize = 16_384;
/// The slowest decay of a moment: at 1 it would never move.
const BETA_MAX: f64 = 0.999_999;

/// A training recipe; its JSON is part of a version's lineage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The adapter that is made, when training does not continue one.
    pub lora: LoraRecipe,
    /// Passes over the training pairs.
    pub epochs: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the steps over which the rate rises.
    pub warmup_ratio: f64,
    /// How the rate falls.
    pub decay: Decay,
    /// Pairs, or other examples, of one micro-batch, over which the loss is a mean.
    pub micro_batch_pairs: usize,
    /// Micro-batches of one optimizer step, whose means are averaged.
    pub micro_batches: usize,
    /// Rows of one packed forward pass; what does not fit is packed anew.
    pub pack_rows_max: usize,
    /// Whether layers are computed again for their backward pass, which takes
    /// a third more time and a fraction of the memory.
    pub recompute: Recompute,
    /// Tokens of one sequence; longer examples are left out.
    pub sequence_tokens_max: usize,
    /// Which loss pairs have.
    pub loss: PreferenceLoss,
    /// β of the losses of pairs and of KTO.
    pub beta: f64,
    /// What good and bad answers weigh in KTO.
    pub kto: KtoWeights,
    /// Weight of the cross entropy on the chosen answers of pairs.
    pub sft_weight: f64,
    /// Plain examples against forgetting.
    pub retention: Retention,
    /// The gradient's norm is cut to this.
    pub gradient_norm_max: f64,
    /// The optimizer's constants.
    pub adamw: AdamWConfig,
    /// Epochs without a better validation before training stops; 0 never stops.
    pub patience_epochs: usize,
    /// Optimizer steps between two checkpoints, besides those after every
    /// epoch; 0 keeps only these.
    pub checkpoint_every_steps: usize,
    /// Seed of the initial factors and of the order of the pairs.
    pub seed: u64,
}

/// When layers are computed again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Where the memory would not do otherwise; until somebody has looked at
    /// the memory, never.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The shape of a new adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraRecipe {
    /// Rank of every module.
    pub rank: usize,
    /// Scale numerator: the low-rank term is multiplied by alpha / rank.
    pub alpha: f32,
    /// Share of a module's inputs that its low-rank term does not see.
    pub dropout: f64,
    /// Multiply by alpha / √rank instead.
    pub use_rslora: bool,
    /// Which projections.
    pub target: Vec<model::Projection>,
}

/// What good and bad answers weigh in KTO. With unequal numbers of them,
/// weight times number should be about the same on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KtoWeights {
    /// Of a good answer.
    pub desirable_weight: f64,
    /// Of a bad one.
    pub undesirable_weight: f64,
}

impl Default for KtoWeights {
    fn default() -> Self {
        Self {
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

/// Plain examples (good answers, and answers of the base to general prompts)
/// that are mixed in so that what is good stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Weight of their cross entropy.
    pub weight: f64,
    /// How many in each micro-batch.
    pub per_micro_batch: usize,
}

impl Default for LoraRecipe {
    fn default() -> Self {
        let target = model::Projection::ALL.to_vec();
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            use_rslora: false,
            target,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            weight: 0.0,
            per_micro_batch: 4,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            lora: LoraRecipe::default(),
            epochs: 8,
            learning_rate: 1e-4,
            warmup_ratio: 0.1,
            decay: Decay::Linear,
            micro_batch_pairs: 4,
            micro_batches: 4,
            pack_rows_max: 1024,
            recompute: Recompute::Auto,
            sequence_tokens_max: 1024,
            loss: PreferenceLoss::default(),
            beta: 0.1,
            kto: KtoWeights::default(),
            sft_weight: 1.0,
            retention: Retention::default(),
            gradient_norm_max: 1.0,
            adamw: AdamWConfig::default(),
            patience_epochs: 2,
            checkpoint_every_steps: 50,
            seed: 42,
        }
    }
}

impl TrainConfig {
    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// [`TrainerError::Config`] names the first one.
    pub fn check(&self) -> Result<(), TrainerError> {
        let within = |key, value: usize, max: usize| match value {
            v if (1..=max).contains(&v) => Ok(()),
            v => {
                let problem = format!("{v} is not within 1 and {max}");
                Err(TrainerError::Config { key, problem })
            }
        };
        within("training.epochs", self.epochs, EPOCHS_MAX)?;
        within("training.lora.rank", self.lora.rank, RANK_MAX)?;
        within(
            "training.micro_batch_pairs",
            self.micro_batch_pairs,
            MICRO_BATCH_PAIRS_MAX,
        )?;
        within(
            "training.micro_batches",
            self.micro_batches,
            MICRO_BATCH_PAIRS_MAX,
        )?;
        within("training.pack_rows_max", self.pack_rows_max, ROWS_MAX)?;
        within(
            "training.sequence_tokens_max",
            self.sequence_tokens_max,
            ROWS_MAX,
        )?;
        let positive = |key, value: f64| match value {
            v if v.is_finite() && v > 0.0 => Ok(()),
            v => Err(TrainerError::Config {
                key,
                problem: format!("{v} is not above 0"),
            }),
        };
        positive("training.learning_rate", self.learning_rate)?;
        positive("training.beta", self.beta)?;
        positive("training.gradient_norm_max", self.gradient_norm_max)?;
        positive("training.lora.alpha", f64::from(self.lora.alpha))?;
        let weight = |key, value: f64, max: f64| match value {
            v if (0.0..=max).contains(&v) => Ok(()),
            v => Err(TrainerError::Config {
                key,
                problem: format!("{v} is not within 0 and {max}"),
            }),
        };
        weight("training.lora.dropout", self.lora.dropout, 0.9)?;
        weight("training.warmup_ratio", self.warmup_ratio, 0.9)?;
        let adamw = self.adamw;
        weight("training.adamw.beta1", adamw.beta1, BETA_MAX)?;
        weight("training.adamw.beta2", adamw.beta2, BETA_MAX)?;
        positive("training.adamw.eps", adamw.eps)?;
        weight("training.adamw.weight_decay", adamw.weight_decay, 1e3)?;
        let kto = self.kto;
        weight("training.kto.desirable_weight", kto.desirable_weight, 1e3)?;
        weight(
            "training.kto.undesirable_weight",
            kto.undesirable_weight,
            1e3,
        )?;
        if let Some(problem) = self.loss.problem() {
            let key = "training.loss";
            return Err(TrainerError::Config { key, problem });
        }
        weight("training.sft_weight", self.sft_weight, 1e3)?;
        weight("training.retention.weight", self.retention.weight, 1e3)
    }
}
