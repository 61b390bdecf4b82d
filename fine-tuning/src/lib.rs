//! Training files and fine-tuning jobs, as OpenAI's API has them.
//!
//! The gateway takes files and jobs, the trainer does them; this crate is what
//! they share. A file is immutable, and exists once its record does. A job is
//! one document of the control state, so that whoever takes, pauses or ends it
//! does so by compare-and-set; what happens to it is told by numbered events
//! beside the files.
//!
//! Knows neither what is in a file nor how a job is done, and no HTTP.

mod error;
mod events;
mod files;
mod job;
mod jobs;
mod place;

pub use error::FineTuningError;
pub use events::{
    Checkpoint, CheckpointMetrics, EVENTS_MAX, Event, EventKind, History, Level, PAGE_MAX,
};
pub use files::{FILE_BYTES_MAX, FILES_MAX, FileRecord, Files, Purpose, Upload};
pub use job::{
    Command, Failure, HyperParameters, Job, METADATA_MAX, Method, NewJob, SUFFIX_CHARS_MAX, Status,
    Transition,
};
pub use jobs::{JOBS_ACTIVE_MAX, JOBS_MAX, Jobs};
pub use place::Place;
