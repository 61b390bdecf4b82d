//! Keeps the table of routes in step with the control state.
//!
//! One refresh at a time: read what is wanted, load what is missing, replace
//! the table, and only later unload what nobody needs any more. An alias that was
//! moved here is followed at once, without a reading. What a rollout
//! leads to is pinned; other versions only need to be in the adapter store, and
//! are loaded when a request names them (see [`super::residency`]). A version
//! that cannot be loaded leaves the routes that would have led to it as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adapter_store::check_base;
use control::{ControlError, ControlStore, DocKind};
use engine::Engine;
use ids::{AdapterDigest, AliasName, Clock, ModelName, Revision};
use rollout::Rollout;
use tokio::sync::Mutex;

use super::residency::{Residency, ResidencyError};
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

/// What the control state wants.
struct Wanted {
    rollouts: Vec<(ids::Revision, Rollout)>,
    aliases: Vec<(ids::AliasName, AdapterDigest)>,
    /// Versions to keep usable although nothing names them.
    kept: Vec<AdapterDigest>,
}

impl Wanted {
    /// What the rollouts of this base lead to: it is never evicted.
    fn pinned(&self, base: ids::BaseDigest) -> BTreeSet<AdapterDigest> {
        let rollouts = self.rollouts.iter().map(|(_, rollout)| rollout);
        rollouts
            .filter(|rollout| rollout.base == base)
            .flat_map(Rollout::adapters)
            .collect()
    }

    /// What can be named beside.
    fn named(&self) -> BTreeSet<AdapterDigest> {
        let aliases = self.aliases.iter().map(|(_, digest)| *digest);
        aliases.chain(self.kept.iter().copied()).collect()
    }
}

/// What one refresh leaves for the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// Since when a resident version is needed by nobody.
    idle: BTreeMap<AdapterDigest, Instant>,
    /// Versions that were found in the adapter store and made for this base.
    stored: BTreeSet<AdapterDigest>,
}

/// Aliases that were followed since the last refresh began: what it reads may be
/// older.
#[derive(Default)]
pub(crate) struct Followed(BTreeMap<AliasName, Revision>);

pub(crate) struct Synchronizer {
    pub(crate) control: Arc<dyn ControlStore>,
    pub(crate) residency: Arc<Residency>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) router: Arc<Router>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) models: Vec<ModelName>,
    /// Held for a refresh.
    pub(crate) memory: Mutex<Memory>,
    /// Held while the table is changed.
    pub(crate) followed: std::sync::Mutex<Followed>,
}

impl Synchronizer {
    /// Brings the routes up to date. An error leaves them as they are, sends
    /// everyone to stable until a later refresh succeeds, and is logged.
    pub(crate) async fn refresh(&self) -> Result<(), SyncError> {
        let mut memory = self.memory.lock().await;
        self.followed().0.clear();
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
        let registered = self.load_missing(&wanted, &mut memory.stored).await;
        let needed = {
            let followed = self.followed();
            let mut table = self.table(&wanted, registered);
            followed.keep(&self.router.table(), &mut table);
            let needed = needed(&wanted, &table);
            self.pin(&routed(&table));
            self.router.replace(table);
            needed
        };
        self.unload_idle(&needed, &mut memory.idle).await;
        Ok(())
    }

    /// Follows an alias that was just written, if its version is resident; if not,
    /// the next refresh does. Of two changes the one with the higher revision stays.
    pub(crate) fn follow(&self, name: &AliasName, revision: Revision, digest: AdapterDigest) {
        let mut followed = self.followed();
        let known = followed.0.get(name);
        if known.is_some_and(|known| *known >= revision) || !self.residency.is_resident(&digest) {
            return;
        }
        let mut table = Table::clone(&self.router.table());
        table.resident.insert(digest);
        let alias = Alias {
            name: name.clone(),
            digest,
        };
        table.aliases.insert(name.to_string(), alias);
        self.router.replace(table);
        followed.0.insert(name.clone(), revision);
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Loads what must be resident before a route leads to it: what is pinned,
    /// and what an alias moves to. Beyond that versions are loaded ahead of their
    /// requests only while half of the memory is free, so that they take nobody's
    /// place. Gives those that can be loaded when a request comes.
    async fn load_missing(
        &self,
        wanted: &Wanted,
        stored: &mut BTreeSet<AdapterDigest>,
    ) -> BTreeSet<AdapterDigest> {
        let before = self.router.table();
        let mut first = wanted.pinned(before.base.digest);
        // what serves until now goes on doing so meanwhile
        self.pin(&first.union(&routed(&before)).copied().collect());
        let moved = wanted.aliases.iter().filter(|(name, digest)| {
            let old = before.aliases.get(name.as_str());
            old.is_some_and(|old| old.digest != *digest)
        });
        first.extend(moved.map(|(_, digest)| *digest));
        let mut failed = BTreeSet::new();
        for digest in &first {
            if let Err(error) = self.residency.make_resident(digest).await {
                cannot_be_loaded(digest, &error);
                failed.insert(*digest);
            }
        }
        let named = wanted.named();
        stored.retain(|digest| named.contains(digest));
        for digest in &named {
            if !stored.contains(digest) {
                match self.check_stored(digest).await {
                    Ok(()) => stored.insert(*digest),
                    Err(error) => {
                        cannot_be_loaded(digest, &error);
                        continue;
                    }
                };
            }
            if failed.contains(digest) || !self.has_spare_memory() {
                continue;
            }
            if let Err(error) = self.residency.make_resident(digest).await {
                cannot_be_loaded(digest, &error);
                failed.insert(*digest);
            }
        }
        stored.difference(&failed).copied().collect()
    }

    fn pin(&self, digests: &BTreeSet<AdapterDigest>) {
        let digests: Vec<AdapterDigest> = digests.iter().copied().collect();
        self.engine.pin_adapters(&digests);
    }

    async fn check_stored(&self, digest: &AdapterDigest) -> Result<(), ResidencyError> {
        let manifest = self.residency.adapters.manifest(digest).await?;
        check_base(&manifest, &self.engine.base().digest)?;
        Ok(())
    }

    fn has_spare_memory(&self) -> bool {
        let capacity = self.engine.capacity();
        capacity.adapter_bytes <= capacity.adapter_bytes_max / 2
    }

    fn table(&self, wanted: &Wanted, registered: BTreeSet<AdapterDigest>) -> Table {
        let before = self.router.table();
        let resident = self.residency.resident();
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
        let serves =
            |digest: &AdapterDigest| resident.contains(digest) || registered.contains(digest);
        for (name, digest) in &wanted.aliases {
            let alias = Alias {
                name: name.clone(),
                digest: *digest,
            };
            let old = before.aliases.get(name.as_str());
            let old = old.filter(|old| !serves(digest) && serves(&old.digest));
            table
                .aliases
                .insert(name.to_string(), old.cloned().unwrap_or(alias));
        }
        table.resident = resident;
        table.registered = registered;
        table
    }

    /// Unloads versions that nobody has needed for a while.
    async fn unload_idle(
        &self,
        needed: &BTreeSet<AdapterDigest>,
        idle: &mut BTreeMap<AdapterDigest, Instant>,
    ) {
        let now = Instant::now();
        let resident = self.residency.resident();
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

impl Followed {
    /// Leaves these aliases where `now` has them.
    fn keep(&self, now: &Table, table: &mut Table) {
        for name in self.0.keys() {
            if let Some(alias) = now.aliases.get(name.as_str()) {
                table.aliases.insert(name.to_string(), alias.clone());
            }
        }
    }
}

fn cannot_be_loaded(digest: &AdapterDigest, error: &dyn std::fmt::Display) {
    tracing::error!(%digest, %error, "an adapter that is wanted cannot be loaded");
}

/// What the public names lead to.
fn routed(table: &Table) -> BTreeSet<AdapterDigest> {
    let models = table.models.values().filter(|model| model.is_ours);
    models.flat_map(|model| model.rollout.adapters()).collect()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ids::{BaseDigest, Sha256Digest, UnixMillis};

    use super::*;

    fn table(aliases: &[(&str, &str)]) -> Table {
        let base = engine::BaseInfo {
            name: "base".into(),
            digest: BaseDigest(Sha256Digest::of(b"base")),
            context_length: 100,
            takes_images: false,
        };
        let mut table = Table::bare(base, &[], UnixMillis(0));
        for (name, version) in aliases {
            let alias = Alias {
                name: AliasName::new(*name).unwrap(),
                digest: AdapterDigest(Sha256Digest::of(version.as_bytes())),
            };
            table.aliases.insert((*name).to_owned(), alias);
        }
        table
    }

    #[test]
    fn a_refresh_does_not_undo_what_was_followed_meanwhile() {
        let now = table(&[("moved", "new"), ("other", "old"), ("made", "new")]);
        let mut read = table(&[("moved", "old"), ("other", "new")]);
        let mut followed = Followed::default();
        for name in ["moved", "made"] {
            let name = AliasName::new(name).unwrap();
            followed.0.insert(name, Revision(3));
        }
        followed.keep(&now, &mut read);
        let expected = table(&[("moved", "new"), ("other", "new"), ("made", "new")]);
        assert_eq!(read.aliases, expected.aliases);
    }
}
