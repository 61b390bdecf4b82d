//! One run of the trainer, top to bottom: from votes to a version, or to the
//! reasons why there is none.
//!
//! Objective: a LoRA adapter over the served weights that prefers what users
//! preferred, answers held-out prompts better than the version that is served
//! now, and forgets nothing that the base knew. What does not reach the gate
//! is reported and never published.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use adapter_store::AdapterFiles;
use feedback::pairs::{self, Dataset, PreferencePair};
use feedback::{EventId, TRAINER_GROUP};
use ids::{DatasetDigest, UnixMillis};
use model::lora::{LoraAdapter, LoraConfig};
use serde_json::json;

use crate::evaluate::{Subject, page, verdict};
use crate::incumbent::Incumbent;
use crate::journal::{Journal, State, append, replace};
use crate::lease::HeldLease;
use crate::report::{Decision, Report, TrainingReport};
use crate::services::Services;
use crate::train::{
    EpochMetrics, Examples, Observer, StepMetrics, Trained, parameter_report, train,
};
use crate::{FrozenModel, Parameters, TrainerError, examples, publish};

/// Events taken at a time.
const CLAIM_MAX: usize = 500;
/// Events taken in one run at most; more wait for the next.
const CLAIMED_MAX: usize = 100_000;
/// Events that a run took and did not acknowledge go to a later one after this.
const RECLAIM_IDLE: Duration = Duration::from_secs(30);

/// How a run ended.
#[derive(Debug)]
pub enum RunOutcome {
    /// A candidate was trained and judged.
    Judged(Box<Report>),
    /// Nothing was voted since the last run that makes another dataset.
    Unchanged(DatasetDigest),
}

/// Runs once. With `force`, also when the dataset is that of the last run.
///
/// # Errors
/// [`TrainerError::LeaseLost`] when another trainer runs, and whatever makes
/// it impossible to go on; the claimed votes then wait for the next run.
pub async fn run_once(
    services: &Services,
    stop: Arc<AtomicBool>,
    force: bool,
) -> Result<RunOutcome, TrainerError> {
    let run_id = run_id(services.clock.now());
    let (control, clock) = (Arc::clone(&services.control), Arc::clone(&services.clock));
    let lease = HeldLease::acquire(control, clock, &run_id, Arc::clone(&stop)).await?;
    let result = run(services, &lease, &run_id, stop, force).await;
    lease.release().await;
    note(services, &result)?;
    result
}

async fn run(
    services: &Services,
    lease: &HeldLease,
    run_id: &str,
    stop: Arc<AtomicBool>,
    force: bool,
) -> Result<RunOutcome, TrainerError> {
    let (config, journal, clock) = (&services.config, &services.journal, &services.clock);
    let folder = journal.begin(run_id, clock.now())?;

    // 1. The votes that woke us, and all that was voted so far: pairs and
    //    praised answers, split before they were paired.
    let claimed = claim(services, run_id).await?;
    let cases = pairs::collect(&*services.feedback).await?;
    let dataset = pairs::build(&cases, &config.pair_options())?;
    tracing::info!(
        "{} events; {} pairs to train, {} held out, {} praised answers",
        claimed.len(),
        dataset.train.len(),
        dataset.held_out.len(),
        dataset.upvoted.len()
    );
    if !force && last_dataset(journal) == Some(dataset.digest) {
        services.feedback.ack(TRAINER_GROUP, &claimed).await?;
        return Ok(RunOutcome::Unchanged(dataset.digest));
    }
    if dataset.train.len() < config.dataset.train_pairs_min {
        let (found, min) = (dataset.train.len(), config.dataset.train_pairs_min);
        let problem = format!("{found} pairs to train on are fewer than {min}");
        return Err(TrainerError::NotEnoughData(problem));
    }
    write_held_out(services, &dataset.held_out)?;

    // 2. What must be beaten.
    let incumbent = Incumbent::read(
        &*services.control,
        &services.adapters,
        &services.base.digest,
        config.model_name.as_ref(),
    )
    .await?;

    // 3. Train: a fresh adapter on everything, over the served weights.
    let tokens_max = config.training.sequence_tokens_max;
    let (encoded, too_long) = examples::encode(&services.base, &dataset, tokens_max)?;
    let retained = encoded.retained.len();
    journal.enter(State::Training, clock.now())?;
    let trained = train_adapter(services, &folder, encoded, stop).await?;
    let peft = trained.adapter.to_peft(&services.base.config)?;
    let files = AdapterFiles::new(peft.config_json, peft.safetensors);

    // 4. Evaluate what would be published, against what is served.
    journal.enter(State::Evaluating, clock.now())?;
    let subject = Subject {
        incumbent: incumbent.files.as_ref(),
        candidate: &files,
        held_out: &dataset.held_out,
    };
    let evaluation = services.assessor().assess(&subject).await?;
    let refusals = verdict(&evaluation, &config.gate);
    let training = training_report(&dataset, &trained, retained, too_long, services);
    let report = Report {
        run_id: run_id.to_owned(),
        at: clock.now(),
        decision: if refusals.is_empty() {
            Decision::Published
        } else {
            Decision::Refused
        },
        candidate: files.digest(),
        incumbent: incumbent.digest,
        base: services.base.digest,
        reasons: refusals.iter().map(ToString::to_string).collect(),
        refusals,
        evaluation,
        gate: config.gate.clone(),
        training: Some(training.clone()),
    };
    write_report(&folder, &report)?;

    // 5. Publish it, or leave the report.
    lease.confirm().await?;
    if report.decision == Decision::Published {
        journal.enter(State::Publishing, clock.now())?;
        let name = incumbent.model_name.as_ref();
        publish::publish(services, &files, &report, &training, None, name).await?;
    }

    // 6. The votes are done with.
    services.feedback.ack(TRAINER_GROUP, &claimed).await?;
    let last = json!({ "dataset": dataset.digest, "run_id": run_id });
    replace(
        &journal.root().join("last_run.json"),
        last.to_string().as_bytes(),
    )?;
    Ok(RunOutcome::Judged(Box::new(report)))
}

/// Takes all events that wait.
async fn claim(services: &Services, consumer: &str) -> Result<Vec<EventId>, TrainerError> {
    let mut claimed = Vec::new();
    while claimed.len() < CLAIMED_MAX {
        let now = services.clock.now();
        let batch = services
            .feedback
            .claim(TRAINER_GROUP, consumer, CLAIM_MAX, RECLAIM_IDLE, now)
            .await?;
        let full = batch.len() == CLAIM_MAX;
        claimed.extend(batch.into_iter().map(|claimed| claimed.event));
        if !full {
            break;
        }
    }
    Ok(claimed)
}

async fn train_adapter(
    services: &Services,
    folder: &Path,
    examples: Examples,
    stop: Arc<AtomicBool>,
) -> Result<Trained, TrainerError> {
    let config = services.config.training.clone();
    let mut lora = LoraConfig::uniform(config.lora.rank, config.lora.alpha);
    lora.use_rslora = config.lora.use_rslora;
    lora.target = config.lora.target.clone();
    lora.base_model_name_or_path = Some(services.base.name.clone());
    let start = LoraAdapter::new_random(&services.base.config, &lora, config.seed)?;
    let base = Arc::clone(&services.base);
    let mut observer = Progress {
        services: services.clone(),
        folder: folder.to_owned(),
    };
    let trained = crate::compute(services.config.threads, move || {
        let model = FrozenModel::new(&base.weights, &base.config, config.sequence_tokens_max)?;
        tracing::info!(
            "{}",
            parameter_report(&model, &Parameters::from_adapter(&start)?)
        );
        let result = train(
            &model,
            base.digest,
            &start,
            &examples,
            &config,
            &mut observer,
            &stop,
        );
        if let Err(failed) = &result
            && let Some(adapter) = &failed.last_good
        {
            keep_last_good(&observer.folder, adapter, &base.config);
        }
        Ok(result?)
    });
    trained.await
}

/// Keeps the adapter of the last good epoch of a run that failed.
fn keep_last_good(folder: &Path, adapter: &LoraAdapter, config: &model::ModelConfig) {
    let written = adapter
        .to_peft(config)
        .map_err(TrainerError::from)
        .and_then(|files| {
            let folder = folder.join("last_good");
            std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
            replace(&folder.join("adapter_config.json"), &files.config_json)?;
            replace(
                &folder.join("adapter_model.safetensors"),
                &files.safetensors,
            )
        });
    if let Err(error) = written {
        tracing::warn!(%error, "the last good epoch's adapter was not kept");
    }
}

/// Writes a run's progress down as it happens.
struct Progress {
    services: Services,
    folder: std::path::PathBuf,
}

impl Progress {
    fn warn(result: Result<(), TrainerError>) {
        // Progress that cannot be told is no reason to throw a run away.
        if let Err(error) = result {
            tracing::warn!(%error, "progress was not written");
        }
    }
}

impl Observer for Progress {
    fn step(&mut self, metrics: &StepMetrics) {
        let now = self.services.clock.now();
        Self::warn(self.services.journal.step(&self.folder, metrics, now));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        tracing::info!(
            "epoch {}: held-out accuracy {:.2}, margin {:.3}, loss {:.4}",
            metrics.epoch,
            metrics.accuracy,
            metrics.margin,
            metrics.loss
        );
        let now = self.services.clock.now();
        Self::warn(self.services.journal.event(now, "epoch", json!(metrics)));
        let line = json!(metrics).to_string();
        Self::warn(append(&self.folder.join("epochs.jsonl"), &line));
    }
}

fn training_report(
    dataset: &Dataset,
    trained: &Trained,
    retained: usize,
    too_long: usize,
    services: &Services,
) -> TrainingReport {
    TrainingReport {
        dataset: dataset.digest,
        rows: dataset.report.clone(),
        train_pairs: dataset.train.len(),
        held_out_pairs: dataset.held_out.len(),
        retained,
        too_long,
        votes: publish::votes(dataset),
        recipe: services.config.training.clone(),
        epoch: trained.epoch,
        tokens: trained.tokens,
        seconds: trained.seconds,
        tokens_per_second: trained.tokens as f64 / trained.seconds.max(1e-3),
    }
}

/// Writes the report for machines and for people.
///
/// # Errors
/// [`TrainerError::File`].
pub(crate) fn write_report(folder: &Path, report: &Report) -> Result<(), TrainerError> {
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    replace(&folder.join("report.json"), json.as_bytes())?;
    replace(&folder.join("report.html"), page(report).as_bytes())?;
    replace(&folder.join("report.txt"), report.text().as_bytes())
}

fn write_held_out(services: &Services, pairs: &[PreferencePair]) -> Result<(), TrainerError> {
    let json = serde_json::to_string(pairs).unwrap_or_default();
    replace(&services.held_out_file(), json.as_bytes())
}

/// The dataset of the last run that judged a candidate.
fn last_dataset(journal: &Journal) -> Option<DatasetDigest> {
    let bytes = std::fs::read(journal.root().join("last_run.json")).ok()?;
    let last: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    serde_json::from_value(last.get("dataset")?.clone()).ok()
}

/// Writes the end of a run into status and events.
fn note(
    services: &Services,
    result: &Result<RunOutcome, TrainerError>,
) -> Result<(), TrainerError> {
    let now = services.clock.now();
    let mut run = None;
    services.journal.update(now, |status| {
        status.state = State::Finished;
        run.clone_from(&status.run_id);
        match result {
            Ok(RunOutcome::Judged(report)) => {
                status.outcome = Some(report.decision.as_str().to_owned());
                status.reasons.clone_from(&report.reasons);
                let runs = services.journal.root().join("runs");
                status.report = Some(runs.join(&report.run_id).join("report.json"));
                status.digest = match report.decision {
                    Decision::Published => Some(report.candidate.to_string()),
                    Decision::Refused => None,
                };
                tracing::info!("{}", report.text());
            }
            Ok(RunOutcome::Unchanged(_)) => status.outcome = Some("unchanged".to_owned()),
            Err(error) => {
                status.state = State::Failed;
                status.outcome = Some("failed".to_owned());
                status.reasons = vec![error.to_string()];
            }
        }
    })?;
    let outcome = match result {
        Ok(RunOutcome::Judged(report)) => json!(report.decision),
        Ok(RunOutcome::Unchanged(_)) => json!("unchanged"),
        Err(error) => json!({ "failed": error.to_string() }),
    };
    services
        .journal
        .event(now, "run_ended", json!({ "outcome": outcome, "run": run }))
}

/// `run-` and the time in UTC; two runs cannot start in one millisecond, since
/// the lease lies between them.
fn run_id(now: UnixMillis) -> String {
    let time = chrono::DateTime::from_timestamp_millis(now.0).unwrap_or_default();
    format!("run-{}", time.format("%Y%m%dT%H%M%S%3fZ"))
}
