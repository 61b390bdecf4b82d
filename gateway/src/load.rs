//! Loads the model behind the open socket, restores the routes, and then keeps
//! them up to date until the gateway stops.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use actix_web::web::Data;
use control::{ControlError, Expected};
use engine::Engine;
use rollout::Rollout;
use tokio::sync::watch;

use crate::app::{App, Serving};
use crate::engines;
use crate::guard;
use crate::routing::{
    Followed, Memory, REFRESH_INTERVAL, Residency, Router, Synchronizer, Table, default_guardrails,
};

/// Who writes the first document of a public name.
const STARTUP: &str = "startup";

/// How far the loading is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Loading,
    Ready,
    Failed(String),
}

/// Begins the loading, and says how it goes.
pub(crate) fn start(
    app: Data<App>,
    slot: Arc<OnceLock<Arc<dyn Engine>>>,
    mut stopped: watch::Receiver<bool>,
) -> watch::Receiver<Progress> {
    let (say, progress) = watch::channel(Progress::Loading);
    tokio::spawn(async move {
        match load(&app, &slot).await {
            Ok(()) => say.send_replace(Progress::Ready),
            Err(error) => {
                tracing::error!(error, "the model cannot be served");
                say.send_replace(Progress::Failed(error));
                return;
            }
        };
        tokio::select! {
            () = follow(&app) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    });
    progress
}

async fn load(app: &Data<App>, slot: &OnceLock<Arc<dyn Engine>>) -> Result<(), String> {
    let started = Instant::now();
    let adapter_wait_max = engines::adapter_wait_max(&app.config.engine);
    let config = app.config.clone();
    let open = move || engines::open(&config);
    let engine = tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| error.to_string())??;
    // Only this task ever fills it.
    let _ = slot.set(engine.clone());
    let base = engine.base().clone();
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(model = base.name, digest = %base.digest, seconds, "model loaded");
    create_rollouts(app, &base)
        .await
        .map_err(|error| error.to_string())?;
    let table = Table::bare(base, &app.config.models, app.clock.now());
    let router = Arc::new(Router::new(table));
    let residency = Arc::new(Residency::new(
        app.adapters.clone(),
        engine.clone(),
        app.metrics.clone(),
        adapter_wait_max,
    ));
    let sync = Arc::new(Synchronizer {
        control: app.control.clone(),
        residency: residency.clone(),
        engine: engine.clone(),
        router: router.clone(),
        metrics: app.metrics.clone(),
        clock: app.clock.clone(),
        models: app.config.models.clone(),
        memory: tokio::sync::Mutex::new(Memory::default()),
        followed: std::sync::Mutex::new(Followed::default()),
    });
    sync.refresh().await.map_err(|error| error.to_string())?;
    let serving = Serving {
        engine,
        router,
        residency,
        sync,
        since: app.clock.now(),
    };
    app.serving
        .set(serving)
        .map_err(|_| "the model was loaded twice".to_owned())
}

/// Gives every configured public name a document, so that it can be shown and
/// changed; one that is there already is left alone.
async fn create_rollouts(app: &App, base: &engine::BaseInfo) -> Result<(), ControlError> {
    for model in &app.config.models {
        let mut rollout = Rollout::new(model.clone(), base.digest, None, app.clock.now());
        rollout.guardrails = default_guardrails();
        let audit = app.audit_as(STARTUP, "rollout.create");
        let put = control::rollouts::put(app.control.as_ref(), &rollout, Expected::Absent, audit);
        match put.await {
            Ok(_) | Err(ControlError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Follows the control state: at every announced change, and every second even
/// without one, since an announcement can be lost with the connection.
async fn follow(app: &Data<App>) {
    let mut changes = app.control.changes();
    loop {
        let announced = tokio::time::timeout(REFRESH_INTERVAL, changes.changed()).await;
        if matches!(announced, Ok(Err(_))) {
            // Nobody announces any more; the interval alone remains.
            tokio::time::sleep(REFRESH_INTERVAL).await;
        }
        let Ok(serving) = app.serving() else { continue };
        // A failure is logged where it happens, and tried again.
        let _ = serving.sync.refresh().await;
        guard::tend(app).await;
    }
}
