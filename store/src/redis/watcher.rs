//! Notices what other processes changed, by polling the change counters; its
//! polls also notice a server that went away, before the next write does.

use std::time::Duration;

use tokio::task::AbortHandle;

use super::connect::Link;
use super::key;
use crate::watches::Watches;
use crate::{StoreError, Topic};

/// How often the counters are read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Stops its task when it is dropped.
pub(super) struct Watcher {
    watches: Watches,
    task: AbortHandle,
}

impl Watcher {
    pub(super) async fn start(link: Link, watches: Watches) -> Result<Self, StoreError> {
        poll(&link, &watches).await?;
        let task = tokio::spawn(poll_forever(link, watches.clone())).abort_handle();
        Ok(Self { watches, task })
    }

    pub(super) fn watches(&self) -> &Watches {
        &self.watches
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn poll_forever(link: Link, watches: Watches) {
    let mut is_away = false;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        match poll(&link, &watches).await {
            Err(error) if !is_away => {
                tracing::warn!(%error, "Redis is away");
                is_away = true;
            }
            Err(_) => {}
            Ok(()) => is_away = false,
        }
    }
}

async fn poll(link: &Link, watches: &Watches) -> Result<(), StoreError> {
    let mut command = redis::cmd("MGET");
    for topic in Topic::ALL {
        command.arg(key(&format!("changes:{}", topic.as_str())));
    }
    let answer = link.get().await?.query(&command).await?;
    let counters: Vec<Option<u64>> =
        redis::from_redis_value(answer).map_err(redis::RedisError::from)?;
    for (topic, counter) in Topic::ALL.into_iter().zip(counters) {
        watches.set(topic, counter.unwrap_or(0));
    }
    Ok(())
}
