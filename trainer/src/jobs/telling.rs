//! Tells a job's history what training reports, from the thread that computes.

use std::time::Duration;

use fine_tuning::{Checkpoint, CheckpointMetrics, Event, EventKind, Level, Transition};
use ids::{JobId, UnixMillis};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::apply;
use crate::progress::Progress;
use crate::services::Services;
use crate::train::{Curve, EpochMetrics, Observer, StepMetrics};

/// Reports that wait to be written; more are dropped.
const REPORTS_MAX: usize = 256;
/// How often a job's progress is written at most.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

enum Report {
    Step(Box<StepMetrics>),
    Epoch(Box<StepMetrics>, EpochMetrics),
}

/// Hears what training reports.
pub(super) struct Teller {
    reports: mpsc::Sender<Report>,
    last: StepMetrics,
    /// The best validation so far.
    best: Option<EpochMetrics>,
}

impl Teller {
    /// A teller, and the task that writes what it hears until it is dropped.
    pub(super) fn start(services: &Services, id: &JobId) -> (Self, JoinHandle<()>) {
        let (reports, receiver) = mpsc::channel(REPORTS_MAX);
        let writing = tokio::spawn(write(services.clone(), id.clone(), receiver));
        let teller = Self {
            reports,
            last: StepMetrics::default(),
            best: None,
        };
        (teller, writing)
    }

    /// The validation of the epoch that was taken.
    pub(super) fn best(&self) -> Option<&EpochMetrics> {
        self.best.as_ref()
    }

    fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::debug!("a report of the job is dropped: too many wait");
        }
    }
}

impl Observer for Teller {
    fn step(&mut self, metrics: &StepMetrics) {
        self.last = metrics.clone();
        self.report(Report::Step(Box::new(metrics.clone())));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        if metrics.best {
            self.best = Some(metrics.clone());
        }
        let last = Box::new(self.last.clone());
        self.report(Report::Epoch(last, metrics.clone()));
    }

    fn resumed(&mut self, curve: &Curve) {
        self.best = curve.best();
    }
}

async fn write(services: Services, id: JobId, mut reports: mpsc::Receiver<Report>) {
    let history = &services.tuning.history;
    let mut told = UnixMillis(0);
    while let Some(report) = reports.recv().await {
        let now = services.clock.now();
        let written = match report {
            Report::Step(step) => {
                if now.since(told) >= PROGRESS_EVERY {
                    told = now;
                    progress(&services, &id, &step, now).await;
                }
                history.tell(&id, step_event(&step, now)).await
            }
            Report::Epoch(step, epoch) => {
                let checkpoint = checkpoint(&step, &epoch, now);
                history.checkpoint(&id, &checkpoint).await
            }
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the job's progress was not kept");
        }
    }
}

async fn progress(services: &Services, id: &JobId, step: &StepMetrics, now: UnixMillis) {
    let seconds = Progress::of(step).seconds_left;
    let progress = Transition::Progress {
        estimated_finish: now.plus(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))),
        trained_tokens: step.num_tokens,
    };
    if let Err(error) = apply(services, id, progress).await {
        tracing::warn!(%error, "the job's progress was not written");
    }
}

fn step_event(step: &StepMetrics, now: UnixMillis) -> Event {
    let progress = Progress::of(step);
    Event {
        number: 0,
        at: now,
        level: Level::Info,
        kind: EventKind::Metrics,
        message: format!(
            "Step {}/{}: training loss={:.4}",
            step.step, step.steps, step.loss
        ),
        data: Some(json!({
            "step": step.step,
            "total_steps": step.steps,
            "train_loss": step.loss,
            "train_mean_token_accuracy": step.rewards_accuracies,
            "tokens_per_second": progress.tokens_per_second,
            "seconds_left": progress.seconds_left,
            "memory_bytes": progress.memory_bytes,
            "memory_peak_bytes": progress.memory_peak_bytes,
        })),
    }
}

fn checkpoint(step: &StepMetrics, epoch: &EpochMetrics, now: UnixMillis) -> Checkpoint {
    Checkpoint {
        step: step.step as u64,
        at: now,
        metrics: CheckpointMetrics {
            step: Some(step.step as f64),
            train_loss: Some(step.loss),
            train_mean_token_accuracy: Some(step.rewards_accuracies),
            valid_loss: Some(epoch.loss),
            valid_mean_token_accuracy: Some(epoch.accuracy),
        },
    }
}
