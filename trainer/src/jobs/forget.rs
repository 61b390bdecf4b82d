//! Folders of jobs that have ended, with their checkpoints, go after a while.

use std::path::Path;

use fine_tuning::FineTuningError;
use ids::{JobId, UnixMillis};
use serde_json::json;

use super::JOBS_FOLDER;
use crate::TrainerError;
use crate::leftovers::{changed, days, entries};
use crate::services::Services;

/// Removes the folders of jobs that ended `storage.job_days` ago: published,
/// failed, cancelled, or no longer remembered. Those of jobs that wait, work or
/// are paused stay.
///
/// # Errors
/// When jobs or folders cannot be read, or a folder not be removed.
pub(crate) async fn forget(services: &Services) -> Result<(), TrainerError> {
    let root = services.journal.root().join(JOBS_FOLDER);
    let now = services.clock.now();
    let kept_for = days(services.config.storage.job_days);
    for folder in entries(&root)? {
        let name = folder.file_name().and_then(|name| name.to_str());
        let Some(id) = name.and_then(|name| JobId::new(name).ok()) else {
            continue;
        };
        let Some(ended) = ended(services, &id, &folder).await? else {
            continue;
        };
        if now.since(ended) >= kept_for {
            std::fs::remove_dir_all(&folder).map_err(TrainerError::file(&folder))?;
            tracing::info!(job = %id, "the folder of a job that has ended was removed");
            let detail = json!({ "job": id });
            services.journal.event(now, "job_folder_removed", detail)?;
        }
    }
    Ok(())
}

/// When a job ended; none while it may still go on. Of one that is no longer
/// remembered its folder's last change is all there is to go by.
async fn ended(
    services: &Services,
    id: &JobId,
    folder: &Path,
) -> Result<Option<UnixMillis>, TrainerError> {
    match services.tuning.jobs.get(id).await {
        Ok(job) if job.status.is_final() => Ok(Some(job.finished_at.unwrap_or(job.created_at))),
        Ok(_) => Ok(None),
        Err(FineTuningError::NoJob(_)) => changed(folder).map(Some),
        Err(error) => Err(error.into()),
    }
}
