//! Whether the process runs, and whether it can answer.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::json;

use crate::app::App;
use crate::errors::{ApiError, Unavailable};

pub(crate) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// Ready once the model can answer and until the shutdown begins. A store that
/// is away does not count: requests are answered without it.
pub(crate) async fn ready(app: Data<App>) -> Result<HttpResponse, ApiError> {
    if app.is_draining() {
        return Err(Unavailable::Draining.into());
    }
    app.serving()?;
    Ok(HttpResponse::Ok().json(json!({"status": "ok"})))
}
