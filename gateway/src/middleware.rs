//! Around every request: its id, its log line, its count.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use tracing::Instrument as _;

use crate::app::App;
use crate::errors::ApiError;
use crate::headers::REQUEST_ID;

/// Gives the request an id, runs it within a span that carries the id, and logs
/// and counts the reply. What a 5xx hides from the client is logged here.
pub(crate) async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let id = format!("req-{}", uuid::Uuid::now_v7().simple());
    let started = Instant::now();
    let method = request.method().clone();
    let route = request
        .match_pattern()
        .unwrap_or_else(|| "unmatched".to_owned());
    let app = request.app_data::<Data<App>>().cloned();
    let span = tracing::info_span!("request", id = %id);
    let called = next.call(request).instrument(span.clone()).await;
    // An error that no handler turned into a reply, for example a broken body.
    let mut response = called?;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(REQUEST_ID), value);
    }
    let status = response.status();
    let _entered = span.enter();
    let error = response
        .response()
        .error()
        .and_then(|error| error.as_error::<ApiError>());
    if let Some(error) = error.filter(|error| error.is_internal()) {
        tracing::error!(error = %Chain(error), "the reply hides this");
    }
    let millis = started.elapsed().as_secs_f64() * 1e3;
    tracing::info!(%method, route, status = status.as_u16(), millis, "answered");
    if let Some(app) = app {
        let labels = [route.as_str(), status.as_str()];
        app.metrics.http_requests.with_label_values(&labels).inc();
    }
    Ok(response)
}

/// An error with what caused it.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
