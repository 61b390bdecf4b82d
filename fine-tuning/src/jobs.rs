//! All jobs: documents of the control state, changed by compare-and-set.

use std::sync::Arc;

use control::{AuditEntry, ControlError, ControlStore, DocKey, DocKind, Expected};
use ids::{FileId, JobId, Revision, UnixMillis};

use crate::FineTuningError;
use crate::job::{Command, Job, NewJob, Status, Transition};
use crate::place::corrupt;

/// The most jobs that wait or run.
pub const JOBS_ACTIVE_MAX: usize = 100;
/// The most jobs that are remembered; the oldest that have ended go first.
pub const JOBS_MAX: usize = 1000;
/// How often a change that somebody else overtook is tried again.
const ATTEMPTS_MAX: usize = 8;

const WHAT: &str = "fine-tuning job";

/// The jobs of one control store.
#[derive(Clone)]
pub struct Jobs {
    control: Arc<dyn ControlStore>,
    /// Who changes them, in the audit log.
    actor: String,
}

impl Jobs {
    /// The jobs in `control`, changed by `actor`.
    pub fn new(control: Arc<dyn ControlStore>, actor: impl Into<String>) -> Self {
        Self {
            control,
            actor: actor.into(),
        }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`FineTuningError::TooManyJobs`], or the store's.
    pub async fn create(
        &self,
        id: JobId,
        asked: NewJob,
        now: UnixMillis,
    ) -> Result<Job, FineTuningError> {
        let jobs = self.list().await?;
        let active = jobs.iter().filter(|job| !job.status.is_final()).count();
        if active >= JOBS_ACTIVE_MAX {
            return Err(FineTuningError::TooManyJobs(active));
        }
        let surplus = (jobs.len() + 1).saturating_sub(JOBS_MAX);
        let ended = jobs.iter().filter(|job| job.status.is_final());
        for old in ended.take(surplus) {
            let audit = self.audit("job.forget", now);
            self.control
                .delete(&key(&old.id)?, Expected::Any, audit)
                .await?;
        }
        let job = Job::new(id, asked, now);
        self.put(&job, Expected::Absent, "job.create", now).await?;
        Ok(job)
    }

    /// One job.
    ///
    /// # Errors
    /// [`FineTuningError::NoJob`], or the store's.
    pub async fn get(&self, id: &JobId) -> Result<Job, FineTuningError> {
        Ok(self.read(id).await?.1)
    }

    /// All jobs, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self) -> Result<Vec<Job>, FineTuningError> {
        let documents = self.control.list(DocKind::Job).await?.into_iter();
        let mut jobs = documents
            .map(|(key, document)| parsed(&key, document.body))
            .collect::<Result<Vec<Job>, _>>()?;
        jobs.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(jobs)
    }

    /// The job that has waited longest.
    ///
    /// # Errors
    /// The store's.
    pub async fn next(&self) -> Result<Option<Job>, FineTuningError> {
        let mut jobs = self.list().await?.into_iter();
        Ok(jobs.find(|job| job.status == Status::Queued))
    }

    /// A job that has not ended and needs `file`.
    ///
    /// # Errors
    /// The store's.
    pub async fn user_of(&self, file: &FileId) -> Result<Option<JobId>, FineTuningError> {
        let mut jobs = self.list().await?.into_iter();
        let user = jobs.find(|job| {
            let asked = &job.asked;
            let needs =
                asked.training_file == *file || asked.validation_file.as_ref() == Some(file);
            needs && !job.status.is_final()
        });
        Ok(user.map(|job| job.id))
    }

    /// Does what a job's owner asks.
    ///
    /// # Errors
    /// [`FineTuningError::NoJob`], [`FineTuningError::Impossible`], or the
    /// store's.
    pub async fn command(
        &self,
        id: &JobId,
        command: Command,
        now: UnixMillis,
    ) -> Result<Job, FineTuningError> {
        let action = match command {
            Command::Cancel => "job.cancel",
            Command::Pause => "job.pause",
            Command::Resume => "job.resume",
        };
        self.change(id, action, now, |job| job.command(command, now))
            .await
    }

    /// Does what the trainer makes of a job.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn transition(
        &self,
        id: &JobId,
        transition: Transition,
        now: UnixMillis,
    ) -> Result<Job, FineTuningError> {
        let action = match transition {
            Transition::Take => "job.take",
            Transition::Train => "job.train",
            Transition::Progress { .. } => "job.progress",
            Transition::Results(_) => "job.results",
            Transition::Yield => "job.yield",
            Transition::Succeed { .. } => "job.succeed",
            Transition::Fail(_) => "job.fail",
        };
        let next = |job: &Job| job.transition(transition.clone(), now).map(Some);
        self.change(id, action, now, next).await
    }

    async fn change(
        &self,
        id: &JobId,
        action: &str,
        now: UnixMillis,
        next: impl Fn(&Job) -> Result<Option<Job>, FineTuningError>,
    ) -> Result<Job, FineTuningError> {
        for _ in 0..ATTEMPTS_MAX {
            let (revision, job) = self.read(id).await?;
            let Some(changed) = next(&job)? else {
                return Ok(job);
            };
            let expected = Expected::Revision(revision);
            match self.put(&changed, expected, action, now).await {
                Ok(()) => return Ok(changed),
                Err(FineTuningError::Control(ControlError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(FineTuningError::Contended(id.clone()))
    }

    async fn read(&self, id: &JobId) -> Result<(Revision, Job), FineTuningError> {
        let key = key(id)?;
        let document = self.control.get(&key).await?;
        let document = document.ok_or_else(|| FineTuningError::NoJob(id.clone()))?;
        Ok((document.revision, parsed(&key, document.body)?))
    }

    async fn put(
        &self,
        job: &Job,
        expected: Expected,
        action: &str,
        now: UnixMillis,
    ) -> Result<(), FineTuningError> {
        let body = serde_json::to_value(job).map_err(|error| corrupt(WHAT, &job.id, &error))?;
        let audit = self.audit(action, now);
        self.control
            .put(&key(&job.id)?, body, expected, audit)
            .await?;
        Ok(())
    }

    fn audit(&self, action: &str, now: UnixMillis) -> AuditEntry {
        AuditEntry {
            actor: self.actor.clone(),
            action: action.to_owned(),
            at: now,
        }
    }
}

fn key(id: &JobId) -> Result<DocKey, ControlError> {
    DocKey::new(DocKind::Job, id.as_str())
}

fn parsed(key: &DocKey, body: serde_json::Value) -> Result<Job, FineTuningError> {
    serde_json::from_value(body).map_err(|error| corrupt(WHAT, &key.name(), &error))
}
