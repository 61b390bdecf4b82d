//! What handlers take out of a request: who sends it, and its body. Keys are
//! looked at before the first byte of a body is read.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::{Bytes, BytesMut, Data};
use actix_web::{FromRequest, HttpRequest};
use futures::StreamExt as _;
use openapi::RequestError;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::auth::Caller;
use crate::config::BODY_BYTES_MAX_DEFAULT;
use crate::errors::{ApiError, HttpProblem};

fn app(request: &HttpRequest) -> Result<&Data<App>, ApiError> {
    // Only a server put together without its state lacks it.
    request
        .app_data::<Data<App>>()
        .ok_or(crate::errors::Unavailable::Loading.into())
}

/// Someone who may use the model: a holder of an API key, or anyone where none
/// is configured.
pub(crate) struct Client(pub(crate) Option<Arc<Caller>>);

impl FromRequest for Client {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(
            app(request)
                .and_then(|app| app.keys.caller(request))
                .map(Self),
        )
    }
}

/// A holder of the admin key.
pub(crate) struct Admin;

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(
            app(request)
                .and_then(|app| app.keys.admin(request))
                .map(|()| Self),
        )
    }
}

/// A JSON body, unread. Its type must be said, which also keeps web pages of
/// other origins from posting here.
pub(crate) struct Body(pub(crate) Bytes);

impl Body {
    /// The body as `T`.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, RequestError> {
        openapi::parse_body(&self.0)
    }

    /// The body as `T`, or its default where there is none.
    pub(crate) fn parse_or_default<T: DeserializeOwned + Default>(
        &self,
    ) -> Result<T, RequestError> {
        if self.0.is_empty() {
            Ok(T::default())
        } else {
            self.parse()
        }
    }
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes_max =
            app(request).map_or(BODY_BYTES_MAX_DEFAULT, |app| app.config.body_bytes_max);
        let checked = check_headers(request, bytes_max);
        let payload = payload.take();
        Box::pin(async move {
            checked?;
            read(payload, bytes_max).await.map(Self)
        })
    }
}

fn check_headers(request: &HttpRequest, bytes_max: usize) -> Result<(), HttpProblem> {
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let length: Option<u64> = text(CONTENT_LENGTH).and_then(|text| text.parse().ok());
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(HttpProblem::TooLarge { bytes_max });
    }
    let has_body = length != Some(0)
        && (length.is_some() || request.headers().contains_key("transfer-encoding"));
    let kind = text(CONTENT_TYPE)
        .and_then(|kind| kind.split(';').next())
        .map(str::trim);
    let is_json = kind.is_some_and(|kind| {
        let kind = kind.to_ascii_lowercase();
        kind == "application/json" || kind.ends_with("+json")
    });
    if has_body && !is_json {
        Err(HttpProblem::MediaType)
    } else {
        Ok(())
    }
}

async fn read(mut payload: Payload, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|_| HttpProblem::Broken)?;
        if body.len().saturating_add(piece.len()) > bytes_max {
            return Err(HttpProblem::TooLarge { bytes_max }.into());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}
