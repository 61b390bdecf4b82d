//! The embedded store: one SQLite file in WAL mode that several processes of
//! one machine share.
//!
//! Every SQLite call runs on a thread of its own or on the blocking pool,
//! never on an async executor. Writes of this process go through one thread
//! that commits those that wait together (`writer`), reads through a few
//! read-only connections.

mod schema;
mod watcher;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::sync::{Semaphore, watch};

use crate::watches::Watches;
use crate::{Durability, StoreError, StoreOptions, Synchronous, Topic};
use watcher::Watcher;
use writer::Writer;

/// The most reads that run at the same time; more wait.
const READERS_MAX: usize = 4;
/// How often, and how fast, the change to WAL is tried on a busy new file.
const WAL_TRIES_MAX: u32 = 50;
const WAL_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Prepared statements kept by each connection.
const STATEMENTS_MAX: usize = 64;

/// An opened SQLite file; clones share its connections.
#[derive(Clone)]
pub struct Sqlite(Arc<Inner>);

struct Inner {
    path: PathBuf,
    busy_timeout: Duration,
    durability: Durability,
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
    reader_permits: Semaphore,
    watcher: Watcher,
}

impl Sqlite {
    /// Opens or creates the file. Blocks; called on a blocking thread.
    pub(crate) fn open(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let durability = match options.synchronous {
            Synchronous::Full => Durability::Fsynced,
            Synchronous::Off => Durability::OsBuffered,
        };
        if durability < options.required {
            let remedy = "open it with synchronous = FULL".to_owned();
            return Err(StoreError::TooWeak {
                required: options.required,
                found: durability,
                remedy,
            });
        }
        create_folder(path)?;
        let mut writing = connect(path, options.busy_timeout)?;
        let synchronous = match options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Off => "OFF",
        };
        writing.pragma_update(None, "synchronous", synchronous)?;
        schema::create(&mut writing)?;
        sync_folder(path)?;
        let watches = Watches::new();
        let watcher = Watcher::start(
            connect_reading(path, options.busy_timeout)?,
            watches.clone(),
        )?;
        let writer = Writer::start(writing, watches)?;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            busy_timeout: options.busy_timeout,
            durability,
            writer,
            readers: Mutex::new(Vec::new()),
            reader_permits: Semaphore::new(READERS_MAX),
            watcher,
        })))
    }

    /// What an answered write promises.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.0.durability
    }

    /// A number that grows with every change of `topic`, by any process.
    #[must_use]
    pub fn changes(&self, topic: Topic) -> watch::Receiver<u64> {
        self.0.watcher.watches().subscribe(topic)
    }

    /// Makes the tables of one component by `create` at the first use, and
    /// refuses those of another version.
    ///
    /// # Errors
    /// [`StoreError::Schema`] for another version.
    pub async fn component(
        &self,
        component: &'static str,
        version: i64,
        create: &'static str,
    ) -> Result<(), StoreError> {
        self.write(move |tx| schema::component(tx, component, version, create))
            .await
    }

    /// Runs `job` in a write transaction, alone among all processes, and
    /// answers when it is committed as durably as [`Sqlite::durability`] says.
    /// A job that fails leaves nothing behind.
    ///
    /// # Errors
    /// The job's own, or a [`StoreError`] where the commit failed.
    pub async fn write<T, E>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.0.writer.run(job).await
    }

    /// Runs `job` on a connection that cannot write.
    ///
    /// # Errors
    /// The job's own, or a [`StoreError`] where no connection could be had.
    pub async fn read<T, E>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let stopped = || E::from(StoreError::Stopped);
        let permit = self
            .0
            .reader_permits
            .acquire()
            .await
            .map_err(|_| stopped())?;
        let inner = Arc::clone(&self.0);
        let work = move || {
            let connection = inner.reader()?;
            let result = job(&connection);
            inner.readers.lock().push(connection);
            result
        };
        let result = tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| stopped())?;
        drop(permit);
        result
    }

    /// Whether the file can be read.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        self.read(|db| Ok(db.query_row("SELECT count(*) FROM store_component", [], |_| Ok(()))?))
            .await
    }
}

impl Inner {
    fn reader(&self) -> Result<Connection, StoreError> {
        let kept = self.readers.lock().pop();
        match kept {
            Some(connection) => Ok(connection),
            None => connect_reading(&self.path, self.busy_timeout),
        }
    }
}

/// Counts a change of `topic` in the transaction that makes it.
///
/// # Errors
/// SQLite's.
pub fn bump(tx: &Transaction<'_>, topic: Topic) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE store_change SET counter = counter + 1 WHERE topic = ?1")?
        .execute([topic.as_str()])?;
    Ok(())
}

fn connect(path: &Path, busy_timeout: Duration) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    enter_wal(&connection)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// The busy timeout does not cover the change of the journal mode, which two
/// processes may try at once on a new file.
fn enter_wal(connection: &Connection) -> Result<(), StoreError> {
    let mut tries_left = WAL_TRIES_MAX;
    loop {
        tries_left -= 1;
        match connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(StoreError::from)
        {
            Err(StoreError::Busy) if tries_left > 0 => std::thread::sleep(WAL_RETRY_INTERVAL),
            other => return other,
        }
    }
}

fn connect_reading(path: &Path, busy_timeout: Duration) -> Result<Connection, StoreError> {
    let connection = connect(path, busy_timeout)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn create_folder(path: &Path) -> Result<(), StoreError> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => {
            std::fs::create_dir_all(folder).map_err(|error| file_error(folder, &error))
        }
        _ => Ok(()),
    }
}

/// The names of new files are as durable as their bytes only after this.
fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| file_error(folder, &error))
}

fn file_error(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}
