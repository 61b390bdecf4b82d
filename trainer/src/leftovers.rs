//! What runs that have ended leave on the disk, and kept answers, go after a
//! while. Reports, curves and lists of refused rows stay.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ids::UnixMillis;
use serde_json::json;

use crate::TrainerError;
use crate::checkpoints::CheckpointFile;
use crate::prepared::{Prepared, parts};
use crate::services::Services;

/// The most bytes of kept answers; the oldest go first.
const ANSWERS_BYTES_MAX: u64 = 64 << 20;
/// A run's folders that hold an adapter.
const ADAPTER_FOLDERS: [&str; 2] = ["done", "last_good"];
const DAY: Duration = Duration::from_secs(24 * 3600);

/// So many days.
pub(crate) fn days(count: u32) -> Duration {
    DAY.saturating_mul(count)
}

/// Removes checkpoints and adapters of runs that ended `storage.run_days` ago,
/// and answers beyond their limit.
///
/// # Errors
/// When something can neither be read nor removed.
pub(crate) fn forget(services: &Services) -> Result<(), TrainerError> {
    let (root, now) = (services.journal.root(), services.clock.now());
    let kept_for = days(services.config.storage.run_days);
    for folder in entries(&root.join("runs"))? {
        // one that may go on keeps all it has
        if !folder.is_dir() || Prepared::is_interrupted(&folder) {
            continue;
        }
        if now.since(changed(&folder)?) < kept_for || !clear(&folder)? {
            continue;
        }
        let run = folder.file_name().and_then(|name| name.to_str());
        tracing::info!(run, "checkpoints and adapters of a run were removed");
        let detail = json!({ "run": run });
        services.journal.event(now, "run_folder_cleared", detail)?;
    }
    shrink(&root.join("answers"), ANSWERS_BYTES_MAX)
}

/// Removes checkpoints and adapters of a run; whether there were any.
fn clear(folder: &Path) -> Result<bool, TrainerError> {
    let mut is_cleared = false;
    for part in parts(folder) {
        is_cleared |= CheckpointFile::new(&part, 0).forget()?;
        for adapter in ADAPTER_FOLDERS.map(|name| part.join(name)) {
            if adapter.is_dir() {
                std::fs::remove_dir_all(&adapter).map_err(TrainerError::file(&adapter))?;
                is_cleared = true;
            }
        }
    }
    Ok(is_cleared)
}

/// Removes the oldest files of a folder until no more than `bytes_max` are left.
fn shrink(folder: &Path, bytes_max: u64) -> Result<(), TrainerError> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        let meta = std::fs::metadata(&path).map_err(TrainerError::file(&path))?;
        let written = meta.modified().map_err(TrainerError::file(&path))?;
        files.push((written, path, meta.len()));
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, _, bytes)| bytes).sum();
    for (_, path, size) in files {
        if bytes <= bytes_max {
            break;
        }
        std::fs::remove_file(&path).map_err(TrainerError::file(&path))?;
        bytes -= size;
    }
    Ok(())
}

/// What is in a folder; nothing where there is none.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(TrainerError::file(folder)(error)),
    }
}

/// When a folder's entries last changed.
pub(crate) fn changed(folder: &Path) -> Result<UnixMillis, TrainerError> {
    let changed = std::fs::metadata(folder).and_then(|meta| meta.modified());
    let changed: SystemTime = changed.map_err(TrainerError::file(folder))?;
    let millis = changed
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    Ok(UnixMillis(i64::try_from(millis).unwrap_or(i64::MAX)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_answers_go_first() {
        let folder = tempfile::tempdir().unwrap();
        for (age, name) in [(9, "old"), (5, "middle"), (1, "young")] {
            let path = folder.path().join(name);
            std::fs::write(&path, [0; 100]).unwrap();
            let written = SystemTime::now() - Duration::from_secs(age);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
        }
        let left = |bytes_max| -> Vec<String> {
            shrink(folder.path(), bytes_max).unwrap();
            let mut names: Vec<String> = entries(folder.path())
                .unwrap()
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(left(300), ["middle", "old", "young"]);
        assert_eq!(left(299), ["middle", "young"]);
        assert_eq!(left(0), Vec::<String>::new());
        shrink(&folder.path().join("missing"), 0).unwrap();
    }
}
