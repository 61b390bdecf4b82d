//! `POST /v1/chat/completions`: admit, route, ask the engine, answer, record.

mod admit;
mod answer;
mod ask;
mod events;
mod record;
mod stream;
mod whole;

use std::sync::Arc;
use std::time::Instant;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use engine::{ChatStream, EngineError};
use ids::InferenceId;
use openapi::ChatCompletionRequest;

use crate::app::{App, Serving};
use crate::errors::{ApiError, Unavailable};
use crate::extract::{Body, Client};
use crate::headers;
use crate::routing::{Route, Wish};
use answer::Answer;
use record::Asked;

/// How often a request has its adapter loaded before it gives up: each time it
/// was evicted again before it could be used.
const LOADS_MAX: usize = 4;
/// How long a vote may be attributed by the answer's token.
const TOKEN_LIFE: std::time::Duration = std::time::Duration::from_secs(180 * 24 * 3600);

pub(crate) async fn create(
    app: Data<App>,
    client: Client,
    http: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let started = Instant::now();
    if app.is_draining() {
        return Err(Unavailable::Draining.into());
    }
    let serving = app.serving()?;
    let request = ChatCompletionRequest::parse(&body.0)?;
    // it may have large images in it
    drop(body);
    let unit = ask::unit(&request, &http)?;
    let draw = rand::random_range(0..rollout::BUCKETS);
    let wish = Wish {
        model: &request.model,
        adapter: request.adapter.as_ref(),
        unit: unit.as_ref(),
        draw,
    };
    // Before anything is charged: a name that leads nowhere costs nothing.
    serving.router.resolve(&wish)?;
    let seed = request.seed.unwrap_or_else(rand::random);
    let mut question = ask::question(&request, seed);
    question.tenant = client.0.as_ref().and_then(|caller| caller.tenant.clone());
    let charge = admit::admit(serving, client.0.as_deref(), &question).await?;
    let asked = Asked::of(&question).await?;
    let started_stream = start(serving, &wish, &mut question).await;
    if let Err(ApiError::Engine(error)) = &started_stream {
        let caller = client.0.as_ref().map(|caller| caller.name.as_str());
        app.metrics.refused(caller, error);
    }
    let (route, stream) = started_stream?;
    drop(question);
    let answer = Answer::begin(
        app.into_inner(),
        &request,
        asked,
        route,
        unit,
        &stream,
        started,
    );
    let mut response = HttpResponse::Ok();
    headers::put_limits(&mut response, &charge);
    put_headers(&mut response, &answer);
    let (is_streamed, include_usage) = (request.stream, request.include_usage);
    drop(request);
    if is_streamed {
        Ok(stream::reply(response, answer, stream, include_usage))
    } else {
        whole::reply(response, answer, stream).await
    }
}

/// Resolves the route and asks the engine. Where a version was evicted, or
/// unloaded just between the two, the routes are asked again whether they still
/// lead to it, and it is loaded.
async fn start(
    serving: &Serving,
    wish: &Wish<'_>,
    question: &mut engine::ChatRequest,
) -> Result<(Route, ChatStream), ApiError> {
    let mut missing = None;
    for _ in 0..LOADS_MAX {
        let route = serving.router.resolve(wish)?;
        question.adapter = route.adapter;
        if let Some(digest) = missing.filter(|_| missing == route.adapter) {
            serving.residency.load_for_request(&digest).await?;
        }
        match serving.engine.chat(question.clone()).await {
            Err(EngineError::AdapterNotLoaded(digest)) => missing = Some(digest),
            result => return Ok((route, result?)),
        }
    }
    Err(Unavailable::AdapterMissing.into())
}

/// Says which version answers, and how a vote can be attributed.
fn put_headers(response: &mut HttpResponseBuilder, answer: &Answer) {
    let digest = answer
        .adapter
        .map_or_else(|| "none".to_owned(), |digest| digest.to_string());
    response.insert_header((headers::ADAPTER_DIGEST, digest));
    let expires = answer.app.clock.now().plus(TOKEN_LIFE);
    match answer.app.signer.sign(&answer.attribution(), expires) {
        Ok(token) => {
            response.insert_header((headers::FEEDBACK_TOKEN, token));
        }
        Err(error) => tracing::warn!(%error, "an answer goes without its feedback token"),
    }
    if let Some(assigned) = answer
        .assigned
        .as_ref()
        .filter(|_| answer.app.config.show_arm)
    {
        response.insert_header((headers::ROLLOUT, assigned.model.as_str()));
        response.insert_header((headers::ARM, assigned.arm.as_str()));
    }
}

/// Ids are time-ordered and need no coordination.
fn new_id() -> InferenceId {
    InferenceId::generate()
}

type SharedApp = Arc<App>;
