//! Who is resident, for whom, and who goes first. Has no lock and waits for
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ids::AdapterDigest;

use super::{PASSED_BY_MAX, Resident};
use crate::api::{AdapterInfo, EngineError};

/// Why bytes could not be set aside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// There is room once sequences have ended.
    Now,
    /// It is more than the budget has beside what is pinned.
    Ever(EngineError),
}

/// The versions and their bytes.
pub(super) struct State<A> {
    /// Bytes of residents and of loads on their way.
    pub(super) reserved: u64,
    pub(super) residents: BTreeMap<AdapterDigest, Entry<A>>,
    pub(super) pinned: BTreeSet<AdapterDigest>,
    /// Counts uses, so that they have an order.
    uses: u64,
    pub(super) evictions: u64,
    /// The load that waits for room; there is at most one.
    waiting_load: Option<WaitingLoad>,
}

struct WaitingLoad {
    bytes: u64,
    /// Leases given since it waits.
    passed_by: u32,
}

/// A resident version and who uses it.
pub(super) struct Entry<A> {
    pub(super) adapter: Arc<A>,
    pub(super) bytes: u64,
    pub(super) leases: u32,
    pub(super) accepts: bool,
    /// Whether it takes no new sequence because a load waits for its memory.
    pub(super) yields: bool,
    /// The number of its last use.
    pub(super) used: u64,
    /// Until when it waits for its first use.
    pub(super) unclaimed_until: Option<Instant>,
}

impl<A: Resident> Entry<A> {
    pub(super) fn info(&self) -> AdapterInfo {
        AdapterInfo {
            digest: self.adapter.digest(),
            rank: self.adapter.rank(),
            bytes: self.bytes,
            leases: self.leases,
            accepts_requests: self.accepts && !self.yields,
        }
    }
}

impl<A: Resident> State<A> {
    pub(super) fn new() -> Self {
        Self {
            reserved: 0,
            residents: BTreeMap::new(),
            pinned: BTreeSet::new(),
            uses: 0,
            evictions: 0,
            waiting_load: None,
        }
    }

    pub(super) fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    pub(super) fn remove_if_unused(&mut self, digest: &AdapterDigest) {
        let unused = |resident: &Entry<A>| !resident.accepts && resident.leases == 0;
        if self.residents.get(digest).is_some_and(unused) {
            self.remove(digest);
        }
    }

    fn remove(&mut self, digest: &AdapterDigest) {
        if let Some(resident) = self.residents.remove(digest) {
            self.reserved -= resident.bytes;
        }
    }

    /// A load waits for `bytes` from now on.
    pub(super) fn begin_waiting(&mut self, bytes: u64) {
        let passed_by = 0;
        self.waiting_load = Some(WaitingLoad { bytes, passed_by });
    }

    /// It waits no more, and nothing yields to it.
    pub(super) fn end_waiting(&mut self) {
        self.waiting_load = None;
        for resident in self.residents.values_mut() {
            resident.yields = false;
        }
    }

    /// Counts a lease that is asked for while a load waits. After enough of them
    /// the longest unused versions that would make its room yield.
    pub(super) fn pass_by(&mut self, budget: u64) {
        let Some(load) = &mut self.waiting_load else {
            return;
        };
        load.passed_by = load.passed_by.saturating_add(1);
        if load.passed_by != PASSED_BY_MAX {
            return;
        }
        let mut room = budget.saturating_sub(self.reserved);
        let pinned = &self.pinned;
        let mut unpinned: Vec<&mut Entry<A>> = self
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
    pub(super) fn make_room(&mut self, bytes: u64, budget: u64) -> Result<(), NoRoom> {
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
