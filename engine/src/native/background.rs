//! A thread for work that is long and must not hold up running streams: it gives
//! way to the engine's threads wherever they want the same CPU, and has a whole
//! one where nothing runs.

use tokio::sync::{mpsc, oneshot};

use crate::api::EngineError;

/// By how much the thread's nice value is above that of the engine's: it gets
/// about a thirtieth of a CPU that an engine's thread wants too, and so does each
/// thread that it starts.
const NICE_BY: i32 = 15;
/// Pieces of work that are handed over and not begun.
const QUEUED_MAX: usize = 1;

type Job = Box<dyn FnOnce() + Send>;

/// On how many threads a piece of work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hands {
    /// On the one that does it.
    One,
    /// On that one and on others that it starts: only where no stream runs, since each of
    /// them takes turns of its own from a step.
    Several,
}

impl Hands {
    /// Those for work beside so many running sequences.
    pub(super) fn beside(running: u64) -> Self {
        match running {
            0 => Self::Several,
            _ => Self::One,
        }
    }

    /// Does both pieces of work; at the same time, if hands are several and the
    /// system gives a thread.
    pub(super) fn both<A: Send, B>(
        self,
        mut first: impl FnMut() -> A + Send,
        second: impl FnOnce() -> B,
    ) -> (A, B) {
        let (told, second) = match self {
            Self::One => (None, second()),
            Self::Several => std::thread::scope(|scope| {
                let other = std::thread::Builder::new().spawn_scoped(scope, &mut first);
                let second = second();
                let told = other.ok().map(std::thread::ScopedJoinHandle::join);
                let told = told.map(|told| told.unwrap_or_else(|p| std::panic::resume_unwind(p)));
                (told, second)
            }),
        };
        (told.unwrap_or_else(first), second)
    }
}

/// The thread, which ends when this is dropped and its work is done.
pub(super) struct Background {
    jobs: mpsc::Sender<Job>,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub(super) fn start(name: &str) -> std::io::Result<Self> {
        let (jobs, mut queued) = mpsc::channel::<Job>(QUEUED_MAX);
        let body = move || {
            give_way();
            while let Some(job) = queued.blocking_recv() {
                job();
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)?;
        Ok(Self { jobs })
    }

    /// Runs `work` after what was handed over before. Work that nobody waits for
    /// any more is not begun.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (told, result) = oneshot::channel();
        let job = move || {
            if !told.is_closed() {
                let work = std::panic::AssertUnwindSafe(work);
                if let Ok(value) = std::panic::catch_unwind(work) {
                    // whoever asked may have gone meanwhile
                    let _ = told.send(value);
                }
            }
        };
        let ended = |_| EngineError::Failed("a background task panicked".to_owned());
        let sent = self.jobs.send(Box::new(job)).await;
        sent.map_err(|_| EngineError::Stopped)?;
        result.await.map_err(ended)
    }
}

/// Linux has a nice value for each thread; elsewhere it is the process's, and
/// stays as it is.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE_BY) {
        tracing::warn!(%error, "the loader's thread could not be given a lower priority");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_runs_in_order_and_a_panic_is_only_its_own() {
        let background = Background::start("test").unwrap();
        assert_eq!(background.run(|| 7).await, Ok(7));
        let panicked = background.run(|| -> u32 { panic!("as a test") }).await;
        assert!(matches!(panicked, Err(EngineError::Failed(_))));
        assert_eq!(background.run(|| 8).await, Ok(8));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_begun() {
        let background = Background::start("test").unwrap();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let begun = Arc::new(AtomicU32::new(0));
        let first = background.run(move || held.recv());
        let given_up = {
            let begun = Arc::clone(&begun);
            background.run(move || begun.fetch_add(1, Ordering::SeqCst))
        };
        let mut first = Box::pin(first);
        assert!(futures::poll!(&mut first).is_pending());
        {
            let mut given_up = Box::pin(given_up);
            assert!(futures::poll!(&mut given_up).is_pending());
        }
        hold.send(()).unwrap();
        first.await.unwrap().unwrap();
        background.run(|| ()).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn both_are_done_and_on_one_thread_where_hands_are_one() {
        assert_eq!(
            [0, 1, 8].map(Hands::beside),
            [Hands::Several, Hands::One, Hands::One]
        );
        let here = std::thread::current().id();
        let there = || std::thread::current().id();
        assert_eq!(Hands::One.both(there, there), (here, here));
        let (first, second) = Hands::Several.both(there, there);
        assert_eq!(second, here);
        assert_ne!(first, here);
    }

    #[test]
    fn a_panic_of_the_first_is_the_callers() {
        for hands in [Hands::One, Hands::Several] {
            let begun = AtomicU32::new(0);
            let first = || -> u32 {
                begun.fetch_add(1, Ordering::SeqCst);
                panic!("as a test")
            };
            let told = std::panic::catch_unwind(|| hands.both(first, || 7));
            assert!(told.is_err());
            assert_eq!(begun.load(Ordering::SeqCst), 1);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_gives_way_and_its_starter_does_not() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let background = Background::start("test").unwrap();
        let there = background.run(nice).await.unwrap();
        assert_eq!((there, nice()), ((before + NICE_BY).min(19), before));
    }
}
