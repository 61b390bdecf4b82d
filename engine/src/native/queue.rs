//! Who is next: the waiting sequences, fair among tenants by the tokens that
//! each has been served.
//!
//! A tenant's sequences keep their order of arrival. Of the tenants that wait,
//! the one with the fewest tokens served is next; one that comes anew begins
//! with as many as the least of those that are there, so that nobody saves up
//! idle time. A sequence that lost its pages comes before all that never had
//! any. Has no clock and no tensor in it.

use std::collections::{BTreeMap, VecDeque};

use ids::TenantId;

use super::request::RequestId;
use super::sequence::Sequence;

/// A tenant; none is one like any other.
pub(super) type Tenant = Option<TenantId>;
/// A sequence's place in the order of arrival.
type Order = (RequestId, u32);

/// How many tenants are remembered while they have nothing to do.
const IDLE_TENANTS_MAX: usize = 1024;

/// The waiting sequences of all tenants.
#[derive(Default)]
pub(super) struct WaitingQueue {
    /// Those that ran before, in the order in which they first did.
    resumed: VecDeque<Sequence>,
    tenants: BTreeMap<Tenant, Line>,
}

/// One tenant's.
#[derive(Default)]
struct Line {
    /// Tokens that were computed for it, where it counts from the least of the
    /// others when it came.
    served: u64,
    /// Sequences that run or lost their pages.
    started: u32,
    waiting: VecDeque<Sequence>,
}

impl Line {
    fn is_active(&self) -> bool {
        self.started > 0 || !self.waiting.is_empty()
    }

    /// The first that is not among `held`.
    fn first(&self, held: &[Order]) -> Option<usize> {
        let free = |sequence: &Sequence| !held.contains(&sequence.order());
        self.waiting.iter().position(free)
    }
}

/// Where in the queue a sequence is.
enum Place {
    Resumed(usize),
    Waiting(Tenant, usize),
}

impl WaitingQueue {
    /// Queues a sequence behind its tenant's others.
    pub(super) fn push(&mut self, sequence: Sequence) {
        let tenant = sequence.tenant.clone();
        if !self.tenants.get(&tenant).is_some_and(Line::is_active) {
            let least = self.least_served();
            let line = self.tenants.entry(tenant.clone()).or_default();
            line.served = line.served.max(least);
        }
        let line = self.tenants.entry(tenant).or_default();
        line.waiting.push_back(sequence);
    }

    /// Queues a sequence that lost its pages.
    pub(super) fn resume(&mut self, sequence: Sequence) {
        let place = self
            .resumed
            .partition_point(|other| other.ticket < sequence.ticket);
        self.resumed.insert(place, sequence);
    }

    /// The next sequence that is not among `held`.
    pub(super) fn next(&mut self, held: &[Order]) -> Option<&mut Sequence> {
        match self.next_place(held)? {
            Place::Resumed(at) => self.resumed.get_mut(at),
            Place::Waiting(tenant, at) => self.tenants.get_mut(&tenant)?.waiting.get_mut(at),
        }
    }

    /// Takes the sequence that [`Self::next`] gives out of the queue.
    pub(super) fn take(&mut self, held: &[Order]) -> Option<Sequence> {
        match self.next_place(held)? {
            Place::Resumed(at) => self.resumed.remove(at),
            Place::Waiting(tenant, at) => {
                let line = self.tenants.get_mut(&tenant)?;
                line.started += 1;
                line.waiting.remove(at)
            }
        }
    }

    fn next_place(&self, held: &[Order]) -> Option<Place> {
        let free = |sequence: &Sequence| !held.contains(&sequence.order());
        if let Some(at) = self.resumed.iter().position(free) {
            return Some(Place::Resumed(at));
        }
        let lines = self.tenants.iter().filter_map(|(tenant, line)| {
            let at = line.first(held)?;
            Some(((line.served, line.waiting[at].order()), tenant, at))
        });
        let (_, tenant, at) = lines.min_by_key(|(rank, _, _)| *rank)?;
        Some(Place::Waiting(tenant.clone(), at))
    }

    /// Counts the tokens of a running sequence that were not counted yet.
    pub(super) fn serve(&mut self, sequence: &mut Sequence, tokens: usize) {
        let new = tokens.saturating_sub(sequence.served);
        sequence.served += new;
        if let Some(line) = self.tenants.get_mut(&sequence.tenant) {
            line.served += new as u64;
        }
    }

    /// A sequence that ran has ended.
    pub(super) fn ended(&mut self, sequence: &Sequence) {
        if let Some(line) = self.tenants.get_mut(&sequence.tenant) {
            line.started = line.started.saturating_sub(1);
        }
    }

    /// Removes those that `ended` says, and forgets tenants whose count says
    /// nothing any more.
    pub(super) fn remove(&mut self, mut ended: impl FnMut(&Sequence) -> bool) {
        let tenants = &mut self.tenants;
        self.resumed.retain(|sequence| {
            let ended = ended(sequence);
            if ended && let Some(line) = tenants.get_mut(&sequence.tenant) {
                line.started = line.started.saturating_sub(1);
            }
            !ended
        });
        for line in tenants.values_mut() {
            line.waiting.retain(|sequence| !ended(sequence));
        }
        self.forget_idle();
    }

    fn forget_idle(&mut self) {
        if !self.tenants.values().any(Line::is_active) {
            self.tenants.clear();
            return;
        }
        let least = self.least_served();
        let idle = self.tenants.values().filter(|line| !line.is_active());
        let too_many = idle.count() > IDLE_TENANTS_MAX;
        // one that comes back is counted from the least in any case
        self.tenants
            .retain(|_, line| line.is_active() || (line.served > least && !too_many));
    }

    /// The fewest tokens that an active tenant was served.
    fn least_served(&self) -> u64 {
        let active = self.tenants.values().filter(|line| line.is_active());
        active.map(|line| line.served).min().unwrap_or(0)
    }

    /// All waiting sequences, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        let lines = self.tenants.values().flat_map(|line| &line.waiting);
        self.resumed.iter().chain(lines)
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// How many sequences of each tenant wait.
    pub(super) fn by_tenant(&self) -> BTreeMap<Tenant, u32> {
        let mut counts = BTreeMap::new();
        for sequence in self.iter() {
            *counts.entry(sequence.tenant.clone()).or_insert(0) += 1;
        }
        counts
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
