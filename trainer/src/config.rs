//! The trainer's configuration: a TOML file, with flags and environment over it.

use std::path::{Path, PathBuf};

use engine::native::{Device, THREADS_MAX};
use ids::{BasisPoints, ModelName};
use model::FolderFormat;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::evaluate::GateConfig;
use crate::give_way::GiveWayConfig;
use crate::recipe::{self, Stage, StageConfig};
use crate::retention::StorageConfig;
use crate::tensors::{Compute, Place};
use crate::train::TrainConfig;
use crate::trial::TrialConfig;

/// The longest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The GGUF file or the folder that is served.
    pub model: Option<PathBuf>,
    /// What the matrices of a folder are quantized to, as the gateway has it.
    pub quantize: FolderFormat,
    /// The data folder that the gateway uses too.
    pub data: Option<PathBuf>,
    /// `embedded` or `redis[s]://HOST:PORT/DB`.
    pub store: Option<String>,
    /// Where adapter versions are kept; `DATA/adapters` by default.
    pub adapters: Option<PathBuf>,
    /// The public model name whose stable version is the incumbent; by
    /// default the only one that serves this base.
    pub model_name: Option<ModelName>,
    /// What computes: `cpu`, or `cuda:0` where the feature `cuda` is built in.
    pub device: Device,
    /// What numbers enter products: `f32`, or on a GPU `bf16`.
    pub compute: Compute,
    /// The most bytes of a GPU's memory that training takes, where others, as the
    /// server, will want the rest. With or without it training takes only what nobody
    /// has, and leaves a tenth of all.
    pub device_bytes_max: Option<u64>,
    /// Threads that compute on the CPU; 0 takes as many as there are CPUs.
    pub threads: usize,
    /// Added to the process's niceness, so that serving comes first; 19, the
    /// most there is, unless given.
    pub nice: Option<u8>,
    /// When training pauses for what others do on the same CPUs.
    pub give_way: GiveWayConfig,
    /// When to train.
    pub schedule: Schedule,
    /// How the dataset is made.
    pub dataset: DatasetConfig,
    /// How to train.
    pub training: TrainConfig,
    /// The stages of a run; none is one stage of the votes' pairs.
    pub stage: Vec<StageConfig>,
    /// A smaller base on which the data is tried first; none tries nothing.
    pub trial: Option<TrialConfig>,
    /// How to evaluate.
    pub eval: EvalConfig,
    /// What a candidate must reach.
    pub gate: GateConfig,
    /// What happens with one that does.
    pub publish: PublishConfig,
    /// What may be kept on the disk.
    pub storage: StorageConfig,
}

/// When to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Times in cron syntax, UTC.
    pub cron: String,
    /// Train as soon as this many new bad cases wait; 0 waits for the time.
    pub min_new_bad_cases: u64,
    /// Votes must have paused this long before bad cases start a run.
    pub settle_seconds: u64,
    /// First pause after a failed run; doubled up to a day.
    pub backoff_seconds: u64,
    /// After so many failures in a row a scheduled run is given up until its
    /// next time.
    pub attempts_max: u32,
}

/// How the dataset is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetConfig {
    /// Share of prompts that is never trained.
    pub held_out: BasisPoints,
    /// Decides which prompts those are.
    pub split_salt: String,
    /// Most pairs of one rater.
    pub rater_pairs_max: usize,
    /// Fewest training pairs of a run.
    pub train_pairs_min: usize,
}

/// How to evaluate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// General prompts, as JSON lines.
    pub replay: Option<PathBuf>,
    /// Evaluation files: tasks of the users' own.
    pub tasks: Vec<PathBuf>,
    /// The seed of the intervals.
    pub seed: u64,
    /// Most tokens of one answer.
    pub answer_tokens_max: u32,
}

/// What happens with a candidate that passed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishConfig {
    /// The share of traffic it gets at once; 0 leaves that to an operator.
    pub initial_basis_points: BasisPoints,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            cron: "0 3 1 * *".to_owned(),
            min_new_bad_cases: 0,
            settle_seconds: 10,
            backoff_seconds: 60,
            attempts_max: 5,
        }
    }
}

impl Default for DatasetConfig {
    fn default() -> Self {
        let defaults = feedback::pairs::PairOptions::default();
        Self {
            held_out: defaults.held_out,
            split_salt: defaults.split_salt,
            rater_pairs_max: defaults.rater_pairs_max,
            train_pairs_min: 4,
        }
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            replay: None,
            tasks: Vec::new(),
            seed: 0,
            answer_tokens_max: 48,
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TrainerError::File`] or [`TrainerError::Config`].
    pub fn read(path: &Path) -> Result<Self, TrainerError> {
        let size = std::fs::metadata(path)
            .map_err(TrainerError::file(path))?
            .len();
        if size > FILE_BYTES_MAX {
            let problem = format!("{size} bytes are more than {FILE_BYTES_MAX}");
            return Err(TrainerError::Config {
                key: "file",
                problem,
            });
        }
        let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
        Self::parse(&text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`TrainerError::Config`].
    pub fn parse(text: &str) -> Result<Self, TrainerError> {
        let wrong = |e: toml::de::Error| TrainerError::Config {
            key: "file",
            problem: e.to_string(),
        };
        let config: Self = toml::from_str(text).map_err(wrong)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), TrainerError> {
        self.stages()?;
        if self.device == Device::Cpu {
            Place::open(self.device, self.compute)?;
        }
        if let Some(problem) = self.trial.as_ref().and_then(TrialConfig::problem) {
            let key = "trial";
            return Err(TrainerError::Config { key, problem });
        }
        if let Some(problem) = self.give_way.problem() {
            let key = "give_way";
            return Err(TrainerError::Config { key, problem });
        }
        if self.threads > THREADS_MAX {
            let problem = format!("{} is more than {THREADS_MAX}", self.threads);
            return Err(TrainerError::Config {
                key: "threads",
                problem,
            });
        }
        self.cron().map(|_| ())
    }

    /// The recipe: the file's stages, with `training` under each.
    ///
    /// # Errors
    /// [`TrainerError::Config`] names what makes no sense.
    pub fn stages(&self) -> Result<Vec<Stage>, TrainerError> {
        recipe::stages(&self.training, &self.stage)
    }

    /// The schedule's times.
    ///
    /// # Errors
    /// [`TrainerError::Config`] when it is no cron expression.
    pub fn cron(&self) -> Result<croner::Cron, TrainerError> {
        let wrong = |e: croner::errors::CronError| TrainerError::Config {
            key: "schedule.cron",
            problem: e.to_string(),
        };
        self.schedule.cron.parse().map_err(wrong)
    }

    /// A path that must have been given somewhere.
    pub(crate) fn required<'a>(
        key: &'static str,
        path: Option<&'a Path>,
    ) -> Result<&'a Path, TrainerError> {
        let problem = || "is given neither in the file, nor by flag or environment".to_owned();
        path.ok_or_else(|| TrainerError::Config {
            key,
            problem: problem(),
        })
    }

    /// How pairs are made.
    #[must_use]
    pub fn pair_options(&self) -> feedback::pairs::PairOptions {
        feedback::pairs::PairOptions {
            split_salt: self.dataset.split_salt.clone(),
            held_out: self.dataset.held_out,
            rater_pairs_max: self.dataset.rater_pairs_max,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_nonsense_refused() {
        let config = Config::parse(
            "threads = 2\n[schedule]\nmin_new_bad_cases = 20\n[training]\nepochs = 4\n\
             [training.lora]\nrank = 8\n[gate]\npreference_accuracy_min = 0.9\n",
        )
        .unwrap();
        assert_eq!((config.training.epochs, config.training.lora.rank), (4, 8));
        assert_eq!(config.schedule.cron, "0 3 1 * *");
        for bad in [
            "epochs = 4",
            "threads = 100000",
            "device = \"gpu\"",
            "compute = \"bf16\"",
            "compute = \"f16\"",
            "[training]\nepochs = 0",
            "[training]\nlearning_rate = -1.0",
            "[training.adamw]\nweight_decay = -0.1",
            "[training.adamw]\nbeta2 = 1.0",
            "[schedule]\ncron = \"every now and then\"",
            "[give_way]\ncpu_share = 2.0",
            "[trial]\naccuracy_min = 0.5",
            "[trial]\nmodel = \"small.gguf\"\naccuracy_min = 1.5",
            "[publish]\ninitial_basis_points = 10001",
        ] {
            assert!(Config::parse(bad).is_err(), "{bad} was taken");
        }
    }
}
