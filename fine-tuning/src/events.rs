//! What happened to a job, and its checkpoints: numbered objects, each created
//! once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ids::{JobId, UnixMillis};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::FineTuningError;
use crate::place::Place;

/// The most events of one job; later ones are dropped.
pub const EVENTS_MAX: usize = 10_000;
/// The most events or checkpoints in one answer.
pub const PAGE_MAX: usize = 1000;
/// The longest message.
const MESSAGE_CHARS_MAX: usize = 2000;
/// Another process may number at the same time.
const ATTEMPTS_MAX: usize = 16;

/// How grave an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Info,
    /// Worth a look.
    Warn,
    /// It went wrong.
    Error,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Something happened.
    Message,
    /// A step's metrics.
    Metrics,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place among the job's events, from 1.
    pub number: u64,
    /// When.
    pub at: UnixMillis,
    /// How grave.
    pub level: Level,
    /// What kind.
    pub kind: EventKind,
    /// For people.
    pub message: String,
    /// For programs.
    pub data: Option<Value>,
}

/// A model that training could stop at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The optimizer step after which it was taken.
    pub step: u64,
    /// When.
    pub at: UnixMillis,
    /// How good it is.
    pub metrics: CheckpointMetrics,
}

/// How good a checkpoint is; what was not measured is none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointMetrics {
    /// The optimizer step.
    pub step: Option<f64>,
    /// Loss of the last training step.
    pub train_loss: Option<f64>,
    /// Share of trained tokens that were the likeliest in the last step.
    pub train_mean_token_accuracy: Option<f64>,
    /// Loss on the validation data.
    pub valid_loss: Option<f64>,
    /// Share of the validation answers' tokens that are the likeliest.
    pub valid_mean_token_accuracy: Option<f64>,
}

/// The most jobs whose last event's number is remembered; with more, all are
/// forgotten and looked up again.
const REMEMBERED_MAX: usize = 64;

/// The histories of all jobs at one place.
#[derive(Debug, Clone)]
pub struct History {
    place: Place,
    /// The number of the last event that was told here, so that not all are
    /// listed for each. Another process may have told more: numbers that are
    /// taken are passed over.
    last: Arc<Mutex<HashMap<JobId, u64>>>,
}

fn folder(job: &JobId, what: &str) -> Path {
    Path::from_iter(["jobs", job.as_str(), what])
}

fn numbered(job: &JobId, what: &str, number: u64) -> Path {
    // ten digits, so that names sort as numbers do
    Path::from_iter(["jobs", job.as_str(), what, &format!("{number:010}")])
}

impl History {
    /// The histories at `place`.
    #[must_use]
    pub fn new(place: Place) -> Self {
        let last = Arc::default();
        Self { place, last }
    }

    /// Adds an event to a job's, with the next number.
    ///
    /// # Errors
    /// The storage's.
    pub async fn tell(&self, job: &JobId, event: Event) -> Result<(), FineTuningError> {
        let message = event.message.chars().take(MESSAGE_CHARS_MAX).collect();
        let mut event = Event { message, ..event };
        event.number = match self.remembered(job) {
            Some(last) => last,
            None => self.last_number(job).await?,
        };
        for _ in 0..ATTEMPTS_MAX {
            if event.number >= EVENTS_MAX as u64 {
                tracing::debug!(%job, "the job has too many events; this one is dropped");
                self.remember(job, event.number);
                return Ok(());
            }
            event.number += 1;
            let path = numbered(job, "events", event.number);
            if self.place.create(&path, "event", &event).await? {
                self.remember(job, event.number);
                return Ok(());
            }
        }
        self.lock().remove(job);
        Err(FineTuningError::Contended(job.clone()))
    }

    async fn last_number(&self, job: &JobId) -> Result<u64, FineTuningError> {
        let told = self.place.names(&folder(job, "events"), EVENTS_MAX).await?;
        Ok(told.last().and_then(|name| name.parse().ok()).unwrap_or(0))
    }

    fn remembered(&self, job: &JobId) -> Option<u64> {
        self.lock().get(job).copied()
    }

    fn remember(&self, job: &JobId, number: u64) {
        let mut last = self.lock();
        if last.len() >= REMEMBERED_MAX && !last.contains_key(job) {
            last.clear();
        }
        last.insert(job.clone(), number);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, u64>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job's events before the one numbered `before`, newest first, at most
    /// `limit`; and whether there are more.
    ///
    /// # Errors
    /// The storage's.
    pub async fn events(
        &self,
        job: &JobId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Event>, bool), FineTuningError> {
        self.page(job, "events", before, limit).await
    }

    /// Keeps a checkpoint's metrics. A step that has one keeps it.
    ///
    /// # Errors
    /// The storage's.
    pub async fn checkpoint(
        &self,
        job: &JobId,
        checkpoint: &Checkpoint,
    ) -> Result<(), FineTuningError> {
        let path = numbered(job, "checkpoints", checkpoint.step);
        self.place.create(&path, "checkpoint", checkpoint).await?;
        Ok(())
    }

    /// A job's checkpoints of steps before `before`, newest first, at most
    /// `limit`; and whether there are more.
    ///
    /// # Errors
    /// The storage's.
    pub async fn checkpoints(
        &self,
        job: &JobId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Checkpoint>, bool), FineTuningError> {
        self.page(job, "checkpoints", before, limit).await
    }

    async fn page<T: serde::de::DeserializeOwned>(
        &self,
        job: &JobId,
        what: &'static str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<T>, bool), FineTuningError> {
        let names = self.place.names(&folder(job, what), EVENTS_MAX).await?;
        let numbers = names.iter().filter_map(|name| name.parse::<u64>().ok());
        let mut wanted: Vec<u64> = numbers
            .filter(|number| before.is_none_or(|before| *number < before))
            .collect();
        wanted.reverse();
        let limit = limit.min(PAGE_MAX);
        let has_more = wanted.len() > limit;
        wanted.truncate(limit);
        let mut page = Vec::with_capacity(wanted.len());
        for number in wanted {
            page.extend(
                self.place
                    .record(&numbered(job, what, number), what)
                    .await?,
            );
        }
        Ok((page, has_more))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn history() -> (History, History) {
        let place = Place::with(Arc::new(InMemory::new()));
        (History::new(place.clone()), History::new(place))
    }

    fn event() -> Event {
        Event {
            number: 0,
            at: UnixMillis(1),
            level: Level::Info,
            kind: EventKind::Message,
            message: "m".to_owned(),
            data: None,
        }
    }

    #[tokio::test]
    async fn two_processes_number_one_after_another() {
        let (one, other) = history();
        let job = JobId::new("ftjob-1").unwrap();
        for teller in [&one, &one, &other, &one, &other, &one] {
            teller.tell(&job, event()).await.unwrap();
        }
        let (events, more) = one.events(&job, None, 100).await.unwrap();
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        assert_eq!((numbers, more), (vec![6, 5, 4, 3, 2, 1], false));
    }

    #[tokio::test]
    async fn events_and_what_is_remembered_of_them_are_bounded() {
        let (history, other) = history();
        let job = JobId::new("ftjob-1").unwrap();
        history.remember(&job, EVENTS_MAX as u64 - 1);
        for _ in 0..3 {
            history.tell(&job, event()).await.unwrap();
        }
        let (events, _) = history.events(&job, None, 10).await.unwrap();
        assert_eq!(events.len(), 1, "the last that there is room for");
        assert_eq!(events[0].number, EVENTS_MAX as u64);
        // another that knows only what is kept finds it full too
        other.tell(&job, event()).await.unwrap();
        assert_eq!(other.events(&job, None, 10).await.unwrap().0.len(), 1);
        for number in 0..2 * REMEMBERED_MAX {
            let job = JobId::new(format!("ftjob-{number}")).unwrap();
            history.tell(&job, event()).await.unwrap();
            assert!(history.lock().len() <= REMEMBERED_MAX);
        }
    }
}
