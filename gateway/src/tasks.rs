//! Work that outlives the request that started it, so that a shutdown can wait
//! for it: streams, records of answers, aborts of rollouts.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// Starts tasks and knows whether any still runs.
#[derive(Clone)]
pub(crate) struct Tasks {
    runtime: Handle,
    running: watch::Sender<usize>,
}

/// Counts a task until it ends, however it ends.
struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Tasks {
    /// Tasks on the present runtime, which lives as long as the gateway.
    pub(crate) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            running: watch::Sender::new(0),
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.running
            .send_modify(|count| *count = count.saturating_add(1));
        let running = Running(self.running.clone());
        self.runtime.spawn(async move {
            let _running = running;
            task.await;
        });
    }

    /// Waits until no task runs, at most `limit`. False where some still do.
    pub(crate) async fn drained(&self, limit: Duration) -> bool {
        let mut running = self.running.subscribe();
        let none = running.wait_for(|count| *count == 0);
        tokio::time::timeout(limit, none).await.is_ok()
    }
}
