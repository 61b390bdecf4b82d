//! Rows as the types that they hold.

use rusqlite::{Connection, Params, Row};
use serde::de::DeserializeOwned;

use crate::{Change, Claimed, Cursor, EventId, FeedbackError, VoteEvent, VoteRecord};

const VOTE_COLUMNS: &str = "seq, id, inference, rater, value, tags, created, adapter, arm, rollout, unit, \
                            superseded_by, retracted";

/// The votes that `filter`, an SQL condition of this crate, selects.
pub(super) fn votes(
    db: &Connection,
    filter: &str,
    parameters: impl Params,
) -> Result<Vec<(Cursor, VoteRecord)>, FeedbackError> {
    let select = format!("SELECT {VOTE_COLUMNS} FROM feedback_vote WHERE {filter}");
    let mut statement = db.prepare_cached(&select)?;
    let mut rows = statement.query(parameters)?;
    let mut votes = Vec::new();
    while let Some(row) = rows.next()? {
        votes.push((Cursor(unsigned(row.get(0)?)), vote(row)?));
    }
    Ok(votes)
}

fn vote(row: &Row<'_>) -> Result<VoteRecord, FeedbackError> {
    let id: String = row.get(1)?;
    Ok(VoteRecord {
        inference: text(&id, row.get(2)?)?,
        rater: text(&id, row.get(3)?)?,
        value: json(&id, &row.get::<_, String>(4)?)?,
        tags: json(&id, &row.get::<_, String>(5)?)?,
        created: ids::UnixMillis(row.get(6)?),
        adapter: optional(&id, row.get(7)?)?,
        arm: row.get(8)?,
        rollout: optional(&id, row.get(9)?)?,
        unit: optional(&id, row.get(10)?)?,
        superseded_by: optional(&id, row.get(11)?)?,
        retracted: row.get(12)?,
        id: text(&id, id.clone())?,
    })
}

/// Columns `event, vote, inference, change, bad_case, deliveries`.
pub(super) fn claimed(row: &Row<'_>) -> Result<Claimed, FeedbackError> {
    let id: String = row.get(1)?;
    let change: String = row.get(3)?;
    let corrupt = || FeedbackError::Corrupt {
        what: "event",
        id: id.clone(),
    };
    Ok(Claimed {
        event: EventId(unsigned(row.get(0)?)),
        vote: VoteEvent {
            vote: text(&id, id.clone())?,
            inference: text(&id, row.get(2)?)?,
            change: Change::parse(&change).ok_or_else(corrupt)?,
            bad_case: row.get(4)?,
        },
        deliveries: row.get(5)?,
    })
}

pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn optional<T: DeserializeOwned>(
    id: &str,
    value: Option<String>,
) -> Result<Option<T>, FeedbackError> {
    value.map(|value| text(id, value)).transpose()
}

fn text<T: DeserializeOwned>(id: &str, value: String) -> Result<T, FeedbackError> {
    serde_json::from_value(serde_json::Value::String(value)).map_err(|_| corrupt(id))
}

fn json<T: DeserializeOwned>(id: &str, value: &str) -> Result<T, FeedbackError> {
    serde_json::from_str(value).map_err(|_| corrupt(id))
}

fn corrupt(id: &str) -> FeedbackError {
    FeedbackError::Corrupt {
        what: "vote",
        id: id.to_owned(),
    }
}
