//! What can go wrong with control state.

use std::fmt;

use ids::Revision;
use store::StoreError;

use crate::{DocKey, Expected};

/// Why control state was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody else changed the document first.
    #[error("{key} was expected to be {expected:?}, but it is {found}")]
    Conflict {
        /// Which document.
        key: DocKey,
        /// What the writer believed.
        expected: Expected,
        /// What it is.
        found: Found,
    },
    /// The lease that guards the write is no longer in force.
    #[error("the lease {0:?} was lost")]
    Fenced(String),
    /// A document's name that is empty, too long or not printable ASCII.
    #[error("{0:?} is no name of a document")]
    Name(String),
    /// A lease's name or holder that is empty or too long.
    #[error("{0:?} is no name of a lease or holder")]
    LeaseName(String),
    /// The document is too long.
    #[error("{key} has {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge {
        /// Which document.
        key: DocKey,
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A stored document does not read as what it should be.
    #[error("{key} cannot be read: {reason}")]
    Corrupt {
        /// Which document.
        key: DocKey,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a conflicting write found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No document.
    Absent,
    /// A document at this revision.
    At(Revision),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::At(revision) => write!(f, "at revision {revision}"),
        }
    }
}

impl From<rusqlite::Error> for ControlError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
