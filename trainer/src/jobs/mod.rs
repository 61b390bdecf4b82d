//! Fine-tuning jobs, as the gateway takes them: files in, a served name out.
//!
//! A job runs under the trainer's lease like any other run, and what it makes
//! passes the gate before it gets a name. Its owner may pause or cancel it at
//! any time: it stops after the step that it is in, and a resumed one goes on
//! from its checkpoint.

mod forget;
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

use crate::TrainerError;
use crate::lease::HeldLease;
use crate::services::Services;

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

/// Puts jobs back that a trainer before this one had taken: it has died, or
/// this one would not have the lease.
///
/// # Errors
/// The stores'.
pub(crate) async fn recover(services: &Services) -> Result<(), TrainerError> {
    for job in services.tuning.jobs.list().await? {
        if job.status.is_in_work() {
            tracing::info!(job = %job.id, "an interrupted job is taken up again");
            put_back(services, &job.id).await?;
        }
    }
    Ok(())
}

/// Does one job. One that its owner took back meanwhile is left alone.
///
/// # Errors
/// The stores', and whatever may go by itself; the job then waits again.
pub(crate) async fn work(
    services: &Services,
    job: Job,
    stop: Arc<AtomicBool>,
) -> Result<(), TrainerError> {
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
    let result = work::run(services, lease, &job, &stop).await;
    watcher.abort();
    end(services, &job.id, result, &stop).await
}

/// Says what came of a job, unless its owner has said so already.
async fn end(
    services: &Services,
    id: &JobId,
    result: Result<Ended, TrainerError>,
    stop: &AtomicBool,
) -> Result<(), TrainerError> {
    let failure = match result {
        Ok(Ended::Published) => return Ok(()),
        Ok(Ended::Refused(refused)) => refused,
        Err(_) if stop.load(Ordering::Relaxed) => {
            tell(services, id, Level::Info, "Fine-tuning stopped").await;
            return put_back(services, id).await;
        }
        Err(TrainerError::LeaseLost) => return put_back(services, id).await,
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

async fn put_back(services: &Services, id: &JobId) -> Result<(), TrainerError> {
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
