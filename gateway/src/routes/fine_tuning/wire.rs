//! Files, jobs and their histories as they go over the wire.

use fine_tuning::{Checkpoint, Event, EventKind, FileRecord, Job, Level, Method, Status};
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
        purpose: FilePurpose::FineTune,
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
        result_files: Vec::new(),
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
pub(super) fn checkpoint(job: &JobId, checkpoint: Checkpoint) -> FineTuningCheckpoint {
    let metrics = checkpoint.metrics;
    FineTuningCheckpoint {
        id: format!("ftckpt-{job}-{}", checkpoint.step),
        object: CheckpointObject::Checkpoint,
        created_at: checkpoint.at.seconds(),
        fine_tuning_job_id: job.clone(),
        fine_tuned_model_checkpoint: String::new(),
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
