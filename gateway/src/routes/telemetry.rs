//! Metrics and the OpenAPI document.

use actix_web::HttpResponse;
use actix_web::web::Data;

use crate::app::App;
use crate::metrics::AdapterNames;

pub(crate) async fn metrics(app: Data<App>) -> HttpResponse {
    let serving = app.serving.get();
    app.metrics.set_durability(app.feedback.durability());
    let mut names = AdapterNames::new();
    if let Some(serving) = serving {
        app.metrics
            .kill_active
            .set(i64::from(serving.router.kill.is_active()));
        for alias in serving.router.table().aliases.values() {
            names
                .entry(alias.digest)
                .or_default()
                .push(alias.name.to_string());
        }
    }
    let engine = serving.map(|serving| serving.engine.as_ref());
    match app.metrics.render(engine, &names, app.clock.now()) {
        Ok(text) => HttpResponse::Ok()
            .content_type("text/plain; version=0.0.4")
            .body(text),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}

pub(crate) async fn document() -> HttpResponse {
    match openapi::document_json() {
        Ok(text) => HttpResponse::Ok()
            .content_type("application/json")
            .body(text),
        Err(error) => {
            tracing::error!(%error, "the document could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
