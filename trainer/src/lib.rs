//! Datasets from feedback, DPO on the served quantized weights, evaluation,
//! publication.
//!
//! Knows no HTTP and serves no request. [`train`] knows tokens and tensors
//! only; `pipeline` is the one place where stores, training, evaluation and
//! publication meet, and reads top to bottom.

mod attempts;
mod beginnings;
pub mod bench;
mod calendar;
mod checkpoints;
mod config;
mod curves;
pub mod data;
mod error;
pub mod evaluate;
mod examples;
mod export;
mod forward;
mod give_way;
mod incumbent;
mod jobs;
mod journal;
mod judge;
mod last_run;
mod lease;
mod leftovers;
mod loss;
mod memory;
mod mixture;
mod operations;
mod ops;
mod pack;
mod parameters;
mod pipeline;
mod planned;
mod prepared;
mod priority;
mod progress;
pub mod prove;
mod publish;
mod recipe;
mod report;
mod retention;
mod rows;
mod services;
mod sidecar;
mod stage_data;
mod stage_files;
mod stages;
mod tensors;
#[cfg(test)]
mod tests;
mod thumbs;
pub mod train;
mod trial;
mod vote_rows;

pub use checkpoints::CheckpointFile;
pub use config::{Config, DatasetConfig, EvalConfig, PublishConfig, Schedule};
pub use error::{Instability, TrainerError};
pub use export::{ExportArgs, ExportFormat, ExportValues, export};
pub use forward::FrozenModel;
pub use give_way::GiveWayConfig;
pub use jobs::Tuning;
pub use journal::{Journal, State, Status};
pub use judge::judge;
pub use loss::{PairLogProbs, PairTerm, PreferenceLoss, RatedTerm, kto};
pub use memory::{MemoryPlan, Term};
pub use mixture::{Category, Drawn, Mixture};
pub use ops::head::Target;
pub use pack::Sequence;
pub use parameters::Parameters;
pub use pipeline::{RunOutcome, resume, run_once};
pub use priority::behind_serving;
pub use progress::Progress;
pub use recipe::{FileSource, Stage, StageConfig, StageKind};
pub use report::{Computed, Decision, Report, StageReport, TrainingReport, Votes};
pub use retention::StorageConfig;
pub use services::Services;
pub use sidecar::{Stop, again, once, sidecar};
pub use stage_files::FilesReport;
pub use tensors::{Compute, Place};
pub use trial::{TrialConfig, TrialFailure, TrialReport};
pub use vote_rows::{RefusedVote, VotesReport};

/// The code that this is, as manifests name it: the package's version, and a digest of
/// the sources and of the lock file.
pub const CODE_VERSION: &str = env!("FLYWHEEL_CODE_VERSION");

/// Runs blocking work on a thread of its own.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, TrainerError> + Send + 'static,
) -> Result<R, TrainerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(TrainerError::Stopped),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs a computation on a pool of `threads` threads; 0 is one for each CPU.
async fn compute<R: Send + 'static>(
    threads: usize,
    work: impl FnOnce() -> Result<R, TrainerError> + Send + 'static,
) -> Result<R, TrainerError> {
    blocking(move || {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|error| TrainerError::Config {
                key: "threads",
                problem: error.to_string(),
            })?;
        pool.install(work)
    })
    .await
}
