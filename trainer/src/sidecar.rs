//! The process that waits beside the gateway and trains when it is time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;

use crate::TrainerError;
use crate::calendar::Calendar;
use crate::jobs;
use crate::journal::{State, replace};
use crate::pipeline::{RunOutcome, resume, run_once};
use crate::retention::make_room;
use crate::services::Services;

/// The longest pause after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often the backlog is looked at even if no change was noticed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Votes that never pause start a run after this many settling times.
const SETTLE_ROUNDS_MAX: u32 = 30;

/// How the process is asked to end.
#[derive(Clone, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Stop {
    /// Asks for the end: a run stops after its current step.
    pub fn set(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.notify.notify_waiters();
        self.notify.notify_one();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// A flag for one run: it is set with this one, and may be set alone.
    fn run_flag(&self) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
        let flag = Arc::new(AtomicBool::new(self.is_set()));
        let (stop, set) = (self.clone(), Arc::clone(&flag));
        let watcher = tokio::spawn(async move {
            stop.wait().await;
            set.store(true, Ordering::Relaxed);
        });
        (flag, watcher)
    }

    async fn wait(&self) {
        while !self.is_set() {
            let notified = self.notify.notified();
            if self.is_set() {
                return;
            }
            notified.await;
        }
    }
}

/// Waits and trains until `stop`.
///
/// # Errors
/// When the status file cannot be written or the schedule is wrong; failed
/// runs are logged and tried again.
pub async fn sidecar(services: &Services, stop: &Stop) -> Result<(), TrainerError> {
    let mut failures = 0u32;
    let (root, now) = (services.journal.root(), services.clock.now());
    let mut calendar = Calendar::open(root, services.config.cron()?, now)?;
    services
        .journal
        .update(services.clock.now(), |status| status.state = State::Waiting)?;
    loop {
        let pause = backoff(services, failures);
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let due = tokio::select! {
            () = stop.wait() => return Ok(()),
            due = due(services, &calendar) => due,
        };
        if let Err(error) = jobs::forget(services).await {
            tracing::warn!(%error, "folders of old jobs were not removed");
        }
        if let Due::Job(job) = due {
            failures = match work(services, *job, stop).await {
                Ok(()) => 0,
                Err(_) if stop.is_set() => return Ok(()),
                Err(error) => {
                    tracing::error!(%error, "the job was not done and waits");
                    failures.saturating_add(1)
                }
            };
            continue;
        }
        match run(services, stop).await {
            Ok(RunOutcome::Judged(_) | RunOutcome::Unchanged(_)) => {
                failures = 0;
                calendar.served(services.clock.now())?;
            }
            Err(_) if stop.is_set() => return Ok(()),
            Err(error) => {
                failures = failures.saturating_add(1);
                if tell_failure(services, &error, failures)? {
                    calendar.served(services.clock.now())?;
                }
            }
        }
        write_metrics(services, failures)?;
    }
}

/// Says that a run failed; whether its time counts as served all the same:
/// there was nothing to train, the same data would fail again, or it failed too
/// often.
fn tell_failure(
    services: &Services,
    error: &TrainerError,
    failures: u32,
) -> Result<bool, TrainerError> {
    tracing::error!(%error, failures, "the run failed");
    if matches!(
        error,
        TrainerError::NotEnoughData(_) | TrainerError::Trial(_)
    ) {
        return Ok(true);
    }
    if failures < services.config.schedule.attempts_max {
        return Ok(false);
    }
    tracing::error!(failures, "the run is given up until its next time");
    let detail = json!({ "failures": failures, "error": error.to_string() });
    let now = services.clock.now();
    services.journal.event(now, "run_given_up", detail)?;
    Ok(true)
}

/// `DATA/trainer/metrics.prom`, as node_exporter's textfile collector reads it:
/// the trainer listens on no port.
fn write_metrics(services: &Services, failures: u32) -> Result<(), TrainerError> {
    let ended = services.clock.now().seconds();
    let text = format!(
        "# HELP flywheel_trainer_failures_in_a_row Runs that failed since the last one that did not.\n\
         # TYPE flywheel_trainer_failures_in_a_row gauge\n\
         flywheel_trainer_failures_in_a_row {failures}\n\
         # HELP flywheel_trainer_last_run_seconds When the last run ended, since 1970.\n\
         # TYPE flywheel_trainer_last_run_seconds gauge\n\
         flywheel_trainer_last_run_seconds {ended}\n"
    );
    let path = services.journal.root().join("metrics.prom");
    replace(&path, text.as_bytes())
}

/// One run that ends early when the process is asked to.
///
/// # Errors
/// As [`run_once`].
pub async fn once(services: &Services, stop: &Stop) -> Result<RunOutcome, TrainerError> {
    let (flag, watcher) = stop.run_flag();
    let outcome = run_once(services, flag, true).await;
    watcher.abort();
    outcome
}

/// Goes on with an interrupted run, if there is one.
///
/// # Errors
/// As [`resume`].
pub async fn again(services: &Services, stop: &Stop) -> Result<Option<RunOutcome>, TrainerError> {
    let (flag, watcher) = stop.run_flag();
    let outcome = resume(services, flag).await;
    watcher.abort();
    outcome
}

async fn run(services: &Services, stop: &Stop) -> Result<RunOutcome, TrainerError> {
    let (flag, watcher) = stop.run_flag();
    let outcome = match make_room(services).await {
        Ok(()) => run_once(services, flag, false).await,
        Err(error) => Err(error),
    };
    watcher.abort();
    outcome
}

fn backoff(services: &Services, failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => {
            let first = Duration::from_secs(services.config.schedule.backoff_seconds);
            first.saturating_mul(1 << (n - 1).min(20)).min(BACKOFF_MAX)
        }
    }
}

/// One job that stops early when the process is asked to.
async fn work(services: &Services, job: fine_tuning::Job, stop: &Stop) -> Result<(), TrainerError> {
    let (flag, watcher) = stop.run_flag();
    let result = jobs::work(services, job, flag).await;
    watcher.abort();
    result
}

/// What is to be done.
enum Due {
    /// A run on feedback.
    Run,
    /// A fine-tuning job.
    Job(Box<fine_tuning::Job>),
}

/// Returns when something is due: a run at the scheduled time, or when enough bad
/// cases wait and votes have paused; and any job that waits.
async fn due(services: &Services, calendar: &Calendar) -> Due {
    let at = calendar.next();
    let (mut changes, mut control) = (services.feedback.changes(), services.control.changes());
    loop {
        let now = services.clock.now();
        if at.is_some_and(|at| now >= at) {
            tracing::info!("it is time by the schedule");
            return Due::Run;
        }
        if enough_bad_cases(services).await {
            settle(services).await;
            return Due::Run;
        }
        let left = at.map_or(LOOK_EVERY, |at| at.since(now));
        match services.tuning.jobs.next().await {
            Ok(Some(job)) => return Due::Job(Box::new(job)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the jobs could not be read"),
        }
        // A vote or a job came, or it is time to look again.
        let news = async {
            tokio::select! {
                _ = changes.changed() => {}
                _ = control.changed() => {}
            }
        };
        let _ = tokio::time::timeout(left.min(LOOK_EVERY), news).await;
    }
}

async fn enough_bad_cases(services: &Services) -> bool {
    let min = services.config.schedule.min_new_bad_cases;
    if min == 0 {
        return false;
    }
    match services.feedback.bad_case_backlog().await {
        Ok(waiting) => waiting >= min,
        Err(error) => {
            tracing::warn!(%error, "the backlog could not be read");
            false
        }
    }
}

/// Waits until votes pause, so that a wave of them makes one dataset.
async fn settle(services: &Services) {
    let quiet = Duration::from_secs(services.config.schedule.settle_seconds);
    let mut changes = services.feedback.changes();
    changes.mark_unchanged();
    for _ in 0..SETTLE_ROUNDS_MAX {
        match tokio::time::timeout(quiet, changes.changed()).await {
            Ok(Ok(())) => {}
            _ => break,
        }
        // One change a round at least; more in it count as one.
        tokio::time::sleep(quiet.min(Duration::from_secs(1))).await;
        changes.mark_unchanged();
    }
    tracing::info!("enough bad cases wait");
}
