//! Tells a job's history what training reports, from the thread that computes.

use std::time::Duration;

use fine_tuning::{
    Checkpoint, CheckpointMetrics, Event, EventKind, Job, Level, Method, Transition,
};
use ids::{JobId, UnixMillis};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::apply;
use super::results::Steps;
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
    /// All that was reported, whatever of it was dropped.
    steps: Steps,
}

impl Teller {
    /// A teller, and the task that writes what it hears until it is dropped.
    pub(super) fn start(services: &Services, job: &Job) -> (Self, JoinHandle<()>) {
        let (reports, receiver) = mpsc::channel(REPORTS_MAX);
        let (id, method) = (job.id.clone(), job.asked.method);
        let writing = tokio::spawn(write(services.clone(), id, method, receiver));
        let teller = Self {
            reports,
            last: StepMetrics::default(),
            best: None,
            steps: Steps::default(),
        };
        (teller, writing)
    }

    /// The validation of the epoch that was taken.
    pub(super) fn best(&self) -> Option<&EpochMetrics> {
        self.best.as_ref()
    }

    /// The figures of all steps.
    pub(super) fn steps(&self) -> &Steps {
        &self.steps
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
        self.steps.step(metrics);
        self.report(Report::Step(Box::new(metrics.clone())));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        if metrics.best {
            self.best = Some(metrics.clone());
        }
        self.steps.epoch(metrics);
        let last = Box::new(self.last.clone());
        self.report(Report::Epoch(last, metrics.clone()));
    }

    fn resumed(&mut self, curve: &Curve) {
        self.best = curve.best();
        self.steps = Steps::of(curve);
    }
}

async fn write(services: Services, id: JobId, method: Method, mut reports: mpsc::Receiver<Report>) {
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
                history.tell(&id, step_event(method, &step, now)).await
            }
            Report::Epoch(step, epoch) => {
                let checkpoint = checkpoint(method, &step, &epoch, now);
                let kept = history.checkpoint(&id, &checkpoint).await;
                match epoch.displacement() {
                    Some(problem) if kept.is_ok() => history.tell(&id, warning(problem, now)).await,
                    _ => kept,
                }
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

fn step_event(method: Method, step: &StepMetrics, now: UnixMillis) -> Event {
    let progress = Progress::of(step);
    let mut data = json!({
        "step": step.step,
        "total_steps": step.steps,
        "train_loss": step.loss,
        "tokens_per_second": progress.tokens_per_second,
        "seconds_left": progress.seconds_left,
        "memory_bytes": progress.memory_bytes,
        "memory_peak_bytes": progress.memory_peak_bytes,
    });
    if method == Method::Dpo {
        data["train_rewards_accuracy"] = json!(step.rewards_accuracies);
    }
    Event {
        number: 0,
        at: now,
        level: Level::Info,
        kind: EventKind::Metrics,
        message: format!(
            "Step {}/{}: training loss={:.4}",
            step.step, step.steps, step.loss
        ),
        data: Some(data),
    }
}

fn warning(message: String, now: UnixMillis) -> Event {
    Event {
        number: 0,
        at: now,
        level: Level::Warn,
        kind: EventKind::Message,
        message,
        data: None,
    }
}

/// Whether tokens are those of the answer is what imitation is about, and it is
/// measured on what is held out alone.
fn checkpoint(
    method: Method,
    step: &StepMetrics,
    epoch: &EpochMetrics,
    now: UnixMillis,
) -> Checkpoint {
    let is_imitated = method == Method::Supervised;
    Checkpoint {
        step: step.step as u64,
        at: now,
        metrics: CheckpointMetrics {
            step: Some(step.step as f64),
            train_loss: Some(step.loss),
            train_mean_token_accuracy: None,
            valid_loss: Some(epoch.loss),
            valid_mean_token_accuracy: is_imitated.then_some(epoch.token_accuracy),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_go_by_their_own_names() {
        let step = StepMetrics {
            rewards_accuracies: 0.75,
            ..StepMetrics::default()
        };
        let epoch = EpochMetrics {
            accuracy: 0.5,
            token_accuracy: 0.25,
            ..EpochMetrics::default()
        };
        for (method, rewards, tokens) in [
            (Method::Dpo, Some(0.75), None),
            (Method::Supervised, None, Some(0.25)),
        ] {
            let data = step_event(method, &step, UnixMillis(1)).data.unwrap();
            assert_eq!(data["train_rewards_accuracy"].as_f64(), rewards);
            assert!(data.get("train_mean_token_accuracy").is_none());
            let metrics = checkpoint(method, &step, &epoch, UnixMillis(1)).metrics;
            assert_eq!(metrics.train_mean_token_accuracy, None);
            assert_eq!(metrics.valid_mean_token_accuracy, tokens);
        }
    }
}
