//! Taking a vote and taking it back, inside one write transaction.

use ids::{FeedbackId, InferenceId, RaterId, UnixMillis};
use rusqlite::{Connection, OptionalExtension, Transaction};
use store::sqlite::bump;
use store::{StoreError, Topic};

use crate::request::Request;
use crate::{Attribution, Change, FeedbackError, Inference, VoteOutcome, inference};

pub(super) fn inference(
    db: &Connection,
    id: &InferenceId,
) -> Result<Option<Inference>, FeedbackError> {
    let mut select = db.prepare_cached("SELECT body FROM feedback_inference WHERE id = ?1")?;
    let body: Option<String> = select
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    body.map(|text| inference::from_text(id, &text)).transpose()
}

pub(super) fn vote(
    tx: &Transaction<'_>,
    request: &Request,
    now: UnixMillis,
) -> Result<(FeedbackId, VoteOutcome), FeedbackError> {
    if let Some(known) = known_request(tx, request)? {
        return Ok((known, VoteOutcome::Unchanged));
    }
    let credit = credit(tx, request)?;
    let rater = match (&request.vote.rater, &credit.unit) {
        (Some(rater), _) => rater.clone(),
        (None, Some(unit)) => {
            RaterId::new(unit.as_str()).map_err(|_| FeedbackError::RaterRequired)?
        }
        (None, None) => return Err(FeedbackError::RaterRequired),
    };
    let (id, outcome) = match current(tx, request, &rater)? {
        Some(found) if found.value == request.value && found.tags == request.tags => {
            (found.id, VoteOutcome::Unchanged)
        }
        found => {
            let superseded = found.map(|found| found.id);
            store_vote(tx, request, &credit, &rater, superseded.as_ref(), now)?;
            let outcome = superseded.map_or(VoteOutcome::Recorded, VoteOutcome::Superseded);
            (request.id.clone(), outcome)
        }
    };
    let insert = "INSERT INTO feedback_request (id, digest, vote) VALUES (?1, ?2, ?3)";
    tx.prepare_cached(insert)?
        .execute((request.id.as_str(), &request.digest, id.as_str()))?;
    Ok((id, outcome))
}

pub(super) fn retract(tx: &Transaction<'_>, id: &FeedbackId) -> Result<bool, FeedbackError> {
    let update = "UPDATE feedback_vote SET retracted = 1 \
                  WHERE id = ?1 AND superseded_by IS NULL AND retracted = 0 RETURNING inference";
    let inference: Option<String> = tx
        .prepare_cached(update)?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    let Some(inference) = inference else {
        return Ok(false);
    };
    event(tx, id, &inference, Change::Retracted, false)?;
    bump(tx, Topic::Feedback)?;
    Ok(true)
}

/// The vote that was made of an id that the caller sent before.
fn known_request(
    tx: &Transaction<'_>,
    request: &Request,
) -> Result<Option<FeedbackId>, FeedbackError> {
    let select = "SELECT digest, vote FROM feedback_request WHERE id = ?1";
    let known: Option<(String, String)> = tx
        .prepare_cached(select)?
        .query_row([request.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match known {
        None => Ok(None),
        Some((digest, _)) if digest != request.digest => {
            Err(FeedbackError::IdConflict(request.id.clone()))
        }
        Some((_, vote)) => stored_id(vote).map(Some),
    }
}

/// What the vote is credited to: what was stored with the answer, or, where
/// that is gone, what the answer's token says.
fn credit(tx: &Transaction<'_>, request: &Request) -> Result<Attribution, FeedbackError> {
    let id = &request.vote.inference;
    match (inference(tx, id)?, &request.vote.attribution) {
        (Some(stored), _) => Ok(Attribution {
            inference: stored.id,
            rollout: stored.rollout,
            arm: stored.arm,
            adapter: stored.adapter,
            unit: stored.unit,
        }),
        (None, Some(attribution)) => Ok(attribution.clone()),
        (None, None) => Err(FeedbackError::UnknownInference(id.clone())),
    }
}

struct Current {
    id: FeedbackId,
    value: String,
    tags: String,
}

fn current(
    tx: &Transaction<'_>,
    request: &Request,
    rater: &RaterId,
) -> Result<Option<Current>, FeedbackError> {
    let select = "SELECT id, value, tags FROM feedback_vote WHERE inference = ?1 AND rater = ?2 AND metric = ?3 \
                  AND superseded_by IS NULL AND retracted = 0";
    let key = (
        request.vote.inference.as_str(),
        rater.as_str(),
        request.vote.value.metric().as_str(),
    );
    let found: Option<(String, String, String)> = tx
        .prepare_cached(select)?
        .query_row(key, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    found
        .map(|(id, value, tags)| {
            Ok(Current {
                id: stored_id(id)?,
                value,
                tags,
            })
        })
        .transpose()
}

fn store_vote(
    tx: &Transaction<'_>,
    request: &Request,
    credit: &Attribution,
    rater: &RaterId,
    superseded: Option<&FeedbackId>,
    now: UnixMillis,
) -> Result<(), FeedbackError> {
    if let Some(superseded) = superseded {
        tx.prepare_cached("UPDATE feedback_vote SET superseded_by = ?1 WHERE id = ?2")?
            .execute((request.id.as_str(), superseded.as_str()))?;
    }
    let insert = "INSERT INTO feedback_vote \
                  (id, inference, rater, metric, value, tags, created, adapter, arm, rollout, unit) \
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    tx.prepare_cached(insert)?.execute((
        request.id.as_str(),
        request.vote.inference.as_str(),
        rater.as_str(),
        request.vote.value.metric().as_str(),
        &request.value,
        &request.tags,
        now.0,
        credit.adapter.map(|digest| digest.to_string()),
        &credit.arm,
        credit.rollout.as_ref().map(|rollout| rollout.as_str()),
        credit.unit.as_ref().map(|unit| unit.as_str()),
    ))?;
    let bad_case = request.vote.value.is_bad_case();
    event(
        tx,
        &request.id,
        request.vote.inference.as_str(),
        Change::Voted,
        bad_case,
    )?;
    Ok(bump(tx, Topic::Feedback)?)
}

fn event(
    tx: &Transaction<'_>,
    vote: &FeedbackId,
    inference: &str,
    change: Change,
    bad_case: bool,
) -> Result<(), StoreError> {
    let insert =
        "INSERT INTO feedback_event (vote, inference, change, bad_case) VALUES (?1, ?2, ?3, ?4)";
    tx.prepare_cached(insert)?
        .execute((vote.as_str(), inference, change.as_str(), bad_case))?;
    Ok(())
}

fn stored_id(id: String) -> Result<FeedbackId, FeedbackError> {
    FeedbackId::new(id.as_str()).map_err(|_| FeedbackError::Corrupt { what: "vote", id })
}
