//! Files, jobs and their histories as they go over the wire.

use fine_tuning::{Checkpoint, Event, EventKind, FileRecord, Job, Level, Method, Purpose, Status};
use ids::JobId;
use openapi::{
    CheckpointObject, DpoHyperParameters, DpoMethod, FileObject, FilePurpose, FileStatus,
    FineTuningCheckpoint, FineTuningCheckpointMetrics, FineTuningError, FineTuningEvent,
    FineTuningEventKind, FineTuningEventLevel, FineTuningEventObject, FineTuningHyperParameters,
    FineTuningJob, FineTuningJobObject, FineTuningMethod, FineTuningMethodKind, FineTuningStatus,
    Hyper, SupervisedMethod, TrainingFile,
};

pub(super) fn file(record: FileRecord) -> TrainingFile {
    TrainingFile {
        id: record.id,
        object: FileObject::File,
        bytes: record.bytes,
        created_at: record.created_at.seconds(),
        filename: record.filename,
        purpose: match record.purpose {
            Purpose::FineTune => FilePurpose::FineTune,
            Purpose::FineTuneResults => FilePurpose::FineTuneResults,
        },
        status: FileStatus::Processed,
        digest: record.digest,
    }
}

pub(super) fn job(job: Job) -> FineTuningJob {
    let (hyperparameters, method) = method(&job);
    let error = job.error.map(|error| FineTuningError {
        code: error.code,
        message: error.message,
        param: error.param,
    });
    FineTuningJob {
        id: job.id,
        object: FineTuningJobObject::Job,
        created_at: job.created_at.seconds(),
        finished_at: job.finished_at.map(ids::UnixMillis::seconds),
        estimated_finish: job.estimated_finish.map(ids::UnixMillis::seconds),
        model: job.asked.model,
        fine_tuned_model: job.fine_tuned_model.map(|name| name.to_string()),
        adapter_digest: job.adapter,
        organization_id: String::new(),
        result_files: job.result_files,
        status: status(job.status),
        training_file: job.asked.training_file,
        validation_file: job.asked.validation_file,
        hyperparameters,
        method,
        trained_tokens: job.trained_tokens,
        error,
        seed: job.asked.seed,
        integrations: Vec::new(),
        metadata: job.asked.metadata,
    }
}

fn method(job: &Job) -> (FineTuningHyperParameters, FineTuningMethod) {
    let asked = &job.asked.hyperparameters;
    let hyperparameters = FineTuningHyperParameters {
        n_epochs: Hyper::count(asked.n_epochs),
        batch_size: Hyper::count(asked.batch_size),
        learning_rate_multiplier: Hyper::factor(asked.learning_rate_multiplier),
    };
    let method = match job.asked.method {
        Method::Supervised => FineTuningMethod {
            kind: FineTuningMethodKind::Supervised,
            supervised: Some(SupervisedMethod { hyperparameters }),
            dpo: None,
        },
        Method::Dpo => FineTuningMethod {
            kind: FineTuningMethodKind::Dpo,
            supervised: None,
            dpo: Some(DpoMethod {
                hyperparameters: DpoHyperParameters {
                    beta: Hyper::factor(asked.beta),
                    n_epochs: hyperparameters.n_epochs,
                    batch_size: hyperparameters.batch_size,
                    learning_rate_multiplier: hyperparameters.learning_rate_multiplier,
                },
            }),
        },
    };
    (hyperparameters, method)
}

fn status(status: Status) -> FineTuningStatus {
    match status {
        Status::Queued => FineTuningStatus::Queued,
        Status::ValidatingFiles => FineTuningStatus::ValidatingFiles,
        Status::Running => FineTuningStatus::Running,
        Status::Paused => FineTuningStatus::Paused,
        Status::Succeeded => FineTuningStatus::Succeeded,
        Status::Failed => FineTuningStatus::Failed,
        Status::Cancelled => FineTuningStatus::Cancelled,
    }
}

/// Its id ends in its number, which is where a page ends.
pub(super) fn event(job: &JobId, event: Event) -> FineTuningEvent {
    FineTuningEvent {
        id: format!("ftevent-{job}-{}", event.number),
        object: FineTuningEventObject::Event,
        created_at: event.at.seconds(),
        level: match event.level {
            Level::Info => FineTuningEventLevel::Info,
            Level::Warn => FineTuningEventLevel::Warn,
            Level::Error => FineTuningEventLevel::Error,
        },
        message: event.message,
        kind: match event.kind {
            EventKind::Message => FineTuningEventKind::Message,
            EventKind::Metrics => FineTuningEventKind::Metrics,
        },
        data: event.data,
    }
}

/// Its id ends in its step, which is where a page ends.
pub(super) fn checkpoint(job: &Job, checkpoint: Checkpoint) -> FineTuningCheckpoint {
    let metrics = checkpoint.metrics;
    let outcome = job.fine_tuned_model.as_ref();
    let outcome = outcome.filter(|_| job.step == Some(checkpoint.step));
    FineTuningCheckpoint {
        id: format!("ftckpt-{}-{}", job.id, checkpoint.step),
        object: CheckpointObject::Checkpoint,
        created_at: checkpoint.at.seconds(),
        fine_tuning_job_id: job.id.clone(),
        fine_tuned_model_checkpoint: outcome.map(ToString::to_string).unwrap_or_default(),
        step_number: checkpoint.step,
        metrics: FineTuningCheckpointMetrics {
            step: metrics.step,
            train_loss: metrics.train_loss,
            train_mean_token_accuracy: metrics.train_mean_token_accuracy,
            valid_loss: metrics.valid_loss,
            valid_mean_token_accuracy: metrics.valid_mean_token_accuracy,
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use fine_tuning::{HyperParameters, NewJob};
    use ids::{AliasName, FileId, UnixMillis};

    use super::*;

    fn waiting() -> Job {
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
    fn a_job_names_its_results_which_are_no_training_data() {
        let record = FileRecord {
            id: FileId::new("file-2").unwrap(),
            filename: "evaluation.json".to_owned(),
            bytes: 2,
            digest: ids::Sha256Digest::of(b"{}"),
            purpose: Purpose::FineTuneResults,
            created_at: UnixMillis(1),
        };
        let mut judged = waiting();
        judged.result_files = vec![record.id.clone()];
        let (job, file) = (job(judged), file(record));
        let json = serde_json::json!({ "job": job, "file": file });
        assert_eq!(json["job"]["result_files"][0], json["file"]["id"]);
        assert_eq!(json["file"]["purpose"], "fine-tune-results");
    }

    #[test]
    fn the_checkpoint_that_became_the_outcome_has_its_name() {
        let mut job = waiting();
        let named = |job: &Job, step| {
            let taken = Checkpoint {
                step,
                at: UnixMillis(1),
                metrics: fine_tuning::CheckpointMetrics::default(),
            };
            checkpoint(job, taken).fine_tuned_model_checkpoint
        };
        job.step = Some(8);
        assert_eq!(named(&job, 8), "");
        job.fine_tuned_model = Some(AliasName::new("ft:m:x").unwrap());
        assert_eq!(
            (named(&job, 4).as_str(), named(&job, 8).as_str()),
            ("", "ft:m:x")
        );
    }
}
