//! Inferences and the votes on them, in durable stores.
//!
//! Knows what a vote is, which one is current, and to which adapter version it
//! is credited: the one stored when the answer was made, never today's. Says
//! that a vote is taken only after the store made it durable. Makes preference
//! pairs out of what is stored ([`pairs`]). Knows nothing of HTTP, models or
//! training.

mod error;
mod event;
mod inference;
pub mod pairs;
mod redis;
mod request;
mod sqlite;
pub mod token;
mod vote;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ids::{FeedbackId, InferenceId, UnixMillis};
use store::Durability;
use tokio::sync::watch;

pub use error::FeedbackError;
pub use event::{Change, Claimed, DELIVERIES_MAX, EventId, GROUP_BYTES_MAX, VoteEvent};
pub use inference::{INFERENCE_BYTES_MAX, Inference, Message, MessageImage};
pub use vote::{
    Attribution, COMMENT_BYTES_MAX, Cursor, DEMONSTRATION_BYTES_MAX, EXPORT_PAGE_MAX, Metric,
    NewVote, TAG_KEY_BYTES_MAX, TAG_VALUE_BYTES_MAX, TAGS_MAX, Value, VoteOutcome, VoteReceipt,
    VoteRecord,
};

/// The group in whose name the trainer reads votes.
pub const TRAINER_GROUP: &str = "trainer";

/// A store of feedback; both implementations pass one conformance suite.
#[async_trait]
pub trait FeedbackStore: Send + Sync {
    /// Keeps an answer, so that votes can be credited; the same id again
    /// changes nothing.
    async fn record_inference(&self, inference: &Inference) -> Result<(), FeedbackError>;

    /// The answer with this id, unless it was never recorded or is forgotten.
    async fn inference(&self, id: &InferenceId) -> Result<Option<Inference>, FeedbackError>;

    /// Forgets answers made before `before`, at most `max`, and says how many.
    /// Votes on them stay.
    async fn forget_inferences(&self, before: UnixMillis, max: usize)
    -> Result<u64, FeedbackError>;

    /// Takes a vote; what it answers is as durable as
    /// [`FeedbackStore::durability`] says.
    async fn vote(&self, vote: NewVote, now: UnixMillis) -> Result<VoteReceipt, FeedbackError>;

    /// Takes a current vote back; false where there is none with this id.
    async fn retract(&self, id: &FeedbackId, now: UnixMillis) -> Result<bool, FeedbackError>;

    /// Votes in the order in which they came, superseded and retracted ones
    /// too, at most [`EXPORT_PAGE_MAX`].
    async fn export(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<(Cursor, VoteRecord)>, FeedbackError>;

    /// The votes on one answer that are neither superseded nor retracted.
    async fn current_votes(
        &self,
        inference: &InferenceId,
    ) -> Result<Vec<VoteRecord>, FeedbackError>;

    /// Gives `consumer` events that no other consumer of `group` has: those
    /// delivered `reclaim_idle` ago and never acknowledged, then new ones. An
    /// event that was delivered [`DELIVERIES_MAX`] times becomes a dead letter
    /// instead. Acknowledgements can be undone by a failover, so consumers
    /// are idempotent.
    async fn claim(
        &self,
        group: &str,
        consumer: &str,
        max: usize,
        reclaim_idle: Duration,
        now: UnixMillis,
    ) -> Result<Vec<Claimed>, FeedbackError>;

    /// Acknowledges events, which are never delivered to `group` again.
    async fn ack(&self, group: &str, events: &[EventId]) -> Result<(), FeedbackError>;

    /// How many events `group` has not acknowledged, dead letters left out.
    async fn backlog(&self, group: &str) -> Result<u64, FeedbackError>;

    /// The same for the events that speak against an answer, in the
    /// [`TRAINER_GROUP`].
    async fn bad_case_backlog(&self) -> Result<u64, FeedbackError>;

    /// The events that `group` gave up on, oldest first, at most `limit`.
    async fn dead_letters(&self, group: &str, limit: usize) -> Result<Vec<Claimed>, FeedbackError>;

    /// What an answered vote promises, as found at the last connect.
    fn durability(&self) -> Durability;

    /// A number that grows when any vote was taken or taken back, by any
    /// process.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The feedback in an opened store.
///
/// # Errors
/// [`store::StoreError::Schema`] where it was written by another version.
pub async fn open(backend: &store::Backend) -> Result<Arc<dyn FeedbackStore>, FeedbackError> {
    match backend {
        store::Backend::Sqlite(sqlite) => Ok(Arc::new(
            sqlite::SqliteFeedback::open(sqlite.clone()).await?,
        )),
        store::Backend::Redis(redis) => {
            Ok(Arc::new(redis::RedisFeedback::open(redis.clone()).await?))
        }
    }
}
