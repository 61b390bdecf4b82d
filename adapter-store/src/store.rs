//! Writing, reading, listing and deleting versions.
//!
//! Layout: `files/ADAPTER/FILE` and `manifests/ADAPTER`, all names hexadecimal
//! digests. Versions share no file, so that deleting one can never harm
//! another that is being written.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use ids::{AdapterDigest, Sha256Digest};
use memmap2::MmapMut;
use object_store::path::Path;
use object_store::{
    GetResultPayload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};

use crate::AdapterStoreError;
use crate::manifest::{FileEntry, Lineage, MANIFEST_BYTES_MAX, Manifest};

/// The name of the PEFT configuration.
pub const CONFIG_NAME: &str = "adapter_config.json";
/// The name of the weights.
pub const SAFETENSORS_NAME: &str = "adapter_model.safetensors";
/// The largest PEFT configuration.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The largest weights.
pub const SAFETENSORS_BYTES_MAX: u64 = 2 << 30;
/// The most versions that a listing covers.
pub const VERSIONS_MAX: usize = 10_000;
/// How many manifests are read at once.
const LIST_CONCURRENCY: usize = 16;

/// The two files that make a version.
#[derive(Clone, PartialEq, Eq)]
pub struct AdapterFiles {
    /// `adapter_config.json`.
    pub config_json: Bytes,
    /// `adapter_model.safetensors`.
    pub safetensors: Bytes,
}

impl AdapterFiles {
    /// The two files.
    pub fn new(config_json: impl Into<Bytes>, safetensors: impl Into<Bytes>) -> Self {
        Self {
            config_json: config_json.into(),
            safetensors: safetensors.into(),
        }
    }

    /// The version that they are.
    #[must_use]
    pub fn digest(&self) -> AdapterDigest {
        AdapterDigest::of_files(&self.config_json, &self.safetensors)
    }

    /// The files with their names and limits.
    fn each(&self) -> [(&'static str, &Bytes, u64); 2] {
        [
            (CONFIG_NAME, &self.config_json, CONFIG_BYTES_MAX),
            (SAFETENSORS_NAME, &self.safetensors, SAFETENSORS_BYTES_MAX),
        ]
    }

    fn entries(&self) -> Result<Vec<(FileEntry, Bytes)>, AdapterStoreError> {
        let entry = |(name, content, max): (&'static str, &Bytes, u64)| {
            let bytes = content.len() as u64;
            if bytes == 0 || bytes > max {
                return Err(AdapterStoreError::Size { name, bytes, max });
            }
            let digest = Sha256Digest::of(content);
            Ok((
                FileEntry {
                    name: name.to_owned(),
                    digest,
                    bytes,
                },
                content.clone(),
            ))
        };
        self.each().into_iter().map(entry).collect()
    }
}

impl std::fmt::Debug for AdapterFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterFiles")
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

/// A version as it was read.
#[derive(Debug, Clone)]
pub struct StoredAdapter {
    /// The version.
    pub digest: AdapterDigest,
    /// Its files.
    pub files: AdapterFiles,
    /// What is recorded about it.
    pub manifest: Manifest,
}

impl StoredAdapter {
    /// The same, if the files are those of the version. The version's digest covers
    /// every byte of both; those of the single files only tell what is wrong.
    fn verified(self) -> Result<Self, AdapterStoreError> {
        if self.files.digest() == self.digest {
            return Ok(self);
        }
        let has_changed = |(name, content, _): (&str, &Bytes, u64)| {
            let recorded = self.manifest.file(name).map(|entry| entry.digest);
            recorded != Some(Sha256Digest::of(content))
        };
        let what = match self.files.each().into_iter().any(has_changed) {
            true => "a file's content has changed",
            false => "the files are not this version's",
        };
        let digest = self.digest;
        Err(AdapterStoreError::Damaged { digest, what })
    }
}

/// Adapter versions at some place.
#[derive(Debug, Clone)]
pub struct AdapterStore {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// The folder, where the place is local.
    pub(crate) root: Option<PathBuf>,
}

fn manifest_path(digest: &AdapterDigest) -> Path {
    Path::from_iter(["manifests", &digest.hex()])
}

fn files_path(digest: &AdapterDigest) -> Path {
    Path::from_iter(["files", &digest.hex()])
}

fn file_path(digest: &AdapterDigest, file: &Sha256Digest) -> Path {
    Path::from_iter(["files", &digest.hex(), &file.hex()])
}

/// How much of a local file is read at once: little enough that the disk goes on
/// while it is copied.
const PIECE_BYTES: usize = 1 << 20;
/// What the memory of a large file's content is aligned to: a large page. On small
/// ones, the system takes as long to provide them as to fill them.
const LARGE_PAGE: usize = 2 << 20;

/// Reads a local file of so many bytes. (`object_store` writes zeros first, and then
/// reads it in one piece: thrice the time where the file is not in the page cache.)
fn read_file(mut file: &File, size: u64) -> std::io::Result<Bytes> {
    let size = usize::try_from(size).map_err(std::io::Error::other)?;
    if size < LARGE_PAGE {
        let mut content = vec![0; size];
        file.read_exact(&mut content)?;
        return Ok(content.into());
    }
    let mut map = MmapMut::map_anon(size.saturating_add(LARGE_PAGE))?;
    let start = map.as_ptr().align_offset(LARGE_PAGE).min(LARGE_PAGE);
    // asked, not demanded
    #[cfg(target_os = "linux")]
    let _ = map.advise_range(memmap2::Advice::HugePage, start, size);
    for piece in map[start..start + size].chunks_mut(PIECE_BYTES) {
        file.read_exact(piece)?;
    }
    Ok(Bytes::from_owner(map).slice(start..start + size))
}

/// The version that a path under `manifests` or `files` belongs to.
pub(crate) fn version_in(path: &Path) -> Option<AdapterDigest> {
    let hex = path.parts().nth(1)?;
    format!("sha256:{}", hex.as_ref()).parse().ok()
}

impl AdapterStore {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, root: Option<PathBuf>) -> Self {
        Self { objects, root }
    }

    /// Stores a version. Storing it again changes nothing and keeps the first
    /// lineage; a damaged one is mended.
    ///
    /// # Errors
    /// When a file is over its limit or the storage fails; then the version is
    /// absent or whole, and storing it again is safe.
    pub async fn put(
        &self,
        files: &AdapterFiles,
        lineage: &Lineage,
    ) -> Result<AdapterDigest, AdapterStoreError> {
        let entries = files.entries()?;
        let digest = files.digest();
        let mut mode = PutMode::Create;
        match self.get(&digest).await {
            Ok(_) => return Ok(digest),
            Err(AdapterStoreError::NotFound(_)) => {}
            Err(AdapterStoreError::Damaged { what, .. }) => {
                tracing::warn!(%digest, what, "a damaged adapter version is written again");
                mode = PutMode::Overwrite;
            }
            Err(error) => return Err(error),
        }
        let files = entries.iter().map(|(entry, _)| entry.clone()).collect();
        let manifest = Manifest {
            digest,
            files,
            lineage: lineage.clone(),
        }
        .to_bytes()?;
        for (entry, content) in entries {
            let path = file_path(&digest, &entry.digest);
            self.objects.put(&path, PutPayload::from(content)).await?;
        }
        let options = PutOptions::from(mode);
        let path = manifest_path(&digest);
        match self
            .objects
            .put_opts(&path, PutPayload::from(manifest), options)
            .await
        {
            // Another process committed the same version meanwhile.
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(digest),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a version; every byte is checked against its digests.
    ///
    /// # Errors
    /// [`AdapterStoreError::NotFound`], [`AdapterStoreError::Damaged`], or the
    /// storage failed.
    pub async fn get(&self, digest: &AdapterDigest) -> Result<StoredAdapter, AdapterStoreError> {
        let stored = self.get_unverified(digest).await?;
        // some ten milliseconds of work, which would hold up whoever else this
        // thread answers
        let verified = tokio::task::spawn_blocking(move || stored.verified()).await;
        verified.map_err(std::io::Error::other)?
    }

    /// Reads a version as it lies there, for whoever checks it against its digest
    /// in any case. Only the manifest is verified.
    ///
    /// # Errors
    /// As [`Self::get`], but for changed files.
    pub async fn get_unverified(
        &self,
        digest: &AdapterDigest,
    ) -> Result<StoredAdapter, AdapterStoreError> {
        let manifest = self.manifest(digest).await?;
        let (config_json, safetensors) = futures::try_join!(
            self.file(&manifest, CONFIG_NAME, CONFIG_BYTES_MAX),
            self.file(&manifest, SAFETENSORS_NAME, SAFETENSORS_BYTES_MAX),
        )?;
        let files = AdapterFiles {
            config_json,
            safetensors,
        };
        Ok(StoredAdapter {
            digest: *digest,
            files,
            manifest,
        })
    }

    /// What is recorded about a version, verified.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn manifest(&self, digest: &AdapterDigest) -> Result<Manifest, AdapterStoreError> {
        let bytes = self
            .read(&manifest_path(digest), MANIFEST_BYTES_MAX, *digest)
            .await?;
        let bytes = bytes.ok_or(AdapterStoreError::NotFound(*digest))?;
        Manifest::from_bytes(*digest, &bytes)
    }

    /// All versions, oldest first. One whose manifest is damaged is left out
    /// and logged.
    ///
    /// # Errors
    /// When the storage fails, or there are more than [`VERSIONS_MAX`].
    pub async fn list(&self) -> Result<Vec<Manifest>, AdapterStoreError> {
        let mut digests = Vec::new();
        let mut objects = self.objects.list(Some(&Path::from("manifests")));
        while let Some(object) = objects.try_next().await? {
            let Some(digest) = version_in(&object.location) else {
                continue;
            };
            if digests.len() == VERSIONS_MAX {
                return Err(AdapterStoreError::TooMany(VERSIONS_MAX));
            }
            digests.push(digest);
        }
        let mut read = futures::stream::iter(digests)
            .map(|digest| async move { (digest, self.manifest(&digest).await) })
            .buffer_unordered(LIST_CONCURRENCY);
        let mut manifests = Vec::new();
        while let Some((digest, manifest)) = read.next().await {
            match manifest {
                Ok(manifest) => manifests.push(manifest),
                Err(AdapterStoreError::Damaged { what, .. }) => {
                    tracing::warn!(%digest, what, "a damaged adapter version is not listed");
                }
                // Deleted since it was listed.
                Err(AdapterStoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        manifests.sort_by_key(|manifest| (manifest.lineage.created, manifest.digest));
        Ok(manifests)
    }

    /// Deletes a version: first the manifest, then the files.
    ///
    /// # Errors
    /// [`AdapterStoreError::NotFound`], or the storage failed; what is left of
    /// the files then goes with the next sweep.
    pub async fn delete(&self, digest: &AdapterDigest) -> Result<(), AdapterStoreError> {
        if !self.is_committed(digest).await? {
            return Err(AdapterStoreError::NotFound(*digest));
        }
        self.objects.delete(&manifest_path(digest)).await?;
        self.sync_manifests().await?;
        self.delete_files(digest).await
    }

    /// Whether a version has a manifest.
    pub(crate) async fn is_committed(
        &self,
        digest: &AdapterDigest,
    ) -> Result<bool, AdapterStoreError> {
        match self.objects.head(&manifest_path(digest)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the files of a version without a manifest.
    async fn delete_files(&self, digest: &AdapterDigest) -> Result<(), AdapterStoreError> {
        let files: Vec<_> = self
            .objects
            .list(Some(&files_path(digest)))
            .map_ok(|o| o.location)
            .try_collect()
            .await?;
        for file in files {
            match self.objects.delete(&file).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Makes a manifest's removal durable before its files go: the local store
    /// syncs what it writes and not what it deletes.
    async fn sync_manifests(&self) -> Result<(), AdapterStoreError> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        let folder = root.join("manifests");
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(folder)?.sync_all());
        Ok(synced.await.map_err(std::io::Error::other)??)
    }

    async fn file(
        &self,
        manifest: &Manifest,
        name: &'static str,
        max: u64,
    ) -> Result<Bytes, AdapterStoreError> {
        let digest = manifest.digest;
        let damaged = |what| AdapterStoreError::Damaged { digest, what };
        let entry = manifest
            .file(name)
            .ok_or_else(|| damaged("the manifest lacks a file"))?;
        let path = file_path(&digest, &entry.digest);
        let content = self.read(&path, max.min(entry.bytes), digest).await?;
        content.ok_or_else(|| damaged("a file is missing"))
    }

    /// Reads one object of at most `max` bytes; `None` where there is none.
    async fn read(
        &self,
        path: &Path,
        max: u64,
        digest: AdapterDigest,
    ) -> Result<Option<Bytes>, AdapterStoreError> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let size = found.meta.size;
        if size > max {
            let what = "a file is larger than it may be";
            return Err(AdapterStoreError::Damaged { digest, what });
        }
        match found.payload {
            GetResultPayload::File(file, _) => {
                let read = tokio::task::spawn_blocking(move || read_file(&file, size)).await;
                let read = read.map_err(std::io::Error::other)?;
                Ok(Some(read.map_err(|error| {
                    object_store::Error::Generic {
                        store: "the local file system",
                        source: Box::new(error),
                    }
                })?))
            }
            GetResultPayload::Stream(_) => Ok(Some(found.bytes().await?)),
        }
    }
}
