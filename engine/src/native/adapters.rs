//! The resident adapter versions: reserved memory, leases, pins and withdrawal.
//!
//! A load that needs room evicts versions that no sequence uses and nobody
//! pinned, the longest unused first. Where sequences still use too much it is
//! told to wait for them; see [`super::loading`]. Requests for what is resident
//! pass a waiting load by, but only so often: then the versions that are to make
//! room take no new ones until it has its room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ids::AdapterDigest;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lora::DeviceAdapter;
use crate::api::{AdapterInfo, EngineError};

/// The claim grace of an engine: from the end of a load to the lease there is
/// but a task's wake-up and the tokenizer.
pub(super) const CLAIM_GRACE: Duration = Duration::from_secs(1);

/// After how long room is looked for even if nobody told of any: a version whose
/// time to be claimed has run out does not tell.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How many leases are given past a load that waits for room, before versions
/// yield to it.
pub(super) const PASSED_BY_MAX: u32 = 64;

/// All resident adapters, within a budget of bytes.
pub(super) struct AdapterRegistry {
    budget: u64,
    /// How long a version that was just loaded is not evicted, so that whoever
    /// had it loaded can use it.
    claim_grace: Duration,
    state: Mutex<State>,
    /// Told when a sequence lets go of a version or a version goes.
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// Bytes of residents and of loads on their way.
    reserved: u64,
    residents: BTreeMap<AdapterDigest, Resident>,
    pinned: BTreeSet<AdapterDigest>,
    /// Counts uses, so that they have an order.
    uses: u64,
    evictions: u64,
    /// The load that waits for room; there is at most one.
    waiting_load: Option<WaitingLoad>,
}

struct WaitingLoad {
    bytes: u64,
    /// Leases given since it waits.
    passed_by: u32,
}

struct Resident {
    adapter: Arc<DeviceAdapter>,
    bytes: u64,
    leases: u32,
    accepts: bool,
    /// Whether it takes no new sequence because a load waits for its memory.
    yields: bool,
    /// The number of its last use.
    used: u64,
    /// Until when it waits for its first use.
    unclaimed_until: Option<Instant>,
}

impl Resident {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            digest: self.adapter.digest,
            rank: u32::try_from(self.adapter.rank).unwrap_or(u32::MAX),
            bytes: self.bytes,
            leases: self.leases,
            accepts_requests: self.accepts && !self.yields,
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

/// Says that a load waits for room, while it lives.
pub(super) struct Waiting {
    registry: Arc<AdapterRegistry>,
}

/// Why bytes could not be set aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// There is room once sequences have ended.
    Now,
    /// It is more than the budget has beside what is pinned.
    Ever(EngineError),
}

impl AdapterRegistry {
    /// An empty registry.
    pub(super) fn new(budget: u64, claim_grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            budget,
            claim_grace,
            state: Mutex::default(),
            freed: Notify::new(),
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

    /// Versions that were evicted since the start.
    pub(super) fn evictions(&self) -> u64 {
        self.state.lock().evictions
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

    /// Says which versions are never evicted; all others may be.
    pub(super) fn pin(&self, digests: &[AdapterDigest]) {
        self.state.lock().pinned = digests.iter().copied().collect();
        self.freed.notify_one();
    }

    /// If the version is resident, and yields to no load: makes it accept
    /// requests, and describes it.
    pub(super) fn revive(&self, digest: &AdapterDigest) -> Option<AdapterInfo> {
        let mut state = self.state.lock();
        let used = state.next_use();
        let resident = state.residents.get_mut(digest).filter(|r| !r.yields)?;
        resident.accepts = true;
        resident.used = used;
        resident.unclaimed_until = Some(Instant::now() + self.claim_grace);
        Some(resident.info())
    }

    /// Sets bytes aside for a load, if need be those of versions that may be
    /// evicted.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, NoRoom> {
        let mut state = self.state.lock();
        state.make_room(bytes, self.budget)?;
        state.reserved += bytes;
        Ok(Reservation {
            registry: Arc::clone(self),
            bytes,
        })
    }

    /// Says that a load waits for `bytes`, until what is given back is dropped.
    pub(super) fn wait_for(self: &Arc<Self>, bytes: u64) -> Waiting {
        let passed_by = 0;
        self.state.lock().waiting_load = Some(WaitingLoad { bytes, passed_by });
        Waiting {
            registry: Arc::clone(self),
        }
    }

    /// Ends some time after there may be more room.
    pub(super) async fn freed(&self) {
        // told or not, it is looked at again
        let _ = tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await;
    }

    /// Uses an adapter version for a sequence.
    pub(super) fn lease(
        self: &Arc<Self>,
        digest: &AdapterDigest,
    ) -> Result<AdapterLease, EngineError> {
        let mut state = self.state.lock();
        state.pass_by(self.budget);
        let used = state.next_use();
        let resident = state
            .residents
            .get_mut(digest)
            .filter(|resident| resident.accepts && !resident.yields);
        let resident = resident.ok_or(EngineError::AdapterNotLoaded(*digest))?;
        resident.leases += 1;
        resident.used = used;
        resident.unclaimed_until = None;
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
        self.freed.notify_one();
        Ok(())
    }
}

impl State {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn remove_if_unused(&mut self, digest: &AdapterDigest) {
        let unused = |resident: &Resident| !resident.accepts && resident.leases == 0;
        if self.residents.get(digest).is_some_and(unused) {
            self.remove(digest);
        }
    }

    fn remove(&mut self, digest: &AdapterDigest) {
        if let Some(resident) = self.residents.remove(digest) {
            self.reserved -= resident.bytes;
        }
    }

    /// Counts a lease that is asked for while a load waits. After enough of them
    /// the longest unused versions that would make its room yield.
    fn pass_by(&mut self, budget: u64) {
        let Some(load) = &mut self.waiting_load else {
            return;
        };
        load.passed_by = load.passed_by.saturating_add(1);
        if load.passed_by != PASSED_BY_MAX {
            return;
        }
        let mut room = budget.saturating_sub(self.reserved);
        let pinned = &self.pinned;
        let mut unpinned: Vec<&mut Resident> = self
            .residents
            .iter_mut()
            .filter(|(digest, _)| !pinned.contains(digest))
            .map(|(_, resident)| resident)
            .collect();
        unpinned.sort_by_key(|resident| resident.used);
        for resident in unpinned {
            if room >= load.bytes {
                break;
            }
            resident.yields = true;
            room += resident.bytes;
        }
    }

    /// Evicts until `bytes` are free; nothing, if that would not do.
    fn make_room(&mut self, bytes: u64, budget: u64) -> Result<(), NoRoom> {
        let pinned: u64 = self
            .residents
            .iter()
            .filter(|(digest, _)| self.pinned.contains(digest))
            .map(|(_, resident)| resident.bytes)
            .sum();
        let free = |state: &Self| budget.saturating_sub(state.reserved);
        if bytes > budget.saturating_sub(pinned) {
            return Err(NoRoom::Ever(EngineError::AdapterMemory {
                needed: bytes,
                free: free(self),
                budget,
            }));
        }
        let now = Instant::now();
        let mut evictable: Vec<(u64, AdapterDigest, u64)> = self
            .residents
            .iter()
            .filter(|(digest, resident)| {
                let claimed = resident.unclaimed_until.is_none_or(|until| until <= now);
                resident.leases == 0 && claimed && !self.pinned.contains(digest)
            })
            .map(|(digest, resident)| (resident.used, *digest, resident.bytes))
            .collect();
        let most: u64 = evictable.iter().map(|(_, _, bytes)| bytes).sum();
        if bytes > free(self) + most {
            return Err(NoRoom::Now);
        }
        evictable.sort_unstable();
        for (_, digest, _) in evictable {
            if bytes <= free(self) {
                break;
            }
            self.remove(&digest);
            self.evictions += 1;
            tracing::debug!(%digest, "adapter evicted");
        }
        Ok(())
    }
}

impl Reservation {
    /// Makes the adapter resident, with as many of the bytes as it needs. If
    /// another load of it was faster, that one stays and this reservation ends.
    pub(super) fn complete(mut self, adapter: DeviceAdapter) -> AdapterInfo {
        let registry = Arc::clone(&self.registry);
        let mut state = registry.state.lock();
        let (digest, used) = (adapter.digest, state.next_use());
        let resident = state.residents.entry(digest).or_insert_with(|| {
            let bytes = adapter.byte_len().min(self.bytes);
            // the entry owns these bytes from here on
            self.bytes -= bytes;
            Resident {
                adapter: Arc::new(adapter),
                bytes,
                leases: 0,
                accepts: true,
                yields: false,
                used,
                unclaimed_until: None,
            }
        });
        resident.accepts = true;
        resident.unclaimed_until = Some(Instant::now() + registry.claim_grace);
        let info = resident.info();
        drop(state);
        info
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.registry.state.lock().reserved -= self.bytes;
            self.registry.freed.notify_one();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.registry.state.lock();
        state.waiting_load = None;
        for resident in state.residents.values_mut() {
            resident.yields = false;
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
        drop(state);
        self.registry.freed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
