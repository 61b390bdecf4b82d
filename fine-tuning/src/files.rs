//! Training files: their content, and a record that is written last.
//!
//! A file without a record does not exist; what an interrupted upload left is
//! removed by the next upload that ends.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use ids::{FileId, Sha256Digest, UnixMillis};
use object_store::ObjectStoreExt as _;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::FineTuningError;
use crate::place::Place;

/// The largest file.
pub const FILE_BYTES_MAX: u64 = 512 << 20;
/// The most files that are kept.
pub const FILES_MAX: usize = 10_000;
/// The longest name of a file.
const NAME_BYTES_MAX: usize = 256;
/// Content without a record is an interrupted upload once it is this old.
const ABANDONED_AFTER_MILLIS: i64 = 24 * 3600 * 1000;

const WHAT: &str = "file record";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Training and validation data.
    #[serde(rename = "fine-tune")]
    FineTune,
    /// What came of a job, as the trainer wrote it down.
    #[serde(rename = "fine-tune-results")]
    FineTuneResults,
}

impl Purpose {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FineTune => "fine-tune",
            Self::FineTuneResults => "fine-tune-results",
        }
    }
}

/// A file as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its id.
    pub id: FileId,
    /// What whoever sent it calls it.
    pub filename: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub digest: Sha256Digest,
    /// What it is for.
    pub purpose: Purpose,
    /// When it was complete.
    pub created_at: UnixMillis,
}

/// All files at one place.
#[derive(Debug, Clone)]
pub struct Files {
    place: Place,
}

fn record_path(id: &FileId) -> Path {
    Path::from_iter(["files", "records", id.as_str()])
}

fn content_path(id: &FileId) -> Path {
    Path::from_iter(["files", "contents", id.as_str()])
}

impl Files {
    /// The files at `place`.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self { place }
    }

    /// Begins a file; nothing exists before [`Upload::finish`].
    ///
    /// # Errors
    /// [`FineTuningError::FileName`], and [`FineTuningError::TooManyFiles`].
    pub async fn begin(
        &self,
        filename: &str,
        purpose: Purpose,
        now: UnixMillis,
    ) -> Result<Upload, FineTuningError> {
        let bad = |c: char| c.is_control();
        if filename.is_empty() || filename.len() > NAME_BYTES_MAX || filename.contains(bad) {
            return Err(FineTuningError::FileName {
                max: NAME_BYTES_MAX,
            });
        }
        if self.names().await?.len() == FILES_MAX {
            return Err(FineTuningError::TooManyFiles(FILES_MAX));
        }
        self.sweep(now).await?;
        let id = FileId::generate();
        let objects = Arc::clone(&self.place.objects);
        Ok(Upload {
            place: self.place.clone(),
            writer: BufWriter::new(objects, content_path(&id)),
            hasher: Sha256::new(),
            bytes: 0,
            id,
            filename: filename.to_owned(),
            purpose,
        })
    }

    /// A file's record.
    ///
    /// # Errors
    /// [`FineTuningError::NoFile`], or the storage failed.
    pub async fn get(&self, id: &FileId) -> Result<FileRecord, FineTuningError> {
        let record = self.place.record(&record_path(id), WHAT).await?;
        record.ok_or_else(|| FineTuningError::NoFile(id.clone()))
    }

    /// All files, oldest first.
    ///
    /// # Errors
    /// The storage's.
    pub async fn list(&self) -> Result<Vec<FileRecord>, FineTuningError> {
        let mut records: Vec<FileRecord> = Vec::new();
        for name in self.names().await? {
            let path = Path::from_iter(["files", "records", &name]);
            // one that was deleted meanwhile is left out
            records.extend(self.place.record(&path, WHAT).await?);
        }
        records.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(records)
    }

    /// A file's content, checked against its digest.
    ///
    /// # Errors
    /// [`FineTuningError::NoFile`], [`FineTuningError::Corrupt`] where it is
    /// not what was written, or the storage failed.
    pub async fn content(&self, id: &FileId) -> Result<Bytes, FineTuningError> {
        let record = self.get(id).await?;
        let path = content_path(id);
        let bytes = self.place.bytes(&path, record.bytes, "file").await?;
        let bytes = bytes.ok_or_else(|| FineTuningError::NoFile(id.clone()))?;
        if Sha256Digest::of(&bytes) != record.digest {
            return Err(crate::place::corrupt(
                "file",
                id,
                &"its content has changed",
            ));
        }
        Ok(bytes)
    }

    /// Deletes a file: first the record, then the content.
    ///
    /// # Errors
    /// [`FineTuningError::NoFile`], or the storage failed.
    pub async fn delete(&self, id: &FileId) -> Result<(), FineTuningError> {
        self.get(id).await?;
        self.place.remove(&record_path(id)).await?;
        self.place.remove(&content_path(id)).await
    }

    async fn names(&self) -> Result<Vec<String>, FineTuningError> {
        let records = Path::from_iter(["files", "records"]);
        self.place.names(&records, FILES_MAX).await
    }

    /// Removes what uploads left that were interrupted long ago.
    async fn sweep(&self, now: UnixMillis) -> Result<(), FineTuningError> {
        let contents = Path::from_iter(["files", "contents"]);
        let mut objects = self.place.objects.list(Some(&contents));
        let mut abandoned = Vec::new();
        while let Some(object) = objects.try_next().await? {
            let age = now.0 - object.last_modified.timestamp_millis();
            let id = object.location.filename().map(FileId::new);
            if let (true, Some(Ok(id))) = (age > ABANDONED_AFTER_MILLIS, id)
                && self.place.objects.head(&record_path(&id)).await.is_err()
            {
                abandoned.push(object.location);
            }
        }
        for path in abandoned {
            self.place.remove(&path).await?;
        }
        Ok(())
    }
}

/// A file on its way in.
pub struct Upload {
    place: Place,
    writer: BufWriter,
    hasher: Sha256,
    bytes: u64,
    id: FileId,
    filename: String,
    purpose: Purpose,
}

impl Upload {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`FineTuningError::FileSize`] once there is too much, or the storage
    /// failed; then the upload should be given up.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), FineTuningError> {
        self.bytes += piece.len() as u64;
        if self.bytes > FILE_BYTES_MAX {
            return Err(self.wrong_size());
        }
        self.hasher.update(&piece);
        Ok(self.writer.put(piece).await?)
    }

    /// Makes the file exist.
    ///
    /// # Errors
    /// [`FineTuningError::FileSize`] where it is empty, or the storage failed.
    pub async fn finish(mut self, now: UnixMillis) -> Result<FileRecord, FineTuningError> {
        if self.bytes == 0 {
            return Err(self.wrong_size());
        }
        self.writer.shutdown().await?;
        let record = FileRecord {
            id: self.id,
            filename: self.filename,
            bytes: self.bytes,
            digest: Sha256Digest::from_bytes(self.hasher.finalize().into()),
            purpose: self.purpose,
            created_at: now,
        };
        let path = record_path(&record.id);
        self.place.create(&path, WHAT, &record).await?;
        Ok(record)
    }

    /// Gives the upload up and removes what was written.
    pub async fn abort(mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::debug!(%error, "an upload could not be given up cleanly");
        }
        if let Err(error) = self.place.remove(&content_path(&self.id)).await {
            tracing::warn!(%error, "what an upload left could not be removed");
        }
    }

    fn wrong_size(&self) -> FineTuningError {
        FineTuningError::FileSize {
            bytes: self.bytes,
            max: FILE_BYTES_MAX,
        }
    }
}
