//! `/v1/files`.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use fine_tuning::{FILES_MAX, FineTuningError};
use ids::FileId;
use openapi::{FileDeleted, FileList, FileObject, ListObject};

use super::cursor::{Parameters, page};
use super::{upload, wire};
use crate::app::App;
use crate::errors::{ApiError, Thing};
use crate::extract::Admin;

pub(crate) async fn create(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let clock = app.clock.as_ref();
    let record = upload::receive(&app.tuning.files, clock, &request, payload).await?;
    Ok(HttpResponse::Ok().json(wire::file(record)))
}

pub(crate) async fn list(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut parameters = Parameters::of(&request)?;
    let limit = parameters.limit(FILES_MAX, FILES_MAX)?;
    let after = parameters.take("after");
    let is_ascending = match parameters.take("order").as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(ApiError::invalid("order", "order: asc or desc")),
    };
    let wanted = parameters.take("purpose");
    parameters.finish()?;
    let mut records = app.tuning.files.list().await?;
    if let Some(purpose) = wanted {
        records.retain(|record| record.purpose.as_str() == purpose);
    }
    if !is_ascending {
        records.reverse();
    }
    let after = after.map(|id| move |record: &fine_tuning::FileRecord| record.id.as_str() == id);
    let (records, has_more) = page(records, after, limit);
    Ok(HttpResponse::Ok().json(FileList {
        object: ListObject::List,
        first_id: records.first().map(|record| record.id.clone()),
        last_id: records.last().map(|record| record.id.clone()),
        data: records.into_iter().map(wire::file).collect(),
        has_more,
    }))
}

pub(crate) async fn show(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let record = app.tuning.files.get(&named(&id)?).await?;
    Ok(HttpResponse::Ok().json(wire::file(record)))
}

pub(crate) async fn content(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let content = app.tuning.files.content(&named(&id)?).await?;
    let mut response = HttpResponse::Ok();
    Ok(response
        .content_type("application/octet-stream")
        .body(content))
}

pub(crate) async fn delete(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = named(&id)?;
    if let Some(job) = app.tuning.jobs.user_of(&id).await? {
        return Err(FineTuningError::FileInUse { file: id, job }.into());
    }
    app.tuning.files.delete(&id).await?;
    Ok(HttpResponse::Ok().json(FileDeleted {
        id,
        object: FileObject::File,
        deleted: true,
    }))
}

/// A text that is no id names nothing.
fn named(id: &str) -> Result<FileId, ApiError> {
    FileId::new(id).map_err(|_| ApiError::not_found(Thing::File, id))
}
