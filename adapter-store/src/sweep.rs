//! Clears what a killed writer left: files whose manifest was never written.

use std::time::Duration;

use futures::TryStreamExt as _;
use ids::UnixMillis;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::store::version_in;
use crate::{AdapterStore, AdapterStoreError};

/// Files younger than this may belong to a version that is being written.
pub const SWEEP_AGE_MIN: Duration = Duration::from_secs(3600);

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many files.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
}

impl AdapterStore {
    /// Removes files that are older than `age` (at least [`SWEEP_AGE_MIN`]
    /// outside of tests) and belong to no version. Half-written local files
    /// that object_store staged (`NAME#1`) go as well.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn sweep(&self, now: UnixMillis, age: Duration) -> Result<Swept, AdapterStoreError> {
        let mut swept = Swept::default();
        let mut files = self.objects.list(Some(&Path::from("files")));
        while let Some(file) = files.try_next().await? {
            let Some(digest) = version_in(&file.location) else {
                continue;
            };
            let modified = UnixMillis(file.last_modified.timestamp_millis());
            if now.since(modified) < age || self.is_committed(&digest).await? {
                continue;
            }
            self.objects.delete(&file.location).await?;
            swept.files = swept.files.saturating_add(1);
            swept.bytes = swept.bytes.saturating_add(file.size);
        }
        self.sweep_staged(now, age, &mut swept).await?;
        Ok(swept)
    }

    async fn sweep_staged(
        &self,
        now: UnixMillis,
        age: Duration,
        swept: &mut Swept,
    ) -> Result<(), AdapterStoreError> {
        let Some(root) = self.root.clone() else {
            return Ok(());
        };
        let removed = tokio::task::spawn_blocking(move || {
            let mut removed = Swept::default();
            remove_staged(&root.join("manifests"), 0, now, age, &mut removed)?;
            remove_staged(&root.join("files"), 1, now, age, &mut removed)?;
            Ok::<_, std::io::Error>(removed)
        });
        let removed = removed.await.map_err(std::io::Error::other)??;
        swept.files = swept.files.saturating_add(removed.files);
        swept.bytes = swept.bytes.saturating_add(removed.bytes);
        Ok(())
    }
}

/// Removes old staged files in `folder` and its folders down to `depth`.
fn remove_staged(
    folder: &std::path::Path,
    depth: usize,
    now: UnixMillis,
    age: Duration,
    removed: &mut Swept,
) -> std::io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() && depth > 0 {
            remove_staged(&entry.path(), depth - 1, now, age, removed)?;
            continue;
        }
        let name = entry.file_name();
        let staged = name.to_str().is_some_and(|name| name.contains('#'));
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
        let modified = UnixMillis::default().plus(modified.unwrap_or_default());
        if staged && metadata.is_file() && now.since(modified) >= age {
            std::fs::remove_file(entry.path())?;
            removed.files = removed.files.saturating_add(1);
            removed.bytes = removed.bytes.saturating_add(metadata.len());
        }
    }
    Ok(())
}
