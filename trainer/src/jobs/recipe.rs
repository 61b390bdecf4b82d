//! How a job is done, fixed when it begins: the configuration may say something
//! else by the time that it goes on.

use std::path::Path;

use fine_tuning::{Job, Method};
use ids::BasisPoints;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::config::Config;
use crate::journal::replace;
use crate::recipe::imitating;
use crate::rows::HoldOut;
use crate::train::TrainConfig;

/// The recipe's name in the job's folder.
const FILE_NAME: &str = "recipe.json";

/// What decides which rows a job learns, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Recipe {
    pub(super) training: TrainConfig,
    split_salt: String,
    held_out: BasisPoints,
}

impl Recipe {
    /// The recipe that the job began with; now is when it begins, if there is
    /// none. It is always the one of the file, whose numbers come back alike.
    ///
    /// # Errors
    /// [`TrainerError::Config`] for a recipe that makes no sense, and the
    /// file's.
    pub(super) fn of(folder: &Path, config: &Config, job: &Job) -> Result<Self, TrainerError> {
        let path = folder.join(FILE_NAME);
        if !path.exists() {
            let begun = Self {
                training: recipe(&config.training, job),
                split_salt: config.dataset.split_salt.clone(),
                held_out: config.dataset.held_out,
            };
            begun.training.check()?;
            let json = serde_json::to_vec_pretty(&begun).unwrap_or_default();
            replace(&path, &json)?;
        }
        let bytes = std::fs::read(&path).map_err(TrainerError::file(&path))?;
        serde_json::from_slice(&bytes).map_err(|error| TrainerError::Content {
            path,
            line: error.line(),
            problem: error.to_string(),
        })
    }

    /// As configured, whatever a job asks for.
    #[cfg(test)]
    pub(super) fn configured(config: &Config) -> Self {
        Self {
            training: config.training.clone(),
            split_salt: config.dataset.split_salt.clone(),
            held_out: config.dataset.held_out,
        }
    }

    /// Which rows are held out.
    pub(super) fn hold_out(&self) -> HoldOut<'_> {
        HoldOut {
            salt: &self.split_salt,
            share: self.held_out,
        }
    }
}

/// The configured recipe with what the job's owner set. A batch is made of
/// micro-batches of the configured size; what imitates has the dropout of such
/// stages.
fn recipe(configured: &TrainConfig, job: &Job) -> TrainConfig {
    let asked = &job.asked.hyperparameters;
    let mut config = match job.asked.method {
        Method::Supervised => imitating(configured.clone()),
        Method::Dpo => configured.clone(),
    };
    config.seed = u64::from(job.asked.seed);
    if let Some(epochs) = asked.n_epochs {
        config.epochs = epochs as usize;
    }
    if let Some(batch) = asked.batch_size {
        let batch = batch as usize;
        config.micro_batch_pairs = config.micro_batch_pairs.min(batch);
        config.micro_batches = batch.div_ceil(config.micro_batch_pairs);
    }
    if let Some(multiplier) = asked.learning_rate_multiplier {
        config.learning_rate *= multiplier;
    }
    if let Some(beta) = asked.beta {
        config.beta = beta;
    }
    config
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use fine_tuning::{HyperParameters, NewJob};
    use ids::{FileId, JobId, UnixMillis};

    use super::*;

    fn job() -> Job {
        let asked = NewJob {
            model: "m".to_owned(),
            start: None,
            method: Method::Dpo,
            hyperparameters: HyperParameters {
                n_epochs: Some(2),
                batch_size: Some(6),
                learning_rate_multiplier: Some(0.5),
                beta: Some(0.4),
            },
            training_file: FileId::new("file-1").unwrap(),
            validation_file: None,
            suffix: None,
            seed: 9,
            metadata: BTreeMap::new(),
        };
        Job::new(JobId::new("ftjob-1").unwrap(), asked, UnixMillis(1))
    }

    #[test]
    fn what_the_owner_set_goes_over_the_configured_recipe() {
        let mut job = job();
        let configured = TrainConfig {
            micro_batch_pairs: 4,
            micro_batches: 4,
            learning_rate: 1e-3,
            ..TrainConfig::default()
        };
        let config = recipe(&configured, &job);
        assert_eq!((config.epochs, config.seed, config.beta), (2, 9, 0.4));
        assert_eq!((config.micro_batch_pairs, config.micro_batches), (4, 2));
        assert!((config.learning_rate - 5e-4).abs() < 1e-12);
        job.asked.hyperparameters = HyperParameters::default();
        let config = recipe(&configured, &job);
        assert_eq!((config.micro_batch_pairs, config.micro_batches), (4, 4));
        assert_eq!(config.epochs, configured.epochs);
    }

    #[test]
    fn what_imitates_has_dropout_unless_another_is_set() {
        let mut configured = TrainConfig::default();
        let mut job = job();
        let dropout = |configured: &TrainConfig, job: &Job| recipe(configured, job).lora.dropout;
        assert!(dropout(&configured, &job) == 0.0);
        job.asked.method = Method::Supervised;
        assert!((dropout(&configured, &job) - 0.1).abs() < 1e-12);
        configured.lora.dropout = 0.05;
        assert!((dropout(&configured, &job) - 0.05).abs() < 1e-12);
    }

    #[test]
    fn a_job_goes_on_with_the_recipe_that_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let began = Config::parse("[training]\nlearning_rate = 3.3e-4\nepochs = 4\n").unwrap();
        let first = Recipe::of(folder.path(), &began, &job()).unwrap();
        assert_eq!((first.training.epochs, first.training.beta), (2, 0.4));
        let edited = "[training]\nlearning_rate = 1e-3\nmicro_batches = 2\n\
                      [dataset]\nsplit_salt = \"other\"\n";
        let edited = Config::parse(edited).unwrap();
        let later = Recipe::of(folder.path(), &edited, &job()).unwrap();
        assert_eq!(later, first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Recipe::of(other.path(), &edited, &job()).unwrap(), first);
    }
}
