//! What a job is, and which states lead to which. Pure.

use std::collections::BTreeMap;
use std::fmt;

use ids::{AdapterDigest, AliasName, FileId, JobId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::FineTuningError;

/// The longest suffix of a fine-tuned model's name.
pub const SUFFIX_CHARS_MAX: usize = 64;
/// The most entries of a job's metadata.
pub const METADATA_MAX: usize = 16;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for the trainer.
    Queued,
    /// The trainer reads and checks its files.
    ValidatingFiles,
    /// It is trained, or judged.
    Running,
    /// Held by its owner; goes on from the last checkpoint when it is resumed.
    Paused,
    /// Its adapter is published.
    Succeeded,
    /// It could not be done, or what came out was refused.
    Failed,
    /// Given up by its owner.
    Cancelled,
}

impl Status {
    /// Whether the job stays as it is.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether the trainer is at it.
    #[must_use]
    pub const fn is_in_work(self) -> bool {
        matches!(self, Self::ValidatingFiles | Self::Running)
    }

    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::ValidatingFiles => "validating_files",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is learned from the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Answers are imitated.
    Supervised,
    /// One answer is preferred to another.
    Dpo,
}

/// What the owner set; whatever is none is the trainer's choice.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HyperParameters {
    /// Passes over the data.
    pub n_epochs: Option<u32>,
    /// Examples of one optimizer step.
    pub batch_size: Option<u32>,
    /// Multiplies the trainer's configured learning rate.
    pub learning_rate_multiplier: Option<f64>,
    /// DPO's β.
    pub beta: Option<f64>,
}

/// What an owner asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewJob {
    /// The model to tune, as the owner calls it.
    pub model: String,
    /// The version that training continues; none starts a new adapter.
    pub start: Option<AdapterDigest>,
    /// What is learned.
    pub method: Method,
    /// How.
    pub hyperparameters: HyperParameters,
    /// What it is learned from.
    pub training_file: FileId,
    /// What it is judged by; by default a part of the training file.
    pub validation_file: Option<FileId>,
    /// Part of the fine-tuned model's name.
    pub suffix: Option<String>,
    /// Of the order of the data and of new factors.
    pub seed: u32,
    /// The owner's notes.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs, for example `invalid_training_file`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What was asked for.
    #[serde(flatten)]
    pub asked: NewJob,
    /// Where it stands.
    pub status: Status,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// When it came to its final state.
    pub finished_at: Option<UnixMillis>,
    /// When it will probably be done.
    pub estimated_finish: Option<UnixMillis>,
    /// The name under which the outcome is served.
    pub fine_tuned_model: Option<AliasName>,
    /// The outcome.
    pub adapter: Option<AdapterDigest>,
    /// The optimizer step of the checkpoint that became the outcome.
    #[serde(default)]
    pub step: Option<u64>,
    /// Unpadded tokens that were trained.
    pub trained_tokens: Option<u64>,
    /// Files that tell what came of it: the figures of its steps, and its evaluation.
    #[serde(default)]
    pub result_files: Vec<FileId>,
    /// Why it failed.
    pub error: Option<Failure>,
}

/// What an owner may do with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Give it up.
    Cancel,
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
}

/// What the trainer makes of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// Takes it, and reads its files.
    Take,
    /// Trains.
    Train,
    /// Says when it will be done, and how far it is.
    Progress {
        /// When.
        estimated_finish: UnixMillis,
        /// Unpadded tokens trained so far.
        trained_tokens: u64,
    },
    /// Names the files that tell what came of it, instead of any before.
    Results(Vec<FileId>),
    /// Puts it back, since the trainer stops.
    Yield,
    /// Published.
    Succeed {
        /// The name under which it is served.
        model: AliasName,
        /// The version.
        adapter: AdapterDigest,
        /// The optimizer step of its checkpoint.
        step: u64,
        /// Unpadded tokens trained.
        trained_tokens: u64,
    },
    /// Not done.
    Fail(Failure),
}

impl Job {
    /// A job that waits.
    #[must_use]
    pub fn new(id: JobId, asked: NewJob, now: UnixMillis) -> Self {
        Self {
            id,
            asked,
            status: Status::Queued,
            created_at: now,
            finished_at: None,
            estimated_finish: None,
            fine_tuned_model: None,
            adapter: None,
            step: None,
            trained_tokens: None,
            result_files: Vec::new(),
            error: None,
        }
    }

    /// Does what the owner asks; none where it is so already.
    ///
    /// # Errors
    /// [`FineTuningError::Impossible`].
    pub fn command(
        &self,
        command: Command,
        now: UnixMillis,
    ) -> Result<Option<Self>, FineTuningError> {
        let (wanted, status) = match (command, self.status) {
            (Command::Cancel, Status::Cancelled)
            | (Command::Pause, Status::Paused)
            | (Command::Resume, Status::Queued | Status::ValidatingFiles | Status::Running) => {
                return Ok(None);
            }
            (Command::Cancel, status) => (
                "cancelled",
                (!status.is_final()).then_some(Status::Cancelled),
            ),
            (Command::Pause, status) => ("paused", (!status.is_final()).then_some(Status::Paused)),
            (Command::Resume, status) => {
                let held = status == Status::Paused;
                ("resumed", held.then_some(Status::Queued))
            }
        };
        let status = status.ok_or_else(|| self.impossible(wanted))?;
        Ok(Some(self.with_status(status, now)))
    }

    /// Does what the trainer says.
    ///
    /// # Errors
    /// [`FineTuningError::Impossible`], above all when the owner has paused or
    /// cancelled it meanwhile.
    pub fn transition(
        &self,
        transition: Transition,
        now: UnixMillis,
    ) -> Result<Self, FineTuningError> {
        let is_possible = match transition {
            Transition::Take => self.status == Status::Queued,
            _ => self.status.is_in_work(),
        };
        if !is_possible {
            let wanted = match transition {
                Transition::Take => "taken",
                Transition::Train | Transition::Progress { .. } => "trained",
                Transition::Results(_) => "judged",
                Transition::Yield => "put back",
                Transition::Succeed { .. } => "published",
                Transition::Fail(_) => "failed",
            };
            return Err(self.impossible(wanted));
        }
        let next = match transition {
            Transition::Take => self.with_status(Status::ValidatingFiles, now),
            Transition::Train => self.with_status(Status::Running, now),
            Transition::Progress {
                estimated_finish,
                trained_tokens,
            } => Self {
                estimated_finish: Some(estimated_finish),
                trained_tokens: Some(trained_tokens),
                ..self.with_status(Status::Running, now)
            },
            Transition::Results(files) => Self {
                result_files: files,
                ..self.clone()
            },
            Transition::Yield => self.with_status(Status::Queued, now),
            Transition::Succeed {
                model,
                adapter,
                step,
                trained_tokens,
            } => Self {
                fine_tuned_model: Some(model),
                adapter: Some(adapter),
                step: Some(step),
                trained_tokens: Some(trained_tokens),
                ..self.with_status(Status::Succeeded, now)
            },
            Transition::Fail(failure) => Self {
                error: Some(failure),
                ..self.with_status(Status::Failed, now)
            },
        };
        Ok(next)
    }

    fn with_status(&self, status: Status, now: UnixMillis) -> Self {
        let keeps_estimate = status == Status::Running;
        Self {
            status,
            finished_at: status.is_final().then_some(now),
            estimated_finish: self.estimated_finish.filter(|_| keeps_estimate),
            ..self.clone()
        }
    }

    fn impossible(&self, wanted: &'static str) -> FineTuningError {
        FineTuningError::Impossible {
            job: self.id.clone(),
            status: self.status,
            wanted,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn job() -> Job {
        let asked = NewJob {
            model: "m".to_owned(),
            start: None,
            method: Method::Dpo,
            hyperparameters: HyperParameters::default(),
            training_file: FileId::new("file-1").unwrap(),
            validation_file: None,
            suffix: None,
            seed: 1,
            metadata: BTreeMap::new(),
        };
        Job::new(JobId::new("ftjob-1").unwrap(), asked, UnixMillis(1))
    }

    #[test]
    fn a_job_is_taken_trained_and_published() {
        let now = UnixMillis(5);
        let job = job().transition(Transition::Take, now).unwrap();
        assert_eq!(job.status, Status::ValidatingFiles);
        let job = job.transition(Transition::Train, now).unwrap();
        let progress = Transition::Progress {
            estimated_finish: UnixMillis(90),
            trained_tokens: 10,
        };
        let job = job.transition(progress, now).unwrap();
        assert_eq!(job.estimated_finish, Some(UnixMillis(90)));
        let files = vec![FileId::new("file-2").unwrap()];
        let job = job
            .transition(Transition::Results(files.clone()), now)
            .unwrap();
        assert_eq!(
            (job.status, job.estimated_finish),
            (Status::Running, Some(UnixMillis(90)))
        );
        let done = Transition::Succeed {
            model: AliasName::new("ft:m:x").unwrap(),
            adapter: AdapterDigest::of_files(b"a", b"b"),
            step: 7,
            trained_tokens: 20,
        };
        let job = job.transition(done, UnixMillis(80)).unwrap();
        assert_eq!(
            (job.status, job.finished_at),
            (Status::Succeeded, Some(UnixMillis(80)))
        );
        assert_eq!((job.trained_tokens, job.estimated_finish), (Some(20), None));
        assert_eq!((job.step, &job.result_files), (Some(7), &files));
        let read: Job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        assert_eq!(read, job);
    }

    #[test]
    fn the_trainer_cannot_overrule_the_owner() {
        let now = UnixMillis(5);
        let running = job().transition(Transition::Take, now).unwrap();
        for (command, status) in [
            (Command::Cancel, Status::Cancelled),
            (Command::Pause, Status::Paused),
        ] {
            let held = running.command(command, now).unwrap().unwrap();
            assert_eq!(held.status, status);
            for transition in [
                Transition::Train,
                Transition::Results(Vec::new()),
                Transition::Yield,
                Transition::Take,
            ] {
                assert!(held.transition(transition, now).is_err());
            }
            assert!(
                held.command(command, now).unwrap().is_none(),
                "twice is once"
            );
        }
    }

    #[test]
    fn only_what_is_held_can_be_resumed_and_the_end_is_the_end() {
        let now = UnixMillis(5);
        let paused = job().command(Command::Pause, now).unwrap().unwrap();
        let resumed = paused.command(Command::Resume, now).unwrap().unwrap();
        assert_eq!(
            (resumed.status, resumed.finished_at),
            (Status::Queued, None)
        );
        let cancelled = paused.command(Command::Cancel, now).unwrap().unwrap();
        for command in [Command::Pause, Command::Resume] {
            assert!(matches!(
                cancelled.command(command, now),
                Err(FineTuningError::Impossible {
                    status: Status::Cancelled,
                    ..
                })
            ));
        }
    }
}
