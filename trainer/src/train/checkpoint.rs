//! What a run needs to go on as if it had never stopped.
//!
//! Everything that decides the next number is in it: the factors, the
//! optimizer's moments, the position in the data (whose order follows from the
//! seed), the best epoch so far, the reference's log-probabilities (whose last
//! bit depends on what they were computed beside) and the curve. Knows no
//! file: where checkpoints lie is [`Checkpoints`]' to know.

use ids::{BaseDigest, Sha256Digest};

use super::adamw::Moments;
use super::batch::{Examples, Items};
use super::config::{Recompute, TrainConfig};
use super::metrics::EpochMetrics;
use crate::TrainerError;
use crate::pack::Sequence;

/// A run between two optimizer steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Names base, starting adapter, examples and recipe: a run goes on only
    /// from a checkpoint of its own.
    pub identity: Sha256Digest,
    /// Where it is.
    pub position: Position,
    /// The factors, one vector for each group of projections.
    pub parameters: Vec<Vec<f32>>,
    /// The optimizer's steps.
    pub optimizer_steps: i32,
    /// The optimizer's moments, in the order of the factors.
    pub moments: Vec<Moments>,
    /// The best epoch so far.
    pub best: Option<BestEpoch>,
    /// Log-probabilities under the starting adapter, by sequence.
    pub references: Vec<(Sha256Digest, f64)>,
    /// What was reported so far.
    pub curve: Curve,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Position {
    /// Epochs done, their validation included.
    pub epochs: usize,
    /// Optimizer steps done of the epoch that follows.
    pub steps_in_epoch: usize,
    /// Optimizer steps done.
    pub steps: usize,
    /// Unpadded policy tokens trained.
    pub tokens: u64,
    /// Seconds that it took; of no influence.
    pub seconds: f64,
}

/// The epoch whose adapter will be taken, unless a better one follows.
#[derive(Debug, Clone, PartialEq)]
pub struct BestEpoch {
    /// Epochs done when it was taken.
    pub epoch: usize,
    /// What it is compared by.
    pub rank: (f64, f64),
    /// Its factors.
    pub parameters: Vec<Vec<f32>>,
}

/// The loss curve as JSON lines. No clock is in it, so that two runs of the
/// same recipe have the same curve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Curve {
    /// One line for each optimizer step.
    pub steps: String,
    /// One line for each validation.
    pub epochs: String,
    /// The loss of each step, which decides whether the run diverges.
    pub losses: Vec<LossBits>,
}

impl Curve {
    /// The validation of the best epoch so far.
    pub(crate) fn best(&self) -> Option<EpochMetrics> {
        let lines = self.epochs.lines().rev();
        let mut epochs = lines.filter_map(|line| serde_json::from_str::<EpochMetrics>(line).ok());
        epochs.find(|epoch| epoch.best)
    }
}

/// A loss by its bits, so that it compares and is stored exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossBits(pub u64);

impl LossBits {
    /// The loss.
    #[must_use]
    pub const fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl Checkpoint {
    /// Names all of it but the clock.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        let bits = |values: &[f32]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|v| v.to_bits().to_le_bytes())
                .collect()
        };
        let mut vectors: Vec<u8> = Vec::new();
        let mut add = |values: &[f32]| {
            vectors.extend_from_slice(Sha256Digest::of(&bits(values)).as_bytes());
        };
        self.parameters.iter().for_each(|values| add(values));
        for moments in &self.moments {
            add(&moments.first);
            add(&moments.second);
        }
        let mut rest: Vec<u8> = Vec::new();
        let Position {
            epochs,
            steps_in_epoch,
            steps,
            tokens,
            seconds: _,
        } = self.position;
        for number in [epochs as u64, steps_in_epoch as u64, steps as u64, tokens] {
            rest.extend_from_slice(&number.to_le_bytes());
        }
        rest.extend_from_slice(&self.optimizer_steps.to_le_bytes());
        if let Some(best) = &self.best {
            best.parameters.iter().for_each(|values| add(values));
            rest.extend_from_slice(&(best.epoch as u64).to_le_bytes());
            rest.extend_from_slice(&best.rank.0.to_bits().to_le_bytes());
            rest.extend_from_slice(&best.rank.1.to_bits().to_le_bytes());
        }
        for (key, sum) in &self.references {
            rest.extend_from_slice(key.as_bytes());
            rest.extend_from_slice(&sum.to_bits().to_le_bytes());
        }
        Sha256Digest::of_parts(&[
            ("identity", self.identity.as_bytes()),
            ("vectors", &vectors),
            ("rest", &rest),
            ("steps", self.curve.steps.as_bytes()),
            ("epochs", self.curve.epochs.as_bytes()),
        ])
    }
}

/// Where a run keeps its checkpoints.
pub trait Checkpoints {
    /// The last one that was kept.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    fn last(&mut self) -> Result<Option<Checkpoint>, TrainerError>;

    /// Keeps one in the last one's place, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainerError>;

    /// Whether to keep one after this step, which is not an epoch's last.
    fn wanted(&self, step: usize) -> bool;
}

/// Keeps nothing.
pub struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn last(&mut self) -> Result<Option<Checkpoint>, TrainerError> {
        Ok(None)
    }

    fn save(&mut self, _: &Checkpoint) -> Result<(), TrainerError> {
        Ok(())
    }

    fn wanted(&self, _: usize) -> bool {
        false
    }
}

/// Names a run: what it starts from, what it reads, how it trains.
pub(crate) fn identity(
    base: BaseDigest,
    start: Sha256Digest,
    examples: &Examples,
    config: &TrainConfig,
) -> Sha256Digest {
    let mut data = Vec::new();
    for items in [&examples.train, &examples.validation] {
        let kind = match items {
            Items::Pairs(_) => b'p',
            Items::Plain(_) => b's',
            Items::Rated(_) => b'r',
        };
        data.push(kind);
        for index in 0..items.len() {
            if let Items::Rated(rated) = items {
                data.push(u8::from(rated[index].is_good));
            }
            items
                .sequences(index)
                .into_iter()
                .for_each(|sequence| add_sequence(&mut data, sequence));
        }
    }
    for retained in &examples.retained {
        add_sequence(&mut data, &retained.sequence);
    }
    // recomputation changes no bit, so it may change on the way
    let recipe = TrainConfig {
        recompute: Recompute::Auto,
        ..config.clone()
    };
    let recipe = serde_json::to_string(&recipe).unwrap_or_default();
    Sha256Digest::of_parts(&[
        ("base", base.0.as_bytes()),
        ("start", start.as_bytes()),
        ("data", &data),
        ("recipe", recipe.as_bytes()),
    ])
}

fn add_sequence(into: &mut Vec<u8>, sequence: &Sequence) {
    into.extend_from_slice(&(sequence.tokens.len() as u64).to_le_bytes());
    into.extend_from_slice(&(sequence.completion_start as u64).to_le_bytes());
    for token in &sequence.tokens {
        into.extend_from_slice(&token.to_le_bytes());
    }
}
