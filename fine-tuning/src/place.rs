//! Where files and events are kept: small objects that are read whole, listed
//! and created once.

use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FineTuningError;

/// The longest record that is read, as JSON.
const RECORD_BYTES_MAX: u64 = 256 * 1024;

/// A folder, or whatever `object_store` reaches.
#[derive(Debug, Clone)]
pub struct Place {
    pub(crate) objects: Arc<dyn ObjectStore>,
}

impl Place {
    /// A local folder, which is created if need be. Every write is followed by
    /// an fsync.
    ///
    /// # Errors
    /// When the folder can neither be made nor opened.
    pub fn local(root: &FsPath) -> Result<Self, FineTuningError> {
        std::fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        let files = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        Ok(Self::with(Arc::new(files)))
    }

    /// Any implementation of `object_store` that can create an object only
    /// where none is.
    #[must_use]
    pub fn with(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects }
    }

    /// Writes a record where there is none; false where there is one.
    pub(crate) async fn create<T: Serialize>(
        &self,
        path: &Path,
        what: &'static str,
        record: &T,
    ) -> Result<bool, FineTuningError> {
        let bytes = serde_json::to_vec(record).map_err(|error| corrupt(what, path, &error))?;
        let put = self.objects.put_opts(
            path,
            PutPayload::from(Bytes::from(bytes)),
            PutOptions::from(PutMode::Create),
        );
        match put.await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A record; none where there is none.
    pub(crate) async fn record<T: DeserializeOwned>(
        &self,
        path: &Path,
        what: &'static str,
    ) -> Result<Option<T>, FineTuningError> {
        let Some(bytes) = self.bytes(path, RECORD_BYTES_MAX, what).await? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&bytes);
        record
            .map(Some)
            .map_err(|error| corrupt(what, path, &error))
    }

    /// An object of at most `max` bytes; none where there is none.
    pub(crate) async fn bytes(
        &self,
        path: &Path,
        max: u64,
        what: &'static str,
    ) -> Result<Option<Bytes>, FineTuningError> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if found.meta.size > max {
            let reason = format!("{} bytes are more than {max}", found.meta.size);
            return Err(corrupt(what, path, &reason));
        }
        Ok(Some(found.bytes().await?))
    }

    /// The last parts of the paths under a folder, sorted; at most `max`.
    pub(crate) async fn names(
        &self,
        folder: &Path,
        max: usize,
    ) -> Result<Vec<String>, FineTuningError> {
        let mut names = Vec::new();
        let mut objects = self.objects.list(Some(folder));
        while let Some(object) = objects.try_next().await? {
            if let Some(name) = object.location.filename() {
                names.push(name.to_owned());
            }
            if names.len() == max {
                break;
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes an object; nothing happens where there is none.
    pub(crate) async fn remove(&self, path: &Path) -> Result<(), FineTuningError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn corrupt(
    what: &'static str,
    name: &impl ToString,
    reason: &impl ToString,
) -> FineTuningError {
    FineTuningError::Corrupt {
        what,
        name: name.to_string(),
        reason: reason.to_string(),
    }
}
