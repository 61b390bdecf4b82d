//! The kill switch. Thrown, it is effective before anything is written; the
//! aborts of running rollouts follow where the store can be reached, so that
//! other replicas and a restart know.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::Data;
use openapi::{KillRequest, KillState};

use crate::app::App;
use crate::errors::ApiError;
use crate::extract::{Admin, Body};
use crate::guard;

/// How long the reply waits for the aborts to be written.
const ABORT_LIMIT: Duration = Duration::from_secs(2);
const REASON_DEFAULT: &str = "the kill switch was thrown";
const REASON_BYTES_MAX: usize = 512;

pub(crate) async fn set(app: Data<App>, _: Admin, body: Body) -> Result<HttpResponse, ApiError> {
    let serving = app.serving()?;
    let request: KillRequest = if body.0.is_empty() {
        KillRequest {
            active: true,
            reason: None,
        }
    } else {
        body.parse()?
    };
    if request
        .reason
        .as_ref()
        .is_some_and(|reason| reason.len() > REASON_BYTES_MAX)
    {
        return Err(ApiError::invalid(
            "reason",
            format!("reason: at most {REASON_BYTES_MAX} bytes"),
        ));
    }
    let kill = &serving.router.kill;
    kill.set(request.active, request.reason.clone(), app.clock.now());
    tracing::warn!(
        active = request.active,
        reason = request.reason,
        "the kill switch was moved"
    );
    let mut aborted = Vec::new();
    if request.active {
        let reason = request.reason.unwrap_or_else(|| REASON_DEFAULT.to_owned());
        let aborts = guard::abort_all(&app, &reason);
        match tokio::time::timeout(ABORT_LIMIT, aborts).await {
            Ok(models) => aborted = models,
            Err(_) => tracing::error!("the store is slow; the kill switch holds without it"),
        }
    }
    let about = kill.about();
    Ok(HttpResponse::Ok().json(KillState {
        active: kill.is_active(),
        reason: about.reason,
        since: about.since,
        aborted,
    }))
}
