//! The data is tried on a smaller base before the large one is touched: the same
//! stages, judged by what each held out. A trial that fails ends the run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ids::BaseDigest;
use model::{BaseModel, FolderFormat, Projection};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::EvaluationSet;
use crate::error::Instability;
use crate::journal::{State, replace};
use crate::prepared::Prepared;
use crate::report::StageReport;
use crate::services::Services;
use crate::stages::train_stages;
use crate::vote_rows::{VoteRows, VotesReport};
use crate::{TrainerError, stage_files};

/// The trial's folder in the run's.
pub(crate) const FOLDER: &str = "trial";
const KEY: &str = "trial.model";

/// The file's `[trial]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialConfig {
    /// The smaller base: a GGUF file, a folder, or a name on the Hub.
    pub model: PathBuf,
    /// What the matrices of a folder are quantized to.
    #[serde(default)]
    pub quantize: FolderFormat,
    /// Least share of each stage's held-out examples that move the right way.
    #[serde(default = "accuracy_min")]
    pub accuracy_min: f64,
    /// The held-out margin of each stage must be above this.
    #[serde(default)]
    pub margin_min: f64,
}

/// Better than a coin.
fn accuracy_min() -> f64 {
    0.6
}

impl TrialConfig {
    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<String> {
        if !(0.0..=1.0).contains(&self.accuracy_min) {
            return Some("accuracy_min is not within 0 and 1".to_owned());
        }
        (!self.margin_min.is_finite()).then(|| "margin_min is no number".to_owned())
    }
}

/// A trial that was passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialReport {
    /// The smaller base.
    pub base: BaseDigest,
    /// Its name.
    pub name: String,
    /// What was demanded.
    pub demanded: TrialConfig,
    /// What each stage trained, with its held-out figures.
    pub stages: Vec<StageReport>,
}

/// Why the large base was not touched. Stages count from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrialFailure {
    /// Too few held-out examples moved the right way.
    #[error(
        "the trial on {name} failed: stage {stage} moves {found:.2} of what is held out the right way, fewer than {min:.2}"
    )]
    Accuracy {
        /// The smaller base.
        name: String,
        /// Which stage.
        stage: usize,
        /// The share reached.
        found: f64,
        /// The share asked for.
        min: f64,
    },
    /// The held-out margin is too small.
    #[error(
        "the trial on {name} failed: stage {stage} has a held-out margin of {found:.4}, not above {min:.4}"
    )]
    Margin {
        /// The smaller base.
        name: String,
        /// Which stage.
        stage: usize,
        /// The margin reached.
        found: f64,
        /// The margin that must be passed.
        min: f64,
    },
    /// A stage fell apart.
    #[error("the trial on {name} failed: {problem}")]
    Unstable {
        /// The smaller base.
        name: String,
        /// How.
        problem: Instability,
    },
    /// No stage has anything held out to judge by.
    #[error("the trial on {name} failed: no stage has anything held out")]
    NothingHeldOut {
        /// The smaller base.
        name: String,
    },
}

/// Tries a run's stages, where the configuration says so; none without.
///
/// # Errors
/// [`TrainerError::Trial`] when the data fails, [`TrainerError::Config`] when
/// the base is not a smaller one, and what makes a trial impossible.
pub(crate) async fn run(
    services: &Services,
    folder: &Path,
    prepared: &Prepared,
    stop: &Arc<AtomicBool>,
) -> Result<Option<TrialReport>, TrainerError> {
    let Some(config) = &services.config.trial else {
        return Ok(None);
    };
    services
        .journal
        .enter(State::Trying, services.clock.now())?;
    let base = open(config.clone(), Arc::clone(&services.base)).await?;
    let name = base.name.clone();
    let (digest, folder) = (base.digest, folder.join(FOLDER));
    std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
    let small = Services {
        base: Arc::new(base),
        ..services.clone()
    };
    let tried = Arc::new(prepare(&small, prepared.clone(), &folder).await?);
    let result = match train_stages(&small, &folder, &tried, stop).await {
        Ok(trained) => judge(&name, &trained.stages, config).map(|()| trained.stages),
        Err(TrainerError::Unstable(problem)) => {
            let name = name.clone();
            Err(TrialFailure::Unstable { name, problem })
        }
        Err(error) => return Err(error),
    };
    let failure = result.as_ref().err().map(ToString::to_string);
    let detail = json!({ "base": digest, "name": name, "failed": failure });
    let now = services.clock.now();
    services.journal.event(now, "trial", detail)?;
    let report = TrialReport {
        base: digest,
        name,
        demanded: config.clone(),
        stages: result?,
    };
    let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
    replace(&folder.join("trial.json"), &json)?;
    Ok(Some(report))
}

/// The rows as the smaller base takes them: its template and tokenizer may refuse
/// others than the served base's.
async fn prepare(
    small: &Services,
    prepared: Prepared,
    folder: &Path,
) -> Result<Prepared, TrainerError> {
    let (base, config) = (Arc::clone(&small.base), Arc::clone(&small.config));
    let folder = folder.to_owned();
    crate::blocking(move || {
        let mut votes = VoteRows {
            dataset: prepared.dataset,
            rated: prepared.rated,
            report: VotesReport::default(),
        };
        votes.check(&base, usize::MAX, EvaluationSet::default())?;
        let stages = &prepared.stages;
        let files = stage_files::prepare(&base, &config, votes.votes(), stages, &folder)?;
        Ok(Prepared {
            dataset: votes.dataset,
            rated: votes.rated,
            refused: votes.report,
            files,
            ..prepared
        })
    })
    .await
}

/// Opens the smaller base; only the sizes of the large one are looked at.
async fn open(config: TrialConfig, large: Arc<BaseModel>) -> Result<BaseModel, TrainerError> {
    let wrong = |problem: String| TrainerError::Config { key: KEY, problem };
    crate::blocking(move || {
        let path = hub::resolve_and_log(&config.model).map_err(|error| wrong(error.to_string()))?;
        let base = BaseModel::open_quantized(&path, config.quantize)?;
        let (small, large) = (size(&base), size(&large));
        match small < large {
            true => Ok(base),
            false => Err(wrong(format!(
                "{} has {small} parameters, not fewer than the served base's {large}",
                base.name
            ))),
        }
    })
    .await
}

/// Numbers in the matrices of a base's layers and in its embedding.
fn size(base: &BaseModel) -> usize {
    let config = &base.config;
    let shapes = Projection::ALL.iter().map(|&p| config.projection_shape(p));
    let layer: usize = shapes.map(|(rows, columns)| rows * columns).sum();
    config.layer_count * layer + config.vocab_size * config.hidden_size
}

fn judge(name: &str, stages: &[StageReport], config: &TrialConfig) -> Result<(), TrialFailure> {
    let mut judged = 0;
    for (number, report) in (1..).zip(stages) {
        let Some(held_out) = &report.held_out else {
            continue;
        };
        judged += 1;
        let name = || name.to_owned();
        // not a number is no pass either
        if held_out.accuracy.is_nan() || held_out.accuracy < config.accuracy_min {
            return Err(TrialFailure::Accuracy {
                name: name(),
                stage: number,
                found: held_out.accuracy,
                min: config.accuracy_min,
            });
        }
        if held_out.margin.is_nan() || held_out.margin <= config.margin_min {
            return Err(TrialFailure::Margin {
                name: name(),
                stage: number,
                found: held_out.margin,
                min: config.margin_min,
            });
        }
    }
    match judged {
        0 => Err(TrialFailure::NothingHeldOut {
            name: name.to_owned(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::EpochMetrics;

    fn report(held_out: Option<EpochMetrics>) -> StageReport {
        StageReport {
            held_out,
            ..StageReport::default()
        }
    }

    fn judged(stages: &[(f64, f64)]) -> Result<(), TrialFailure> {
        let config = TrialConfig {
            model: PathBuf::new(),
            quantize: FolderFormat::default(),
            accuracy_min: accuracy_min(),
            margin_min: 0.0,
        };
        let of = |&(accuracy, margin): &(f64, f64)| {
            report(Some(EpochMetrics {
                accuracy,
                margin,
                ..EpochMetrics::default()
            }))
        };
        let mut stages: Vec<StageReport> = stages.iter().map(of).collect();
        // a stage without anything held out is passed over
        stages.push(report(None));
        judge("small", &stages, &config)
    }

    #[test]
    fn every_stage_that_can_be_judged_must_pass() {
        assert_eq!(judged(&[(0.6, 0.1), (1.0, 2.0)]), Ok(()));
        assert!(matches!(
            judged(&[(1.0, 1.0), (0.59, 1.0)]),
            Err(TrialFailure::Accuracy { stage: 2, .. })
        ));
        assert!(matches!(
            judged(&[(1.0, 0.0), (1.0, 1.0)]),
            Err(TrialFailure::Margin { stage: 1, .. })
        ));
        for bad in [(f64::NAN, 1.0), (1.0, f64::NAN)] {
            assert!(judged(&[bad]).is_err());
        }
        assert!(matches!(
            judged(&[]),
            Err(TrialFailure::NothingHeldOut { .. })
        ));
    }
}
