//! Notices what other processes committed: a thread that polls
//! `PRAGMA data_version` and, when it moved, reads the change counters.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rusqlite::Connection;

use crate::watches::Watches;
use crate::{StoreError, Topic};

/// How often `data_version` is read; it is a look at shared memory.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Stops its thread when it is dropped.
pub(super) struct Watcher {
    watches: Watches,
    _stop: SyncSender<()>,
}

impl Watcher {
    pub(super) fn start(connection: Connection, watches: Watches) -> Result<Self, StoreError> {
        let (stop, stopped) = sync_channel::<()>(0);
        let published = watches.clone();
        publish(&connection, &published)?;
        let poll = move || {
            let mut seen = None;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(POLL_INTERVAL) {
                if let Err(error) = poll_once(&connection, &published, &mut seen) {
                    tracing::warn!(%error, "the store's changes could not be polled");
                }
            }
        };
        spawn("store-watch", poll)?;
        Ok(Self {
            watches,
            _stop: stop,
        })
    }

    pub(super) fn watches(&self) -> &Watches {
        &self.watches
    }
}

fn poll_once(
    connection: &Connection,
    watches: &Watches,
    seen: &mut Option<i64>,
) -> Result<(), StoreError> {
    let version = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
    if *seen != Some(version) {
        publish(connection, watches)?;
        *seen = Some(version);
    }
    Ok(())
}

/// Reads the counters and tells those who watch them.
pub(super) fn publish(connection: &Connection, watches: &Watches) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT counter FROM store_change WHERE topic = ?1")?;
    for topic in Topic::ALL {
        let counter: i64 = statement.query_row([topic.as_str()], |row| row.get(0))?;
        watches.set(topic, u64::try_from(counter).unwrap_or(0));
    }
    Ok(())
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let spawned = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work);
    spawned.map(drop).map_err(|error| StoreError::File {
        path: name.to_owned(),
        reason: error.to_string(),
    })
}
