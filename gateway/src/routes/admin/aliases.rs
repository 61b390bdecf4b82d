//! Aliases: moving names for adapter versions.

use actix_web::http::header::ETAG;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use control::{DocKey, Expected};
use ids::{AdapterDigest, AliasName, Revision};
use openapi::{AliasCard, AliasList, AliasPut};

use super::precondition;
use crate::adapters;
use crate::app::App;
use crate::errors::{ApiError, Stale, Thing};
use crate::extract::{Admin, Body};

fn parse(name: &str) -> Result<AliasName, ApiError> {
    AliasName::new(name).map_err(|error| ApiError::invalid("name", error.to_string()))
}

fn card(name: AliasName, digest: AdapterDigest, revision: Revision) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((ETAG, format!("\"{revision}\"")))
        .json(AliasCard {
            name,
            digest,
            revision,
        })
}

pub(crate) async fn list(app: Data<App>, _: Admin) -> Result<HttpResponse, ApiError> {
    let control = app.control.as_ref();
    let mut data = Vec::new();
    for (name, _) in control::aliases::list(control).await? {
        if let Some((revision, digest)) = control::aliases::get(control, &name).await? {
            data.push(AliasCard {
                name,
                digest,
                revision,
            });
        }
    }
    Ok(HttpResponse::Ok().json(AliasList { data }))
}

pub(crate) async fn show(
    app: Data<App>,
    _: Admin,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let name = parse(&name)?;
    let found = control::aliases::get(app.control.as_ref(), &name).await?;
    let (revision, digest) =
        found.ok_or_else(|| ApiError::not_found(Thing::Alias, name.as_str()))?;
    Ok(card(name, digest, revision))
}

pub(crate) async fn set(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    name: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let name = parse(&name)?;
    let wanted: AliasPut = body.parse()?;
    adapters::check_free(serving, &name)?;
    let current = control::aliases::get(app.control.as_ref(), &name).await?;
    let expected = precondition::expected(&request)?.unwrap_or(Expected::Any);
    precondition::check(
        Thing::Alias,
        name.as_str(),
        expected,
        current.map(|(revision, _)| revision),
    )?;
    let now = current.map(|(_, digest)| digest);
    if let Some(expected) = wanted.expected_digest.filter(|expected| *expected != now) {
        let say = |digest: Option<AdapterDigest>| {
            digest.map_or_else(|| "absent".to_owned(), |digest| digest.to_string())
        };
        let (expected, found) = (say(expected), say(now));
        let name = name.to_string();
        return Err(Stale::Changed {
            what: Thing::Alias,
            name,
            expected,
            found,
        }
        .into());
    }
    // Resident before any route leads to it.
    serving.residency.make_resident(&wanted.digest).await?;
    let expected = current.map_or(Expected::Absent, |(revision, _)| {
        Expected::Revision(revision)
    });
    let audit = app.audit("alias.set");
    let control = app.control.as_ref();
    let revision = control::aliases::set(control, &name, wanted.digest, expected, audit).await?;
    serving.sync.follow(&name, revision, wanted.digest);
    app.refresh().await;
    Ok(card(name, wanted.digest, revision))
}

pub(crate) async fn remove(
    app: Data<App>,
    _: Admin,
    request: HttpRequest,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let name = parse(&name)?;
    let current = control::aliases::get(app.control.as_ref(), &name).await?;
    let (revision, _) = current.ok_or_else(|| ApiError::not_found(Thing::Alias, name.as_str()))?;
    let expected = precondition::expected(&request)?.unwrap_or(Expected::Any);
    precondition::check(Thing::Alias, name.as_str(), expected, Some(revision))?;
    let audit = app.audit("alias.remove");
    app.control
        .delete(&DocKey::alias(&name), Expected::Revision(revision), audit)
        .await?;
    app.refresh().await;
    Ok(HttpResponse::Ok().finish())
}
