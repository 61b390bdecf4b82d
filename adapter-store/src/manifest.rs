//! What is recorded beside a version's files, and the bytes that it becomes.
//!
//! The first line carries the format and a checksum of the rest, because the
//! version's digest covers the files only and not the lineage.

use std::collections::BTreeMap;

use ids::{AdapterDigest, BaseDigest, DatasetDigest, Sha256Digest, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::AdapterStoreError;

/// The largest manifest.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 10;
/// The format, at the start of the first line.
const FORMAT: &str = "adapter-manifest-1";

/// A stored version: its files and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version.
    pub digest: AdapterDigest,
    /// Its files.
    pub files: Vec<FileEntry>,
    /// Where it came from.
    pub lineage: Lineage,
}

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in a PEFT folder.
    pub name: String,
    /// Its content.
    pub digest: Sha256Digest,
    /// Its size.
    pub bytes: u64,
}

/// Where a version came from. Not covered by its digest: the same files trained
/// twice are one version, and the first lineage stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The base that it was made for; `None` for a folder that names none.
    #[serde(default)]
    pub base: Option<BaseDigest>,
    /// What it was trained on.
    #[serde(default)]
    pub dataset: Option<DatasetDigest>,
    /// The version that training started from.
    #[serde(default)]
    pub parent: Option<AdapterDigest>,
    /// What the evaluation before publication measured.
    #[serde(default)]
    pub evaluation: Option<Value>,
    /// When it was made.
    pub created: UnixMillis,
    /// Who made it.
    pub source: Source,
    /// Whatever else the maker wants to keep.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
}

impl Lineage {
    /// The lineage of a version about which nothing is known.
    #[must_use]
    pub fn imported(created: UnixMillis) -> Self {
        Self {
            base: None,
            dataset: None,
            parent: None,
            evaluation: None,
            created,
            source: Source::Imported,
            extra: BTreeMap::new(),
        }
    }
}

/// Who made a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// This system trained it.
    Trained,
    /// It was brought in.
    Imported,
}

/// Whether a version is known to belong to a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseMatch {
    /// Its lineage names that base.
    Verified,
    /// Its lineage names none.
    Unverified,
}

/// Compares a version's base with the one that is served.
///
/// # Errors
/// [`AdapterStoreError::BaseMismatch`] when the lineage names another base.
pub fn check_base(
    manifest: &Manifest,
    served: &BaseDigest,
) -> Result<BaseMatch, AdapterStoreError> {
    match manifest.lineage.base {
        None => Ok(BaseMatch::Unverified),
        Some(adapter) if adapter == *served => Ok(BaseMatch::Verified),
        Some(adapter) => Err(AdapterStoreError::BaseMismatch {
            adapter,
            served: *served,
        }),
    }
}

impl Manifest {
    /// The bytes that are stored.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, AdapterStoreError> {
        let json = serde_json::to_vec_pretty(self)?;
        let mut bytes = format!("{FORMAT} {}\n", Sha256Digest::of(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        let size = bytes.len() as u64;
        if size > MANIFEST_BYTES_MAX {
            let (name, max) = ("manifest", MANIFEST_BYTES_MAX);
            return Err(AdapterStoreError::Size {
                name,
                bytes: size,
                max,
            });
        }
        Ok(bytes)
    }

    /// Reads the manifest of `digest` back, verified.
    pub(crate) fn from_bytes(
        digest: AdapterDigest,
        bytes: &[u8],
    ) -> Result<Self, AdapterStoreError> {
        let damaged = |what| AdapterStoreError::Damaged { digest, what };
        let end = bytes.iter().position(|b| *b == b'\n');
        let end = end.ok_or_else(|| damaged("the manifest has no first line"))?;
        let first = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
        let json = &bytes[end + 1..];
        if first != format!("{FORMAT} {}", Sha256Digest::of(json)) {
            return Err(damaged("the manifest's checksum or format is wrong"));
        }
        let manifest: Self =
            serde_json::from_slice(json).map_err(|_| damaged("the manifest cannot be read"))?;
        if manifest.digest != digest {
            return Err(damaged("the manifest is another version's"));
        }
        Ok(manifest)
    }

    /// The entry of the file called `name`.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The size of all files.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.files
            .iter()
            .map(|file| file.bytes)
            .fold(0, u64::saturating_add)
    }
}
