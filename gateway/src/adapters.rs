//! Bringing adapters in. Everything is checked before anything is changed.

use adapter_store::{AdapterStoreError, Lineage, check_base, folder};
use engine::AdapterPackage;
use ids::{AdapterDigest, AliasName};

use crate::app::{App, Serving};
use crate::errors::ApiError;

/// A name that means something else already.
#[derive(Debug, thiserror::Error)]
#[error("the name {0} is taken by a model")]
pub(crate) struct NameTaken(AliasName);

impl From<NameTaken> for ApiError {
    fn from(taken: NameTaken) -> Self {
        Self::invalid("name", taken.to_string())
    }
}

/// Whether an alias may have this name: not a public model's, not the base's,
/// and nothing that reads as a digest.
pub(crate) fn check_free(serving: &Serving, name: &AliasName) -> Result<(), NameTaken> {
    let table = serving.router.table();
    let text = name.as_str();
    let is_taken = table.models.contains_key(text)
        || table.base.name == text
        || text.parse::<AdapterDigest>().is_ok();
    if is_taken {
        Err(NameTaken(name.clone()))
    } else {
        Ok(())
    }
}

/// Reads a foreign PEFT folder, has the engine check and load it, and only then
/// stores it. What nothing names afterwards is unloaded again by itself.
pub(crate) async fn import(
    app: &App,
    serving: &Serving,
    path: String,
) -> Result<AdapterDigest, ApiError> {
    let Some(root) = app.config.adapter_root.clone() else {
        let reason = "no adapter root is configured, so no folder can be loaded";
        return Err(AdapterStoreError::PathInvalid(reason).into());
    };
    let read = tokio::task::spawn_blocking(move || folder::read_peft_folder(&root, &path));
    let files = read
        .await
        .map_err(std::io::Error::other)
        .map_err(AdapterStoreError::Io)??;
    let digest = files.digest();
    match app.adapters.manifest(&digest).await {
        Ok(manifest) => {
            check_base(&manifest, &serving.engine.base().digest)?;
        }
        Err(AdapterStoreError::NotFound(_) | AdapterStoreError::Damaged { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let package = AdapterPackage {
        digest,
        config_json: files.config_json.clone(),
        safetensors: files.safetensors.clone(),
    };
    let started = std::time::Instant::now();
    serving.engine.load_adapter(package).await?;
    app.metrics
        .adapter_loaded(&digest, started.elapsed().as_secs_f64());
    app.adapters
        .put(&files, &Lineage::imported(app.clock.now()))
        .await?;
    Ok(digest)
}
