//! What happened to a job, and its checkpoints.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use openapi::{FineTuningCheckpointList, FineTuningEventList, ListObject};

use super::cursor::{Parameters, ROWS_DEFAULT, ROWS_MAX};
use super::jobs::named;
use super::wire;
use crate::app::App;
use crate::errors::ApiError;
use crate::extract::Admin;

pub(crate) async fn events(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (before, limit) = asked(&request)?;
    let id = app.tuning.jobs.get(&named(&id)?).await?.id;
    let (events, has_more) = app.tuning.history.events(&id, before, limit).await?;
    let data = events.into_iter().map(|event| wire::event(&id, event));
    Ok(HttpResponse::Ok().json(FineTuningEventList {
        object: ListObject::List,
        data: data.collect(),
        has_more,
    }))
}

pub(crate) async fn checkpoints(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (before, limit) = asked(&request)?;
    let job = app.tuning.jobs.get(&named(&id)?).await?;
    let history = &app.tuning.history;
    let (checkpoints, has_more) = history.checkpoints(&job.id, before, limit).await?;
    let data: Vec<_> = checkpoints
        .into_iter()
        .map(|checkpoint| wire::checkpoint(&job, checkpoint))
        .collect();
    Ok(HttpResponse::Ok().json(FineTuningCheckpointList {
        object: ListObject::List,
        first_id: data.first().map(|checkpoint| checkpoint.id.clone()),
        last_id: data.last().map(|checkpoint| checkpoint.id.clone()),
        data,
        has_more,
    }))
}

/// The number before which a page begins, and its length.
fn asked(request: &HttpRequest) -> Result<(Option<u64>, usize), ApiError> {
    let mut parameters = Parameters::of(request)?;
    let limit = parameters.limit(ROWS_DEFAULT, ROWS_MAX)?;
    let number = |id: String| {
        let number = id.rsplit('-').next().and_then(|number| number.parse().ok());
        number.ok_or_else(|| ApiError::invalid("after", "after: no such id"))
    };
    let after = parameters.take("after").map(number).transpose()?;
    parameters.finish()?;
    Ok((after, limit))
}
