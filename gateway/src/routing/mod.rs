//! Which adapter version answers a request.
//!
//! The table is in memory, is read without a lock, and is replaced as a whole.
//! Invariants: an adapter is resident before a public name leads to it, and
//! stored before an alias does; when the store is away, everyone gets the last known stable version; the kill switch
//! is one atomic, read for each request.

mod kill;
mod residency;
mod sync;
mod table;
mod trial;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use ids::{AdapterDigest, ModelName, UnitId};
use openapi::AdapterSelector;
use rollout::Arm;

pub(crate) use kill::KillSwitch;
pub(crate) use residency::{Residency, ResidencyError};
pub(crate) use sync::{Followed, Memory, REFRESH_INTERVAL, Synchronizer};
pub(crate) use table::{PublicModel, Table};
pub(crate) use trial::{ArmCounters, Outcome, Trial, default_guardrails};

use crate::errors::{ApiError, Thing, Unavailable};

/// The routes, as requests see them.
pub(crate) struct Router {
    table: ArcSwap<Table>,
    pub(crate) kill: KillSwitch,
    store_away: AtomicBool,
}

/// Where one request goes.
#[derive(Clone)]
pub(crate) struct Route {
    /// The adapter version; none is the bare base.
    pub(crate) adapter: Option<AdapterDigest>,
    /// How it was assigned; none where the request pinned a version.
    pub(crate) assigned: Option<Assigned>,
}

/// How a request was assigned to an arm.
#[derive(Clone)]
pub(crate) struct Assigned {
    pub(crate) model: ModelName,
    pub(crate) arm: Arm,
    /// Whether the request belongs in the statistics.
    pub(crate) counted: bool,
    pub(crate) trial: Option<Arc<Trial>>,
}

/// What a request says about where it wants to go.
pub(crate) struct Wish<'a> {
    pub(crate) model: &'a str,
    pub(crate) adapter: Option<&'a AdapterSelector>,
    pub(crate) unit: Option<&'a UnitId>,
    /// 0 to 9999, for requests that name no unit.
    pub(crate) draw: u16,
}

impl Router {
    pub(crate) fn new(table: Table) -> Self {
        Self {
            table: ArcSwap::from_pointee(table),
            kill: KillSwitch::default(),
            store_away: AtomicBool::new(false),
        }
    }

    /// The routes now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// Whether the store could not be read lately.
    pub(crate) fn is_store_away(&self) -> bool {
        self.store_away.load(Ordering::Relaxed)
    }

    pub(crate) fn set_store_away(&self, away: bool) -> bool {
        self.store_away.swap(away, Ordering::Relaxed)
    }

    /// Resolves a wish: a public name is routed by its rollout, everything else
    /// pins. A name that leads nowhere is a 404, never the bare base.
    pub(crate) fn resolve(&self, wish: &Wish<'_>) -> Result<Route, ApiError> {
        let table = self.table.load();
        let known = table.models.contains_key(wish.model) || table.base.name == wish.model;
        if let Some(selector) = wish.adapter {
            if !known {
                return Err(ApiError::not_found(Thing::Model, wish.model));
            }
            return pinned(&table, selector);
        }
        if let Some(public) = table.models.get(wish.model) {
            return self.assign(&table, public, wish);
        }
        if table.base.name == wish.model {
            return Ok(Route {
                adapter: None,
                assigned: None,
            });
        }
        let digest = table.aliases.get(wish.model).map(|alias| alias.digest);
        let digest = digest.or_else(|| wish.model.parse().ok());
        match digest.filter(|digest| table.serves(digest)) {
            Some(digest) => Ok(Route {
                adapter: Some(digest),
                assigned: None,
            }),
            None => Err(ApiError::not_found(Thing::Model, wish.model)),
        }
    }

    fn assign(
        &self,
        table: &Table,
        public: &PublicModel,
        wish: &Wish<'_>,
    ) -> Result<Route, ApiError> {
        let rollout = &public.rollout;
        let mut assignment = rollout.assign(wish.unit, wish.draw);
        let to_stable = self.kill.is_active()
            || self.is_store_away()
            || public
                .trial
                .as_ref()
                .is_some_and(|trial| trial.is_stopped())
            || assignment
                .adapter
                .is_some_and(|digest| !table.resident.contains(&digest));
        if to_stable && assignment.arm == Arm::Canary {
            assignment.arm = Arm::Stable;
            assignment.adapter = rollout.stable;
            // Not where its hash would have it, so not part of the comparison.
            assignment.counted = false;
        }
        let usable = |digest| public.is_ours && table.resident.contains(&digest);
        if assignment.adapter.is_some_and(|digest| !usable(digest)) {
            return Err(Unavailable::AdapterMissing.into());
        }
        let assigned = Assigned {
            model: rollout.id.clone(),
            arm: assignment.arm,
            counted: assignment.counted,
            trial: public.trial.clone(),
        };
        Ok(Route {
            adapter: assignment.adapter,
            assigned: Some(assigned),
        })
    }
}

fn pinned(table: &Table, selector: &AdapterSelector) -> Result<Route, ApiError> {
    let (name, digest) = match selector {
        AdapterSelector::Alias(alias) => (
            alias.to_string(),
            table.aliases.get(alias.as_str()).map(|alias| alias.digest),
        ),
        AdapterSelector::Digest { digest } => (digest.to_string(), Some(*digest)),
    };
    match digest.filter(|digest| table.serves(digest)) {
        Some(digest) => Ok(Route {
            adapter: Some(digest),
            assigned: None,
        }),
        None => Err(ApiError::not_found(Thing::Adapter, name)),
    }
}

#[cfg(test)]
mod tests;
