//! The audit log.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use openapi::{AuditList, AuditRow};
use serde_json::json;

use crate::app::App;
use crate::errors::ApiError;
use crate::extract::Admin;
use crate::routes::page::Page;

pub(crate) async fn list(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let page = Page::of(&request)?;
    let records = app
        .control
        .audit(page.after.unwrap_or(0), page.limit)
        .await?;
    let next = records
        .last()
        .filter(|_| records.len() == page.limit)
        .map(|record| record.seq);
    let row = |record: control::AuditRecord| AuditRow {
        sequence: record.seq,
        at: record.at,
        actor: record.actor,
        action: record.action,
        subject: record.key.to_string(),
        revision: Some(record.revision),
        detail: json!({"before": record.before, "after": record.after}),
    };
    let data = records.into_iter().map(row).collect();
    Ok(HttpResponse::Ok().json(AuditList { data, next }))
}
