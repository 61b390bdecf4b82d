//! Rollouts: showing, setting, and the commands that move them.

use actix_web::http::header::ETAG;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use control::Expected;
use ids::{BasisPoints, ModelName, Revision};
use openapi::{RolloutAbort, RolloutList, RolloutPut, RolloutStatus};
use rollout::{Command, Rollout, Status};

use super::{precondition, wire};
use crate::app::{App, Serving};
use crate::errors::{ApiError, Stale, Thing};
use crate::extract::{Admin, Body};
use crate::routing::default_guardrails;

const REASON_DEFAULT: &str = "an administrator aborted it";
const REASON_BYTES_MAX: usize = 512;
/// Bytes of a salt that is made up here.
const SALT_BYTES: usize = 16;

fn reply(revision: Revision, rollout: Rollout) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((ETAG, format!("\"{revision}\"")))
        .json(wire::resource(revision, rollout))
}

fn parse(id: &str) -> Result<ModelName, ApiError> {
    ModelName::new(id).map_err(|_| ApiError::not_found(Thing::Rollout, id))
}

async fn find(app: &App, id: &ModelName) -> Result<(Revision, Rollout), ApiError> {
    let found = control::rollouts::get(app.control.as_ref(), id).await?;
    found.ok_or_else(|| ApiError::not_found(Thing::Rollout, id.as_str()))
}

/// Writes a rollout whose versions are resident, and makes it effective here.
async fn write(
    app: &App,
    serving: &Serving,
    next: Rollout,
    expected: Expected,
    action: &str,
) -> Result<HttpResponse, ApiError> {
    next.check()?;
    let adapters: Vec<_> = next.adapters().collect();
    for digest in adapters {
        serving.residency.make_resident(&digest).await?;
    }
    let audit = app.audit(action);
    let revision = control::rollouts::put(app.control.as_ref(), &next, expected, audit).await?;
    app.refresh().await;
    Ok(reply(revision, next))
}

pub(crate) async fn list(app: Data<App>, _: Admin) -> Result<HttpResponse, ApiError> {
    let rollouts = control::rollouts::list(app.control.as_ref()).await?;
    let data = rollouts
        .into_iter()
        .map(|(revision, rollout)| wire::resource(revision, rollout));
    Ok(HttpResponse::Ok().json(RolloutList {
        data: data.collect(),
    }))
}

pub(crate) async fn show(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (revision, rollout) = find(&app, &parse(&id)?).await?;
    Ok(reply(revision, rollout))
}

pub(crate) async fn set(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let id =
        ModelName::new(id.as_str()).map_err(|error| ApiError::invalid("id", error.to_string()))?;
    let wanted: RolloutPut = body.parse()?;
    let expected = precondition::expected(&request)?.ok_or(Stale::RevisionNeeded)?;
    let current = control::rollouts::get(app.control.as_ref(), &id).await?;
    let revision = current.as_ref().map(|(revision, _)| *revision);
    precondition::check(Thing::Rollout, id.as_str(), expected, revision)?;
    let current = match current {
        Some((_, rollout)) => rollout,
        None => created(&app, serving, id)?,
    };
    let next = changed(&app, serving, current, wanted)?;
    write(&app, serving, next, expected, "rollout.set").await
}

/// A new public name; it may not be one that means something else already.
fn created(app: &App, serving: &Serving, id: ModelName) -> Result<Rollout, ApiError> {
    let table = serving.router.table();
    if table.base.name == id.as_str() || table.aliases.contains_key(id.as_str()) {
        return Err(ApiError::invalid("id", format!("the name {id} is taken")));
    }
    let mut rollout = Rollout::new(id, table.base.digest, None, app.clock.now());
    rollout.guardrails = default_guardrails();
    Ok(rollout)
}

/// The rollout with everything that `wanted` names changed.
fn changed(
    app: &App,
    serving: &Serving,
    mut rollout: Rollout,
    wanted: RolloutPut,
) -> Result<Rollout, ApiError> {
    let now = app.clock.now();
    let served = serving.engine.base().digest;
    if wanted.base.is_some_and(|base| base != served) {
        return Err(ApiError::invalid(
            "base",
            format!("the served base is {served}"),
        ));
    }
    if rollout.base != served {
        // Nothing of the old base can be served by the new one.
        rollout = Rollout::new(rollout.id, served, None, now);
    }
    if let Some(stable) = wanted.stable.filter(|stable| *stable != rollout.stable) {
        if rollout.in_flight() {
            let status = rollout.status;
            return Err(rollout::TransitionError::Impossible {
                command: "set_stable",
                status,
            }
            .into());
        }
        rollout.stable = stable;
        rollout.updated_at = now;
    }
    rollout.steps = wanted.steps.unwrap_or(rollout.steps);
    rollout.interval_ms = wanted.interval_ms.unwrap_or(rollout.interval_ms);
    if let Some(guardrails) = wanted.guardrails {
        rollout.guardrails = guardrails.into_iter().map(wire::guardrail_of).collect();
    }
    let wanted_command = command_for(&rollout, wanted.canary, wanted.basis_points, wanted.salt);
    if let Some(command) = wanted_command {
        rollout = rollout.apply(command, now)?;
    }
    match wanted.status {
        None => Ok(rollout),
        Some(RolloutStatus::Running) if rollout.status == Status::Running => Ok(rollout),
        Some(RolloutStatus::Paused) if rollout.status == Status::Paused => Ok(rollout),
        Some(RolloutStatus::Running) => Ok(rollout.apply(Command::Resume, now)?),
        Some(RolloutStatus::Paused) => Ok(rollout.apply(Command::Pause, now)?),
        Some(_) => Err(ApiError::invalid(
            "status",
            "status: only running and paused can be set",
        )),
    }
}

/// A new canary starts a trial with a salt of its own; the one on trial keeps
/// its salt, so that a greater share only adds users.
fn command_for(
    rollout: &Rollout,
    canary: Option<ids::AdapterDigest>,
    share: Option<BasisPoints>,
    salt: Option<String>,
) -> Option<Command> {
    match canary {
        Some(adapter) if !(rollout.in_flight() && rollout.canary == Some(adapter)) => {
            let new_salt = salt.unwrap_or_else(|| {
                let mut bytes = [0u8; SALT_BYTES];
                rand::fill(&mut bytes);
                hex::encode(bytes)
            });
            let basis_points = share.unwrap_or(BasisPoints::ZERO);
            Some(Command::SetCanary {
                adapter,
                basis_points,
                new_salt,
            })
        }
        _ => share.map(Command::SetShare),
    }
}

/// Applies one command, where `If-Match` says so only to the revision given.
async fn command(
    app: &App,
    request: &HttpRequest,
    id: &str,
    command: Command,
) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let id = parse(id)?;
    let (revision, rollout) = find(app, &id).await?;
    let expected = precondition::expected(request)?.unwrap_or(Expected::Revision(revision));
    precondition::check(Thing::Rollout, id.as_str(), expected, Some(revision))?;
    let action = format!("rollout.{}", command.name());
    let next = rollout.apply(command, app.clock.now())?;
    write(app, serving, next, Expected::Revision(revision), &action).await
}

pub(crate) async fn promote(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    command(&app, &request, &id, Command::Promote).await
}

pub(crate) async fn rollback(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    command(&app, &request, &id, Command::Rollback).await
}

pub(crate) async fn pause(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    command(&app, &request, &id, Command::Pause).await
}

pub(crate) async fn resume(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    command(&app, &request, &id, Command::Resume).await
}

pub(crate) async fn abort(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let wanted: RolloutAbort = body.parse_or_default()?;
    let reason = wanted.reason.unwrap_or_else(|| REASON_DEFAULT.to_owned());
    if reason.len() > REASON_BYTES_MAX {
        return Err(ApiError::invalid(
            "reason",
            format!("reason: at most {REASON_BYTES_MAX} bytes"),
        ));
    }
    command(&app, &request, &id, Command::Abort { reason }).await
}

pub(crate) async fn analysis(
    app: Data<App>,
    _: Admin,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let id = parse(&id)?;
    let (revision, rollout) = find(&app, &id).await?;
    let table = serving.router.table();
    let trial = table
        .models
        .get(id.as_str())
        .and_then(|model| model.trial.as_deref());
    let trial = trial.filter(|trial| trial.salt == rollout.salt);
    Ok(HttpResponse::Ok().json(wire::analysis(revision, &rollout, trial)))
}
