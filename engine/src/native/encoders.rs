//! Prompts become tokens outside of the async threads, few at a time: the CPUs
//! belong to the batch, and whoever sends many long prompts waits in line.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::EngineError;

/// Prompts that are encoded at the same time.
pub const ENCODING_MAX: usize = 2;

/// Where prompts are encoded; first come, first served.
#[derive(Debug)]
pub struct Encoders(Arc<Semaphore>);

impl Default for Encoders {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ENCODING_MAX)))
    }
}

impl Encoders {
    /// Runs `encode` when it is its turn. Once begun it keeps its place to its end,
    /// though nobody waits for it any more.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        encode: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let failed = |what: String| EngineError::Failed(what);
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.map_err(|error| failed(error.to_string()))?;
        let encode = move || {
            let _permit = permit;
            encode()
        };
        let joined = tokio::task::spawn_blocking(encode).await;
        joined.map_err(|error| failed(format!("a task ended: {error}")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn few_are_at_work_at_the_same_time_and_none_is_lost() {
        let (encoders, at_work) = (Arc::new(Encoders::default()), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..20).map(|i| {
            let (encoders, at_work) = (Arc::clone(&encoders), Arc::clone(&at_work));
            tokio::spawn(async move {
                let encode = move || {
                    let now = at_work.fetch_add(1, Ordering::SeqCst) + 1;
                    std::thread::sleep(Duration::from_millis(2));
                    at_work.fetch_sub(1, Ordering::SeqCst);
                    (i, now)
                };
                encoders.run(encode).await.unwrap()
            })
        });
        let mut done = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            let (i, now) = task.await.unwrap();
            assert!(now <= ENCODING_MAX, "{now} at the same time");
            done.push(i);
        }
        assert_eq!(done, (0..20).collect::<Vec<_>>());
        // one that panics is an error, and gives its place back
        for _ in 0..3 {
            let encode = || assert_eq!(1, 2, "on purpose");
            assert!(encoders.run(encode).await.is_err());
        }
        assert_eq!(encoders.run(|| 7).await.unwrap(), 7);
    }
}
