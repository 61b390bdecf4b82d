//! Rollouts, one document for each public model name.

use ids::{ModelName, Revision};
use rollout::Rollout;

use crate::typed::{corrupt, read, written};
use crate::{AuditEntry, ControlError, ControlStore, DocKey, DocKind, Document, Expected};

/// The rollout of `id` and its revision.
///
/// # Errors
/// The store's, and [`ControlError::Corrupt`] where it does not read.
pub async fn get(
    store: &dyn ControlStore,
    id: &ModelName,
) -> Result<Option<(Revision, Rollout)>, ControlError> {
    let key = DocKey::rollout(id);
    store
        .get(&key)
        .await?
        .map(|document| parsed(&key, document))
        .transpose()
}

/// All rollouts, by model name.
///
/// # Errors
/// As for [`get`].
pub async fn list(store: &dyn ControlStore) -> Result<Vec<(Revision, Rollout)>, ControlError> {
    let documents = store.list(DocKind::Rollout).await?;
    documents
        .into_iter()
        .map(|(key, document)| parsed(&key, document))
        .collect()
}

/// Writes `rollout` where its document still is as `expected`.
///
/// # Errors
/// [`ControlError::Conflict`] where it is not, and the store's.
pub async fn put(
    store: &dyn ControlStore,
    rollout: &Rollout,
    expected: Expected,
    audit: AuditEntry,
) -> Result<Revision, ControlError> {
    let key = DocKey::rollout(&rollout.id);
    store
        .put(&key, written(&key, rollout)?, expected, audit)
        .await
}

fn parsed(key: &DocKey, document: Document) -> Result<(Revision, Rollout), ControlError> {
    let rollout: Rollout = read(key, document.body)?;
    if rollout.id.as_str() != key.name() {
        return Err(corrupt(
            key,
            &format!("it holds the rollout of {}", rollout.id),
        ));
    }
    Ok((document.revision, rollout))
}
