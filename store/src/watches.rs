//! One watch for each topic, fed by whatever reads the store's counters.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Topic;

#[derive(Clone)]
pub(crate) struct Watches(Arc<[watch::Sender<u64>; 2]>);

impl Watches {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Topic::ALL.map(|_| watch::Sender::new(0))))
    }

    pub(crate) fn subscribe(&self, topic: Topic) -> watch::Receiver<u64> {
        self.0[topic.index()].subscribe()
    }

    /// Takes a counter that was read from the store; any other value than the
    /// known one is a change, a smaller one too, since a store can be replaced.
    pub(crate) fn set(&self, topic: Topic, counter: u64) {
        self.0[topic.index()].send_if_modified(|known| {
            let changed = counter != *known;
            *known = counter;
            changed
        });
    }
}
