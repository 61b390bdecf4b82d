//! Makes stored versions resident, once however many requests want one.
//!
//! The engine decides what has to go to make room, and how long a load waits
//! for it. Knows no routes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use adapter_store::{AdapterStore, AdapterStoreError, check_base};
use engine::{AdapterPackage, Engine, EngineError};
use ids::AdapterDigest;
use tokio::sync::{OnceCell, Semaphore};

use crate::metrics::Metrics;

/// The most requests that wait for an adapter to be loaded.
pub(crate) const LOADS_AWAITED_MAX: u32 = 256;

/// Why a stored version was not made resident.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResidencyError {
    #[error(transparent)]
    Store(#[from] AdapterStoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// One load that any number of callers wait for. Where the caller that does it
/// goes away, the next one goes on.
type Flight = OnceCell<Result<(), Arc<ResidencyError>>>;

pub(crate) struct Residency {
    pub(crate) adapters: AdapterStore,
    engine: Arc<dyn Engine>,
    metrics: Arc<Metrics>,
    flights: Mutex<BTreeMap<AdapterDigest, Arc<Flight>>>,
    awaited: Semaphore,
}

impl Residency {
    pub(crate) fn new(
        adapters: AdapterStore,
        engine: Arc<dyn Engine>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            adapters,
            engine,
            metrics,
            flights: Mutex::default(),
            awaited: Semaphore::new(LOADS_AWAITED_MAX as usize),
        }
    }

    /// The versions that take requests.
    pub(crate) fn resident(&self) -> BTreeSet<AdapterDigest> {
        let adapters = self.engine.adapters().into_iter();
        adapters
            .filter(|info| info.accepts_requests)
            .map(|info| info.digest)
            .collect()
    }

    /// Whether a version takes requests.
    pub(crate) fn is_resident(&self, digest: &AdapterDigest) -> bool {
        let adapters = self.engine.adapters();
        adapters
            .iter()
            .any(|info| info.digest == *digest && info.accepts_requests)
    }

    /// Loads a stored version into the engine, unless it is there.
    pub(crate) async fn make_resident(
        &self,
        digest: &AdapterDigest,
    ) -> Result<(), Arc<ResidencyError>> {
        if self.is_resident(digest) {
            return Ok(());
        }
        let flight = Arc::clone(self.flights().entry(*digest).or_default());
        let load = || async { self.load(digest).await.map_err(Arc::new) };
        let result = flight.get_or_init(load).await.clone();
        let mut flights = self.flights();
        // whoever comes later begins anew; a later flight is not this one's to end
        if flights
            .get(digest)
            .is_some_and(|current| Arc::ptr_eq(current, &flight))
        {
            flights.remove(digest);
        }
        result
    }

    /// As [`Self::make_resident`], for a request: no more of them than
    /// [`LOADS_AWAITED_MAX`] wait at the same time.
    pub(crate) async fn load_for_request(
        &self,
        digest: &AdapterDigest,
    ) -> Result<(), Arc<ResidencyError>> {
        let Ok(_place) = self.awaited.try_acquire() else {
            return Err(Arc::new(ResidencyError::Engine(EngineError::QueueFull {
                waiting: LOADS_AWAITED_MAX,
                waiting_max: LOADS_AWAITED_MAX,
            })));
        };
        self.make_resident(digest).await
    }

    async fn load(&self, digest: &AdapterDigest) -> Result<(), ResidencyError> {
        let started = Instant::now();
        // the engine checks every byte against the digest, which is enough
        let stored = self.adapters.get_unverified(digest).await?;
        check_base(&stored.manifest, &self.engine.base().digest)?;
        let package = AdapterPackage {
            digest: *digest,
            config_json: stored.files.config_json,
            safetensors: stored.files.safetensors,
        };
        let loaded = self.engine.load_adapter(package).await;
        if let Err(EngineError::AdapterRejected(_)) = loaded {
            // says so if the fault is the store's
            self.adapters.get(digest).await?;
        }
        loaded?;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.adapter_loaded(digest, seconds);
        tracing::info!(%digest, seconds, "adapter loaded");
        Ok(())
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, BTreeMap<AdapterDigest, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
