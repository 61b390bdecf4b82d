//! Opens a store at a place.

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::{AdapterStore, AdapterStoreError};

impl AdapterStore {
    /// A store in a local folder, which is created if need be. Every write is
    /// followed by an fsync of the file and of its folder.
    ///
    /// # Errors
    /// When the folder can neither be made nor opened.
    pub fn local(root: &Path) -> Result<Self, AdapterStoreError> {
        std::fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        let files = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        Ok(Self::new(Arc::new(files), Some(root)))
    }

    /// A store over any implementation of `object_store` that can create an
    /// object only where none is.
    #[must_use]
    pub fn with(objects: Arc<dyn ObjectStore>) -> Self {
        Self::new(objects, None)
    }

    /// A store at a URL: `s3://BUCKET/PREFIX`, with region, endpoint and
    /// credentials from the `AWS_…` environment, or `file:///FOLDER`.
    ///
    /// # Errors
    /// When the URL is of neither kind, or the environment does not suffice.
    #[cfg(feature = "s3")]
    pub fn from_url(url: &str) -> Result<Self, AdapterStoreError> {
        use object_store::aws::AmazonS3Builder;
        use object_store::prefix::PrefixStore;

        if let Some(folder) = url.strip_prefix("file://") {
            return Self::local(Path::new(folder));
        }
        let Some(place) = url.strip_prefix("s3://") else {
            return Err(AdapterStoreError::Location(format!(
                "{url}: expected s3:// or file://"
            )));
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        // Fails where the process has chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let objects = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .build()?;
        let prefix = object_store::path::Path::parse(prefix)
            .map_err(|error| AdapterStoreError::Location(error.to_string()))?;
        Ok(Self::with(Arc::new(PrefixStore::new(objects, prefix))))
    }

    /// A store at a URL, `file:///FOLDER`; built with the feature `s3`, it
    /// takes `s3://BUCKET/PREFIX` too.
    ///
    /// # Errors
    /// When the URL is of another kind.
    #[cfg(not(feature = "s3"))]
    pub fn from_url(url: &str) -> Result<Self, AdapterStoreError> {
        match url.strip_prefix("file://") {
            Some(folder) => Self::local(Path::new(folder)),
            None => Err(AdapterStoreError::Location(format!(
                "{url}: only file:// is built in; the feature `s3` adds s3://"
            ))),
        }
    }
}
