//! The resident adapter versions: reserved memory, leases, pins and withdrawal.
//!
//! A load that needs room evicts versions that no sequence uses and nobody
//! pinned, the longest unused first. Where sequences still use too much it
//! waits for them, within a deadline. Requests for what is resident pass a
//! waiting load by, but only so often: then the versions that are to make room
//! take no new ones until it has its room. Knows nothing of what a version is
//! made of.

mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ids::AdapterDigest;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::api::{AdapterInfo, EngineError, Wait};
pub(crate) use state::NoRoom;
use state::{Entry, State};

/// The claim grace of an engine: from the end of a load to the lease there is
/// but a task's wake-up and the tokenizer.
pub const CLAIM_GRACE: Duration = Duration::from_secs(1);

/// After how long room is looked for even if nobody told of any: a version whose
/// time to be claimed has run out does not tell.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How many leases are given past a load that waits for room, before versions
/// yield to it.
const PASSED_BY_MAX: u32 = 64;

/// An adapter version, laid out so that sequences can use it.
pub trait Resident: Send + Sync + 'static {
    /// Which version it is.
    fn digest(&self) -> AdapterDigest;
    /// Its largest rank.
    fn rank(&self) -> u32;
    /// The memory that it holds.
    fn byte_len(&self) -> u64;
}

/// All resident adapters, within a budget of bytes.
pub struct Residents<A> {
    budget: u64,
    /// How long a version that was just loaded is not evicted, so that whoever
    /// had it loaded can use it.
    claim_grace: Duration,
    state: Mutex<State<A>>,
    /// Told when a sequence lets go of a version or a version goes.
    freed: Notify,
}

/// Keeps an adapter version resident while it lives.
pub struct Lease<A: Resident> {
    registry: Arc<Residents<A>>,
    adapter: Arc<A>,
}

/// Bytes set aside for a load; given back unless the load completes.
pub struct Reservation<A: Resident> {
    registry: Arc<Residents<A>>,
    bytes: u64,
}

/// Says that a load waits for room, while it lives.
struct Waiting<A: Resident> {
    registry: Arc<Residents<A>>,
}

impl<A: Resident> Residents<A> {
    /// An empty registry.
    pub fn new(budget: u64, claim_grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            budget,
            claim_grace,
            state: Mutex::new(State::new()),
            freed: Notify::new(),
        })
    }

    /// The most bytes that adapters may hold.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.state.lock().reserved
    }

    /// Versions that were evicted since the start.
    pub fn evictions(&self) -> u64 {
        self.state.lock().evictions
    }

    /// All residents, by digest.
    pub fn list(&self) -> Vec<AdapterInfo> {
        self.state
            .lock()
            .residents
            .values()
            .map(Entry::info)
            .collect()
    }

    /// Says which versions are never evicted; all others may be.
    pub fn pin(&self, digests: &[AdapterDigest]) {
        self.state.lock().pinned = digests.iter().copied().collect();
        self.freed.notify_one();
    }

    /// If the version is resident, and yields to no load: makes it accept
    /// requests, and describes it.
    pub fn revive(&self, digest: &AdapterDigest) -> Option<AdapterInfo> {
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
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation<A>, NoRoom> {
        let mut state = self.state.lock();
        state.make_room(bytes, self.budget)?;
        state.reserved += bytes;
        Ok(Reservation {
            registry: Arc::clone(self),
            bytes,
        })
    }

    /// Sets bytes aside, and waits for sequences to let go of theirs until
    /// `deadline`, which is `limit` after the load began.
    ///
    /// # Errors
    /// [`EngineError::AdapterMemory`] if there will never be room,
    /// [`EngineError::TimedOut`] if there was none in time.
    pub async fn reserve_until(
        self: &Arc<Self>,
        bytes: u64,
        deadline: tokio::time::Instant,
        limit: Duration,
    ) -> Result<Reservation<A>, EngineError> {
        let mut waiting = None;
        loop {
            match self.reserve(bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(NoRoom::Ever(error)) => return Err(error),
                Err(NoRoom::Now) if tokio::time::Instant::now() >= deadline => {
                    let wait = Wait::AdapterMemory;
                    return Err(EngineError::TimedOut { wait, limit });
                }
                Err(NoRoom::Now) => {
                    // from here on requests for what is resident pass it by, but not for ever
                    waiting.get_or_insert_with(|| self.wait_for(bytes));
                    // woken or not, it is looked at again; late means refused
                    let _ = tokio::time::timeout_at(deadline, self.freed()).await;
                }
            }
        }
    }

    /// Says that a load waits for `bytes`, until what is given back is dropped.
    fn wait_for(self: &Arc<Self>, bytes: u64) -> Waiting<A> {
        self.state.lock().begin_waiting(bytes);
        Waiting {
            registry: Arc::clone(self),
        }
    }

    /// Ends some time after there may be more room.
    async fn freed(&self) {
        // told or not, it is looked at again
        let _ = tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await;
    }

    /// Uses an adapter version for a sequence.
    ///
    /// # Errors
    /// [`EngineError::AdapterNotLoaded`], also while it yields to a load.
    pub fn lease(self: &Arc<Self>, digest: &AdapterDigest) -> Result<Lease<A>, EngineError> {
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
        Ok(Lease {
            registry: Arc::clone(self),
            adapter,
        })
    }

    /// Takes a version out of service; its memory goes with its last lease.
    ///
    /// # Errors
    /// [`EngineError::AdapterNotLoaded`].
    pub fn withdraw(&self, digest: &AdapterDigest) -> Result<(), EngineError> {
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

impl<A: Resident> Reservation<A> {
    /// Makes the adapter resident, with as many of the bytes as it needs. If
    /// another load of it was faster, that one stays and this reservation ends.
    pub fn complete(mut self, adapter: A) -> AdapterInfo {
        let registry = Arc::clone(&self.registry);
        let mut state = registry.state.lock();
        let (digest, used) = (adapter.digest(), state.next_use());
        let resident = state.residents.entry(digest).or_insert_with(|| {
            let bytes = adapter.byte_len().min(self.bytes);
            // the entry owns these bytes from here on
            self.bytes -= bytes;
            Entry {
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

impl<A: Resident> Drop for Reservation<A> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.registry.state.lock().reserved -= self.bytes;
            self.registry.freed.notify_one();
        }
    }
}

impl<A: Resident> Drop for Waiting<A> {
    fn drop(&mut self) {
        self.registry.state.lock().end_waiting();
    }
}

impl<A: Resident> Lease<A> {
    /// The adapter.
    pub fn adapter(&self) -> &A {
        &self.adapter
    }
}

impl<A: Resident> Clone for Lease<A> {
    fn clone(&self) -> Self {
        if let Some(r) = self
            .registry
            .state
            .lock()
            .residents
            .get_mut(&self.adapter.digest())
        {
            r.leases += 1;
        }
        Self {
            registry: Arc::clone(&self.registry),
            adapter: Arc::clone(&self.adapter),
        }
    }
}

impl<A: Resident> Drop for Lease<A> {
    fn drop(&mut self) {
        let mut state = self.registry.state.lock();
        if let Some(resident) = state.residents.get_mut(&self.adapter.digest()) {
            resident.leases = resident.leases.saturating_sub(1);
        }
        state.remove_if_unused(&self.adapter.digest());
        drop(state);
        self.registry.freed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
