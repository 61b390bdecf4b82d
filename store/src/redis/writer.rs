//! The one task of this process that writes: it sends the commands that wait
//! together and answers them when the batch is durable.
//!
//! WAITAOF waits for the writes of its own connection, so it has to follow
//! them there, and one for each batch is enough.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};

use super::connect::Link;
use crate::StoreError;

/// The most writes that wait; a caller beyond them waits for room.
const QUEUE_MAX: usize = 1024;
/// The most writes in one batch.
const BATCH_MAX: usize = 128;
/// How long Redis may take for the fsync that a batch waits for.
pub(super) const WAITAOF_TIMEOUT: Duration = Duration::from_secs(3);

/// The sending side; the task ends when it is dropped and the queue is empty.
pub(super) struct Writer(mpsc::Sender<Job>);

struct Job {
    command: Cmd,
    answer: oneshot::Sender<Result<Value, StoreError>>,
}

impl Writer {
    pub(super) fn start(link: Link) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write_all(link, receiver));
        Self(sender)
    }

    pub(super) async fn run(&self, command: Cmd) -> Result<Value, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send(Job { command, answer })
            .await
            .map_err(|_| StoreError::Stopped)?;
        answered.await.unwrap_or(Err(StoreError::Stopped))
    }
}

async fn write_all(link: Link, mut queue: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut answers = commit(&link, &batch).await.map(Vec::into_iter);
        for job in batch.drain(..) {
            let answer = match &mut answers {
                Ok(answers) => answers
                    .next()
                    .unwrap_or(Err(StoreError::Corrupt { what: "answer" })),
                Err(error) => Err(error.clone()),
            };
            // A caller that went away does not undo its write.
            let _ = job.answer.send(answer);
        }
    }
}

async fn commit(link: &Link, batch: &[Job]) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
    let mut connection = link.get().await?;
    let waited_ms = u64::try_from(WAITAOF_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    let mut commands = redis::pipe();
    commands.ignore_errors();
    for job in batch {
        commands.add_command(job.command.clone());
    }
    if connection.wait_aof {
        commands.cmd("WAITAOF").arg(1).arg(0).arg(waited_ms);
    }
    let mut answers = connection.query_all(&commands).await?;
    if connection.wait_aof {
        let fsynced = answers
            .pop()
            .ok_or(StoreError::Corrupt { what: "answer" })??;
        let (local, _replicas): (i64, i64) =
            redis::from_redis_value(fsynced).map_err(redis::RedisError::from)?;
        if local < 1 {
            return Err(StoreError::NotFsynced { waited_ms });
        }
    }
    Ok(answers
        .into_iter()
        .map(|answer| answer.map_err(StoreError::from))
        .collect())
}
