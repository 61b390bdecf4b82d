//! What every handler shares.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use adapter_store::AdapterStore;
use control::{AuditEntry, ControlStore};
use engine::Engine;
use feedback::FeedbackStore;
use feedback::token::Signer;
use fine_tuning::{Files, History, Jobs};
use ids::{Clock, UnixMillis};

use crate::auth::KeyRing;
use crate::config::Config;
use crate::errors::{ApiError, Unavailable};
use crate::metrics::Metrics;
use crate::routing::{Residency, Router, Synchronizer};
use crate::tasks::Tasks;

/// One gateway's parts.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) keys: KeyRing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) control: Arc<dyn ControlStore>,
    pub(crate) feedback: Arc<dyn FeedbackStore>,
    pub(crate) adapters: AdapterStore,
    pub(crate) tuning: Tuning,
    pub(crate) signer: Signer,
    pub(crate) tasks: Tasks,
    /// Set once the model is loaded and the routes are restored.
    pub(crate) serving: OnceLock<Serving>,
    pub(crate) draining: AtomicBool,
}

/// Training files and fine-tuning jobs.
pub(crate) struct Tuning {
    pub(crate) files: Files,
    pub(crate) jobs: Jobs,
    pub(crate) history: History,
}

/// What exists only once the model is loaded.
pub(crate) struct Serving {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) router: Arc<Router>,
    pub(crate) residency: Arc<Residency>,
    pub(crate) sync: Arc<Synchronizer>,
    /// When the model was ready.
    pub(crate) since: UnixMillis,
}

/// Who does what through the admin routes, in the audit log.
pub(crate) const ADMIN: &str = "admin";
/// Who does what by itself.
pub(crate) const GUARD: &str = "guard";

impl App {
    /// The loaded model, or why it is not to be had.
    pub(crate) fn serving(&self) -> Result<&Serving, ApiError> {
        self.serving.get().ok_or(Unavailable::Loading.into())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// An entry for the audit log.
    pub(crate) fn audit(&self, action: &str) -> AuditEntry {
        self.audit_as(ADMIN, action)
    }

    pub(crate) fn audit_as(&self, actor: &str, action: &str) -> AuditEntry {
        AuditEntry {
            actor: actor.to_owned(),
            action: action.to_owned(),
            at: self.clock.now(),
        }
    }

    /// Makes a change of the control state effective here at once. Whether it
    /// could be read back is not this request's problem: it was written.
    pub(crate) async fn refresh(&self) {
        if let Some(serving) = self.serving.get()
            && let Err(error) = serving.sync.refresh().await
        {
            tracing::warn!(%error, "the routes were not refreshed after a change");
        }
    }
}
