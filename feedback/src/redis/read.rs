//! Hashes and stream entries as the types that they hold.

use ids::UnixMillis;
use serde::de::DeserializeOwned;

use super::Fields;
use crate::{Change, Claimed, Cursor, EventId, FeedbackError, VoteEvent, VoteRecord};

pub(super) fn vote(id: String, mut fields: Fields) -> Result<(Cursor, VoteRecord), FeedbackError> {
    let corrupt = || FeedbackError::Corrupt {
        what: "vote",
        id: id.clone(),
    };
    let mut take = |name: &str| fields.remove(name).ok_or_else(corrupt);
    let cursor = Cursor(take("seq")?.parse().map_err(|_| corrupt())?);
    let inference = text(&id, take("inference")?)?;
    let rater = text(&id, take("rater")?)?;
    let value = serde_json::from_str(&take("value")?).map_err(|_| corrupt())?;
    let tags = serde_json::from_str(&take("tags")?).map_err(|_| corrupt())?;
    let created = UnixMillis(take("created")?.parse().map_err(|_| corrupt())?);
    let record = VoteRecord {
        inference,
        rater,
        value,
        tags,
        created,
        adapter: optional(&id, &mut fields, "adapter")?,
        arm: fields.remove("arm"),
        rollout: optional(&id, &mut fields, "rollout")?,
        unit: optional(&id, &mut fields, "unit")?,
        superseded_by: optional(&id, &mut fields, "superseded_by")?,
        retracted: fields.contains_key("retracted"),
        id: text(&id, id.clone())?,
    };
    Ok((cursor, record))
}

pub(super) fn claimed(
    id: &str,
    deliveries: u32,
    mut fields: Fields,
) -> Result<Claimed, FeedbackError> {
    let corrupt = || FeedbackError::Corrupt {
        what: "event",
        id: id.to_owned(),
    };
    let mut take = |name: &str| fields.remove(name).ok_or_else(corrupt);
    let number = id.split('-').next().and_then(|number| number.parse().ok());
    let vote = VoteEvent {
        vote: text(id, take("vote")?)?,
        inference: text(id, take("inference")?)?,
        change: Change::parse(&take("change")?).ok_or_else(corrupt)?,
        bad_case: take("bad_case")? == "1",
    };
    Ok(Claimed {
        event: EventId(number.ok_or_else(corrupt)?),
        vote,
        deliveries,
    })
}

pub(super) fn dead_letter(id: &str, fields: Fields) -> Result<Claimed, FeedbackError> {
    let deliveries = fields.get("deliveries").and_then(|text| text.parse().ok());
    let corrupt = || FeedbackError::Corrupt {
        what: "event",
        id: id.to_owned(),
    };
    claimed(id, deliveries.ok_or_else(corrupt)?, fields)
}

fn optional<T: DeserializeOwned>(
    id: &str,
    fields: &mut Fields,
    name: &str,
) -> Result<Option<T>, FeedbackError> {
    fields.remove(name).map(|value| text(id, value)).transpose()
}

fn text<T: DeserializeOwned>(id: &str, value: String) -> Result<T, FeedbackError> {
    serde_json::from_value(serde_json::Value::String(value)).map_err(|_| FeedbackError::Corrupt {
        what: "vote",
        id: id.to_owned(),
    })
}
