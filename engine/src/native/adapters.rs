//! The resident adapter versions: reserved memory, leases and withdrawal.

use std::collections::BTreeMap;
use std::sync::Arc;

use ids::AdapterDigest;
use parking_lot::Mutex;

use super::lora::DeviceAdapter;
use crate::api::{AdapterInfo, EngineError};

/// All resident adapters, within a budget of bytes.
pub(super) struct AdapterRegistry {
    budget: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of residents and of loads on their way.
    reserved: u64,
    residents: BTreeMap<AdapterDigest, Resident>,
}

struct Resident {
    adapter: Arc<DeviceAdapter>,
    bytes: u64,
    leases: u32,
    accepts: bool,
}

impl Resident {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            digest: self.adapter.digest,
            rank: u32::try_from(self.adapter.rank).unwrap_or(u32::MAX),
            bytes: self.bytes,
            leases: self.leases,
            accepts_requests: self.accepts,
        }
    }
}

/// Keeps an adapter version resident while it lives.
pub(super) struct AdapterLease {
    registry: Arc<AdapterRegistry>,
    adapter: Arc<DeviceAdapter>,
}

/// Bytes set aside for a load; given back unless the load completes.
pub(super) struct Reservation {
    registry: Arc<AdapterRegistry>,
    bytes: u64,
}

impl AdapterRegistry {
    /// An empty registry.
    pub(super) fn new(budget: u64) -> Arc<Self> {
        Arc::new(Self {
            budget,
            state: Mutex::default(),
        })
    }

    /// The most bytes that adapters may hold.
    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().reserved
    }

    /// All residents, by digest.
    pub(super) fn list(&self) -> Vec<AdapterInfo> {
        self.state
            .lock()
            .residents
            .values()
            .map(Resident::info)
            .collect()
    }

    /// If the version is resident: makes it accept requests, and describes it.
    pub(super) fn revive(&self, digest: &AdapterDigest) -> Option<AdapterInfo> {
        let mut state = self.state.lock();
        let resident = state.residents.get_mut(digest)?;
        resident.accepts = true;
        Some(resident.info())
    }

    /// Sets bytes aside for a load.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, EngineError> {
        let mut state = self.state.lock();
        let free = self.budget.saturating_sub(state.reserved);
        if bytes > free {
            return Err(EngineError::AdapterMemory {
                needed: bytes,
                free,
                budget: self.budget,
            });
        }
        state.reserved += bytes;
        Ok(Reservation {
            registry: Arc::clone(self),
            bytes,
        })
    }

    /// Uses an adapter version for a sequence.
    pub(super) fn lease(
        self: &Arc<Self>,
        digest: &AdapterDigest,
    ) -> Result<AdapterLease, EngineError> {
        let mut state = self.state.lock();
        let resident = state
            .residents
            .get_mut(digest)
            .filter(|resident| resident.accepts);
        let resident = resident.ok_or(EngineError::AdapterNotLoaded(*digest))?;
        resident.leases += 1;
        let adapter = Arc::clone(&resident.adapter);
        Ok(AdapterLease {
            registry: Arc::clone(self),
            adapter,
        })
    }

    /// Takes a version out of service; its memory goes with its last lease.
    pub(super) fn withdraw(&self, digest: &AdapterDigest) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        let resident = state
            .residents
            .get_mut(digest)
            .filter(|resident| resident.accepts);
        let resident = resident.ok_or(EngineError::AdapterNotLoaded(*digest))?;
        resident.accepts = false;
        state.remove_if_unused(digest);
        Ok(())
    }
}

impl State {
    fn remove_if_unused(&mut self, digest: &AdapterDigest) {
        let unused = |resident: &Resident| !resident.accepts && resident.leases == 0;
        if self.residents.get(digest).is_some_and(unused)
            && let Some(resident) = self.residents.remove(digest)
        {
            self.reserved -= resident.bytes;
        }
    }
}

impl Reservation {
    /// Makes the adapter resident. If another load of it was faster, that one
    /// stays and this reservation ends.
    pub(super) fn complete(mut self, adapter: DeviceAdapter) -> AdapterInfo {
        let registry = Arc::clone(&self.registry);
        let mut state = registry.state.lock();
        let digest = adapter.digest;
        let resident = state.residents.entry(digest).or_insert_with(|| Resident {
            adapter: Arc::new(adapter),
            // the entry owns the bytes from here on
            bytes: std::mem::take(&mut self.bytes),
            leases: 0,
            accepts: true,
        });
        resident.accepts = true;
        let info = resident.info();
        drop(state);
        info
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.registry.state.lock().reserved -= self.bytes;
        }
    }
}

impl AdapterLease {
    /// The adapter.
    pub(super) fn adapter(&self) -> &DeviceAdapter {
        &self.adapter
    }
}

impl Clone for AdapterLease {
    fn clone(&self) -> Self {
        if let Some(r) = self
            .registry
            .state
            .lock()
            .residents
            .get_mut(&self.adapter.digest)
        {
            r.leases += 1;
        }
        Self {
            registry: Arc::clone(&self.registry),
            adapter: Arc::clone(&self.adapter),
        }
    }
}

impl Drop for AdapterLease {
    fn drop(&mut self) {
        let mut state = self.registry.state.lock();
        if let Some(resident) = state.residents.get_mut(&self.adapter.digest) {
            resident.leases = resident.leases.saturating_sub(1);
        }
        state.remove_if_unused(&self.adapter.digest);
    }
}
