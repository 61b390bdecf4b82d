//! Makes stored versions resident, once however many requests want one.
//!
//! The engine decides what has to go to make room, and how long a load waits
//! for it. However many loads wait, the files of two are in memory. Knows no routes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adapter_store::{AdapterStore, AdapterStoreError, check_base};
use engine::{AdapterPackage, Engine, EngineError, Wait};
use ids::AdapterDigest;
use tokio::sync::{OnceCell, Semaphore};

use crate::metrics::Metrics;

/// The most requests that wait for an adapter to be loaded.
pub(crate) const LOADS_AWAITED_MAX: u32 = 256;
/// Versions whose files are in memory on their way into the engine: one is laid
/// out, and the next one is read meanwhile.
const LOADING_MAX: usize = 2;

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
    loading: Semaphore,
    /// How long a load waits for its turn.
    wait_max: Duration,
}

impl Residency {
    pub(crate) fn new(
        adapters: AdapterStore,
        engine: Arc<dyn Engine>,
        metrics: Arc<Metrics>,
        wait_max: Duration,
    ) -> Self {
        Self {
            adapters,
            engine,
            metrics,
            flights: Mutex::default(),
            awaited: Semaphore::new(LOADS_AWAITED_MAX as usize),
            loading: Semaphore::new(LOADING_MAX),
            wait_max,
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
        let limit = self.wait_max;
        let turn = tokio::time::timeout(limit, self.loading.acquire()).await;
        let wait = Wait::AdapterMemory;
        let Ok(Ok(_turn)) = turn else {
            return Err(EngineError::TimedOut { wait, limit }.into());
        };
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use adapter_store::{AdapterFiles, Lineage};
    use engine::{AdapterInfo, BaseInfo, Capacity, ChatMessage, ChatRequest, ChatStream};
    use futures::future::join_all;
    use ids::{BaseDigest, Sha256Digest, UnixMillis};

    use super::*;

    /// An engine that only loads, and counts how many at the same time.
    struct Counting {
        base: BaseInfo,
        took: Duration,
        loading: AtomicUsize,
        most: AtomicUsize,
        loads: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Engine for Counting {
        fn base(&self) -> &BaseInfo {
            &self.base
        }

        async fn count_prompt_tokens(
            &self,
            _: &[ChatMessage],
            _: Option<&engine::ToolUse>,
        ) -> Result<u32, EngineError> {
            Ok(0)
        }

        async fn chat(&self, _: ChatRequest) -> Result<ChatStream, EngineError> {
            Err(EngineError::Stopped)
        }

        async fn load_adapter(&self, package: AdapterPackage) -> Result<AdapterInfo, EngineError> {
            let now = self.loading.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(self.took).await;
            self.loading.fetch_sub(1, Ordering::SeqCst);
            self.loads.fetch_add(1, Ordering::SeqCst);
            Ok(AdapterInfo {
                digest: package.digest,
                rank: 1,
                bytes: 1,
                leases: 0,
                accepts_requests: true,
            })
        }

        async fn unload_adapter(&self, _: &AdapterDigest) -> Result<(), EngineError> {
            Ok(())
        }

        fn adapters(&self) -> Vec<AdapterInfo> {
            Vec::new()
        }

        fn capacity(&self) -> Capacity {
            Capacity::default()
        }

        async fn shutdown(&self) {}
    }

    async fn stored(folder: &std::path::Path, count: u8) -> (AdapterStore, Vec<AdapterDigest>) {
        let store = AdapterStore::local(folder).unwrap();
        let mut digests = Vec::new();
        for n in 0..count {
            let files = AdapterFiles::new(vec![b'c'], vec![n; 100]);
            let lineage = Lineage::imported(UnixMillis(0));
            digests.push(store.put(&files, &lineage).await.unwrap());
        }
        (store, digests)
    }

    fn residency(
        store: AdapterStore,
        took: Duration,
        wait_max: Duration,
    ) -> (Arc<Counting>, Residency) {
        let engine = Arc::new(Counting {
            base: BaseInfo {
                name: "base".into(),
                digest: BaseDigest(Sha256Digest::of(b"base")),
                context_length: 100,
                takes_images: false,
            },
            took,
            loading: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        let residency = Residency::new(store, engine.clone(), metrics, wait_max);
        (engine, residency)
    }

    #[tokio::test]
    async fn however_many_wait_the_files_of_two_are_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (store, digests) = stored(folder.path(), 12).await;
        let took = Duration::from_millis(5);
        let (engine, residency) = residency(store, took, Duration::from_secs(60));
        // each is wanted by two requests
        let wanted = digests.iter().chain(&digests);
        let loads = join_all(wanted.map(|digest| residency.load_for_request(digest))).await;
        loads.into_iter().for_each(|load| load.unwrap());
        assert_eq!(engine.most.load(Ordering::SeqCst), LOADING_MAX);
        assert_eq!(engine.loads.load(Ordering::SeqCst), digests.len());
    }

    #[tokio::test]
    async fn a_load_waits_for_its_turn_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let (store, digests) = stored(folder.path(), 3).await;
        let limit = Duration::from_millis(50);
        let (_, residency) = residency(store, Duration::from_secs(3600), limit);
        let mut running: Vec<_> = digests[..LOADING_MAX]
            .iter()
            .map(|digest| Box::pin(residency.make_resident(digest)))
            .collect();
        for load in &mut running {
            assert!(futures::poll!(load).is_pending());
        }
        let refused = residency.make_resident(&digests[2]).await.unwrap_err();
        let wait = Wait::AdapterMemory;
        assert!(matches!(
            &*refused,
            ResidencyError::Engine(error) if *error == EngineError::TimedOut { wait, limit }
        ));
    }
}
