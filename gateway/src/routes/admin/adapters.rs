//! Adapter versions: what is stored and what is resident.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use adapter_store::{BaseMatch, Manifest, Source, check_base};
use control::{DocKey, DocKind, Expected};
use engine::{AdapterInfo, EngineError};
use ids::AdapterDigest;
use openapi::{AdapterBase, AdapterCard, AdapterList, AdapterLoad, AdapterSource};
use serde_json::json;

use crate::adapters;
use crate::app::{App, Serving};
use crate::errors::{ApiError, Stale, Thing};
use crate::extract::{Admin, Body};

fn card(
    serving: &Serving,
    digest: AdapterDigest,
    manifest: Option<&Manifest>,
    info: Option<&AdapterInfo>,
) -> AdapterCard {
    let table = serving.router.table();
    let aliases = table
        .aliases
        .values()
        .filter(|alias| alias.digest == digest);
    let lineage = manifest.map(|manifest| &manifest.lineage);
    let base = match manifest.map(|manifest| check_base(manifest, &table.base.digest)) {
        Some(Ok(BaseMatch::Verified)) => AdapterBase::Verified,
        Some(Ok(BaseMatch::Unverified)) | None => AdapterBase::Unverified,
        Some(Err(_)) => AdapterBase::Mismatch,
    };
    AdapterCard {
        digest,
        aliases: aliases.map(|alias| alias.name.clone()).collect(),
        resident: info.is_some(),
        accepts_requests: info.is_some_and(|info| info.accepts_requests),
        leases: info.map_or(0, |info| info.leases),
        rank: info.map(|info| info.rank),
        resident_bytes: info.map(|info| info.bytes),
        stored_bytes: manifest.map(Manifest::byte_len),
        base,
        base_digest: lineage.and_then(|lineage| lineage.base),
        source: lineage.map(|lineage| match lineage.source {
            Source::Trained => AdapterSource::Trained,
            Source::Imported => AdapterSource::Imported,
        }),
        parent: lineage.and_then(|lineage| lineage.parent),
        dataset: lineage.and_then(|lineage| lineage.dataset),
        created: lineage.map(|lineage| lineage.created),
        evaluation: lineage.and_then(|lineage| lineage.evaluation.clone()),
    }
}

pub(crate) async fn list(app: Data<App>, _: Admin) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let manifests = app.adapters.list().await?;
    let mut infos: BTreeMap<AdapterDigest, AdapterInfo> = serving
        .engine
        .adapters()
        .into_iter()
        .map(|info| (info.digest, info))
        .collect();
    let mut data: Vec<AdapterCard> = manifests
        .iter()
        .map(|manifest| {
            let info = infos.remove(&manifest.digest);
            card(serving, manifest.digest, Some(manifest), info.as_ref())
        })
        .collect();
    data.extend(
        infos
            .values()
            .map(|info| card(serving, info.digest, None, Some(info))),
    );
    Ok(HttpResponse::Ok().json(AdapterList { data }))
}

fn kept(digest: &AdapterDigest) -> Result<DocKey, ApiError> {
    Ok(DocKey::new(DocKind::Adapter, digest.to_string())?)
}

pub(crate) async fn load(app: Data<App>, _: Admin, body: Body) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let wanted: AdapterLoad = body.parse()?;
    let digest = wanted.digest;
    if let Some(alias) = &wanted.alias {
        adapters::check_free(serving, alias)?;
    }
    serving.residency.make_resident(&digest).await?;
    let control = app.control.as_ref();
    match &wanted.alias {
        Some(alias) => {
            let audit = app.audit("alias.set");
            let set = control::aliases::set(control, alias, digest, Expected::Any, audit);
            serving.sync.follow(alias, set.await?, digest);
        }
        // Nothing names it, so that it is remembered as one to keep resident.
        None => {
            let audit = app.audit("adapter.load");
            control
                .put(&kept(&digest)?, json!({}), Expected::Any, audit)
                .await?;
        }
    }
    app.refresh().await;
    let manifest = app.adapters.manifest(&digest).await?;
    let infos = serving.engine.adapters();
    let info = infos.iter().find(|info| info.digest == digest);
    Ok(HttpResponse::Ok().json(card(serving, digest, Some(&manifest), info)))
}

pub(crate) async fn unload(
    app: Data<App>,
    _: Admin,
    digest: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let digest: AdapterDigest = digest
        .parse()
        .map_err(|error: ids::IdError| ApiError::invalid("digest", error.to_string()))?;
    if let Some(user) = serving.router.table().user_of(&digest) {
        return Err(Stale::InUse(digest, user).into());
    }
    let is_resident = serving.residency.resident().contains(&digest);
    if !is_resident && !serving.router.table().serves(&digest) {
        return Err(ApiError::not_found(Thing::Adapter, digest.to_string()));
    }
    app.control
        .delete(&kept(&digest)?, Expected::Any, app.audit("adapter.unload"))
        .await?;
    match serving.engine.unload_adapter(&digest).await {
        // evicted already
        Err(EngineError::AdapterNotLoaded(_)) => {}
        result => result?,
    }
    app.refresh().await;
    Ok(HttpResponse::Ok().finish())
}
