//! The process that waits beside the gateway and trains when it is time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Notify;

use crate::attempts::{Attempts, Next};
use crate::calendar::Calendar;
use crate::journal::{State, replace};
use crate::pipeline::{RunOutcome, resume, run_once};
use crate::retention::make_room;
use crate::services::Services;
use crate::{TrainerError, jobs, leftovers};

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

/// What goes on from one thing that is due to the next.
struct Sidecar<'a> {
    services: &'a Services,
    stop: &'a Stop,
    calendar: Calendar,
    runs: Attempts,
    jobs: Attempts,
    /// A run may be there to go on with: of a trainer before this one, one that
    /// lost the lease, or one that failed after it was trained.
    may_be_interrupted: bool,
}

/// Goes on with a run that was interrupted, then waits and trains until `stop`.
///
/// # Errors
/// When the status file cannot be written or the schedule is wrong; failed
/// runs are logged and tried again.
pub async fn sidecar(services: &Services, stop: &Stop) -> Result<(), TrainerError> {
    let (root, now) = (services.journal.root(), services.clock.now());
    let mut sidecar = Sidecar {
        services,
        stop,
        calendar: Calendar::open(root, services.config.cron()?, now)?,
        runs: Attempts::default(),
        jobs: Attempts::default(),
        may_be_interrupted: true,
    };
    services
        .journal
        .update(services.clock.now(), |status| status.state = State::Waiting)?;
    while !stop.is_set() {
        let due = tokio::select! {
            () = stop.wait() => return Ok(()),
            due = sidecar.due() => due,
        };
        clean(services).await;
        match due {
            Due::Interrupted => sidecar.go_on().await?,
            Due::Run => sidecar.run().await?,
            Due::Job(job) => sidecar.job(*job).await,
        }
    }
    Ok(())
}

/// Removes what is kept for a while only.
async fn clean(services: &Services) {
    if let Err(error) = jobs::forget(services).await {
        tracing::warn!(%error, "folders of old jobs were not removed");
    }
    if let Err(error) = leftovers::forget(services) {
        tracing::warn!(%error, "what old runs left was not removed");
    }
}

impl Sidecar<'_> {
    async fn go_on(&mut self) -> Result<(), TrainerError> {
        self.may_be_interrupted = false;
        match again(self.services, self.stop).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => {
                self.runs.went_well();
                write_metrics(self.services, 0)
            }
            Err(error) => self.went_wrong(&error),
        }
    }

    async fn run(&mut self) -> Result<(), TrainerError> {
        match run(self.services, self.stop).await {
            Ok(RunOutcome::Judged(_) | RunOutcome::Unchanged(_)) => {
                self.runs.went_well();
                self.calendar.served(self.services.clock.now())?;
                write_metrics(self.services, 0)
            }
            Err(error) => self.went_wrong(&error),
        }
    }

    async fn job(&mut self, job: fine_tuning::Job) {
        match work(self.services, job, self.stop).await {
            Ok(()) => self.jobs.went_well(),
            Err(_) if self.stop.is_set() => {}
            Err(error) => {
                let (schedule, now) = (&self.services.config.schedule, Instant::now());
                match self.jobs.went_wrong(&error, schedule, now) {
                    Next::Busy => tracing::info!("another trainer is at work; jobs wait"),
                    _ => tracing::error!(%error, "the job was not done and waits"),
                }
            }
        }
    }

    /// Says that a run failed, and whether its time counts as served all the
    /// same.
    fn went_wrong(&mut self, error: &TrainerError) -> Result<(), TrainerError> {
        if self.stop.is_set() {
            return Ok(());
        }
        let (services, is_lost) = (self.services, is_lost(error));
        let error = if is_lost {
            &TrainerError::LeaseLost
        } else {
            error
        };
        let schedule = &services.config.schedule;
        let next = self.runs.went_wrong(error, schedule, Instant::now());
        let (failures, now) = (self.runs.failures(), services.clock.now());
        self.may_be_interrupted = matches!(next, Next::Busy | Next::Again);
        match next {
            Next::Busy => {
                tracing::info!("another trainer is at work; the run waits");
                return Ok(());
            }
            Next::Again => tracing::error!(%error, failures, "the run failed"),
            Next::Served => {
                tracing::error!(%error, "the run is not done with this data");
                self.calendar.served(now)?;
            }
            Next::GivenUp => {
                tracing::error!(%error, failures, "the run is given up until its next time");
                let detail = json!({ "failures": failures, "error": error.to_string() });
                services.journal.event(now, "run_given_up", detail)?;
                self.calendar.served(now)?;
            }
        }
        write_metrics(services, failures)
    }

    /// Returns when something is due: a run to go on with, one at the scheduled
    /// time, or when enough bad cases wait and votes have paused; and any job
    /// that waits. What failed is left alone for a while, the rest is not.
    async fn due(&self) -> Due {
        let (services, at) = (self.services, self.calendar.next());
        let (mut changes, mut control) = (services.feedback.changes(), services.control.changes());
        loop {
            let now = services.clock.now();
            let pauses = [&self.runs, &self.jobs].map(|kind| kind.pause(Instant::now()));
            if pauses[0].is_none() {
                if self.may_be_interrupted {
                    return Due::Interrupted;
                }
                if at.is_some_and(|at| now >= at) {
                    tracing::info!("it is time by the schedule");
                    return Due::Run;
                }
                if enough_bad_cases(services).await {
                    settle(services).await;
                    return Due::Run;
                }
            }
            if pauses[1].is_none() {
                match jobs::next(services).await {
                    Ok(Some(job)) => return Due::Job(Box::new(job)),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "the jobs could not be read"),
                }
            }
            let scheduled = at.map(|at| at.since(now)).filter(|left| !left.is_zero());
            let left = [scheduled, pauses[0], pauses[1]].into_iter().flatten();
            // A vote or a job came, or it is time to look again.
            let news = async {
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = control.changed() => {}
                }
            };
            let left = left.fold(LOOK_EVERY, Duration::min);
            let _ = tokio::time::timeout(left, news).await;
        }
    }
}

/// Whether work ended since the lease was, or is, another's: the process
/// itself was not asked to stop.
fn is_lost(error: &TrainerError) -> bool {
    matches!(error, TrainerError::LeaseLost | TrainerError::Stopped)
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

/// One job that stops early when the process is asked to.
async fn work(services: &Services, job: fine_tuning::Job, stop: &Stop) -> Result<(), TrainerError> {
    let (flag, watcher) = stop.run_flag();
    let result = jobs::work(services, job, flag).await;
    watcher.abort();
    result
}

/// What is to be done.
enum Due {
    /// A run that was interrupted, if there is one.
    Interrupted,
    /// A run on feedback.
    Run,
    /// A fine-tuning job.
    Job(Box<fine_tuning::Job>),
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
