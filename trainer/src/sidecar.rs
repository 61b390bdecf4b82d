//! The process that waits beside the gateway and trains when it is time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::TrainerError;
use crate::journal::State;
use crate::pipeline::{RunOutcome, resume, run_once};
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
    services
        .journal
        .update(services.clock.now(), |status| status.state = State::Waiting)?;
    loop {
        let pause = backoff(services, failures);
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            () = stop.wait() => return Ok(()),
            due = due(services) => due?,
        }
        match run(services, stop).await {
            Ok(RunOutcome::Judged(_) | RunOutcome::Unchanged(_)) => failures = 0,
            Err(_) if stop.is_set() => return Ok(()),
            Err(error) => {
                tracing::error!(%error, "the run failed");
                failures = failures.saturating_add(1);
            }
        }
    }
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
    let outcome = run_once(services, flag, false).await;
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

/// Returns when a run is due: at the scheduled time, or when enough bad cases
/// wait and votes have paused.
async fn due(services: &Services) -> Result<(), TrainerError> {
    let at = next_time(services)?;
    let mut changes = services.feedback.changes();
    loop {
        let now = services.clock.now();
        if at.is_some_and(|at| now.0 >= at.timestamp_millis()) {
            tracing::info!("it is time by the schedule");
            return Ok(());
        }
        if enough_bad_cases(services).await {
            settle(services).await;
            return Ok(());
        }
        let left = at.map_or(LOOK_EVERY, |at| {
            let millis = at.timestamp_millis().saturating_sub(now.0);
            Duration::from_millis(u64::try_from(millis).unwrap_or(0))
        });
        // Either a vote came, or it is time to look again.
        let _ = tokio::time::timeout(left.min(LOOK_EVERY), changes.changed()).await;
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

fn next_time(services: &Services) -> Result<Option<DateTime<Utc>>, TrainerError> {
    let cron = services.config.cron()?;
    let now = DateTime::<Utc>::from_timestamp_millis(services.clock.now().0).unwrap_or_default();
    Ok(cron.find_next_occurrence(&now, false).ok())
}
