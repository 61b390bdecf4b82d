//! Which old versions may go, and whether there is room for a new one.
//!
//! A version that anything names stays: the stable, the previous stable and
//! the canary of every rollout, and whatever an alias points at. Versions that
//! were brought in from elsewhere are not ours to remove.

use std::collections::HashSet;

use adapter_store::{Manifest, Source};
use ids::AdapterDigest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::TrainerError;
use crate::services::Services;

/// What may be kept on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// The most trained versions; older ones go when nothing names them. 0
    /// keeps all.
    pub versions_max: usize,
    /// The most bytes of trained versions; 0 is no limit.
    pub bytes_max: u64,
    /// Days for which the folder of a job that has ended is kept, with its
    /// checkpoint; 0 removes it at once.
    pub job_days: u32,
    /// Days for which checkpoints and adapters of a run that has ended are kept
    /// in its folder; 0 removes them at once. Its reports stay.
    pub run_days: u32,
    /// A run or a job does not begin with less than this free in the data folder.
    pub free_bytes_min: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            versions_max: 24,
            bytes_max: 0,
            job_days: 7,
            run_days: 7,
            free_bytes_min: 512 << 20,
        }
    }
}

/// Removes what may go, then checks that a run or a job has room.
pub(crate) async fn make_room(services: &Services) -> Result<(), TrainerError> {
    let config = &services.config.storage;
    let manifests = services.adapters.list().await?;
    for digest in removable(&manifests, &named(services).await?, config) {
        // Somebody may have named it since.
        if named(services).await?.contains(&digest) {
            continue;
        }
        services.adapters.delete(&digest).await?;
        tracing::info!(%digest, "an old version was removed");
        let now = services.clock.now();
        let detail = json!({ "digest": digest });
        services.journal.event(now, "version_removed", detail)?;
    }
    let root = services.journal.root();
    let free = rustix::fs::statvfs(root)
        .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        .map_err(|error| TrainerError::file(root)(error.into()))?;
    match free < config.free_bytes_min {
        true => Err(TrainerError::Config {
            key: "storage.free_bytes_min",
            problem: format!(
                "{free} bytes are free, fewer than {}",
                config.free_bytes_min
            ),
        }),
        false => Ok(()),
    }
}

/// Every version that a rollout or an alias names.
async fn named(services: &Services) -> Result<HashSet<AdapterDigest>, TrainerError> {
    let mut named = HashSet::new();
    for (_, rollout) in control::rollouts::list(&*services.control).await? {
        let previous = rollout
            .previous_stable
            .and_then(|previous| previous.adapter);
        named.extend(
            [rollout.stable, rollout.canary, previous]
                .into_iter()
                .flatten(),
        );
    }
    let aliases = control::aliases::list(&*services.control).await?;
    named.extend(aliases.into_iter().map(|(_, adapter)| adapter));
    Ok(named)
}

/// The oldest trained versions above the limits, of those that nothing names.
fn removable(
    manifests: &[Manifest],
    named: &HashSet<AdapterDigest>,
    config: &StorageConfig,
) -> Vec<AdapterDigest> {
    let mut trained: Vec<&Manifest> = manifests
        .iter()
        .filter(|manifest| manifest.lineage.source == Source::Trained)
        .collect();
    trained.sort_by_key(|manifest| (manifest.lineage.created, manifest.digest));
    let mut count = trained.len();
    let mut bytes: u64 = trained.iter().map(|manifest| manifest.byte_len()).sum();
    let mut removable = Vec::new();
    for manifest in trained {
        let over_count = config.versions_max > 0 && count > config.versions_max;
        let over_bytes = config.bytes_max > 0 && bytes > config.bytes_max;
        if !over_count && !over_bytes {
            break;
        }
        if !named.contains(&manifest.digest) {
            removable.push(manifest.digest);
            count -= 1;
            bytes -= manifest.byte_len();
        }
    }
    removable
}

#[cfg(test)]
mod tests {
    use adapter_store::{FileEntry, Lineage};
    use ids::{Sha256Digest, UnixMillis};

    use super::*;

    fn digest(number: u8) -> AdapterDigest {
        AdapterDigest(Sha256Digest::of(&[number]))
    }

    fn version(number: u8) -> Manifest {
        let created = UnixMillis(i64::from(number));
        Manifest {
            digest: digest(number),
            files: vec![FileEntry {
                name: "adapter_model.safetensors".to_owned(),
                digest: Sha256Digest::of(b"file"),
                bytes: 100,
            }],
            lineage: Lineage {
                source: Source::Trained,
                ..Lineage::imported(created)
            },
        }
    }

    fn of(versions_max: usize, bytes_max: u64) -> StorageConfig {
        StorageConfig {
            versions_max,
            bytes_max,
            free_bytes_min: 0,
            ..StorageConfig::default()
        }
    }

    #[test]
    fn the_oldest_go_and_what_is_named_stays() {
        let mut all: Vec<Manifest> = (1..=6).rev().map(version).collect();
        let named = HashSet::from([digest(1), digest(3)]);
        let removed = |config| removable(&all, &named, &config);
        assert_eq!(removed(of(0, 0)), []);
        assert_eq!(removed(of(6, 600)), []);
        assert_eq!(removed(of(5, 0)), [digest(2)]);
        assert_eq!(removed(of(4, 0)), [digest(2), digest(4)]);
        assert_eq!(removed(of(0, 599)), [digest(2)]);
        // Even where the limit cannot be held.
        let most = [2, 4, 5, 6].map(digest);
        assert_eq!(removed(of(1, 1)), most);
        // What was brought in is neither counted nor removed.
        all[5].lineage.source = Source::Imported;
        assert_eq!(removable(&all, &HashSet::new(), &of(5, 0)), []);
    }
}
