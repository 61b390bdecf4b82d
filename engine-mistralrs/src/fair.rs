//! Who is next: tickets that wait, fair among tenants by the tokens that each has
//! been served.
//!
//! A tenant's tickets keep their order of arrival. Of the tenants that wait, the
//! one with the fewest tokens served is next; one that comes anew begins with as
//! many as the least of those that are there. Has no clock in it.

use std::collections::{BTreeMap, VecDeque};

use ids::TenantId;

/// A tenant; none is one like any other.
pub(crate) type Tenant = Option<TenantId>;

/// The order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival(u64);

/// Tickets of all tenants.
pub(crate) struct FairQueue<T> {
    tenants: BTreeMap<Tenant, Line<T>>,
    arrivals: u64,
}

/// One tenant's.
struct Line<T> {
    served: u64,
    /// Tickets that were taken and have not ended.
    running: u32,
    waiting: VecDeque<(Arrival, T)>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            served: 0,
            running: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            tenants: BTreeMap::new(),
            arrivals: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// Queues a ticket behind its tenant's others.
    pub(crate) fn push(&mut self, tenant: &Tenant, ticket: T) -> Arrival {
        let least = self.tenants.values().map(|line| line.served).min();
        let new = || Line {
            served: least.unwrap_or(0),
            ..Line::default()
        };
        let arrival = Arrival(self.arrivals);
        self.arrivals += 1;
        let line = self.tenants.entry(tenant.clone()).or_insert_with(new);
        line.waiting.push_back((arrival, ticket));
        arrival
    }

    /// Takes the next ticket.
    pub(crate) fn take(&mut self) -> Option<(Tenant, T)> {
        let waiting = self.tenants.iter_mut().filter_map(|(tenant, line)| {
            let (arrival, _) = line.waiting.front()?;
            Some(((line.served, *arrival), tenant, line))
        });
        let (_, tenant, line) = waiting.min_by_key(|(rank, ..)| *rank)?;
        let (_, ticket) = line.waiting.pop_front()?;
        line.running += 1;
        Some((tenant.clone(), ticket))
    }

    /// Counts tokens that were computed for a tenant.
    pub(crate) fn serve(&mut self, tenant: &Tenant, tokens: u64) {
        if let Some(line) = self.tenants.get_mut(tenant) {
            line.served = line.served.saturating_add(tokens);
        }
    }

    /// What was taken has ended. A tenant with nothing to do is forgotten.
    pub(crate) fn ended(&mut self, tenant: &Tenant) {
        if let Some(line) = self.tenants.get_mut(tenant) {
            line.running = line.running.saturating_sub(1);
        }
        self.forget_idle(tenant);
    }

    /// Removes a ticket that was not taken.
    pub(crate) fn remove(&mut self, tenant: &Tenant, arrival: Arrival) {
        if let Some(line) = self.tenants.get_mut(tenant) {
            line.waiting.retain(|(other, _)| *other != arrival);
        }
        self.forget_idle(tenant);
    }

    fn forget_idle(&mut self, tenant: &Tenant) {
        let idle = |line: &Line<T>| line.running == 0 && line.waiting.is_empty();
        if self.tenants.get(tenant).is_some_and(idle) {
            self.tenants.remove(tenant);
        }
    }

    /// Tickets that wait.
    pub(crate) fn waiting(&self) -> u32 {
        let lines = self.tenants.values();
        lines.map(|line| line.waiting.len() as u32).sum()
    }

    /// Those of a tenant.
    pub(crate) fn waiting_of(&self, tenant: &Tenant) -> u32 {
        let line = self.tenants.get(tenant);
        line.map_or(0, |line| line.waiting.len() as u32)
    }

    /// Tenants that have tickets waiting.
    pub(crate) fn waiting_tenants(&self) -> u32 {
        let lines = self.tenants.values();
        lines.filter(|line| !line.waiting.is_empty()).count() as u32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Some(TenantId::new(name).unwrap())
    }

    #[test]
    fn tenants_take_turns_by_what_they_were_served() {
        let mut queue = FairQueue::default();
        for ticket in 0..4 {
            queue.push(&tenant("many"), ticket);
        }
        assert_eq!(queue.take(), Some((tenant("many"), 0)));
        queue.serve(&tenant("many"), 100);
        // who comes late is not before what the others were served already
        queue.push(&tenant("few"), 10);
        let removed = queue.push(&tenant("few"), 11);
        queue.push(&None, 20);
        queue.remove(&tenant("few"), removed);
        assert_eq!((queue.waiting(), queue.waiting_tenants()), (5, 3));
        assert_eq!(queue.waiting_of(&tenant("many")), 3);
        // equal counts: by arrival
        assert_eq!(queue.take(), Some((tenant("many"), 1)));
        queue.serve(&tenant("many"), 1);
        assert_eq!(queue.take(), Some((tenant("few"), 10)));
        queue.serve(&tenant("few"), 50);
        assert_eq!(queue.take(), Some((None, 20)));
        queue.serve(&None, 1);
        assert_eq!(queue.take(), Some((tenant("many"), 2)));
        for ended in ["many", "many", "many", "few"] {
            queue.ended(&tenant(ended));
        }
        queue.ended(&None);
        assert_eq!(
            queue.tenants.len(),
            1,
            "those without anything are forgotten"
        );
        assert_eq!(queue.take(), Some((tenant("many"), 3)));
        assert_eq!(queue.take(), None);
    }
}
