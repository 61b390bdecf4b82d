//! Who may run and who waits: places for sequences, in all instances together,
//! fair among tenants. mistralrs' own queue is never longer than that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{EngineError, Wait};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::fair::{Arrival, FairQueue, Tenant};

/// How many sequences there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Those that run.
    pub(crate) running_max: u32,
    /// Those that wait.
    pub(crate) waiting_max: u32,
    /// Those of them that are one tenant's.
    pub(crate) waiting_per_tenant_max: u32,
    /// How long one waits.
    pub(crate) wait_max: Duration,
}

/// The places of an engine.
pub(crate) struct Admission {
    limits: Limits,
    state: Mutex<State>,
    /// Told when a sequence ends.
    ended: Notify,
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: FairQueue<Ticket>,
    running: u32,
    /// Tokens that running sequences may come to hold.
    tokens: u64,
    is_closed: bool,
}

struct Ticket {
    demand: Demand,
    turn: oneshot::Sender<()>,
}

/// What one sequence will take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: u32,
    /// The most tokens of the completion.
    pub(crate) max_tokens: u32,
}

impl Demand {
    fn tokens(self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.max_tokens)
    }
}

/// A sequence's place in the queue, later in the batch; given back when dropped.
pub(crate) struct Place {
    admission: Arc<Admission>,
    tenant: Tenant,
    arrival: Arrival,
    demand: Demand,
    turn: oneshot::Receiver<()>,
    has_started: bool,
}

/// How many run and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) running: u32,
    pub(crate) waiting: u32,
    pub(crate) waiting_tenants: u32,
    /// Tokens that running sequences may come to hold.
    pub(crate) tokens: u64,
    /// Tokens of prompts and of completions since the start.
    pub(crate) prompt_tokens: u64,
    pub(crate) generation_tokens: u64,
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let running_max = limits.running_max.max(1);
        Arc::new(Self {
            limits: Limits {
                running_max,
                ..limits
            },
            state: Mutex::default(),
            ended: Notify::new(),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
        })
    }

    /// Whether `n` more sequences would be taken now.
    pub(crate) fn check(&self, tenant: &Tenant, n: u32) -> Result<(), EngineError> {
        self.state.lock().check(&self.limits, tenant, n)
    }

    /// Queues `n` sequences, all or none.
    pub(crate) fn queue(
        self: &Arc<Self>,
        tenant: &Tenant,
        n: u32,
        demand: Demand,
    ) -> Result<Vec<Place>, EngineError> {
        let mut state = self.state.lock();
        state.check(&self.limits, tenant, n)?;
        let place = |_| {
            let (sender, turn) = oneshot::channel();
            let ticket = Ticket {
                demand,
                turn: sender,
            };
            Place {
                admission: Arc::clone(self),
                tenant: tenant.clone(),
                arrival: state.queue.push(tenant, ticket),
                demand,
                turn,
                has_started: false,
            }
        };
        let places = (0..n).map(place).collect();
        state.admit(self.limits.running_max);
        Ok(places)
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.state.lock();
        Load {
            running: state.running,
            waiting: state.queue.waiting(),
            waiting_tenants: state.queue.waiting_tenants(),
            tokens: state.tokens,
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            generation_tokens: self.generation_tokens.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts a token of a tenant's completion.
    pub(crate) fn generated(&self, tenant: &Tenant) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
        self.state.lock().queue.serve(tenant, 1);
    }

    /// Takes no more, and returns when those that were taken have ended.
    pub(crate) async fn drain(&self) {
        self.state.lock().is_closed = true;
        loop {
            let ended = self.ended.notified();
            let load = self.load();
            if load.running + load.waiting == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl State {
    fn check(&self, limits: &Limits, tenant: &Tenant, n: u32) -> Result<(), EngineError> {
        if self.is_closed {
            return Err(EngineError::Stopped);
        }
        // those that find a free place do not wait
        let waits = n.saturating_sub(limits.running_max.saturating_sub(self.running));
        let (waiting, waiting_max) = (self.queue.waiting(), limits.waiting_max);
        if waiting.saturating_add(waits) > waiting_max {
            return Err(EngineError::QueueFull {
                waiting,
                waiting_max,
            });
        }
        let (waiting, waiting_max) = (self.queue.waiting_of(tenant), limits.waiting_per_tenant_max);
        if waiting.saturating_add(waits) > waiting_max {
            return Err(EngineError::TenantQueueFull {
                waiting,
                waiting_max,
            });
        }
        Ok(())
    }

    /// Gives free places to those that are next.
    fn admit(&mut self, running_max: u32) {
        while self.running < running_max
            && let Some((tenant, ticket)) = self.queue.take()
        {
            let demand = ticket.demand;
            // whoever gave up has taken its ticket out of the queue
            if ticket.turn.send(()).is_err() {
                self.queue.ended(&tenant);
                continue;
            }
            self.running += 1;
            self.tokens += demand.tokens();
            self.queue.serve(&tenant, u64::from(demand.prompt_tokens));
        }
    }
}

impl Place {
    /// Waits for a place in the batch.
    pub(crate) async fn start(&mut self) -> Result<(), EngineError> {
        let limit = self.admission.limits.wait_max;
        let turn = tokio::time::timeout(limit, &mut self.turn).await;
        let wait = Wait::Batch;
        let turn = turn.map_err(|_| EngineError::TimedOut { wait, limit })?;
        turn.map_err(|_| EngineError::Stopped)?;
        self.has_started = true;
        let tokens = u64::from(self.demand.prompt_tokens);
        let total = &self.admission.prompt_tokens;
        total.fetch_add(tokens, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state.lock();
        // its turn may have come in the moment in which it gave up
        if self.has_started || self.turn.try_recv().is_ok() {
            state.running -= 1;
            state.tokens -= self.demand.tokens();
            state.queue.ended(&self.tenant);
            state.admit(self.admission.limits.running_max);
        } else {
            state.queue.remove(&self.tenant, self.arrival);
        }
        drop(state);
        self.admission.ended.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ids::TenantId;

    use super::*;

    const DEMAND: Demand = Demand {
        prompt_tokens: 4,
        max_tokens: 6,
    };

    fn admission(
        running_max: u32,
        waiting_max: u32,
        waiting_per_tenant_max: u32,
    ) -> Arc<Admission> {
        Admission::new(Limits {
            running_max,
            waiting_max,
            waiting_per_tenant_max,
            wait_max: Duration::from_millis(20),
        })
    }

    fn load(admission: &Admission) -> (u32, u32, u64) {
        let load = admission.load();
        (load.running, load.waiting, load.tokens)
    }

    #[tokio::test]
    async fn places_are_counted_and_bounded() {
        let admission = admission(2, 1, 1);
        let mut two = admission.queue(&None, 2, DEMAND).unwrap();
        for place in &mut two {
            place.start().await.unwrap();
        }
        assert_eq!(load(&admission), (2, 0, 20));
        let mut third = admission.queue(&None, 1, DEMAND).unwrap().remove(0);
        let full = admission.queue(&None, 1, DEMAND).err();
        let (waiting, waiting_max) = (1, 1);
        let expected = EngineError::QueueFull {
            waiting,
            waiting_max,
        };
        assert_eq!(full, Some(expected));
        let late = third.start().await.unwrap_err();
        let wait = Wait::Batch;
        let limit = Duration::from_millis(20);
        assert_eq!(late, EngineError::TimedOut { wait, limit });
        // a place that comes free goes to it although it is late
        two.pop();
        third.start().await.unwrap();
        assert_eq!(load(&admission), (2, 0, 20));
        drop((two, third));
        assert_eq!(load(&admission), (0, 0, 0));
        assert_eq!(admission.load().prompt_tokens, 12);
    }

    #[tokio::test]
    async fn a_tenant_has_its_share_of_the_queue_and_of_the_places() {
        let (a, b) = (TenantId::new("a").ok(), TenantId::new("b").ok());
        let admission = admission(1, 4, 2);
        let mut first = admission.queue(&a, 1, DEMAND).unwrap().remove(0);
        let mut more = admission.queue(&a, 2, DEMAND).unwrap();
        let (waiting, waiting_max) = (2, 2);
        let expected = EngineError::TenantQueueFull {
            waiting,
            waiting_max,
        };
        assert_eq!(admission.queue(&a, 1, DEMAND).err(), Some(expected));
        let mut other = admission.queue(&b, 1, DEMAND).unwrap().remove(0);
        assert_eq!(admission.load().waiting_tenants, 2);
        first.start().await.unwrap();
        admission.generated(&a);
        drop(first);
        // b was served less, although it came later
        other.start().await.unwrap();
        assert!(more[0].start().await.is_err());
        // who gives up in the queue leaves no hole in it
        drop(more.remove(0));
        drop(other);
        more[0].start().await.unwrap();
        drop(more);
        assert_eq!(load(&admission), (0, 0, 0));
    }

    #[tokio::test]
    async fn draining_waits_for_the_last() {
        let admission = admission(1, 1, 1);
        let mut place = admission.queue(&None, 1, DEMAND).unwrap().remove(0);
        place.start().await.unwrap();
        let draining = tokio::spawn({
            let admission = admission.clone();
            async move { admission.drain().await }
        });
        tokio::task::yield_now().await;
        assert!(!draining.is_finished());
        let refused = admission.queue(&None, 1, DEMAND).err();
        assert_eq!(refused, Some(EngineError::Stopped));
        drop(place);
        draining.await.unwrap();
    }
}
