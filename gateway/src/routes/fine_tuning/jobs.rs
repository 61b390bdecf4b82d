//! `/v1/fine_tuning/jobs`: taken, shown, held, given up.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use fine_tuning::{Command, HyperParameters, Method, NewJob};
use ids::{AdapterDigest, JobId};
use openapi::{FineTuningJobList, FineTuningMethodKind, FineTuningRequest, ListObject};
use rand::RngExt as _;

use super::cursor::{Parameters, ROWS_DEFAULT, ROWS_MAX, page};
use super::wire;
use crate::app::App;
use crate::errors::{ApiError, Thing};
use crate::extract::{Admin, Body};
use crate::routing::Table;

pub(crate) async fn create(app: Data<App>, _: Admin, body: Body) -> Result<HttpResponse, ApiError> {
    let asked = FineTuningRequest::parse(&body.0)?;
    let start = start(&app.serving()?.router.table(), &asked.model)?;
    app.tuning.files.get(&asked.training_file).await?;
    if let Some(file) = &asked.validation_file {
        app.tuning.files.get(file).await?;
    }
    let seed = asked
        .seed
        .unwrap_or_else(|| rand::rng().random_range(0..1 << 31));
    let new = NewJob {
        model: asked.model,
        start,
        method: match asked.method {
            FineTuningMethodKind::Supervised => Method::Supervised,
            FineTuningMethodKind::Dpo => Method::Dpo,
        },
        hyperparameters: HyperParameters {
            n_epochs: asked.n_epochs,
            batch_size: asked.batch_size,
            learning_rate_multiplier: asked.learning_rate_multiplier,
            beta: asked.beta,
        },
        training_file: asked.training_file,
        validation_file: asked.validation_file,
        suffix: asked.suffix,
        seed,
        metadata: asked.metadata,
    };
    let now = app.clock.now();
    let job = app.tuning.jobs.create(JobId::generate(), new, now).await?;
    Ok(HttpResponse::Ok().json(wire::job(job)))
}

/// The version that training goes on from: none for a public name and for the
/// base, whose new adapter starts anew.
fn start(table: &Table, model: &str) -> Result<Option<AdapterDigest>, ApiError> {
    if model == table.base.name || table.models.contains_key(model) {
        return Ok(None);
    }
    let alias = table.aliases.get(model).map(|alias| alias.digest);
    let digest = alias.or_else(|| model.parse().ok());
    digest
        .filter(|digest| table.serves(digest))
        .map(Some)
        .ok_or_else(|| ApiError::not_found(Thing::Model, model))
}

pub(crate) async fn list(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut parameters = Parameters::of(&request)?;
    let limit = parameters.limit(ROWS_DEFAULT, ROWS_MAX)?;
    let after = parameters.take("after");
    parameters.finish()?;
    let mut jobs = app.tuning.jobs.list().await?;
    jobs.reverse();
    let after = after.map(|id| move |job: &fine_tuning::Job| job.id.as_str() == id);
    let (jobs, has_more) = page(jobs, after, limit);
    Ok(HttpResponse::Ok().json(FineTuningJobList {
        object: ListObject::List,
        data: jobs.into_iter().map(wire::job).collect(),
        has_more,
    }))
}

pub(crate) async fn show(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let job = app.tuning.jobs.get(&named(&id)?).await?;
    Ok(HttpResponse::Ok().json(wire::job(job)))
}

pub(crate) async fn cancel(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    command(&app, &id, Command::Cancel).await
}

pub(crate) async fn pause(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    command(&app, &id, Command::Pause).await
}

pub(crate) async fn resume(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    command(&app, &id, Command::Resume).await
}

async fn command(app: &App, id: &str, command: Command) -> Result<HttpResponse, ApiError> {
    let now = app.clock.now();
    let job = app.tuning.jobs.command(&named(id)?, command, now).await?;
    Ok(HttpResponse::Ok().json(wire::job(job)))
}

/// A text that is no id names nothing.
pub(super) fn named(id: &str) -> Result<JobId, ApiError> {
    JobId::new(id).map_err(|_| ApiError::not_found(Thing::Job, id))
}
