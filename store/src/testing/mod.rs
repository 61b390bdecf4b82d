//! Real servers, folders and system call traces for tests, of this crate and
//! of those above.

mod redis_server;
mod trace;

use std::io;

use tempfile::TempDir;

use crate::{Backend, StoreError, StoreOptions, StoreUrl};
pub use redis_server::RedisServer;
pub use trace::{Strace, TraceError, fsynced_between};

/// Where a test's store is; gone when dropped.
#[derive(Debug)]
pub enum Place {
    /// An SQLite file in this folder.
    Folder(TempDir),
    /// A Redis server that fsyncs every write.
    Server(RedisServer),
}

impl Place {
    /// A new folder for the embedded store.
    ///
    /// # Errors
    /// The system's.
    pub fn sqlite() -> io::Result<Self> {
        TempDir::new().map(Self::Folder)
    }

    /// A new Redis server.
    ///
    /// # Errors
    /// As for [`RedisServer::start`].
    pub fn redis() -> io::Result<Self> {
        RedisServer::start("always").map(Self::Server)
    }

    /// Where the store is.
    #[must_use]
    pub fn url(&self) -> StoreUrl {
        match self {
            Self::Folder(folder) => StoreUrl::Embedded {
                path: folder.path().join("test.sqlite"),
            },
            Self::Server(server) => server.url(),
        }
    }

    /// Opens the store once more, on connections of its own, as another
    /// process would.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(&self) -> Result<Backend, StoreError> {
        Backend::open(&self.url(), &StoreOptions::default()).await
    }

    /// Kills the server, where there is one, and starts it again.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Server(server) => {
                server.kill()?;
                server.start_again()
            }
        }
    }
}
