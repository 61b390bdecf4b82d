//! The work on one job, top to bottom.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use adapter_store::{AdapterFiles, Lineage, Source};
use control::{AuditEntry, Expected};
use fine_tuning::{FineTuningError, Job, Level, Method, Transition};
use ids::{AdapterDigest, AliasName};
use model::BaseModel;
use model::lora::LoraAdapter;
use serde_json::json;

use super::recipe::Recipe;
use super::results::{self, JobReport};
use super::rows::{Rows, Sent, read};
use super::telling::Teller;
use super::{ACTOR, Ended, Refused, still_wanted, taken_back, tell};
use crate::checkpoints::CheckpointFile;
use crate::evaluate::{Evaluation, GateConfig, Subject, verdict};
use crate::journal::replace;
use crate::lease::HeldLease;
use crate::planned::planned;
use crate::recipe::fresh_adapter;
use crate::report::Computed;
use crate::services::Services;
use crate::train::{EpochMetrics, Job as Training, TrainConfig, Trained, train_with};
use crate::{TrainerError, stage_files};

/// The folder in the job's of the best adapter of a training that failed.
const LAST_GOOD_FOLDER: &str = "last_good";

/// What was trained, and how good its best epoch was on what is held out.
struct Outcome {
    trained: Trained,
    files: AdapterFiles,
    best: Option<EpochMetrics>,
    /// The figures of its steps, as CSV.
    steps: String,
    computed: Computed,
}

/// Does a job that was taken.
pub(super) async fn run(
    services: &Services,
    lease: &HeldLease,
    job: &Job,
    folder: &Path,
    stop: &Arc<AtomicBool>,
) -> Result<Ended, TrainerError> {
    // 1. Its recipe and its files.
    let id = &job.id;
    let recipe = Recipe::of(folder, &services.config, job)?;
    tell(services, id, Level::Info, "Validating the files").await;
    let rows = match rows(services, job, &recipe, folder).await? {
        Ok(rows) => Arc::new(rows),
        Err(refused) => return Ok(Ended::Refused(refused)),
    };
    if let Some(left_out) = &rows.left_out {
        tell(services, id, Level::Warn, left_out).await;
    }

    // 2. What it goes on from, which is also what must be beaten.
    let start = match &job.asked.start {
        Some(digest) => Some(services.adapters.get(digest).await?.files),
        None => None,
    };
    let config = &recipe.training;

    // 3. Training, from the last checkpoint where there is one.
    let now = services.clock.now();
    services
        .tuning
        .jobs
        .transition(id, Transition::Train, now)
        .await
        .map_err(taken_back)?;
    let text = format!(
        "Training on {} examples, {} held out",
        rows.examples.train.len(),
        rows.examples.validation.len()
    );
    tell(services, id, Level::Info, &text).await;
    let outcome = train(services, job, &rows, start.as_ref(), config, folder, stop).await?;

    // 4. The gate.
    still_wanted(services, id, stop).await?;
    tell(services, id, Level::Info, "Evaluating the fine-tuned model").await;
    let subject = Subject {
        incumbent: start.as_ref(),
        candidate: &outcome.files,
        held_out: &rows.pairs,
        prompts: &rows.prompts,
        rated: &[],
    };
    let evaluation = services.assessor().assess(&subject).await?;
    let gate = gate(&services.config.gate);
    let reasons = reasons(job.asked.method, &evaluation, outcome.best.as_ref(), &gate);
    let report = JobReport {
        job: id,
        at: services.clock.now(),
        passed: reasons.is_empty(),
        reasons: &reasons,
        base: services.base.digest,
        start: job.asked.start,
        candidate: outcome.files.digest(),
        dataset: rows.digest,
        left_out: rows.left_out.as_deref(),
        recipe: config,
        epoch: outcome.trained.epoch,
        tokens: outcome.trained.tokens,
        held_out: outcome.best.as_ref(),
        gate: &gate,
        evaluation: &evaluation,
        code_version: crate::CODE_VERSION,
    };
    lease.confirm().await?;
    still_wanted(services, id, stop).await?;
    results::keep(services, job, &outcome.steps, &report).await?;
    if !reasons.is_empty() {
        return Ok(Ended::Refused(Refused {
            code: "refused_by_gate",
            param: None,
            message: reasons.join("; "),
        }));
    }

    // 5. Its name, unless its owner took it back meanwhile.
    lease.confirm().await?;
    still_wanted(services, id, stop).await?;
    publish(services, job, &rows, &outcome, config, &evaluation).await?;
    CheckpointFile::new(folder, 0).forget()?;
    Ok(Ended::Published)
}

async fn rows(
    services: &Services,
    job: &Job,
    recipe: &Recipe,
    folder: &Path,
) -> Result<Result<Rows, Refused>, TrainerError> {
    let files = &services.tuning.files;
    let asked = &job.asked;
    let gone = |param: &'static str, id: &ids::FileId| Refused {
        code: "file_not_found",
        param: Some(param),
        message: format!("the file {id} does not exist any more"),
    };
    let training = match files.content(&asked.training_file).await {
        Ok(content) => content,
        Err(FineTuningError::NoFile(id)) => return Ok(Err(gone("training_file", &id))),
        Err(error) => return Err(error.into()),
    };
    let validation = match &asked.validation_file {
        None => None,
        Some(id) => match files.content(id).await {
            Ok(content) => Some(content),
            Err(FineTuningError::NoFile(id)) => return Ok(Err(gone("validation_file", &id))),
            Err(error) => return Err(error.into()),
        },
    };
    let sent = Sent {
        training,
        validation,
    };
    let (base, recipe) = (Arc::clone(&services.base), recipe.clone());
    let (method, folder) = (asked.method, folder.to_owned());
    let config = Arc::clone(&services.config);
    crate::blocking(move || {
        // the gate asks this too
        let judged_by = stage_files::evaluation(&config)?;
        read(&sent, method, &folder, &base, &recipe, judged_by)
    })
    .await
}

async fn train(
    services: &Services,
    job: &Job,
    rows: &Arc<Rows>,
    start: Option<&AdapterFiles>,
    config: &TrainConfig,
    folder: &Path,
    stop: &Arc<AtomicBool>,
) -> Result<Outcome, TrainerError> {
    let base = Arc::clone(&services.base);
    let start = match start {
        Some(files) => {
            LoraAdapter::from_peft(&files.config_json, &files.safetensors, &base.config)?
        }
        None => fresh_adapter(&base, config)?,
    };
    let (mut teller, writing) = Teller::start(services, job);
    let (rows, config, stop) = (Arc::clone(rows), config.clone(), Arc::clone(stop));
    let (folder, services_there) = (folder.to_owned(), services.clone());
    let method = job.asked.method;
    let outcome = crate::compute(services.config.threads, move || {
        let model = services_there.frozen_model(config.sequence_tokens_max)?;
        let config = planned(&services_there, &folder, &start, &rows.examples, &config)?;
        let training = Training {
            model: &model,
            base: base.digest,
            start: &start,
            examples: &rows.examples,
            config: &config,
        };
        let mut checkpoints = CheckpointFile::new(&folder, config.checkpoint_every_steps);
        let result = train_with(training, &mut checkpoints, &mut teller, &stop);
        if let Err(failed) = &result
            && let Some(adapter) = &failed.last_good
            && let Err(error) = keep_last_good(&folder, adapter, &base)
        {
            tracing::warn!(%error, "the last good epoch's adapter was not kept");
        }
        let trained = result?;
        let peft = trained.adapter.to_peft(&base.config)?;
        Ok(Outcome {
            files: AdapterFiles::new(peft.config_json, peft.safetensors),
            best: teller.best().cloned(),
            steps: teller.steps().csv(method),
            computed: Computed::here(&config),
            trained,
        })
    })
    .await;
    // the teller is gone, so that all it heard is written
    if writing.await.is_err() {
        tracing::warn!("the job's last reports were not written");
    }
    outcome
}

/// Keeps what training had come to before it failed, as a PEFT folder.
fn keep_last_good(
    folder: &Path,
    adapter: &LoraAdapter,
    base: &BaseModel,
) -> Result<(), TrainerError> {
    let files = adapter.to_peft(&base.config)?;
    let folder = folder.join(LAST_GOOD_FOLDER);
    std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
    replace(&folder.join("adapter_config.json"), &files.config_json)?;
    replace(
        &folder.join("adapter_model.safetensors"),
        &files.safetensors,
    )
}

/// What the outcome of a job must reach: its goal is what its files say, which
/// is measured by likelihood; a whole given answer need not come literally.
fn gate(configured: &GateConfig) -> GateConfig {
    GateConfig {
        exact_match_min: 0.0,
        exact_match_gain_min: -1.0,
        goal_points_gain_min: f64::NEG_INFINITY,
        ..configured.clone()
    }
}

fn reasons(
    method: Method,
    evaluation: &Evaluation,
    best: Option<&EpochMetrics>,
    gate: &GateConfig,
) -> Vec<String> {
    let refusals = verdict(evaluation, gate);
    let mut reasons: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    let moved = best.map_or(0.0, |best| best.accuracy);
    let min = gate.preference_accuracy_min;
    if method == Method::Supervised && moved < min {
        reasons.push(format!(
            "{:.1}% of the held-out answers became more likely, fewer than {:.1}%",
            100.0 * moved,
            100.0 * min
        ));
    }
    reasons
}

async fn publish(
    services: &Services,
    job: &Job,
    rows: &Rows,
    outcome: &Outcome,
    config: &TrainConfig,
    evaluation: &Evaluation,
) -> Result<(), TrainerError> {
    let (id, now) = (&job.id, services.clock.now());
    let extra = [
        ("job", json!(job.id)),
        ("asked", json!(job.asked)),
        ("recipe", json!(config)),
        ("seed", json!(config.seed)),
        ("tokens", json!(outcome.trained.tokens)),
        ("computed", json!(outcome.computed)),
        ("code_version", json!(crate::CODE_VERSION)),
    ];
    let lineage = Lineage {
        base: Some(services.base.digest),
        dataset: Some(rows.digest),
        parent: job.asked.start,
        evaluation: Some(json!(evaluation)),
        created: now,
        source: Source::Trained,
        extra: extra
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect(),
    };
    let digest: AdapterDigest = services.adapters.put(&outcome.files, &lineage).await?;
    let model = name(services, job)?;
    let audit = AuditEntry {
        actor: ACTOR.to_owned(),
        action: "job.publish".to_owned(),
        at: now,
    };
    control::aliases::set(&*services.control, &model, digest, Expected::Any, audit).await?;
    let succeed = Transition::Succeed {
        model: model.clone(),
        adapter: digest,
        step: step(config, rows, outcome.trained.epoch),
        trained_tokens: outcome.trained.tokens,
    };
    if let Err(error) = services.tuning.jobs.transition(id, succeed, now).await {
        // the owner was faster, or nobody would know of the name
        let audit = AuditEntry {
            actor: ACTOR.to_owned(),
            action: "job.unpublish".to_owned(),
            at: now,
        };
        control::aliases::remove(&*services.control, &model, audit).await?;
        return Err(taken_back(error));
    }
    let text = format!("New fine-tuned model: {model}");
    tell(services, id, Level::Info, &text).await;
    let text = "The job has successfully completed";
    tell(services, id, Level::Info, text).await;
    Ok(())
}

/// The optimizer steps of so many epochs.
fn step(config: &TrainConfig, rows: &Rows, epochs: usize) -> u64 {
    let micro_batches = rows.examples.train.len().div_ceil(config.micro_batch_pairs);
    (micro_batches.div_ceil(config.micro_batches) * epochs) as u64
}

/// `ft:BASE:SUFFIX:JOB`, with the last characters of the job's id.
fn name(services: &Services, job: &Job) -> Result<AliasName, TrainerError> {
    let id = job.id.as_str();
    let tail = &id[id.len().saturating_sub(8)..];
    let suffix = job.asked.suffix.as_deref().unwrap_or("");
    let base: String = services.base.name.chars().take(48).collect();
    AliasName::new(format!("ft:{base}:{suffix}:{tail}")).map_err(|error| TrainerError::Config {
        key: "model",
        problem: error.to_string(),
    })
}
