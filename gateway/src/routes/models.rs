//! `GET /v1/models`: what a request can name. Never a path of the file system.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use ids::AdapterDigest;
use openapi::{InputModality, ListObject, ModelCard, ModelList, ModelObject};

use crate::app::App;
use crate::errors::{ApiError, Thing};
use crate::extract::Client;
use crate::routing::Table;

const OWNER: &str = "flywheel";

fn card(id: &str, created: i64, table: &Table, adapter: Option<AdapterDigest>) -> ModelCard {
    let is_base = id == table.base.name;
    ModelCard {
        id: id.to_owned(),
        object: ModelObject::Model,
        created,
        owned_by: OWNER.to_owned(),
        root: is_base.then(|| table.base.name.clone()),
        parent: (!is_base).then(|| table.base.name.clone()),
        adapter_digest: adapter,
        input_modalities: match table.base.takes_images {
            true => vec![InputModality::Text, InputModality::Image],
            false => vec![InputModality::Text],
        },
    }
}

/// Public names, the base, aliases.
fn cards(table: &Table, created: i64) -> Vec<ModelCard> {
    let models = table
        .models
        .iter()
        .map(|(name, model)| card(name, created, table, model.rollout.stable));
    let base = std::iter::once(card(&table.base.name, created, table, None));
    let aliases = table
        .aliases
        .values()
        .filter(|alias| table.serves(&alias.digest));
    let aliases =
        aliases.map(|alias| card(alias.name.as_str(), created, table, Some(alias.digest)));
    models.chain(base).chain(aliases).collect()
}

pub(crate) async fn list(app: Data<App>, _: Client) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let data = cards(&serving.router.table(), serving.since.seconds());
    Ok(HttpResponse::Ok().json(ModelList {
        object: ListObject::List,
        data,
    }))
}

pub(crate) async fn show(
    app: Data<App>,
    _: Client,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let table = serving.router.table();
    let created = serving.since.seconds();
    let found = cards(&table, created)
        .into_iter()
        .find(|card| card.id == *id);
    let pinned = || {
        let digest = id.parse().ok().filter(|digest| table.serves(digest))?;
        Some(card(&id, created, &table, Some(digest)))
    };
    let card = found.or_else(pinned);
    let card = card.ok_or_else(|| ApiError::not_found(Thing::Model, id.as_str()))?;
    Ok(HttpResponse::Ok().json(card))
}
