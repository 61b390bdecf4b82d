//! What can go wrong with files and jobs.

use control::ControlError;
use ids::{FileId, JobId};

use crate::job::Status;

/// Why a file or a job was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FineTuningError {
    /// There is no such file.
    #[error("the file {0} does not exist")]
    NoFile(FileId),
    /// There is no such job.
    #[error("the fine-tuning job {0} does not exist")]
    NoJob(JobId),
    /// A file that is empty or over the limit.
    #[error("the file has {bytes} bytes or more; 1 to {max} are allowed")]
    FileSize {
        /// As far as it was read.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// A file's name that cannot be kept.
    #[error("a file's name has 1 to {max} bytes and no control characters")]
    FileName {
        /// The limit.
        max: usize,
    },
    /// A file that a job which has not ended still needs.
    #[error("the file {file} is needed by the job {job}")]
    FileInUse {
        /// The file.
        file: FileId,
        /// The job.
        job: JobId,
    },
    /// Too many files are kept.
    #[error("{0} files are kept, which is the most there may be; delete some")]
    TooManyFiles(usize),
    /// Too many jobs wait or run.
    #[error("{0} jobs wait or run, which is the most there may be; try again later")]
    TooManyJobs(usize),
    /// The job is in a state in which this cannot be done.
    #[error("the job {job} is {status}, and cannot be {wanted}")]
    Impossible {
        /// The job.
        job: JobId,
        /// What it is.
        status: Status,
        /// What was asked for, as a participle.
        wanted: &'static str,
    },
    /// The job kept changing under every attempt.
    #[error("the job {0} kept changing; try again")]
    Contended(JobId),
    /// What is stored does not read as what it should be.
    #[error("the stored {what} {name} cannot be read: {reason}")]
    Corrupt {
        /// What it should be.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The control state failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The storage failed.
    #[error("the storage of training files failed: {0}")]
    Storage(#[from] object_store::Error),
    /// The folder could not be made.
    #[error("the folder of training files cannot be used: {0}")]
    Io(#[from] std::io::Error),
}
