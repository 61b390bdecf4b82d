//! Fine-tuning jobs, as the gateway takes them: files in, a served name out.
//!
//! A job runs under the trainer's lease like any other run, and what it makes
//! passes the gate before it gets a name. Its owner may pause or cancel it at
//! any time: it stops after the step that it is in, gets no name, and a resumed
//! one goes on from its checkpoint with the recipe that it began with.

mod forget;
mod recipe;
mod results;
mod rows;
mod telling;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fine_tuning::{
    Event, EventKind, Failure, Files, FineTuningError, History, Job, Jobs, Level, Place, Transition,
};
use ids::JobId;
use tokio::task::JoinHandle;

pub(crate) use forget::forget;

use crate::lease::HeldLease;
use crate::retention::make_room;
use crate::services::Services;
use crate::{TrainerError, beginnings};

/// The folder of files and histories in the data folder, which the gateway has too.
const FOLDER: &str = "fine-tuning";
/// The folder of jobs' checkpoints in the trainer's folder.
const JOBS_FOLDER: &str = "jobs";
/// Who changes jobs, in the audit log.
const ACTOR: &str = "flywheel-trainer";

/// What the trainer shares with the gateway.
#[derive(Clone)]
pub struct Tuning {
    pub(crate) files: Files,
    pub(crate) jobs: Jobs,
    pub(crate) history: History,
}

impl Tuning {
    /// Opens files and histories in the data folder, and the jobs of the control
    /// state.
    ///
    /// # Errors
    /// When the folder can neither be made nor opened.
    pub(crate) fn open(
        data: &std::path::Path,
        control: &Arc<dyn control::ControlStore>,
    ) -> Result<Self, TrainerError> {
        let place = Place::local(&data.join(FOLDER))?;
        Ok(Self {
            files: Files::new(place.clone()),
            jobs: Jobs::new(Arc::clone(control), ACTOR),
            history: History::new(place),
        })
    }
}

/// Why a job is not done: what its owner is told.
pub(crate) struct Refused {
    code: &'static str,
    param: Option<&'static str>,
    message: String,
}

/// How the work on a job ended.
pub(crate) enum Ended {
    /// Its outcome is served.
    Published,
    /// It failed, by its files or at the gate.
    Refused(Refused),
}

/// The job that is done next: of those that a trainer took and died of, and
/// those that wait, the oldest. None while another trainer is at a job.
///
/// # Errors
/// The stores'.
pub(crate) async fn next(services: &Services) -> Result<Option<Job>, TrainerError> {
    let jobs = services.tuning.jobs.list().await?;
    if let Some(job) = jobs.iter().find(|job| job.status.is_in_work()) {
        let (control, clock) = (Arc::clone(&services.control), Arc::clone(&services.clock));
        let stop = Arc::new(AtomicBool::new(false));
        let lease = match HeldLease::acquire(control, clock, job.id.as_str(), stop).await {
            Ok(lease) => lease,
            Err(TrainerError::LeaseLost) => return Ok(None),
            Err(error) => return Err(error),
        };
        let recovered = recover(services).await;
        lease.release().await;
        recovered?;
    }
    Ok(services.tuning.jobs.next().await?)
}

/// Puts jobs back that a trainer before this one had taken: it has died, or
/// this one would not have the lease.
async fn recover(services: &Services) -> Result<(), TrainerError> {
    for job in services.tuning.jobs.list().await? {
        if job.status.is_in_work() {
            tracing::info!(job = %job.id, "an interrupted job is taken up again");
            apply(services, &job.id, Transition::Yield).await?;
        }
    }
    Ok(())
}

/// Does one job. One that its owner took back meanwhile is left alone.
///
/// # Errors
/// [`TrainerError::LeaseLost`] while another trainer is at work, the stores',
/// and whatever may go by itself; the job then waits again.
pub(crate) async fn work(
    services: &Services,
    job: Job,
    stop: Arc<AtomicBool>,
) -> Result<(), TrainerError> {
    make_room(services).await?;
    let (control, clock) = (Arc::clone(&services.control), Arc::clone(&services.clock));
    let lease = HeldLease::acquire(control, clock, job.id.as_str(), Arc::clone(&stop)).await?;
    // under the lease nobody else is at any job
    let result = match recover(services).await {
        Ok(()) => take(services, &lease, job, stop).await,
        Err(error) => Err(error),
    };
    lease.release().await;
    result
}

async fn take(
    services: &Services,
    lease: &HeldLease,
    job: Job,
    stop: Arc<AtomicBool>,
) -> Result<(), TrainerError> {
    let (jobs, now) = (&services.tuning.jobs, services.clock.now());
    let job = match jobs.transition(&job.id, Transition::Take, now).await {
        Ok(job) => job,
        Err(FineTuningError::Impossible { .. } | FineTuningError::NoJob(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let watcher = watch(services, job.id.clone(), Arc::clone(&stop));
    let result = begin(services, lease, &job, &stop).await;
    watcher.abort();
    end(services, lease, &job.id, result, &stop).await
}

/// Works on a job, unless trainers die of it.
async fn begin(
    services: &Services,
    lease: &HeldLease,
    job: &Job,
    stop: &Arc<AtomicBool>,
) -> Result<Ended, TrainerError> {
    let folder = services.journal.root().join(JOBS_FOLDER);
    let folder = folder.join(job.id.as_str());
    std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
    if !beginnings::begin(&folder)? {
        return Ok(Ended::Refused(Refused {
            code: "training_failed",
            param: None,
            message: "the trainer died of this job again and again".to_owned(),
        }));
    }
    let result = work::run(services, lease, job, &folder, stop).await;
    beginnings::ended(&folder)?;
    result
}

/// Goes on only while the job is still to be done, by this trainer.
async fn still_wanted(
    services: &Services,
    id: &JobId,
    stop: &AtomicBool,
) -> Result<(), TrainerError> {
    if stop.load(Ordering::Relaxed) {
        return Err(TrainerError::Stopped);
    }
    match services.tuning.jobs.get(id).await {
        Ok(job) if job.status.is_in_work() => Ok(()),
        Ok(_) => Err(TrainerError::Stopped),
        Err(error) => Err(taken_back(error)),
    }
}

/// What an owner's word makes impossible is stopped by it.
fn taken_back(error: FineTuningError) -> TrainerError {
    match error {
        FineTuningError::Impossible { .. } | FineTuningError::NoJob(_) => TrainerError::Stopped,
        error => error.into(),
    }
}

/// Says what came of a job, unless its owner has said so already. Without the
/// lease the job is another trainer's by now.
async fn end(
    services: &Services,
    lease: &HeldLease,
    id: &JobId,
    result: Result<Ended, TrainerError>,
    stop: &AtomicBool,
) -> Result<(), TrainerError> {
    if matches!(result, Ok(Ended::Published)) {
        return Ok(());
    }
    lease.confirm().await?;
    let is_stopped = stop.load(Ordering::Relaxed);
    let failure = match result {
        Ok(Ended::Refused(refused)) if !is_stopped => refused,
        Ok(_) | Err(TrainerError::Stopped) => return put_back(services, id).await,
        Err(_) if is_stopped => return put_back(services, id).await,
        Err(error) => Refused {
            code: "training_failed",
            param: None,
            message: error.to_string(),
        },
    };
    tell(services, id, Level::Error, &failure.message).await;
    let failure = Failure {
        code: failure.code.to_owned(),
        message: failure.message,
        param: failure.param.map(str::to_owned),
    };
    apply(services, id, Transition::Fail(failure)).await
}

/// Lets the job wait again, unless its owner holds it.
async fn put_back(services: &Services, id: &JobId) -> Result<(), TrainerError> {
    tell(services, id, Level::Info, "Fine-tuning stopped").await;
    apply(services, id, Transition::Yield).await
}

/// A transition that the owner's word goes before.
async fn apply(
    services: &Services,
    id: &JobId,
    transition: Transition,
) -> Result<(), TrainerError> {
    let now = services.clock.now();
    match services.tuning.jobs.transition(id, transition, now).await {
        Ok(_) | Err(FineTuningError::Impossible { .. } | FineTuningError::NoJob(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sets `stop` once the job is no longer in work by its owner's word.
fn watch(services: &Services, id: JobId, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let (jobs, mut changes) = (services.tuning.jobs.clone(), services.control.changes());
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            match jobs.get(&id).await {
                Ok(job) if job.status.is_in_work() => {}
                Ok(_) | Err(FineTuningError::NoJob(_)) => {
                    stop.store(true, Ordering::Relaxed);
                    return;
                }
                Err(error) => tracing::warn!(%error, "the job could not be looked at"),
            }
        }
    })
}

/// Adds to the job's history; what cannot be told is no reason to stop.
async fn tell(services: &Services, id: &JobId, level: Level, message: &str) {
    tracing::info!(job = %id, "{message}");
    let event = Event {
        number: 0,
        at: services.clock.now(),
        level,
        kind: EventKind::Message,
        message: message.to_owned(),
        data: None,
    };
    if let Err(error) = services.tuning.history.tell(id, event).await {
        tracing::warn!(%error, "an event was not kept");
    }
}
