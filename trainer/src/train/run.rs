//! The training loop: epochs of steps, a validation after each, the best kept,
//! checkpoints on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ids::{BaseDigest, Sha256Digest};
use model::lora::LoraAdapter;

use super::TrainConfig;
use super::adamw::AdamW;
use super::batch::{Examples, epoch};
use super::checkpoint::{
    BestEpoch, Checkpoint, Checkpoints, Curve, LossBits, NoCheckpoints, Position, identity,
};
use super::metrics::{EpochMetrics, Observer, StepMetrics};
use super::progress::{diverged, rank};
use super::reference::ReferenceCache;
use super::schedule::learning_rate;
use super::step::StepInput;
use super::validation::{Sums, judge, sums};
use crate::TrainerError;
use crate::error::Instability;
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

/// What a run is made of.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The frozen base.
    pub model: &'a FrozenModel,
    /// Its name.
    pub base: BaseDigest,
    /// Where training starts; also the reference of the losses that have one.
    pub start: &'a LoraAdapter,
    /// What is trained and validated.
    pub examples: &'a Examples,
    /// How.
    pub config: &'a TrainConfig,
}

/// Trains from `start` on `examples`, without checkpoints. Runs on rayon's
/// current pool.
///
/// # Errors
/// As [`train_with`].
pub fn train(
    model: &FrozenModel,
    base: BaseDigest,
    start: &LoraAdapter,
    examples: &Examples,
    config: &TrainConfig,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Trained, Failed> {
    let job = Job {
        model,
        base,
        start,
        examples,
        config,
    };
    train_with(job, &mut NoCheckpoints, observer, stop)
}

/// Trains, going on from the last checkpoint where there is one. Runs on
/// rayon's current pool; the same job on as many threads gives the same bits,
/// whether or not it was interrupted.
///
/// # Errors
/// [`TrainerError::Unstable`], [`TrainerError::Stopped`] once `stop` is set
/// (with a checkpoint left), [`TrainerError::Config`] for a checkpoint of
/// another run, and failures of tensor operations; each with the last good
/// adapter.
pub fn train_with(
    job: Job<'_>,
    checkpoints: &mut dyn Checkpoints,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Trained, Failed> {
    let mut run = Run::begin(job, checkpoints, observer).map_err(|error| Failed {
        error,
        last_good: None,
    })?;
    let result = run.epochs(checkpoints, observer, stop);
    match result.and_then(|(outcome, last)| run.trained(outcome, last)) {
        Ok(trained) => Ok(trained),
        Err(error) => Err(Failed {
            error,
            last_good: run.best.map(|best| Box::new(best.adapter)),
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
    identity: Sha256Digest,
    at: Position,
    curve: Curve,
    /// Optimizer steps of the whole run.
    steps: usize,
    began: Instant,
}

impl<'a> Run<'a> {
    /// A run at its start, or where its last checkpoint was taken.
    fn begin(
        job: Job<'a>,
        checkpoints: &mut dyn Checkpoints,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainerError> {
        let mut run = Self::new(job)?;
        if let Some(checkpoint) = checkpoints.last()? {
            run.restore(checkpoint)?;
        }
        observer.resumed(&run.curve);
        Ok(run)
    }

    fn new(job: Job<'a>) -> Result<Self, TrainerError> {
        let Job {
            model,
            base,
            start,
            examples,
            config,
        } = job;
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
        let start_digest = start.digest()?;
        let references = ReferenceCache::new(base, start_digest);
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
            identity: identity(base, start_digest, examples, config),
            at: Position::default(),
            curve: Curve::default(),
            steps,
            began,
        })
    }

    /// Goes to where a checkpoint was taken.
    fn restore(&mut self, checkpoint: Checkpoint) -> Result<(), TrainerError> {
        if checkpoint.identity != self.identity {
            let problem = "the checkpoint is of a run with another base, start, dataset or recipe";
            return Err(TrainerError::Config {
                key: "resume",
                problem: problem.to_owned(),
            });
        }
        if let Some(best) = checkpoint.best {
            self.parameters.set(best.parameters)?;
            self.best = Some(Best {
                adapter: self.parameters.to_adapter()?,
                epoch: best.epoch,
                rank: best.rank,
            });
        }
        self.parameters.set(checkpoint.parameters)?;
        self.optimizer
            .restore(checkpoint.optimizer_steps, checkpoint.moments)?;
        self.references.restore(checkpoint.references);
        self.at = checkpoint.position;
        self.curve = checkpoint.curve;
        self.began = Instant::now();
        Ok(())
    }

    fn checkpoint(&self) -> Result<Checkpoint, TrainerError> {
        let best = match &self.best {
            Some(best) => Some(BestEpoch {
                epoch: best.epoch,
                rank: best.rank,
                parameters: Parameters::from_adapter(&best.adapter)?.vectors()?,
            }),
            None => None,
        };
        Ok(Checkpoint {
            identity: self.identity,
            position: Position {
                seconds: self.seconds(),
                ..self.at
            },
            parameters: self.parameters.vectors()?,
            optimizer_steps: self.optimizer.steps,
            moments: self.optimizer.moments.clone(),
            best,
            references: self.references.entries(),
            curve: self.curve.clone(),
        })
    }

    /// Of training and validation, those before an interruption included.
    fn seconds(&self) -> f64 {
        self.at.seconds + self.began.elapsed().as_secs_f64()
    }

    fn trained(&self, outcome: Outcome, last_epoch: usize) -> Result<Trained, TrainerError> {
        let (adapter, epoch) = match &self.best {
            Some(best) => (best.adapter.clone(), best.epoch),
            None => (self.parameters.to_adapter()?, last_epoch),
        };
        Ok(Trained {
            adapter,
            epoch,
            outcome,
            tokens: self.at.tokens,
            seconds: self.seconds(),
        })
    }

    fn epochs(
        &mut self,
        checkpoints: &mut dyn Checkpoints,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<(Outcome, usize), TrainerError> {
        while self.at.epochs < self.config.epochs && !self.out_of_patience() {
            self.epoch(checkpoints, observer, stop)?;
            if !self.examples.validation.is_empty() {
                let metrics = self.validate(self.at.epochs + 1)?;
                observer.epoch(&metrics);
                add_line(&mut self.curve.epochs, &metrics);
            }
            self.at.epochs += 1;
            self.at.steps_in_epoch = 0;
            checkpoints.save(&self.checkpoint()?)?;
        }
        let outcome = if self.out_of_patience() {
            Outcome::EarlyStopped
        } else {
            Outcome::Finished
        };
        Ok((outcome, self.at.epochs))
    }

    fn out_of_patience(&self) -> bool {
        let patience = self.config.patience_epochs;
        let since_best = self
            .best
            .as_ref()
            .map_or(0, |best| self.at.epochs - best.epoch);
        patience > 0 && since_best >= patience
    }

    /// The steps of one epoch that are left.
    fn epoch(
        &mut self,
        checkpoints: &mut dyn Checkpoints,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<(), TrainerError> {
        let (items, retained) = (self.examples.train.len(), self.examples.retained.len());
        let done = self.at.epochs;
        let order = epoch(items, retained, done, self.config);
        let per_epoch = order.len().div_ceil(self.config.micro_batches);
        let steps = order.chunks(self.config.micro_batches).enumerate();
        for (index, micro_batches) in steps.skip(self.at.steps_in_epoch) {
            if stop.load(Ordering::Relaxed) {
                checkpoints.save(&self.checkpoint()?)?;
                return Err(TrainerError::Stopped);
            }
            let mut metrics = self.optimizer_step(micro_batches)?;
            metrics.epoch = done as f64 + (index + 1) as f64 / per_epoch as f64;
            self.at.steps_in_epoch = index + 1;
            add_line(&mut self.curve.steps, &metrics);
            self.curve.losses.push(LossBits(metrics.loss.to_bits()));
            observer.step(&metrics);
            if let Some((first, last)) = diverged(&self.curve.losses) {
                let step = self.at.steps;
                return Err(Instability::Diverged { step, first, last }.into());
            }
            if index + 1 < per_epoch && checkpoints.wanted(self.at.steps) {
                checkpoints.save(&self.checkpoint()?)?;
            }
        }
        Ok(())
    }

    fn optimizer_step(
        &mut self,
        micro_batches: &[super::batch::MicroBatch],
    ) -> Result<StepMetrics, TrainerError> {
        let mut sums: Vec<Vec<f32>> = self.parameters.lengths().map(|n| vec![0.0; n]).collect();
        let mut metrics = StepMetrics {
            step: self.at.steps + 1,
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
                let step = self.at.steps;
                return Err(Instability::NonFinite { step, what }.into());
            }
        }
        let config = self.config;
        let warmup = (config.warmup_ratio * self.steps as f64).ceil() as usize;
        let rate = learning_rate(
            config.learning_rate,
            config.decay,
            warmup,
            self.at.steps,
            self.steps,
        );
        let cut = (config.gradient_norm_max / (norm + 1e-6)).min(1.0);
        self.parameters
            .update(&mut self.optimizer, &sums, cut, rate)?;
        self.at.steps += 1;
        self.at.tokens += metrics.num_tokens;
        metrics.step = self.at.steps;
        metrics.num_tokens = self.at.tokens;
        metrics.grad_norm = norm;
        metrics.learning_rate = rate;
        metrics.seconds = self.seconds();
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
            let (step, what) = (self.at.steps, "validation loss");
            return Err(Instability::NonFinite { step, what }.into());
        }
        let rank = rank(&metrics);
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

fn add_line(lines: &mut String, metrics: &impl serde::Serialize) {
    lines.push_str(&serde_json::to_string(metrics).unwrap_or_default());
    lines.push('\n');
}

/// The Euclidean norm over all vectors.
fn norm(vectors: &[Vec<f32>]) -> f64 {
    let squares = vectors
        .iter()
        .flatten()
        .map(|&g| f64::from(g) * f64::from(g));
    squares.sum::<f64>().sqrt()
}
