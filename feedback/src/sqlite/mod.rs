//! Feedback in the embedded store.

mod events;
mod rows;
mod votes;

use std::time::Duration;

use async_trait::async_trait;
use ids::{FeedbackId, InferenceId, UnixMillis};
use store::{Durability, Sqlite, Topic};
use tokio::sync::watch;

use crate::event::{CLAIM_MAX, check_names};
use crate::request::Request;
use crate::{
    Claimed, Cursor, EXPORT_PAGE_MAX, EventId, FeedbackError, FeedbackStore, Inference, NewVote,
    TRAINER_GROUP, VoteReceipt, VoteRecord, inference,
};

const VERSION: i64 = 1;
const TABLES: &str = include_str!("schema.sql");

pub(crate) struct SqliteFeedback(Sqlite);

impl SqliteFeedback {
    pub(crate) async fn open(sqlite: Sqlite) -> Result<Self, FeedbackError> {
        sqlite.component("feedback", VERSION, TABLES).await?;
        Ok(Self(sqlite))
    }
}

#[async_trait]
impl FeedbackStore for SqliteFeedback {
    async fn record_inference(&self, inference: &Inference) -> Result<(), FeedbackError> {
        let (id, created) = (inference.id.clone(), inference.created.0);
        let body = inference::to_text(inference)?;
        let insert = "INSERT INTO feedback_inference (id, created, body) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        self.0
            .write(move |tx| {
                tx.prepare_cached(insert)?
                    .execute((id.as_str(), created, body))?;
                Ok(())
            })
            .await
    }

    async fn inference(&self, id: &InferenceId) -> Result<Option<Inference>, FeedbackError> {
        let id = id.clone();
        self.0.read(move |db| votes::inference(db, &id)).await
    }

    async fn forget_inferences(
        &self,
        before: UnixMillis,
        max: usize,
    ) -> Result<u64, FeedbackError> {
        let delete = "DELETE FROM feedback_inference WHERE id IN \
                      (SELECT id FROM feedback_inference WHERE created < ?1 ORDER BY created LIMIT ?2)";
        self.0
            .write(move |tx| {
                let deleted = tx
                    .prepare_cached(delete)?
                    .execute((before.0, rows::limit(max)))?;
                Ok(u64::try_from(deleted).unwrap_or(u64::MAX))
            })
            .await
    }

    async fn vote(&self, vote: NewVote, now: UnixMillis) -> Result<VoteReceipt, FeedbackError> {
        let request = Request::new(vote)?;
        let durability = self.0.durability();
        let (feedback_id, outcome) = self
            .0
            .write(move |tx| votes::vote(tx, &request, now))
            .await?;
        Ok(VoteReceipt {
            feedback_id,
            outcome,
            durability,
        })
    }

    async fn retract(&self, id: &FeedbackId, _now: UnixMillis) -> Result<bool, FeedbackError> {
        let id = id.clone();
        self.0.write(move |tx| votes::retract(tx, &id)).await
    }

    async fn export(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<(Cursor, VoteRecord)>, FeedbackError> {
        let after = after.map_or(0, |cursor| i64::try_from(cursor.0).unwrap_or(i64::MAX));
        let limit = rows::limit(limit.min(EXPORT_PAGE_MAX));
        self.0
            .read(move |db| rows::votes(db, "seq > ?1 ORDER BY seq LIMIT ?2", (after, limit)))
            .await
    }

    async fn current_votes(
        &self,
        inference: &InferenceId,
    ) -> Result<Vec<VoteRecord>, FeedbackError> {
        let id = inference.clone();
        let filter = "inference = ?1 AND superseded_by IS NULL AND retracted = 0 ORDER BY seq";
        let found = self
            .0
            .read(move |db| rows::votes(db, filter, [id.as_str()]))
            .await?;
        Ok(found.into_iter().map(|(_, vote)| vote).collect())
    }

    async fn claim(
        &self,
        group: &str,
        consumer: &str,
        max: usize,
        reclaim_idle: Duration,
        now: UnixMillis,
    ) -> Result<Vec<Claimed>, FeedbackError> {
        check_names(group, consumer)?;
        let idle_ms = i64::try_from(reclaim_idle.as_millis()).unwrap_or(i64::MAX);
        let claim = events::Claim {
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            max: max.min(CLAIM_MAX),
            idle_since: now.0.saturating_sub(idle_ms),
            now: now.0,
        };
        self.0.write(move |tx| claim.run(tx)).await
    }

    async fn ack(&self, group: &str, events: &[EventId]) -> Result<(), FeedbackError> {
        let (group, events) = (group.to_owned(), events.to_vec());
        self.0
            .write(move |tx| events::ack(tx, &group, &events))
            .await
    }

    async fn backlog(&self, group: &str) -> Result<u64, FeedbackError> {
        let group = group.to_owned();
        self.0
            .read(move |db| events::backlog(db, &group, false))
            .await
    }

    async fn bad_case_backlog(&self) -> Result<u64, FeedbackError> {
        self.0
            .read(|db| events::backlog(db, TRAINER_GROUP, true))
            .await
    }

    async fn dead_letters(&self, group: &str, limit: usize) -> Result<Vec<Claimed>, FeedbackError> {
        let (group, limit) = (group.to_owned(), rows::limit(limit.min(CLAIM_MAX)));
        self.0
            .read(move |db| events::dead_letters(db, &group, limit))
            .await
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes(Topic::Feedback)
    }
}
