//! The table of routes: pure data, made anew at every change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::BaseInfo;
use ids::{AdapterDigest, AliasName, ModelName, UnixMillis};
use rollout::Rollout;

use super::Trial;

/// Everything that a request can name, and where it leads.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) base: BaseInfo,
    /// Public names, by name.
    pub(crate) models: BTreeMap<String, PublicModel>,
    /// Aliases, by name.
    pub(crate) aliases: BTreeMap<String, Alias>,
    /// The versions that take requests.
    pub(crate) resident: BTreeSet<AdapterDigest>,
    /// The versions that are loaded when a request names them.
    pub(crate) registered: BTreeSet<AdapterDigest>,
}

/// What an alias names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) name: AliasName,
    pub(crate) digest: AdapterDigest,
}

/// A public name with its rollout.
#[derive(Clone)]
pub(crate) struct PublicModel {
    pub(crate) rollout: Rollout,
    /// The trial that the rollout's salt names, running or over.
    pub(crate) trial: Option<Arc<Trial>>,
    /// False for a rollout whose versions were made for another base.
    pub(crate) is_ours: bool,
}

impl Table {
    /// A table in which every public name leads to the bare base.
    pub(crate) fn bare(base: BaseInfo, models: &[ModelName], now: UnixMillis) -> Self {
        let bare = |name: &ModelName| {
            let rollout = Rollout::new(name.clone(), base.digest, None, now);
            (
                name.to_string(),
                PublicModel {
                    rollout,
                    trial: None,
                    is_ours: true,
                },
            )
        };
        let models = models.iter().map(bare).collect();
        Self {
            base,
            models,
            aliases: BTreeMap::new(),
            resident: BTreeSet::new(),
            registered: BTreeSet::new(),
        }
    }

    /// Whether a request may name the version.
    pub(crate) fn serves(&self, digest: &AdapterDigest) -> bool {
        self.resident.contains(digest) || self.registered.contains(digest)
    }

    /// Who needs `digest` now, for people; none where nobody does.
    pub(crate) fn user_of(&self, digest: &AdapterDigest) -> Option<String> {
        let alias = self.aliases.values().find(|alias| alias.digest == *digest);
        let rollout = self.models.values().find(|model| {
            let rollout = &model.rollout;
            rollout.adapters().any(|used| used == *digest)
        });
        alias
            .map(|alias| format!("the alias {}", alias.name))
            .or_else(|| rollout.map(|model| format!("the rollout {}", model.rollout.id)))
    }
}
