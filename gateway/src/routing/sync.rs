//! Keeps the table of routes in step with the control state.
//!
//! One refresh at a time: read what is wanted, load what is missing, replace
//! the table, and only later unload what nobody needs any more. A version that
//! cannot be loaded leaves the routes that would have led to it as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adapter_store::{AdapterStore, AdapterStoreError, check_base};
use control::{ControlError, ControlStore, DocKind};
use engine::{AdapterPackage, Engine, EngineError};
use ids::{AdapterDigest, Clock, ModelName};
use rollout::Rollout;
use tokio::sync::Mutex;

use super::table::Alias;
use super::{PublicModel, Router, Table, Trial};
use crate::metrics::Metrics;

/// How often the control state is read even when nothing announced a change.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How long one reading may take before the store counts as away.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// How long a version stays resident after its last route has gone, so that
/// requests which resolved it a moment ago still find it.
const UNLOAD_GRACE: Duration = Duration::from_secs(2);

/// Why the routes were not refreshed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the store did not answer within {} ms", READ_LIMIT.as_millis())]
    Slow,
}

/// Why a stored version was not made resident.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResidencyError {
    #[error(transparent)]
    Store(#[from] AdapterStoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What the control state wants.
struct Wanted {
    rollouts: Vec<(ids::Revision, Rollout)>,
    aliases: Vec<(ids::AliasName, AdapterDigest)>,
    /// Versions to keep resident although nothing names them.
    kept: Vec<AdapterDigest>,
}

pub(crate) struct Synchronizer {
    pub(crate) control: Arc<dyn ControlStore>,
    pub(crate) adapters: AdapterStore,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) router: Arc<Router>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) models: Vec<ModelName>,
    /// Since when a resident version is needed by nobody; held for a refresh.
    pub(crate) idle: Mutex<BTreeMap<AdapterDigest, Instant>>,
}

impl Synchronizer {
    /// Brings the routes up to date. An error leaves them as they are, sends
    /// everyone to stable until a later refresh succeeds, and is logged.
    pub(crate) async fn refresh(&self) -> Result<(), SyncError> {
        let mut idle = self.idle.lock().await;
        let wanted = match tokio::time::timeout(READ_LIMIT, self.read()).await {
            Ok(read) => read,
            Err(_) => Err(SyncError::Slow),
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                if !self.router.set_store_away(true) {
                    tracing::error!(%error, "the control state cannot be read; everyone gets stable");
                }
                self.metrics.store_up.set(0);
                return Err(error);
            }
        };
        if self.router.set_store_away(false) {
            tracing::info!("the control state can be read again");
        }
        self.metrics.store_up.set(1);
        self.load_missing(&wanted).await;
        let table = self.table(&wanted);
        let needed = needed(&wanted, &table);
        self.router.replace(table);
        self.unload_idle(&needed, &mut idle).await;
        Ok(())
    }

    async fn read(&self) -> Result<Wanted, SyncError> {
        let control = self.control.as_ref();
        let kept = control.list(DocKind::Adapter).await?;
        Ok(Wanted {
            rollouts: control::rollouts::list(control).await?,
            aliases: control::aliases::list(control).await?,
            kept: kept
                .iter()
                .filter_map(|(key, _)| key.name().parse().ok())
                .collect(),
        })
    }

    fn resident(&self) -> BTreeSet<AdapterDigest> {
        let adapters = self.engine.adapters().into_iter();
        adapters
            .filter(|info| info.accepts_requests)
            .map(|info| info.digest)
            .collect()
    }

    async fn load_missing(&self, wanted: &Wanted) {
        let resident = self.resident();
        let base = self.engine.base().digest;
        let rollouts = wanted.rollouts.iter().map(|(_, rollout)| rollout);
        let rollouts = rollouts
            .filter(|rollout| rollout.base == base)
            .flat_map(Rollout::adapters);
        let aliases = wanted.aliases.iter().map(|(_, digest)| *digest);
        let all: BTreeSet<AdapterDigest> = rollouts
            .chain(aliases)
            .chain(wanted.kept.iter().copied())
            .collect();
        for digest in all.difference(&resident) {
            if let Err(error) = self.make_resident(digest).await {
                tracing::error!(%digest, %error, "an adapter that is wanted cannot be loaded");
            }
        }
    }

    /// Loads a stored version into the engine, unless it is there.
    pub(crate) async fn make_resident(&self, digest: &AdapterDigest) -> Result<(), ResidencyError> {
        if self.resident().contains(digest) {
            return Ok(());
        }
        let started = Instant::now();
        let stored = self.adapters.get(digest).await?;
        check_base(&stored.manifest, &self.engine.base().digest)?;
        let package = AdapterPackage {
            digest: *digest,
            config_json: Arc::from(stored.files.config_json.as_ref()),
            safetensors: Arc::from(stored.files.safetensors.as_ref()),
        };
        self.engine.load_adapter(package).await?;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.adapter_loaded(digest, seconds);
        tracing::info!(%digest, seconds, "adapter loaded");
        Ok(())
    }

    fn table(&self, wanted: &Wanted) -> Table {
        let before = self.router.table();
        let resident = self.resident();
        let mut table = Table::bare(self.engine.base().clone(), &self.models, self.clock.now());
        for (_, rollout) in &wanted.rollouts {
            let old = before.models.get(rollout.id.as_str());
            let is_ours = rollout.base == table.base.digest;
            let missing = rollout.adapters().any(|digest| !resident.contains(&digest));
            // What served until now goes on where the new versions cannot.
            if let Some(old) = old.filter(|old| is_ours && missing && old.is_served_by(&resident)) {
                table.models.insert(rollout.id.to_string(), old.clone());
                continue;
            }
            let trial = trial_of(rollout, old);
            let model = PublicModel {
                rollout: rollout.clone(),
                trial,
                is_ours,
            };
            table.models.insert(rollout.id.to_string(), model);
        }
        for (name, digest) in &wanted.aliases {
            let alias = Alias {
                name: name.clone(),
                digest: *digest,
            };
            let old = before.aliases.get(name.as_str());
            let old =
                old.filter(|old| !resident.contains(digest) && resident.contains(&old.digest));
            table
                .aliases
                .insert(name.to_string(), old.cloned().unwrap_or(alias));
        }
        table.resident = resident;
        table
    }

    /// Unloads versions that nobody has needed for a while.
    async fn unload_idle(
        &self,
        needed: &BTreeSet<AdapterDigest>,
        idle: &mut BTreeMap<AdapterDigest, Instant>,
    ) {
        let now = Instant::now();
        let resident = self.resident();
        idle.retain(|digest, _| resident.contains(digest) && !needed.contains(digest));
        for digest in resident.difference(needed) {
            let since = *idle.entry(*digest).or_insert(now);
            if now.duration_since(since) < UNLOAD_GRACE {
                continue;
            }
            match self.engine.unload_adapter(digest).await {
                Ok(()) => tracing::info!(%digest, "adapter unloaded"),
                Err(error) => tracing::warn!(%digest, %error, "an adapter could not be unloaded"),
            }
            idle.remove(digest);
        }
    }
}

/// Every version that a route leads to, that may be rolled back to, or that is
/// kept on purpose.
fn needed(wanted: &Wanted, table: &Table) -> BTreeSet<AdapterDigest> {
    let models = table.models.values().flat_map(|model| {
        let previous = model
            .rollout
            .previous_stable
            .and_then(|previous| previous.adapter);
        model.rollout.adapters().chain(previous)
    });
    let aliases = table.aliases.values().map(|alias| alias.digest);
    models
        .chain(aliases)
        .chain(wanted.kept.iter().copied())
        .collect()
}

/// The trial that the rollout's salt names: the running one goes on.
fn trial_of(rollout: &Rollout, old: Option<&PublicModel>) -> Option<Arc<Trial>> {
    if rollout.salt.is_empty() {
        return None;
    }
    let same = old
        .and_then(|old| old.trial.clone())
        .filter(|trial| trial.salt == rollout.salt);
    Some(same.unwrap_or_else(|| Arc::new(Trial::new(rollout.id.clone(), rollout.salt.clone()))))
}

impl PublicModel {
    /// Whether everything that it routes to is resident.
    fn is_served_by(&self, resident: &BTreeSet<AdapterDigest>) -> bool {
        self.rollout
            .adapters()
            .all(|digest| resident.contains(&digest))
    }
}
