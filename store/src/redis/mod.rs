//! The Redis store: reads on a shared connection, writes on one of their own,
//! whose batches are answered when they are durable.
//!
//! A write that was cut off by a lost connection is answered with an error and
//! never sent twice: only its caller knows whether that is harmless.

mod connect;
mod promise;
mod watcher;
mod writer;

use std::sync::Arc;

use redis::{Cmd, FromRedisValue};
use tokio::sync::watch;

use crate::url::RedisAddress;
use crate::watches::Watches;
use crate::{Durability, StoreError, StoreOptions, Topic};
use connect::{Connector, Link};
use watcher::Watcher;
use writer::Writer;

/// Begins every key. The braces are a hash tag: in a cluster all keys share
/// one slot, so that a script may touch any of them.
pub const KEY_PREFIX: &str = "{fw}:";

/// How often a read is tried; a connection that was lost in between is
/// replaced.
const READ_TRIES: u32 = 2;

/// An opened Redis server; clones share its connections.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    connector: Arc<Connector>,
    reading: Link,
    writer: Writer,
    watcher: Watcher,
}

impl Redis {
    pub(crate) async fn open(
        address: &RedisAddress,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let connector = Arc::new(Connector::new(address, options)?);
        let reading = Link::new(Arc::clone(&connector));
        // What the server promises is known before anything is started.
        reading.get().await?;
        let watcher = Watcher::start(Link::new(Arc::clone(&connector)), Watches::new()).await?;
        let writer = Writer::start(Link::new(Arc::clone(&connector)));
        Ok(Self(Arc::new(Inner {
            connector,
            reading,
            writer,
            watcher,
        })))
    }

    /// What an answered write promises, as found at the last connect.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.0.connector.durability()
    }

    /// A number that changes with every change of `topic`, by any process.
    #[must_use]
    pub fn changes(&self, topic: Topic) -> watch::Receiver<u64> {
        self.0.watcher.watches().subscribe(topic)
    }

    /// Notes the version of one component's keys at the first use, and refuses
    /// another version.
    ///
    /// # Errors
    /// [`StoreError::Schema`] for another version.
    pub async fn component(&self, component: &'static str, version: i64) -> Result<(), StoreError> {
        let mut command = eval(COMPONENT_SCRIPT);
        command.arg(component).arg(version);
        let found: i64 = self.write(command).await?;
        if found != version {
            return Err(StoreError::Schema {
                component,
                found,
                supported: version,
            });
        }
        Ok(())
    }

    /// Runs a command that changes something, and answers when that is as
    /// durable as [`Redis::durability`] says.
    ///
    /// # Errors
    /// [`StoreError::Redis`], or [`StoreError::NotFsynced`]: the write may be
    /// there then, but nothing is promised.
    pub async fn write<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        read_value(self.0.writer.run(command).await?)
    }

    /// Runs a command that changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Redis`].
    pub async fn read<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        let mut tries_left = READ_TRIES;
        loop {
            tries_left -= 1;
            let mut connection = self.0.reading.get().await?;
            let answer = connection.query(&command).await;
            match answer {
                Err(StoreError::Redis(error)) if connect::is_lost(&error) && tries_left > 0 => {}
                other => return read_value(other?),
            }
        }
    }

    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        self.read(redis::cmd("PING")).await
    }
}

/// The start of a command that runs `script`, a Lua text of the calling crate:
/// `KEYS[1]` is [`KEY_PREFIX`], and the arguments are added by the caller.
#[must_use]
pub fn eval(script: &str) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg(KEY_PREFIX);
    command
}

/// The key called `name`.
#[must_use]
pub fn key(name: &str) -> String {
    format!("{KEY_PREFIX}{name}")
}

const COMPONENT_SCRIPT: &str = "
redis.call('HSETNX', KEYS[1] .. 'schema', ARGV[1], ARGV[2])
return tonumber(redis.call('HGET', KEYS[1] .. 'schema', ARGV[1]))
";

fn read_value<T: FromRedisValue>(value: redis::Value) -> Result<T, StoreError> {
    T::from_redis_value(value).map_err(|error| StoreError::Redis(error.into()))
}
