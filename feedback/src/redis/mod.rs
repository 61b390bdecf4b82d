//! Feedback in Redis: hashes for answers and votes, a stream for their events.
//! Each change is one script, hence atomic, and is answered when it is as
//! durable as the store promises.
//!
//! Keys, after the common prefix and `feedback:`: `inference:ID` and
//! `inferences` (by time), `vote:ID`, `votes` (in order), `current:INFERENCE`,
//! `requests` (idempotency ids), `events`, `dead:GROUP`, and counters. How long
//! an event was idle is told by the server's clock.

mod read;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use ids::{FeedbackId, InferenceId, UnixMillis};
use redis::Cmd;
use store::redis::{eval, key};
use store::{Durability, Redis, StoreError, Topic};
use tokio::sync::watch;

use crate::event::{CLAIM_MAX, check_names};
use crate::request::Request;
use crate::{
    Claimed, Cursor, DELIVERIES_MAX, EXPORT_PAGE_MAX, EventId, FeedbackError, FeedbackStore,
    Inference, NewVote, TRAINER_GROUP, VoteOutcome, VoteReceipt, VoteRecord, inference,
};

const VERSION: i64 = 1;

pub(crate) struct RedisFeedback(Redis);

/// Fields of a hash or of an event.
type Fields = HashMap<String, String>;

impl RedisFeedback {
    pub(crate) async fn open(redis: Redis) -> Result<Self, FeedbackError> {
        redis.component("feedback", VERSION).await?;
        Ok(Self(redis))
    }

    async fn backlogs(&self, group: &str) -> Result<(u64, u64), FeedbackError> {
        let mut command = eval(include_str!("backlog.lua"));
        command.arg(group);
        Ok(self.0.read(command).await?)
    }
}

#[async_trait]
impl FeedbackStore for RedisFeedback {
    async fn record_inference(&self, inference: &Inference) -> Result<(), FeedbackError> {
        let body = inference::to_text(inference)?;
        let mut command = eval(include_str!("record.lua"));
        command
            .arg(inference.id.as_str())
            .arg(inference.created.0)
            .arg(body);
        let adapter = inference.adapter.map(|adapter| adapter.to_string());
        let credit = [
            ("adapter", adapter.as_deref()),
            ("arm", inference.arm.as_deref()),
            (
                "rollout",
                inference.rollout.as_ref().map(|rollout| rollout.as_str()),
            ),
            ("unit", inference.unit.as_ref().map(|unit| unit.as_str())),
        ];
        for (name, value) in credit {
            if let Some(value) = value {
                command.arg(name).arg(value);
            }
        }
        let _recorded: i64 = self.0.write(command).await?;
        Ok(())
    }

    async fn inference(&self, id: &InferenceId) -> Result<Option<Inference>, FeedbackError> {
        let mut command = redis::cmd("HGET");
        command
            .arg(key(&format!("feedback:inference:{id}")))
            .arg("body");
        let body: Option<String> = self.0.read(command).await?;
        body.map(|text| inference::from_text(id, &text)).transpose()
    }

    async fn forget_inferences(
        &self,
        before: UnixMillis,
        max: usize,
    ) -> Result<u64, FeedbackError> {
        let mut command = eval(include_str!("forget.lua"));
        command.arg(before.0).arg(max);
        Ok(self.0.write(command).await?)
    }

    async fn vote(&self, vote: NewVote, now: UnixMillis) -> Result<VoteReceipt, FeedbackError> {
        let request = Request::new(vote)?;
        let (word, id, superseded): (String, String, String) =
            self.0.write(vote_command(&request, now)).await?;
        let stored = |text: String| {
            FeedbackId::new(text).map_err(|_| StoreError::Corrupt { what: "answer" })
        };
        let outcome = match word.as_str() {
            "recorded" => VoteOutcome::Recorded,
            "unchanged" => VoteOutcome::Unchanged,
            "superseded" => VoteOutcome::Superseded(stored(superseded)?),
            "id_conflict" => return Err(FeedbackError::IdConflict(request.id)),
            "unknown_inference" => {
                return Err(FeedbackError::UnknownInference(request.vote.inference));
            }
            "rater_required" => return Err(FeedbackError::RaterRequired),
            _ => return Err(StoreError::Corrupt { what: "answer" }.into()),
        };
        Ok(VoteReceipt {
            feedback_id: stored(id)?,
            outcome,
            durability: self.0.durability(),
        })
    }

    async fn retract(&self, id: &FeedbackId, _now: UnixMillis) -> Result<bool, FeedbackError> {
        let mut command = eval(include_str!("retract.lua"));
        command.arg(id.as_str());
        Ok(self.0.write(command).await?)
    }

    async fn export(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<(Cursor, VoteRecord)>, FeedbackError> {
        let mut command = eval(include_str!("export.lua"));
        command
            .arg(after.map_or(0, |cursor| cursor.0))
            .arg(limit.min(EXPORT_PAGE_MAX));
        let found: Vec<(String, Fields)> = self.0.read(command).await?;
        found
            .into_iter()
            .map(|(id, fields)| read::vote(id, fields))
            .collect()
    }

    async fn current_votes(
        &self,
        inference: &InferenceId,
    ) -> Result<Vec<VoteRecord>, FeedbackError> {
        let mut command = eval(include_str!("current.lua"));
        command.arg(inference.as_str());
        let found: Vec<(String, Fields)> = self.0.read(command).await?;
        let mut votes = found
            .into_iter()
            .map(|(id, fields)| read::vote(id, fields))
            .collect::<Result<Vec<_>, _>>()?;
        votes.sort_by_key(|(cursor, _)| *cursor);
        Ok(votes.into_iter().map(|(_, vote)| vote).collect())
    }

    async fn claim(
        &self,
        group: &str,
        consumer: &str,
        max: usize,
        reclaim_idle: Duration,
        _now: UnixMillis,
    ) -> Result<Vec<Claimed>, FeedbackError> {
        check_names(group, consumer)?;
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut command = eval(include_str!("claim.lua"));
        let idle_ms = u64::try_from(reclaim_idle.as_millis()).unwrap_or(u64::MAX);
        command
            .arg(group)
            .arg(consumer)
            .arg(max.min(CLAIM_MAX))
            .arg(idle_ms)
            .arg(DELIVERIES_MAX);
        let found: Vec<(String, u32, Fields)> = self.0.write(command).await?;
        found
            .into_iter()
            .map(|(id, deliveries, fields)| read::claimed(&id, deliveries, fields))
            .collect()
    }

    async fn ack(&self, group: &str, events: &[EventId]) -> Result<(), FeedbackError> {
        for some in events.chunks(CLAIM_MAX) {
            let mut command = eval(include_str!("ack.lua"));
            command.arg(group);
            for event in some {
                command.arg(event.0);
            }
            let _acknowledged: i64 = self.0.write(command).await?;
        }
        Ok(())
    }

    async fn backlog(&self, group: &str) -> Result<u64, FeedbackError> {
        Ok(self.backlogs(group).await?.0)
    }

    async fn bad_case_backlog(&self) -> Result<u64, FeedbackError> {
        Ok(self.backlogs(TRAINER_GROUP).await?.1)
    }

    async fn dead_letters(&self, group: &str, limit: usize) -> Result<Vec<Claimed>, FeedbackError> {
        let mut command = redis::cmd("XRANGE");
        command
            .arg(key(&format!("feedback:dead:{group}")))
            .arg("-")
            .arg("+");
        command.arg("COUNT").arg(limit.min(CLAIM_MAX));
        let found: Vec<(String, Fields)> = self.0.read(command).await?;
        found
            .into_iter()
            .map(|(id, fields)| read::dead_letter(&id, fields))
            .collect()
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes(Topic::Feedback)
    }
}

fn vote_command(request: &Request, now: UnixMillis) -> Cmd {
    let vote = &request.vote;
    let mut command = eval(include_str!("vote.lua"));
    command
        .arg(request.id.as_str())
        .arg(&request.digest)
        .arg(vote.inference.as_str());
    command.arg(vote.rater.as_ref().map_or("", |rater| rater.as_str()));
    command
        .arg(vote.value.metric().as_str())
        .arg(&request.value)
        .arg(&request.tags)
        .arg(now.0);
    command
        .arg(u8::from(vote.value.is_bad_case()))
        .arg(u8::from(vote.attribution.is_some()));
    let token = vote.attribution.as_ref();
    let adapter = token
        .and_then(|token| token.adapter)
        .map(|adapter| adapter.to_string());
    command.arg(adapter.unwrap_or_default());
    command.arg(token.and_then(|token| token.arm.as_deref()).unwrap_or(""));
    command.arg(
        token
            .and_then(|token| token.rollout.as_ref())
            .map_or("", |rollout| rollout.as_str()),
    );
    command.arg(
        token
            .and_then(|token| token.unit.as_ref())
            .map_or("", |unit| unit.as_str()),
    );
    command
}
