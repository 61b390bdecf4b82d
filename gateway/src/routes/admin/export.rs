//! Votes as JSON lines, one page at a time.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use feedback::{Cursor, Value, VoteRecord};
use openapi::{FeedbackExportRow, MetricName};

use super::wire;
use crate::app::App;
use crate::errors::ApiError;
use crate::extract::Admin;
use crate::routes::page::Page;

fn row(cursor: Cursor, record: VoteRecord) -> FeedbackExportRow {
    let (metric_name, value) = match record.value {
        Value::Thumbs(up) => (MetricName::Thumbs, up.into()),
        Value::Rating(rating) => (MetricName::Rating, rating.into()),
        Value::Comment(text) => (MetricName::Comment, text.into()),
        Value::Demonstration(text) => (MetricName::Demonstration, text.into()),
    };
    FeedbackExportRow {
        cursor: cursor.0.to_string(),
        feedback_id: record.id,
        inference_id: record.inference,
        metric_name,
        value,
        rater: record.rater,
        tags: record.tags,
        created: record.created,
        adapter_digest: record.adapter,
        arm: record.arm.as_deref().and_then(wire::arm_name),
        rollout: record.rollout,
        unit: record.unit,
        superseded_by: record.superseded_by,
        retracted: record.retracted,
    }
}

pub(crate) async fn votes(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let page = Page::of(&request)?;
    let votes = app
        .feedback
        .export(page.after.map(Cursor), page.limit)
        .await?;
    let mut lines = Vec::new();
    for (cursor, record) in votes {
        match serde_json::to_vec(&row(cursor, record)) {
            Ok(line) => {
                lines.extend_from_slice(&line);
                lines.push(b'\n');
            }
            Err(error) => tracing::error!(%error, "a vote cannot be written as JSON"),
        }
    }
    Ok(HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .body(lines))
}
