//! What a run works with, opened once.

use std::path::PathBuf;
use std::sync::Arc;

use adapter_store::AdapterStore;
use control::ControlStore;
use feedback::FeedbackStore;
use ids::{Clock, SystemClock};
use model::BaseModel;
use store::{Backend, Durability, RedisCredentials, Secret, StoreOptions, StoreUrl};

use crate::config::Config;
use crate::jobs::Tuning;
use crate::journal::Journal;
use crate::tensors::Place;
use crate::{FrozenModel, TrainerError, evaluate::Assessor};

/// The environment's names of who this process is to Redis.
const REDIS_USERNAME: &str = "FLYWHEEL_REDIS_USERNAME";
const REDIS_PASSWORD: &str = "FLYWHEEL_REDIS_PASSWORD";
const REDIS_PASSWORD_FILE: &str = "FLYWHEEL_REDIS_PASSWORD_FILE";

/// The opened base, stores and folders.
#[derive(Clone)]
pub struct Services {
    /// The configuration.
    pub config: Arc<Config>,
    /// The served base.
    pub base: Arc<BaseModel>,
    /// Where training computes.
    pub place: Place,
    /// Votes and answers.
    pub feedback: Arc<dyn FeedbackStore>,
    /// Rollouts, aliases, the lease.
    pub control: Arc<dyn ControlStore>,
    /// Adapter versions.
    pub adapters: AdapterStore,
    /// Training files and fine-tuning jobs.
    pub tuning: Tuning,
    /// Runs, status and events.
    pub journal: Arc<Journal>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Services {
    /// Opens everything that the configuration names.
    ///
    /// # Errors
    /// Whatever cannot be opened.
    pub async fn open(config: Config) -> Result<Self, TrainerError> {
        let place = Place::open(config.device, config.compute)?;
        let model = Config::required("model", config.model.as_deref())?.to_owned();
        let data = Config::required("data", config.data.as_deref())?.to_owned();
        std::fs::create_dir_all(&data).map_err(TrainerError::file(&data))?;
        let url = StoreUrl::parse(config.store.as_deref().unwrap_or("embedded"), &data)?;
        // The trainer takes no votes, so it promises nothing about them: how
        // durable they must be is the gateway's to demand.
        let required = Durability::Unknown;
        let redis = redis_credentials()?;
        let options = StoreOptions {
            required,
            redis,
            ..StoreOptions::default()
        };
        let backend = Backend::open(&url, &options).await?;
        let folder = config
            .adapters
            .clone()
            .unwrap_or_else(|| data.join("adapters"));
        let quantize = config.quantize;
        let open = move || {
            let model = hub::resolve_and_log(&model).map_err(|error| TrainerError::Config {
                key: "model",
                problem: error.to_string(),
            })?;
            Ok(BaseModel::open_quantized(&model, quantize)?)
        };
        let base = crate::blocking(open).await?;
        tracing::info!("base {} {}", base.name, base.digest);
        if config.eval.tasks.is_empty() && config.eval.replay.is_none() {
            tracing::warn!(
                "neither eval.tasks nor eval.replay is set: nothing measures what an adapter \
                 makes the base forget (trainer/evaluation/regression.jsonl is a beginning)"
            );
        }
        let control = control::open(&backend).await?;
        Ok(Self {
            base: Arc::new(base),
            place,
            feedback: feedback::open(&backend).await?,
            tuning: Tuning::open(&data, &control)?,
            control,
            adapters: AdapterStore::local(&folder)?,
            journal: Arc::new(Journal::open(&data)?),
            clock: Arc::new(SystemClock),
            config: Arc::new(config),
        })
    }

    /// The served base as training computes with it: behind serving, where both
    /// use the CPUs.
    pub(crate) fn frozen_model(&self, positions_max: usize) -> Result<FrozenModel, TrainerError> {
        let base = &self.base;
        let model = FrozenModel::on(&self.place, &base.weights, &base.config, positions_max)?;
        Ok(match self.place.tensors() {
            None => model.giving_way(self.config.give_way),
            Some(_) => model,
        })
    }

    /// Measures candidates as this configuration says.
    pub(crate) fn assessor(&self) -> Assessor {
        Assessor {
            base: Arc::clone(&self.base),
            eval: self.config.eval.clone(),
            training: self.config.training.clone(),
            threads: self.config.threads,
            place: self.place.clone(),
            cache: Some(self.journal.root().join("answers")),
        }
    }

    /// The rows that the last run held out, for later evaluations.
    pub(crate) fn held_out_file(&self) -> PathBuf {
        self.journal.root().join("held_out.json")
    }
}

fn redis_credentials() -> Result<RedisCredentials, TrainerError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let password = match (variable(REDIS_PASSWORD), variable(REDIS_PASSWORD_FILE)) {
        (Some(password), _) => Some(password),
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            let text = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        (None, None) => None,
    };
    Ok(RedisCredentials {
        username: variable(REDIS_USERNAME),
        password: password.map(Secret::new),
    })
}
