//! The one thread of this process that writes: it takes the jobs that wait,
//! runs them in one transaction and answers them after its commit, so that
//! they share one fsync.
//!
//! Each job runs in a savepoint of its own; one that fails is undone alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::watcher::{publish, spawn};
use crate::StoreError;
use crate::watches::Watches;

/// The most writes that wait; a caller beyond them waits for room.
const QUEUE_MAX: usize = 1024;
/// The most writes in one transaction, which bounds how long the lock is held.
const BATCH_MAX: usize = 128;

/// The sending side; the thread ends when it is dropped and the queue is empty.
pub(super) struct Writer(mpsc::Sender<Box<dyn Job>>);

trait Job: Send {
    /// Does the work; false means that what it wrote is undone.
    fn run(&mut self, tx: &Transaction<'_>) -> bool;
    /// Answers the caller, once it is known whether the work is kept.
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Work<F, T, E> {
    work: Option<F>,
    result: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Job for Work<F, T, E>
where
    F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn run(&mut self, tx: &Transaction<'_>) -> bool {
        if let Some(work) = self.work.take() {
            // A panicking job must not take the writes of all others with it.
            self.result = catch_unwind(AssertUnwindSafe(|| work(tx))).ok();
        }
        matches!(self.result, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.result) {
            (Err(error), None | Some(Ok(_))) => Err(error.into()),
            (_, Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Stopped.into()),
        };
        // A caller that went away does not undo its write.
        let _ = self.answer.send(answer);
    }
}

impl Writer {
    pub(super) fn start(connection: Connection, watches: Watches) -> Result<Self, StoreError> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        spawn("store-write", move || {
            write_all(connection, receiver, &watches)
        })?;
        Ok(Self(sender))
    }

    pub(super) async fn run<T, E>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Work {
            work: Some(work),
            result: None,
            answer,
        });
        self.0.send(job).await.map_err(|_| StoreError::Stopped)?;
        answered
            .await
            .unwrap_or_else(|_| Err(StoreError::Stopped.into()))
    }
}

fn write_all(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
    watches: &Watches,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let committed = commit(&mut connection, &mut batch);
        if committed.is_ok()
            && let Err(error) = publish(&connection, watches)
        {
            // The polling thread will tell the same a little later.
            tracing::warn!(%error, "the store's change counters could not be read");
        }
        for job in batch.drain(..) {
            job.finish(committed.clone());
        }
    }
}

fn commit(connection: &mut Connection, batch: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    let mut tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in batch {
        run_alone(&mut tx, job.as_mut())?;
    }
    Ok(tx.commit()?)
}

fn run_alone(tx: &mut Transaction<'_>, job: &mut dyn Job) -> Result<(), StoreError> {
    tx.execute_batch("SAVEPOINT job")?;
    if !job.run(tx) {
        tx.execute_batch("ROLLBACK TO job")?;
    }
    Ok(tx.execute_batch("RELEASE job")?)
}
