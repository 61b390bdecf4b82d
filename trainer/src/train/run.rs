//! The training loop: epochs of steps, a validation after each, the best kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ids::BaseDigest;
use model::lora::LoraAdapter;

use super::TrainConfig;
use super::adamw::AdamW;
use super::batch::{Examples, Items, epoch};
use super::metrics::{EpochMetrics, Observer, StepMetrics};
use super::reference::ReferenceCache;
use super::schedule::learning_rate;
use super::step::StepInput;
use super::validation::{Sums, judge, sums};
use crate::TrainerError;
use crate::forward::FrozenModel;
use crate::parameters::Parameters;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All epochs were run.
    Finished,
    /// Validation no longer improved.
    EarlyStopped,
}

/// A trained adapter.
#[derive(Debug)]
pub struct Trained {
    /// The best epoch's adapter, or the last one's without validation pairs.
    pub adapter: LoraAdapter,
    /// Epochs after which it was taken.
    pub epoch: usize,
    /// How the run ended.
    pub outcome: Outcome,
    /// Unpadded policy tokens trained.
    pub tokens: u64,
    /// Seconds of training and validation.
    pub seconds: f64,
}

/// Why [`train`] ended early, and the last adapter that was good.
#[derive(Debug)]
pub struct Failed {
    /// What happened.
    pub error: TrainerError,
    /// The best adapter of the epochs before, if one was finished.
    pub last_good: Option<Box<LoraAdapter>>,
}

impl From<Failed> for TrainerError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// Trains from `start` on `examples`. Runs on rayon's current pool.
///
/// # Errors
/// [`TrainerError::NonFinite`], [`TrainerError::Stopped`] once `stop` is set,
/// and failures of tensor operations; each with the last good adapter.
pub fn train(
    model: &FrozenModel,
    base: BaseDigest,
    start: &LoraAdapter,
    examples: &Examples,
    config: &TrainConfig,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Trained, Failed> {
    let mut run = Run::new(model, base, start, examples, config).map_err(|error| Failed {
        error,
        last_good: None,
    })?;
    let result = run.epochs(observer, stop);
    let Run {
        best,
        tokens,
        began,
        parameters,
        ..
    } = run;
    match result {
        Ok((outcome, last_epoch)) => {
            let (adapter, epoch) = match best {
                Some(best) => (best.adapter, best.epoch),
                None => {
                    let last = parameters.to_adapter();
                    (
                        last.map_err(|error| Failed {
                            error,
                            last_good: None,
                        })?,
                        last_epoch,
                    )
                }
            };
            let seconds = began.elapsed().as_secs_f64();
            Ok(Trained {
                adapter,
                epoch,
                outcome,
                tokens,
                seconds,
            })
        }
        Err(error) => Err(Failed {
            error,
            last_good: best.map(|b| Box::new(b.adapter)),
        }),
    }
}

struct Best {
    adapter: LoraAdapter,
    epoch: usize,
    rank: (f64, f64),
}

struct Run<'a> {
    model: &'a FrozenModel,
    examples: &'a Examples,
    config: &'a TrainConfig,
    parameters: Parameters,
    start: Parameters,
    references: ReferenceCache,
    validation_reference: Sums,
    optimizer: AdamW,
    best: Option<Best>,
    step: usize,
    steps: usize,
    tokens: u64,
    began: Instant,
}

impl<'a> Run<'a> {
    fn new(
        model: &'a FrozenModel,
        base: BaseDigest,
        start: &LoraAdapter,
        examples: &'a Examples,
        config: &'a TrainConfig,
    ) -> Result<Self, TrainerError> {
        config.check()?;
        if examples.train.is_empty() {
            return Err(TrainerError::NotEnoughData("nothing to train on".into()));
        }
        let parameters = Parameters::from_adapter(start)?;
        let start = Parameters::from_adapter(start)?;
        let micro_batches = examples.train.len().div_ceil(config.micro_batch_pairs);
        let steps = micro_batches.div_ceil(config.micro_batches) * config.epochs;
        let began = Instant::now();
        let rows = config.pack_rows_max;
        let validation_reference = sums(model, Some(&start), &examples.validation, rows)?;
        let optimizer = AdamW::new(config.adamw, parameters.lengths());
        let references = ReferenceCache::new(base, start.digest()?);
        Ok(Self {
            model,
            examples,
            config,
            parameters,
            start,
            references,
            validation_reference,
            optimizer,
            best: None,
            step: 0,
            steps,
            tokens: 0,
            began,
        })
    }

    fn epochs(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<(Outcome, usize), TrainerError> {
        for done in 0..self.config.epochs {
            self.epoch(done, observer, stop)?;
            let finished = done + 1;
            if self.examples.validation.is_empty() {
                continue;
            }
            let metrics = self.validate(finished)?;
            observer.epoch(&metrics);
            let since_best = self.best.as_ref().map_or(0, |best| finished - best.epoch);
            if self.config.patience_epochs > 0 && since_best >= self.config.patience_epochs {
                return Ok((Outcome::EarlyStopped, finished));
            }
        }
        Ok((Outcome::Finished, self.config.epochs))
    }

    fn epoch(
        &mut self,
        done: usize,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<(), TrainerError> {
        let (items, retained) = (self.examples.train.len(), self.examples.retained.len());
        let order = epoch(items, retained, done, self.config);
        let per_epoch = order.len().div_ceil(self.config.micro_batches);
        for (index, micro_batches) in order.chunks(self.config.micro_batches).enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(TrainerError::Stopped);
            }
            let mut metrics = self.optimizer_step(micro_batches)?;
            metrics.epoch = done as f64 + (index + 1) as f64 / per_epoch as f64;
            observer.step(&metrics);
        }
        Ok(())
    }

    fn optimizer_step(
        &mut self,
        micro_batches: &[super::batch::MicroBatch],
    ) -> Result<StepMetrics, TrainerError> {
        let mut sums: Vec<Vec<f32>> = self.parameters.lengths().map(|n| vec![0.0; n]).collect();
        let mut metrics = StepMetrics {
            steps: self.steps,
            ..StepMetrics::default()
        };
        let start = self.start.view(false);
        let input = StepInput {
            model: self.model,
            parameters: &self.parameters,
            start: &start,
            examples: self.examples,
            config: self.config,
        };
        input.accumulate(micro_batches, &mut self.references, &mut sums, &mut metrics)?;
        let norm = norm(&sums);
        for (what, value) in [("loss", metrics.loss), ("gradient norm", norm)] {
            if !value.is_finite() {
                return Err(TrainerError::NonFinite {
                    step: self.step,
                    what,
                });
            }
        }
        let config = self.config;
        let warmup = (config.warmup_ratio * self.steps as f64).ceil() as usize;
        let rate = learning_rate(
            config.learning_rate,
            config.decay,
            warmup,
            self.step,
            self.steps,
        );
        let cut = (config.gradient_norm_max / (norm + 1e-6)).min(1.0);
        self.parameters
            .update(&mut self.optimizer, &sums, cut, rate)?;
        self.step += 1;
        self.tokens += metrics.num_tokens;
        metrics.step = self.step;
        metrics.num_tokens = self.tokens;
        metrics.grad_norm = norm;
        metrics.learning_rate = rate;
        metrics.seconds = self.began.elapsed().as_secs_f64();
        Ok(metrics)
    }

    fn validate(&mut self, finished: usize) -> Result<EpochMetrics, TrainerError> {
        let (items, rows) = (&self.examples.validation, self.config.pack_rows_max);
        let policy = sums(self.model, Some(&self.parameters), items, rows)?;
        let judged = judge(items, &policy, &self.validation_reference, self.config);
        let mut metrics = EpochMetrics {
            epoch: finished,
            ..judged
        };
        if !metrics.loss.is_finite() {
            return Err(TrainerError::NonFinite {
                step: self.step,
                what: "validation loss",
            });
        }
        let rank = match items {
            // what is imitated may move the right way and still be unlikely
            Items::Plain(_) => (-metrics.loss, metrics.accuracy),
            _ => (metrics.accuracy, -metrics.loss),
        };
        metrics.best = self.best.as_ref().is_none_or(|best| rank > best.rank);
        if metrics.best {
            self.best = Some(Best {
                adapter: self.parameters.to_adapter()?,
                epoch: finished,
                rank,
            });
        }
        Ok(metrics)
    }
}

/// The Euclidean norm over all vectors.
fn norm(vectors: &[Vec<f32>]) -> f64 {
    let squares = vectors
        .iter()
        .flatten()
        .map(|&g| f64::from(g) * f64::from(g));
    squares.sum::<f64>().sqrt()
}
