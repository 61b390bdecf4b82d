//! `/v1/fine_tuning/jobs`: what is answered.

use std::collections::BTreeMap;

use ids::{AdapterDigest, FileId, JobId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::request::FineTuningMethodKind;
use crate::models::ListObject;

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningJob {
    /// Its id.
    #[schema(value_type = String)]
    pub id: JobId,
    /// Always `fine_tuning.job`.
    pub object: FineTuningJobObject,
    /// Seconds since 1970.
    pub created_at: i64,
    /// When it came to its final state, in seconds since 1970.
    #[schema(required = true)]
    pub finished_at: Option<i64>,
    /// When it will probably be done, in seconds since 1970.
    #[schema(required = true)]
    pub estimated_finish: Option<i64>,
    /// The model that is tuned.
    pub model: String,
    /// The name under which the outcome is served; null before it is.
    #[schema(required = true)]
    pub fine_tuned_model: Option<String>,
    /// The outcome's version; not in OpenAI's API.
    #[schema(value_type = Option<String>, required = true)]
    pub adapter_digest: Option<AdapterDigest>,
    /// Always empty: an organisation is not known here.
    pub organization_id: String,
    /// Once it was judged: the figures of its steps, as CSV, and its evaluation, as JSON.
    #[schema(value_type = Vec<String>)]
    pub result_files: Vec<FileId>,
    /// Where it stands.
    pub status: FineTuningStatus,
    /// What it learns from.
    #[schema(value_type = String)]
    pub training_file: FileId,
    /// What it is judged by; null for a part of the training file.
    #[schema(value_type = Option<String>, required = true)]
    pub validation_file: Option<FileId>,
    /// The hyperparameters of a supervised job, in the older place.
    pub hyperparameters: FineTuningHyperParameters,
    /// What is learned, and how.
    pub method: FineTuningMethod,
    /// Unpadded tokens that were trained.
    #[schema(required = true)]
    pub trained_tokens: Option<u64>,
    /// Why it failed.
    #[schema(required = true)]
    pub error: Option<FineTuningError>,
    /// Of the order of the data and of new factors.
    pub seed: u32,
    /// Always empty.
    pub integrations: Vec<Value>,
    /// The owner's notes.
    pub metadata: BTreeMap<String, String>,
}

/// The `object` of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum FineTuningJobObject {
    /// A job.
    #[default]
    #[serde(rename = "fine_tuning.job")]
    Job,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FineTuningStatus {
    /// Its files are read and checked.
    ValidatingFiles,
    /// It waits for the trainer.
    Queued,
    /// It is trained, or judged.
    Running,
    /// It is held, and can be resumed.
    Paused,
    /// Its outcome is served.
    Succeeded,
    /// It could not be done, or its outcome was refused.
    Failed,
    /// It was given up.
    Cancelled,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningError {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// The parameter at fault.
    #[schema(required = true)]
    pub param: Option<String>,
}

/// A number, or `auto` where the trainer chooses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Hyper {
    /// A count.
    Count(u32),
    /// A factor.
    Factor(f64),
    /// The trainer's choice.
    #[serde(with = "auto")]
    Auto,
}

mod auto {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("auto")
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(()),
            other => Err(serde::de::Error::custom(format!(
                "{other:?} is not \"auto\""
            ))),
        }
    }
}

impl Hyper {
    /// A count, or `auto`.
    #[must_use]
    pub fn count(value: Option<u32>) -> Self {
        value.map_or(Self::Auto, Self::Count)
    }

    /// A factor, or `auto`.
    #[must_use]
    pub fn factor(value: Option<f64>) -> Self {
        value.map_or(Self::Auto, Self::Factor)
    }
}

/// Hyperparameters of a supervised job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningHyperParameters {
    /// Passes over the data.
    pub n_epochs: Hyper,
    /// Examples of one optimizer step.
    pub batch_size: Hyper,
    /// Multiplies the trainer's learning rate.
    pub learning_rate_multiplier: Hyper,
}

/// Hyperparameters of a DPO job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DpoHyperParameters {
    /// DPO's β.
    pub beta: Hyper,
    /// Passes over the data.
    pub n_epochs: Hyper,
    /// Examples of one optimizer step.
    pub batch_size: Hyper,
    /// Multiplies the trainer's learning rate.
    pub learning_rate_multiplier: Hyper,
}

/// How answers are imitated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SupervisedMethod {
    /// The hyperparameters.
    pub hyperparameters: FineTuningHyperParameters,
}

/// How preferences are learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DpoMethod {
    /// The hyperparameters.
    pub hyperparameters: DpoHyperParameters,
}

/// What is learned, and how.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningMethod {
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: FineTuningMethodKind,
    /// For `supervised`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervised: Option<SupervisedMethod>,
    /// For `dpo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<DpoMethod>,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningJobList {
    /// Always `list`.
    pub object: ListObject,
    /// The jobs.
    pub data: Vec<FineTuningJob>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningEvent {
    /// Its id; the next page is after it.
    pub id: String,
    /// Always `fine_tuning.job.event`.
    pub object: FineTuningEventObject,
    /// Seconds since 1970.
    pub created_at: i64,
    /// How grave.
    pub level: FineTuningEventLevel,
    /// For people.
    pub message: String,
    /// What kind.
    #[serde(rename = "type")]
    pub kind: FineTuningEventKind,
    /// For programs.
    #[schema(value_type = Option<Object>, required = true)]
    pub data: Option<Value>,
}

/// The `object` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum FineTuningEventObject {
    /// An event.
    #[default]
    #[serde(rename = "fine_tuning.job.event")]
    Event,
}

/// How grave an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FineTuningEventLevel {
    /// As it should be.
    Info,
    /// Worth a look.
    Warn,
    /// It went wrong.
    Error,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FineTuningEventKind {
    /// Something happened.
    Message,
    /// A step's metrics.
    Metrics,
}

/// A page of events, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningEventList {
    /// Always `list`.
    pub object: ListObject,
    /// The events.
    pub data: Vec<FineTuningEvent>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A model that training could stop at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningCheckpoint {
    /// Its id; the next page is after it.
    pub id: String,
    /// Always `fine_tuning.job.checkpoint`.
    pub object: CheckpointObject,
    /// Seconds since 1970.
    pub created_at: i64,
    /// The job's id.
    #[schema(value_type = String)]
    pub fine_tuning_job_id: JobId,
    /// The outcome's name where this checkpoint became it, else empty: a
    /// checkpoint that passed no gate is not served.
    pub fine_tuned_model_checkpoint: String,
    /// The optimizer step after which it was taken.
    pub step_number: u64,
    /// How good it is.
    pub metrics: FineTuningCheckpointMetrics,
}

/// The `object` of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum CheckpointObject {
    /// A checkpoint.
    #[default]
    #[serde(rename = "fine_tuning.job.checkpoint")]
    Checkpoint,
}

/// How good a checkpoint is; what was not measured is left out. Tokens' accuracy
/// is measured where answers are imitated, on the validation data.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct FineTuningCheckpointMetrics {
    /// The optimizer step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// Loss of the last training step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// Share of trained tokens that were the likeliest in the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_mean_token_accuracy: Option<f64>,
    /// Loss on the validation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// Share of the validation answers' tokens that are the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_mean_token_accuracy: Option<f64>,
}

/// A page of checkpoints, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningCheckpointList {
    /// Always `list`.
    pub object: ListObject,
    /// The checkpoints.
    pub data: Vec<FineTuningCheckpoint>,
    /// The first one's id.
    #[schema(required = true)]
    pub first_id: Option<String>,
    /// The last one's id.
    #[schema(required = true)]
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}
