//! How a store is opened and what it has to promise.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a write waits for another process's write lock, by default.
const BUSY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// What has happened to a write when it is answered. Ordered: a greater one
/// promises more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Nothing is promised: the store keeps no file, may drop keys, or does
    /// not say.
    Unknown,
    /// The operating system has it; losing the machine's power can lose it.
    OsBuffered,
    /// It was fsynced.
    Fsynced,
}

impl Durability {
    /// The word used in replies, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::OsBuffered => "os_buffered",
            Self::Fsynced => "fsynced",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SQLite's `synchronous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// Every commit is fsynced.
    #[default]
    Full,
    /// None is: a loss of power can lose writes, or the file itself.
    Off,
}

impl Synchronous {
    /// What a promise of `required` needs, and no more.
    #[must_use]
    pub fn for_promise(required: Durability) -> Self {
        if required < Durability::Fsynced {
            Self::Off
        } else {
            Self::Full
        }
    }
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who this process is to Redis; read from the environment or a file by the
/// caller, never from the command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisCredentials {
    /// The ACL user; none is `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The least that a write has to promise; a store that promises less is
    /// refused.
    pub required: Durability,
    /// Who this process is to Redis.
    pub redis: RedisCredentials,
    /// How long an SQLite write waits for another process's lock.
    pub busy_timeout: Duration,
    /// SQLite's `synchronous`.
    pub synchronous: Synchronous,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            required: Durability::Fsynced,
            redis: RedisCredentials::default(),
            busy_timeout: BUSY_TIMEOUT_DEFAULT,
            synchronous: Synchronous::Full,
        }
    }
}
