//! Training files and fine-tuning jobs, in OpenAI's shapes.

mod files;
mod job;
mod request;

pub use files::{
    FileDeleted, FileList, FileObject, FilePurpose, FileStatus, TrainingFile, TrainingFileUpload,
};
pub use job::{
    CheckpointObject, DpoHyperParameters, DpoMethod, FineTuningCheckpoint,
    FineTuningCheckpointList, FineTuningCheckpointMetrics, FineTuningError, FineTuningEvent,
    FineTuningEventKind, FineTuningEventLevel, FineTuningEventList, FineTuningEventObject,
    FineTuningHyperParameters, FineTuningJob, FineTuningJobList, FineTuningJobObject,
    FineTuningMethod, FineTuningStatus, Hyper, SupervisedMethod,
};
pub use request::{
    DpoHyperParametersBody, DpoMethodBody, FineTuningJobBody, FineTuningMethodBody,
    FineTuningMethodKind, FineTuningRequest, HyperParametersBody, SupervisedMethodBody,
};
