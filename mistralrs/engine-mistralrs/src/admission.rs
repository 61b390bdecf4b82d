//! Who may run and who waits: places for sequences, in the order of arrival, in
//! all instances together. mistralrs' own queue is never longer than that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{EngineError, Wait};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The places of an engine.
pub(crate) struct Admission {
    running_max: u32,
    waiting_max: u32,
    wait_max: Duration,
    places: Arc<Semaphore>,
    state: Mutex<State>,
    /// Told when a sequence ends.
    ended: Notify,
    /// Tokens of the prompts that were computed, and of the completions.
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: u32,
    running: u32,
    /// Tokens that running sequences may come to hold.
    tokens: u64,
    is_closed: bool,
}

/// A sequence's place in the queue, later in the batch; given back when dropped.
pub(crate) struct Place {
    admission: Arc<Admission>,
    permit: Option<OwnedSemaphorePermit>,
    tokens: u64,
}

impl Admission {
    pub(crate) fn new(running_max: u32, waiting_max: u32, wait_max: Duration) -> Arc<Self> {
        let running_max = running_max.max(1);
        Arc::new(Self {
            running_max,
            waiting_max,
            wait_max,
            places: Arc::new(Semaphore::new(running_max as usize)),
            state: Mutex::default(),
            ended: Notify::new(),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
        })
    }

    /// Queues `n` sequences, all or none, each of up to `tokens` tokens.
    pub(crate) fn queue(self: &Arc<Self>, n: u32, tokens: u64) -> Result<Vec<Place>, EngineError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(EngineError::Stopped);
        }
        // those that find a free place wait for no longer than it takes to start
        let free = self.running_max.saturating_sub(state.running);
        if state.waiting.saturating_add(n) > self.waiting_max.saturating_add(free) {
            return Err(EngineError::QueueFull {
                waiting: state.waiting,
                waiting_max: self.waiting_max,
            });
        }
        state.waiting += n;
        let place = |_| Place {
            admission: Arc::clone(self),
            permit: None,
            tokens,
        };
        Ok((0..n).map(place).collect())
    }

    /// Sequences that run, sequences that wait, and tokens of those that run.
    pub(crate) fn load(&self) -> (u32, u32, u64) {
        let state = self.state.lock();
        (state.running, state.waiting, state.tokens)
    }

    pub(crate) fn running_max(&self) -> u32 {
        self.running_max
    }

    pub(crate) fn waiting_max(&self) -> u32 {
        self.waiting_max
    }

    /// Counts a token of a completion.
    pub(crate) fn generated(&self) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes no more, and returns when those that were taken have ended.
    pub(crate) async fn drain(&self) {
        self.state.lock().is_closed = true;
        loop {
            let ended = self.ended.notified();
            let (running, waiting, _) = self.load();
            if running + waiting == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Place {
    /// Waits for a place in the batch.
    pub(crate) async fn start(&mut self) -> Result<(), EngineError> {
        let admission = Arc::clone(&self.admission);
        let permit = Arc::clone(&admission.places).acquire_owned();
        let permit = tokio::time::timeout(admission.wait_max, permit).await;
        let permit = permit.map_err(|_| EngineError::TimedOut {
            wait: Wait::Batch,
            limit: admission.wait_max,
        })?;
        self.permit = Some(permit.map_err(|_| EngineError::Stopped)?);
        let mut state = admission.state.lock();
        state.waiting -= 1;
        state.running += 1;
        state.tokens += self.tokens;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state.lock();
        if self.permit.is_some() {
            state.running -= 1;
            state.tokens -= self.tokens;
        } else {
            state.waiting -= 1;
        }
        drop(state);
        self.admission.ended.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_counted_and_bounded() {
        let admission = Admission::new(2, 1, Duration::from_millis(20));
        let mut two = admission.queue(2, 10).unwrap();
        for place in &mut two {
            place.start().await.unwrap();
        }
        assert_eq!(admission.load(), (2, 0, 20));
        let mut third = admission.queue(1, 10).unwrap().remove(0);
        let full = admission.queue(1, 10).err().unwrap();
        let expected = EngineError::QueueFull {
            waiting: 1,
            waiting_max: 1,
        };
        assert_eq!(full, expected);
        let late = third.start().await.unwrap_err();
        assert!(matches!(
            late,
            EngineError::TimedOut {
                wait: Wait::Batch,
                ..
            }
        ));
        two.pop();
        third.start().await.unwrap();
        assert_eq!(admission.load(), (2, 0, 20));
        drop((two, third));
        assert_eq!(admission.load(), (0, 0, 0));
    }

    #[tokio::test]
    async fn draining_waits_for_the_last() {
        let admission = Admission::new(1, 1, Duration::from_secs(9));
        let mut place = admission.queue(1, 1).unwrap().remove(0);
        place.start().await.unwrap();
        let draining = tokio::spawn({
            let admission = admission.clone();
            async move { admission.drain().await }
        });
        tokio::task::yield_now().await;
        assert!(!draining.is_finished());
        assert_eq!(admission.queue(1, 1).err(), Some(EngineError::Stopped));
        drop(place);
        draining.await.unwrap();
    }
}
