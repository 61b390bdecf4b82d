//! What can go wrong with a store itself.

use crate::Durability;

/// Why a store could not be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store's address cannot be used.
    #[error("{url:?} is no store: {reason}")]
    Url {
        /// The address as given, without anything that looks like a password.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The folder or file of the embedded store cannot be used.
    #[error("the store file {path}: {reason}")]
    File {
        /// The file or folder.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// SQLite refused.
    #[error("SQLite: {message} (code {code})")]
    Sqlite {
        /// SQLite's extended result code, 0 where there was none.
        code: i32,
        /// SQLite's words.
        message: String,
    },
    /// Another process held the write lock for longer than the busy timeout.
    #[error("the store is busy: another process holds its write lock")]
    Busy,
    /// Redis refused a command or could not be reached.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The Redis server is older than any that this crate can use.
    #[error("Redis {found} is too old: at least {least} is needed")]
    RedisTooOld {
        /// The server's version.
        found: String,
        /// The oldest usable one.
        least: &'static str,
    },
    /// The store promises less than the configuration demands.
    #[error("the store's durability is {found}, but {required} is required: {remedy}")]
    TooWeak {
        /// What was demanded.
        required: Durability,
        /// What the store promises.
        found: Durability,
        /// What an operator has to set.
        remedy: String,
    },
    /// `WAITAOF` came back without the local fsync: the write may be lost.
    #[error("Redis did not confirm the fsync of a write within {waited_ms} ms")]
    NotFsynced {
        /// How long was waited.
        waited_ms: u64,
    },
    /// The stored data has a schema that this build does not read.
    #[error("the stored schema of {component} is version {found}, this build reads {supported}")]
    Schema {
        /// Whose data it is.
        component: &'static str,
        /// The version in the store.
        found: i64,
        /// The version of this build.
        supported: i64,
    },
    /// The file or database belongs to something else.
    #[error("the store holds something else: {0}")]
    Foreign(String),
    /// Something stored, or answered by the store, has not the expected form.
    #[error("the store's {what} cannot be read")]
    Corrupt {
        /// What was being read.
        what: &'static str,
    },
    /// The store was shut down while the call waited.
    #[error("the store was stopped")]
    Stopped,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::Busy
            }
            _ => Self::Sqlite {
                code: error.sqlite_error().map_or(0, |e| e.extended_code),
                message: error.to_string(),
            },
        }
    }
}
