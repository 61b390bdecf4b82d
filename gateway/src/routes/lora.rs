//! Loading and unloading in vLLM's words. A failed load leaves what was there.

use actix_web::HttpResponse;
use actix_web::web::Data;
use adapter_store::AdapterStoreError;
use control::Expected;
use engine::EngineError;
use ids::AliasName;
use openapi::{LoadLoraAdapter, UnloadLoraAdapter, lora_text};

use crate::adapters;
use crate::app::App;
use crate::errors::{ApiError, LoraProblem, Stale, Thing};
use crate::extract::{Admin, Body};

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::Lora(LoraProblem::InvalidUserInput, message.into())
}

fn alias_name(text: String) -> Result<AliasName, ApiError> {
    AliasName::new(text).map_err(|error| invalid(error.to_string()))
}

fn text(body: String) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body(body)
}

pub(crate) async fn load(app: Data<App>, _: Admin, body: Body) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let request: LoadLoraAdapter = body.parse()?;
    let (Some(name), Some(path)) = (request.lora_name, request.lora_path) else {
        return Err(invalid(lora_text::BOTH_NEEDED));
    };
    if name.is_empty() || path.is_empty() {
        return Err(invalid(lora_text::BOTH_NEEDED));
    }
    let name = alias_name(name)?;
    adapters::check_free(serving, &name).map_err(|reason| invalid(reason.to_string()))?;
    let current = control::aliases::get(app.control.as_ref(), &name).await?;
    let now = current.map(|(_, digest)| digest);
    if current.is_some() && !request.load_inplace {
        return Err(invalid(lora_text::already_loaded(name.as_str())));
    }
    if let Some(expected) = request
        .expected_digest
        .filter(|expected| now != Some(*expected))
    {
        return Err(Stale::Changed {
            what: Thing::Alias,
            name: name.to_string(),
            expected: expected.to_string(),
            found: now.map_or_else(|| "absent".to_owned(), |digest| digest.to_string()),
        }
        .into());
    }
    let digest = adapters::import(&app, serving, path)
        .await
        .map_err(in_vllm_words)?;
    let expected = current.map_or(Expected::Absent, |(revision, _)| {
        Expected::Revision(revision)
    });
    let audit = app.audit("alias.load");
    let set = control::aliases::set(app.control.as_ref(), &name, digest, expected, audit);
    serving.sync.follow(&name, set.await?, digest);
    app.refresh().await;
    Ok(text(lora_text::added(name.as_str())))
}

/// A bad adapter is a 400 and a missing path a 404, under vLLM's types.
fn in_vllm_words(error: ApiError) -> ApiError {
    use AdapterStoreError as Store;
    match &error {
        ApiError::Adapter(Store::PathNotFound(_)) => {
            ApiError::Lora(LoraProblem::NotFound, error.to_string())
        }
        ApiError::Engine(EngineError::AdapterRejected(_))
        | ApiError::Adapter(
            Store::PathInvalid(_)
            | Store::Pickle(_)
            | Store::Size { .. }
            | Store::BaseMismatch { .. },
        ) => invalid(error.to_string()),
        _ => error,
    }
}

pub(crate) async fn unload(app: Data<App>, _: Admin, body: Body) -> Result<HttpResponse, ApiError> {
    let request: UnloadLoraAdapter = body.parse()?;
    let name = request.lora_name.filter(|name| !name.is_empty());
    let name = alias_name(name.ok_or_else(|| invalid(lora_text::NAME_NEEDED))?)?;
    if control::aliases::get(app.control.as_ref(), &name)
        .await?
        .is_none()
    {
        let message = lora_text::not_found(name.as_str());
        return Err(ApiError::Lora(LoraProblem::NotFound, message));
    }
    control::aliases::remove(app.control.as_ref(), &name, app.audit("alias.unload")).await?;
    app.refresh().await;
    Ok(text(lora_text::removed(name.as_str())))
}
