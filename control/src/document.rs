//! Documents, their keys and revisions, and the record of each change.

use std::fmt;

use ids::{AliasName, ModelName, Revision, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ControlError;

/// The longest key.
pub const KEY_BYTES_MAX: usize = 128;
/// The longest document, as JSON text.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// How many audit records are kept; older ones are dropped.
pub const AUDIT_RECORDS_MAX: u64 = 100_000;
/// The most audit records in one answer.
pub const AUDIT_PAGE_MAX: usize = 1000;

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocKind {
    /// Which adapter version an alias names.
    Alias,
    /// A public model name's rollout.
    Rollout,
    /// An adapter that every replica should have loaded.
    Adapter,
    /// What the trainer remembers between runs.
    Trainer,
    /// A fine-tuning job.
    Job,
}

impl DocKind {
    /// The name that the store keeps.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alias => "alias",
            Self::Rollout => "rollout",
            Self::Adapter => "adapter",
            Self::Trainer => "trainer",
            Self::Job => "job",
        }
    }
}

/// Names one document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocKey {
    kind: DocKind,
    name: String,
}

impl DocKey {
    /// The document of `kind` called `name`.
    ///
    /// # Errors
    /// [`ControlError::Name`] unless the name has 1 to [`KEY_BYTES_MAX`]
    /// bytes, all printable ASCII.
    pub fn new(kind: DocKind, name: impl Into<String>) -> Result<Self, ControlError> {
        let name = name.into();
        if name.is_empty()
            || name.len() > KEY_BYTES_MAX
            || !name.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(ControlError::Name(
                name.chars().take(KEY_BYTES_MAX).collect(),
            ));
        }
        Ok(Self { kind, name })
    }

    /// An alias's document.
    #[must_use]
    pub fn alias(name: &AliasName) -> Self {
        Self {
            kind: DocKind::Alias,
            name: name.as_str().to_owned(),
        }
    }

    /// A rollout's document.
    #[must_use]
    pub fn rollout(id: &ModelName) -> Self {
        Self {
            kind: DocKind::Rollout,
            name: id.as_str().to_owned(),
        }
    }

    /// What the document is about.
    #[must_use]
    pub fn kind(&self) -> DocKind {
        self.kind
    }

    /// Its name among those of its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for DocKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

/// A document as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// How often it was changed.
    pub revision: Revision,
    /// What is in it.
    pub body: Value,
}

/// What a writer believes the document to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Not there.
    Absent,
    /// There, at this revision.
    Revision(Revision),
    /// Whatever it is.
    Any,
}

/// Who changes a document, and how they call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Who.
    pub actor: String,
    /// What, for example `rollout.promote`.
    pub action: String,
    /// When.
    pub at: UnixMillis,
}

/// One change that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its place in the log.
    pub seq: u64,
    /// When.
    pub at: UnixMillis,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// Which document.
    pub key: DocKey,
    /// The document's revision after the change.
    pub revision: Revision,
    /// What it was before; none where it was not there.
    pub before: Option<Value>,
    /// What it was after; none where it was removed.
    pub after: Option<Value>,
}

/// The document as text, when it is not too long.
pub(crate) fn to_text(key: &DocKey, body: &Value) -> Result<String, ControlError> {
    let text = body.to_string();
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(ControlError::TooLarge {
            key: key.clone(),
            bytes: text.len(),
            bytes_max: DOCUMENT_BYTES_MAX,
        });
    }
    Ok(text)
}

pub(crate) fn from_text(key: &DocKey, text: &str) -> Result<Value, ControlError> {
    serde_json::from_str(text).map_err(|error| ControlError::Corrupt {
        key: key.clone(),
        reason: error.to_string(),
    })
}
