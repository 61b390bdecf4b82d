//! Training: preference pairs, answers or rated answers in, an adapter out.
//!
//! `run` is the loop over epochs and steps, `step` one optimizer step.
//! Knows tokens, not text; no store, no file, no clock but the one passed in.

mod adamw;
mod batch;
mod checkpoint;
mod config;
mod metrics;
mod objective;
mod progress;
mod reference;
mod run;
mod schedule;
mod step;
mod validation;

pub use adamw::{AdamW, AdamWConfig, Moments};
pub(crate) use batch::epoch;
pub use batch::{Examples, Items, PairExample, PlainExample, RatedExample};
pub use checkpoint::{
    BestEpoch, Checkpoint, Checkpoints, Curve, LossBits, NoCheckpoints, Position,
};
pub use config::{KtoWeights, LoraRecipe, Recompute, Retention, TrainConfig};
pub use metrics::{EpochMetrics, Observer, Silent, StepMetrics, parameter_report};
pub(crate) use objective::mismatched;
pub use reference::ReferenceCache;
pub use run::{Failed, Job, Outcome, Trained, train, train_with};
pub use schedule::{Decay, learning_rate};
pub(crate) use validation::sums;
pub use validation::{PairScore, Scores, score};

#[cfg(test)]
pub(crate) use batch::MicroBatch;
#[cfg(test)]
pub(crate) use step::StepInput;
