//! What a run leaves behind: its folder, the status file and the event log.
//!
//! `DATA/trainer/status.json` is replaced as a whole, so that a reader sees
//! one state or the next. `events.jsonl` beside it only grows.
//! `DATA/trainer/runs/RUN/` holds the loss curve and the report.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use ids::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::TrainerError;
use crate::progress::Progress;
use crate::train::StepMetrics;

/// The event log starts anew, with the old one kept beside it, at this size.
const EVENTS_BYTES_MAX: u64 = 64 << 20;
/// How often progress is an event; each step is in the status.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What the trainer does now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waiting for bad cases or the time.
    #[default]
    Waiting,
    /// Reading feedback and making pairs.
    Collecting,
    /// Trying the data on the smaller base.
    Trying,
    /// Training.
    Training,
    /// Letting candidate and incumbent answer.
    Evaluating,
    /// Storing the candidate.
    Publishing,
    /// The last run has ended.
    Finished,
    /// The last run failed.
    Failed,
}

/// The status file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// What happens now.
    pub state: State,
    /// The current or last run.
    pub run_id: Option<String>,
    /// Optimizer steps done.
    pub step: usize,
    /// Optimizer steps of the run.
    pub steps: usize,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Its reward margin.
    pub margin: Option<f64>,
    /// Unpadded policy tokens a second since training began.
    pub tokens_per_second: Option<f64>,
    /// Seconds that training will still take.
    pub eta_seconds: Option<f64>,
    /// What the process has resident.
    pub memory_bytes: Option<u64>,
    /// The most that it had.
    pub memory_peak_bytes: Option<u64>,
    /// `published`, `refused`, `unchanged` or `failed`, once the run has ended.
    pub outcome: Option<String>,
    /// The version that was published.
    pub digest: Option<String>,
    /// Why it was refused, or failed.
    pub reasons: Vec<String>,
    /// The evaluation report.
    pub report: Option<PathBuf>,
    /// When this was written.
    pub updated_at: UnixMillis,
}

/// The trainer's folder.
pub struct Journal {
    root: PathBuf,
    status: Mutex<Status>,
    /// When progress was an event.
    progress_told: Mutex<Option<UnixMillis>>,
}

impl Journal {
    /// Opens `data/trainer`, made if it is missing.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn open(data: &Path) -> Result<Self, TrainerError> {
        let root = data.join("trainer");
        std::fs::create_dir_all(root.join("runs")).map_err(TrainerError::file(&root))?;
        Ok(Self {
            root,
            status: Mutex::default(),
            progress_told: Mutex::default(),
        })
    }

    /// The trainer's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder of a new run and resets the status for it.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn begin(&self, run_id: &str, now: UnixMillis) -> Result<PathBuf, TrainerError> {
        let folder = self.root.join("runs").join(run_id);
        std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
        let run_id = Some(run_id.to_owned());
        self.update(now, |status| {
            *status = Status {
                state: State::Collecting,
                run_id,
                ..Status::default()
            };
        })?;
        self.event(now, "run_started", json!({}))?;
        Ok(folder)
    }

    /// Changes the status and writes it.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn update(
        &self,
        now: UnixMillis,
        change: impl FnOnce(&mut Status),
    ) -> Result<(), TrainerError> {
        let mut status = self.lock();
        change(&mut status);
        status.updated_at = now;
        let text = serde_json::to_string_pretty(&*status).unwrap_or_default();
        replace(&self.root.join("status.json"), text.as_bytes())
    }

    /// Enters a state.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn enter(&self, state: State, now: UnixMillis) -> Result<(), TrainerError> {
        self.update(now, |status| status.state = state)?;
        self.event(now, "state", json!({ "state": state }))
    }

    /// Appends to the event log.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn event(&self, now: UnixMillis, kind: &str, detail: Value) -> Result<(), TrainerError> {
        let path = self.root.join("events.jsonl");
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > EVENTS_BYTES_MAX) {
            let old = self.root.join("events.old.jsonl");
            std::fs::rename(&path, &old).map_err(TrainerError::file(&old))?;
        }
        let run_id = self.lock().run_id.clone();
        let line = json!({ "at": now, "run_id": run_id, "event": kind, "detail": detail });
        append(&path, &line.to_string())
    }

    /// Notes an optimizer step in the status and in the run's loss curve.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn step(
        &self,
        folder: &Path,
        m: &StepMetrics,
        now: UnixMillis,
    ) -> Result<(), TrainerError> {
        let progress = Progress::of(m);
        tracing::info!("{}", progress.text());
        self.update(now, |status| {
            (status.step, status.steps) = (m.step, m.steps);
            status.loss = Some(progress.loss);
            status.margin = Some(progress.margin);
            status.tokens_per_second = Some(progress.tokens_per_second);
            status.eta_seconds = Some(progress.seconds_left);
            status.memory_bytes = progress.memory_bytes;
            status.memory_peak_bytes = progress.memory_peak_bytes;
        })?;
        if self.is_progress_due(now) || m.step == m.steps {
            self.event(now, "progress", json!(progress))?;
        }
        let line = serde_json::to_string(m).unwrap_or_default();
        append(&folder.join("steps.jsonl"), &line)
    }

    fn is_progress_due(&self, now: UnixMillis) -> bool {
        let told = self.progress_told.lock();
        let mut told = told.unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = told.is_none_or(|told| now.since(told) >= PROGRESS_EVERY);
        if due {
            *told = Some(now);
        }
        due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Replaces a file as a whole.
///
/// # Errors
/// [`TrainerError::File`].
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainerError> {
    let next = path.with_extension("next");
    let write = || {
        let mut file = File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&next, path)
    };
    write().map_err(TrainerError::file(path))
}

/// Appends a line.
pub(crate) fn append(path: &Path, line: &str) -> Result<(), TrainerError> {
    let write = || {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())
    };
    write().map_err(TrainerError::file(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_whole_and_events_grow() {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::open(data.path()).unwrap();
        let folder = journal.begin("run-1", UnixMillis(5)).unwrap();
        let metrics = StepMetrics {
            step: 1,
            steps: 4,
            num_tokens: 100,
            seconds: 2.0,
            rewards_margins: 0.25,
            ..StepMetrics::default()
        };
        journal.step(&folder, &metrics, UnixMillis(6)).unwrap();
        journal.enter(State::Evaluating, UnixMillis(7)).unwrap();
        let text = std::fs::read(data.path().join("trainer/status.json")).unwrap();
        let status: Status = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (status.state, status.step, status.steps),
            (State::Evaluating, 1, 4)
        );
        assert_eq!(
            (status.tokens_per_second, status.eta_seconds),
            (Some(50.0), Some(6.0))
        );
        assert_eq!((status.loss, status.margin), (Some(0.0), Some(0.25)));
        assert_eq!(
            (status.run_id.as_deref(), status.outcome),
            (Some("run-1"), None)
        );
        assert!(status.memory_bytes > Some(0) && status.memory_peak_bytes >= status.memory_bytes);
        assert_eq!(events(data.path()), ["run_started", "progress", "state"]);
    }

    fn events(data: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(data.join("trainer/events.jsonl")).unwrap();
        let event = |line: &str| -> String {
            let event: Value = serde_json::from_str(line).unwrap();
            event["event"].as_str().unwrap().to_owned()
        };
        text.lines().map(event).collect()
    }

    #[test]
    fn progress_is_an_event_now_and_then_and_at_the_end() {
        let data = tempfile::tempdir().unwrap();
        let journal = Journal::open(data.path()).unwrap();
        let folder = journal.begin("run-1", UnixMillis(0)).unwrap();
        for step in 1..=30 {
            let metrics = StepMetrics {
                step,
                steps: 30,
                seconds: step as f64,
                ..StepMetrics::default()
            };
            // a second a step: the first, the 11th, the 21st and the last
            let now = UnixMillis(1000 * step as i64);
            journal.step(&folder, &metrics, now).unwrap();
        }
        let told = events(data.path());
        assert_eq!(told.iter().filter(|event| *event == "progress").count(), 4);
        let text = std::fs::read_to_string(data.path().join("trainer/events.jsonl")).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let detail: Progress = serde_json::from_value(last["detail"].clone()).unwrap();
        assert_eq!((detail.step, detail.seconds_left), (30, 0.0));
        assert!(detail.memory_peak_bytes > Some(0));
    }
}
