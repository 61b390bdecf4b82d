//! The two durable backends, SQLite and Redis, opened with a checked
//! durability and shared by every crate that keeps state.
//!
//! Knows how to open, to write durably, to notice changes made by other
//! processes and to refuse a schema of another version. Knows nothing of what
//! is stored: tables, keys and scripts belong to the crates above.

mod error;
mod options;
pub mod redis;
pub mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;
mod topic;
mod url;
mod watches;

use std::fmt;

pub use error::StoreError;
pub use options::{Durability, RedisCredentials, Secret, StoreOptions, Synchronous};
pub use redis::Redis;
pub use sqlite::Sqlite;
pub use topic::Topic;
pub use url::{RedisAddress, StoreUrl};

/// One opened store.
#[derive(Clone)]
pub enum Backend {
    /// The embedded store: one SQLite file, several processes.
    Sqlite(Sqlite),
    /// A Redis server, several machines.
    Redis(Redis),
}

impl Backend {
    /// Opens the store that `url` names and checks what its writes promise.
    ///
    /// # Errors
    /// Any [`StoreError`]; [`StoreError::TooWeak`] where the store promises
    /// less than `options.required`.
    pub async fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Self, StoreError> {
        match url {
            StoreUrl::Embedded { path } => {
                let (path, options) = (path.clone(), options.clone());
                let open = move || Sqlite::open(&path, &options);
                let opened = tokio::task::spawn_blocking(open).await;
                Ok(Self::Sqlite(opened.map_err(|_| StoreError::Stopped)??))
            }
            StoreUrl::Redis(address) => Ok(Self::Redis(Redis::open(address, options).await?)),
        }
    }

    /// What a write that was answered promises, as found at the last connect.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match self {
            Self::Sqlite(sqlite) => sqlite.durability(),
            Self::Redis(redis) => redis.durability(),
        }
    }

    /// Whether the store answers now.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.check().await,
            Self::Redis(redis) => redis.check().await,
        }
    }

    /// A number that grows whenever anything about `topic` was changed, by
    /// this process or by another.
    #[must_use]
    pub fn changes(&self, topic: Topic) -> tokio::sync::watch::Receiver<u64> {
        match self {
            Self::Sqlite(sqlite) => sqlite.changes(topic),
            Self::Redis(redis) => redis.changes(topic),
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(_) => f.write_str("Backend::Sqlite"),
            Self::Redis(_) => f.write_str("Backend::Redis"),
        }
    }
}
