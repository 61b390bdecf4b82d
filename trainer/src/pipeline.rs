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
use feedback::pairs::{self, Case, Collected, PreferencePair, Split};
use feedback::{Claimed, EventId, TRAINER_GROUP};
use ids::{DatasetDigest, UnixMillis};
use serde_json::json;

use crate::evaluate::{Subject, alarm, page, verdict};
use crate::incumbent::Incumbent;
use crate::journal::{State, replace};
use crate::last_run::LastRun;
use crate::lease::HeldLease;
use crate::prepared::Prepared;
use crate::recipe::StageKind;
use crate::report::{Decision, Report, StageReport, TrainingReport};
use crate::services::Services;
use crate::stage_data::{rated_held_out, rated_prompts};
use crate::stages::{TrainedRecipe, train_stages};
use crate::trial::{self, TrialReport};
use crate::vote_rows::VoteRows;
use crate::{TrainerError, beginnings, curves, publish, stage_files};

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

/// Goes on with the last run that was interrupted, with its rows and recipe;
/// none when there is nothing to go on with. Whoever was at it has died, or its
/// lease is waited for in vain.
///
/// # Errors
/// As [`run_once`].
pub async fn resume(
    services: &Services,
    stop: Arc<AtomicBool>,
) -> Result<Option<RunOutcome>, TrainerError> {
    let Some((_, prepared)) = Prepared::interrupted(&services.journal)? else {
        return Ok(None);
    };
    let run_id = prepared.run_id;
    let (control, clock) = (Arc::clone(&services.control), Arc::clone(&services.clock));
    let lease = HeldLease::wait_for(control, clock, &run_id, Arc::clone(&stop)).await?;
    let result = go_on(services, &lease, stop).await.transpose();
    lease.release().await;
    if let Some(result) = &result {
        note(services, result)?;
    }
    result.transpose()
}

/// Goes on under the lease, unless another trainer has done so meanwhile.
async fn go_on(
    services: &Services,
    lease: &HeldLease,
    stop: Arc<AtomicBool>,
) -> Result<Option<RunOutcome>, TrainerError> {
    let (journal, now) = (&services.journal, services.clock.now());
    let Some((folder, prepared)) = Prepared::interrupted(journal)? else {
        return Ok(None);
    };
    let run_id = &prepared.run_id;
    if !beginnings::begin(&folder)? {
        tracing::error!(run_id, "the run is given up: trainers die of it");
        let detail = json!({ "run": run_id, "error": "trainers die of it" });
        journal.event(now, "run_given_up", detail)?;
        Prepared::give_up(&folder)?;
        return Ok(None);
    }
    journal.begin(run_id, now)?;
    let result = finish(services, lease, &folder, prepared, stop).await;
    beginnings::ended(&folder)?;
    result.map(Some)
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
    // a new run has all the votes, so an interrupted one is not gone on with
    Prepared::abandon(journal)?;

    // 1. The votes that woke us, and all that was voted so far: pairs and
    //    praised answers, split before they were paired.
    let claimed = claim(services, run_id).await?;
    let collected = pairs::collect(&*services.feedback).await?;
    let claimed = read_of(services, claimed, &collected)?;
    let prepared = prepare(services, run_id, collected.cases, claimed, &folder).await?;
    let (dataset, rated) = (&prepared.dataset, &prepared.rated);
    tracing::info!(
        "{} events; {} pairs to train, {} held out, {} praised answers, {} rated, {} rows refused",
        prepared.claimed.len(),
        dataset.train.len(),
        dataset.held_out.len(),
        dataset.upvoted.len(),
        rated.len(),
        prepared.refused.refused
    );
    let last = LastRun::read(journal);
    if !force && last.is_some_and(|last| last.is_like(&this_run(services, &prepared))) {
        let claimed = &prepared.claimed;
        services.feedback.ack(TRAINER_GROUP, claimed).await?;
        return Ok(RunOutcome::Unchanged(prepared.digest()));
    }
    // every stage of pairs has those of the votes, and its own files'
    let of_files = prepared.stages.iter().zip(&prepared.files);
    let of_files = of_files.filter(|(stage, _)| stage.kind == StageKind::Dpo);
    let fewest = of_files.map(|(_, files)| files.report.pairs() - files.report.held_out);
    let fewest = fewest.min().map(|pairs| pairs + dataset.train.len());
    if let Some(found) = fewest.filter(|found| *found < config.dataset.train_pairs_min) {
        let min = config.dataset.train_pairs_min;
        let held_out = dataset.held_out.len();
        let problem = format!(
            "{found} pairs to train on are fewer than {min} (dataset.train_pairs_min), with \
             {held_out} held out: more answers are to be corrected"
        );
        return Err(TrainerError::NotEnoughData(problem));
    }
    prepared.keep(&folder)?;
    finish(services, lease, &folder, prepared, stop).await
}

/// What tells this run from others.
fn this_run(services: &Services, prepared: &Prepared) -> LastRun {
    let base = services.base.digest;
    LastRun::of(&prepared.run_id, prepared.digest(), base, &prepared.stages)
}

/// Trains, evaluates and publishes what was prepared.
async fn finish(
    services: &Services,
    lease: &HeldLease,
    folder: &Path,
    prepared: Prepared,
    stop: Arc<AtomicBool>,
) -> Result<RunOutcome, TrainerError> {
    let (config, journal, clock) = (&services.config, &services.journal, &services.clock);
    let prepared = Arc::new(prepared);
    let (run_id, held_out) = (&prepared.run_id, prepared.held_out());
    write_held_out(services, &held_out)?;

    // 2. What must be beaten.
    let incumbent = Incumbent::read(
        &*services.control,
        &services.adapters,
        &services.base.digest,
        config.model_name.as_ref(),
    )
    .await?;

    // 3. Train: a fresh adapter on everything, over the served weights, once
    //    the data has proven itself on a smaller base, if one is named.
    let trained = train(services, folder, &prepared, &stop).await;
    if let Err(error) = &trained
        && !matches!(error, TrainerError::Stopped | TrainerError::File { .. })
    {
        // it would fail again, and is not gone on with; its reports stay. After a full
        // disk it would not
        Prepared::give_up(folder)?;
    }
    let (trial, trained) = trained?;
    let peft = trained.adapter.to_peft(&services.base.config)?;
    let files = AdapterFiles::new(peft.config_json, peft.safetensors);

    // 4. Evaluate what would be published, against what is served.
    journal.enter(State::Evaluating, clock.now())?;
    let subject = Subject {
        incumbent: incumbent.files.as_ref(),
        candidate: &files,
        held_out: &held_out,
        prompts: &rated_prompts(&prepared),
        rated: &rated_held_out(&services.base, &prepared)?,
    };
    let evaluation = services.assessor().assess(&subject).await?;
    let refusals = verdict(&evaluation, &config.gate);
    let training = training_report(&prepared, trial, &trained);
    let report = Report {
        run_id: run_id.clone(),
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
    write_report(folder, &report)?;
    if let Some((event, detail)) = alarm(&report.evaluation) {
        journal.event(clock.now(), event, detail)?;
    }

    // 5. Publish it, or leave the report.
    lease.confirm().await?;
    if report.decision == Decision::Published {
        journal.enter(State::Publishing, clock.now())?;
        let votes = publish::vote_ids(&prepared.dataset, &prepared.rated);
        let json = serde_json::to_vec(&votes).unwrap_or_default();
        replace(&folder.join("votes.json"), &json)?;
        let name = incumbent.model_name.as_ref();
        publish::publish(services, &files, &report, &training, None, name).await?;
    }

    // 6. The votes are done with.
    services
        .feedback
        .ack(TRAINER_GROUP, &prepared.claimed)
        .await?;
    this_run(services, &prepared).keep(journal)?;
    Prepared::forget(folder)?;
    Ok(RunOutcome::Judged(Box::new(report)))
}

async fn train(
    services: &Services,
    folder: &Path,
    prepared: &Arc<Prepared>,
    stop: &Arc<AtomicBool>,
) -> Result<(Option<TrialReport>, TrainedRecipe), TrainerError> {
    let trial = trial::run(services, folder, prepared, stop).await?;
    let now = services.clock.now();
    services.journal.enter(State::Training, now)?;
    let trained = train_stages(services, folder, prepared, stop).await?;
    Ok((trial, trained))
}

/// Makes rows of the cases, checks them and the stages' files, and keeps apart
/// what the candidate is judged by; on a thread of its own.
async fn prepare(
    services: &Services,
    run_id: &str,
    cases: Vec<Case>,
    claimed: Vec<EventId>,
    folder: &Path,
) -> Result<Prepared, TrainerError> {
    let (base, config) = (Arc::clone(&services.base), Arc::clone(&services.config));
    let (run_id, folder) = (run_id.to_owned(), folder.to_owned());
    crate::blocking(move || {
        let stages = config.stages()?;
        let with_thumbs = stages.iter().any(|stage| stage.kind == StageKind::Kto);
        let mut votes = VoteRows::of(&cases, &config.pair_options(), with_thumbs)?;
        drop(cases);
        let lengths = stages
            .iter()
            .map(|stage| stage.training.sequence_tokens_max);
        let tokens_max = lengths.max().unwrap_or_default();
        votes.check(&base, tokens_max, stage_files::evaluation(&config)?)?;
        let files = stage_files::prepare(&base, &config, votes.votes(), &stages, &folder)?;
        let held_out = files.iter().flat_map(|files| &files.held_out);
        votes.keep_apart(held_out.map(|pair| &pair.prompt[..]))?;
        let json = serde_json::to_vec_pretty(&votes.report).unwrap_or_default();
        replace(&folder.join("data-votes.json"), &json)?;
        Ok(Prepared {
            run_id,
            dataset: votes.dataset,
            rated: votes.rated,
            refused: votes.report,
            claimed,
            stages,
            files,
        })
    })
    .await
}

/// The events whose answers were read. The others stay in the backlog, which is
/// told: there was no room for what is so old.
pub(crate) fn read_of(
    services: &Services,
    claimed: Vec<Claimed>,
    collected: &Collected,
) -> Result<Vec<EventId>, TrainerError> {
    let count = claimed.len();
    let read = claimed.into_iter();
    let read = read.filter(|claimed| collected.has_read(&claimed.vote.inference));
    let read: Vec<EventId> = read.map(|claimed| claimed.event).collect();
    if let Some(cut) = &collected.cut {
        let (cases, waiting) = (collected.cases.len(), count - read.len());
        tracing::warn!(
            "there is room for the newest {cases} answers with votes; \
             {cut} and all before were not read, and {waiting} events on them stay"
        );
        let detail = json!({ "cut": cut, "answers": cases, "events_left": waiting });
        let now = services.clock.now();
        services.journal.event(now, "votes_not_read", detail)?;
    }
    Ok(read)
}

/// Takes all events that wait.
async fn claim(services: &Services, consumer: &str) -> Result<Vec<Claimed>, TrainerError> {
    let mut claimed = Vec::new();
    while claimed.len() < CLAIMED_MAX {
        let now = services.clock.now();
        let batch = services
            .feedback
            .claim(TRAINER_GROUP, consumer, CLAIM_MAX, RECLAIM_IDLE, now)
            .await?;
        let full = batch.len() == CLAIM_MAX;
        claimed.extend(batch);
        if !full {
            break;
        }
    }
    Ok(claimed)
}

fn training_report(
    prepared: &Prepared,
    trial: Option<TrialReport>,
    trained: &TrainedRecipe,
) -> TrainingReport {
    let dataset = &prepared.dataset;
    let sum = |of: fn(&StageReport) -> f64| trained.stages.iter().map(of).sum::<f64>();
    let seconds = sum(|stage| stage.seconds);
    let tokens: u64 = trained.stages.iter().map(|stage| stage.tokens).sum();
    let last = trained.stages.last();
    let praised = dataset.upvoted.iter();
    TrainingReport {
        dataset: prepared.digest(),
        rows: dataset.report.clone(),
        refused: prepared.refused.clone(),
        train_pairs: dataset.train.len(),
        held_out_pairs: prepared.held_out().len(),
        retained: praised.filter(|row| row.split == Split::Train).count(),
        too_long: trained.stages.iter().map(|stage| stage.too_long).sum(),
        votes: publish::votes(dataset, &prepared.rated),
        recipe: last
            .map(|stage| stage.stage.training.clone())
            .unwrap_or_default(),
        stages: trained.stages.clone(),
        trial,
        epoch: last.map_or(0, |stage| stage.epoch),
        tokens,
        seconds,
        tokens_per_second: tokens as f64 / seconds.max(1e-3),
    }
}

/// Writes the report for machines and for people.
///
/// # Errors
/// [`TrainerError::File`].
pub(crate) fn write_report(folder: &Path, report: &Report) -> Result<(), TrainerError> {
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    replace(&folder.join("report.json"), json.as_bytes())?;
    let stages = report.training.as_ref().map_or(0, |t| t.stages.len());
    let curves = curves::of_run(folder, stages);
    replace(
        &folder.join("report.html"),
        page(report, &curves).as_bytes(),
    )?;
    replace(&folder.join("report.txt"), report.text().as_bytes())
}

fn write_held_out(services: &Services, pairs: &[PreferencePair]) -> Result<(), TrainerError> {
    let json = serde_json::to_string(pairs).unwrap_or_default();
    replace(&services.held_out_file(), json.as_bytes())
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
