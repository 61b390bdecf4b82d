//! Aliases: moving names for adapter versions.

use ids::{AdapterDigest, AliasName, Revision};
use serde::{Deserialize, Serialize};

use crate::typed::{corrupt, read, written};
use crate::{AuditEntry, ControlError, ControlStore, DocKey, DocKind, Expected};

#[derive(Serialize, Deserialize)]
struct Body {
    adapter: AdapterDigest,
}

/// The version that `alias` names, and the document's revision.
///
/// # Errors
/// The store's, and [`ControlError::Corrupt`] where it does not read.
pub async fn get(
    store: &dyn ControlStore,
    alias: &AliasName,
) -> Result<Option<(Revision, AdapterDigest)>, ControlError> {
    let key = DocKey::alias(alias);
    let Some(document) = store.get(&key).await? else {
        return Ok(None);
    };
    let body: Body = read(&key, document.body)?;
    Ok(Some((document.revision, body.adapter)))
}

/// All aliases, by name.
///
/// # Errors
/// As for [`get`].
pub async fn list(
    store: &dyn ControlStore,
) -> Result<Vec<(AliasName, AdapterDigest)>, ControlError> {
    let documents = store.list(DocKind::Alias).await?;
    let parsed = documents.into_iter().map(|(key, document)| {
        let alias = AliasName::new(key.name()).map_err(|error| corrupt(&key, &error))?;
        let body: Body = read(&key, document.body)?;
        Ok((alias, body.adapter))
    });
    parsed.collect()
}

/// Makes `alias` name `adapter` where its document still is as `expected`.
///
/// # Errors
/// [`ControlError::Conflict`] where it is not, and the store's.
pub async fn set(
    store: &dyn ControlStore,
    alias: &AliasName,
    adapter: AdapterDigest,
    expected: Expected,
    audit: AuditEntry,
) -> Result<Revision, ControlError> {
    let key = DocKey::alias(alias);
    store
        .put(&key, written(&key, &Body { adapter })?, expected, audit)
        .await
}

/// Removes `alias`; nothing happens where there is none.
///
/// # Errors
/// The store's.
pub async fn remove(
    store: &dyn ControlStore,
    alias: &AliasName,
    audit: AuditEntry,
) -> Result<(), ControlError> {
    store
        .delete(&DocKey::alias(alias), Expected::Any, audit)
        .await
}
