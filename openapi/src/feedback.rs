//! Votes on answers.

use std::collections::BTreeMap;

use ids::{AdapterDigest, FeedbackId, InferenceId, ModelName, RaterId, UnitId, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::error::code;
use crate::fields::{Fields, text_of, wrong_type, wrong_value};
use crate::{ArmName, RequestError};

/// Limits of a vote.
pub mod feedback_limits {
    /// The longest comment or demonstration.
    pub const TEXT_BYTES_MAX: usize = 64 << 10;
    /// The most tags.
    pub const TAGS_MAX: usize = 32;
    /// The longest tag name.
    pub const TAG_NAME_BYTES_MAX: usize = 64;
    /// The longest tag value.
    pub const TAG_VALUE_BYTES_MAX: usize = 512;
    /// The longest token.
    pub const TOKEN_BYTES_MAX: usize = 2048;
}

/// What is voted on.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum MetricName {
    /// Good (true) or bad (false).
    Thumbs,
    /// A number.
    Rating,
    /// A remark.
    Comment,
    /// The answer that should have been given.
    Demonstration,
}

/// A vote on one answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackRequest {
    /// The `id` of the answer.
    #[schema(value_type = String)]
    pub inference_id: InferenceId,
    /// What is voted on.
    pub metric_name: MetricName,
    /// thumbs: a boolean; rating: a number; comment and demonstration: text.
    pub value: FeedbackValue,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The client's own id for this vote: sent again, it changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<FeedbackId>,
    /// Who votes; by default the answer's own end user, where it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rater: Option<RaterId>,
    /// What the answer's header `x-feedback-token` gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A vote's value, of the type that its metric asks for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FeedbackValue {
    /// Good or bad.
    Thumbs(bool),
    /// A finite number.
    Rating(f64),
    /// A remark.
    Comment(String),
    /// The answer that should have been given.
    Demonstration(String),
}

// By hand, because the two kinds of text look the same on the wire.
impl PartialSchema for FeedbackValue {
    fn schema() -> RefOr<Schema> {
        let of = |kind| ObjectBuilder::new().schema_type(SchemaType::Type(kind));
        let kinds = OneOfBuilder::new()
            .item(of(Type::Boolean).description(Some("thumbs: good or bad")))
            .item(of(Type::Number).description(Some("rating")))
            .item(of(Type::String).description(Some("comment or demonstration")));
        RefOr::T(Schema::OneOf(kinds.build()))
    }
}

impl ToSchema for FeedbackValue {}

impl FeedbackRequest {
    /// Reads and checks a vote.
    ///
    /// # Errors
    /// A [`RequestError`] naming the field that is at fault.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::of_body(body)?;
        let id = |param: &str, error: ids::IdError| wrong_value(param, &error.to_string());
        let inference = text_of("inference_id", fields.required("inference_id")?, 256)?;
        let metric_name = metric(fields.required("metric_name")?)?;
        let request = Self {
            inference_id: inference
                .parse()
                .map_err(|error| id("inference_id", error))?,
            metric_name,
            value: value(metric_name, fields.required("value")?)?,
            tags: tags(&mut fields)?,
            id: fields
                .text("id", 256)?
                .map(|text| text.parse().map_err(|error| id("id", error)))
                .transpose()?,
            rater: fields
                .text("rater", 1024)?
                .map(|text| RaterId::new(text).map_err(|error| id("rater", error)))
                .transpose()?,
            token: fields.text("token", feedback_limits::TOKEN_BYTES_MAX)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

fn metric(value: Value) -> Result<MetricName, RequestError> {
    serde_json::from_value(value).map_err(|_| {
        let reason = "must be thumbs, rating, comment or demonstration";
        wrong_value("metric_name", reason)
    })
}

fn value(metric: MetricName, value: Value) -> Result<FeedbackValue, RequestError> {
    let text = |value| {
        let text = text_of("value", value, feedback_limits::TEXT_BYTES_MAX)?;
        if text.trim().is_empty() {
            Err(wrong_value("value", "must not be empty"))
        } else {
            Ok(text)
        }
    };
    match (metric, value) {
        (MetricName::Thumbs, Value::Bool(value)) => Ok(FeedbackValue::Thumbs(value)),
        (MetricName::Thumbs, other) => Err(wrong_type("value", "a boolean for thumbs", &other)),
        (MetricName::Rating, value) => match value.as_f64().filter(|value| value.is_finite()) {
            Some(rating) => Ok(FeedbackValue::Rating(rating)),
            None => Err(wrong_type("value", "a number for rating", &value)),
        },
        (MetricName::Comment, value) => text(value).map(FeedbackValue::Comment),
        (MetricName::Demonstration, value) => text(value).map(FeedbackValue::Demonstration),
    }
}

fn tags(fields: &mut Fields) -> Result<BTreeMap<String, String>, RequestError> {
    let Some(object) = fields.object("tags")? else {
        return Ok(BTreeMap::new());
    };
    let mut tags = BTreeMap::new();
    for (name, value) in object.entries(feedback_limits::TAGS_MAX)? {
        if name.len() > feedback_limits::TAG_NAME_BYTES_MAX {
            return Err(RequestError::new(
                code::VALUE,
                "tags",
                "tags: a name is too long",
            ));
        }
        let param = format!("tags.{name}");
        tags.insert(
            name,
            text_of(&param, value, feedback_limits::TAG_VALUE_BYTES_MAX)?,
        );
    }
    Ok(tags)
}

/// A vote was taken, durably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackResponse {
    /// The vote's id.
    #[schema(value_type = String)]
    pub feedback_id: FeedbackId,
    /// What it did.
    pub outcome: FeedbackOutcome,
    /// The vote that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub supersedes: Option<FeedbackId>,
    /// What the write survives: `fsynced`, `os_buffered` or `unknown`.
    pub durability: String,
}

/// What a vote did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeedbackOutcome {
    /// It is new.
    Recorded,
    /// The same vote was there; nothing changed.
    Unchanged,
    /// It replaces an earlier vote, which stays in the history.
    Superseded,
}

/// The answer to an un-vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackRetracted {
    /// The vote's id.
    #[schema(value_type = String)]
    pub feedback_id: FeedbackId,
    /// Always true.
    pub retracted: bool,
}

/// One line of the export: one vote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackExportRow {
    /// Where the next page starts: give it back as `after`.
    pub cursor: String,
    /// The vote's id.
    #[schema(value_type = String)]
    pub feedback_id: FeedbackId,
    /// The answer voted on.
    #[schema(value_type = String)]
    pub inference_id: InferenceId,
    /// What is voted on.
    pub metric_name: MetricName,
    /// The value, of the metric's type.
    #[schema(value_type = FeedbackValue)]
    pub value: Value,
    /// Who voted.
    #[schema(value_type = String)]
    pub rater: RaterId,
    /// Labels.
    pub tags: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub created: UnixMillis,
    /// The adapter version that made the answer; null is the bare base.
    #[schema(value_type = Option<String>)]
    pub adapter_digest: Option<AdapterDigest>,
    /// The arm that answered; null where a version was pinned.
    pub arm: Option<ArmName>,
    /// The public model name that was asked.
    #[schema(value_type = Option<String>)]
    pub rollout: Option<ModelName>,
    /// The end user that was assigned.
    #[schema(value_type = Option<String>)]
    pub unit: Option<UnitId>,
    /// The vote that replaced this one.
    #[schema(value_type = Option<String>)]
    pub superseded_by: Option<FeedbackId>,
    /// Whether it was taken back.
    pub retracted: bool,
}
