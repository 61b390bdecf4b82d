//! The bounded queue between the engine's callers and its thread.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::{Condvar, Mutex};

use super::queue::Tenant;
use super::request::Submission;
use crate::api::EngineError;

/// Requests that wait for the engine's thread.
pub(super) struct Inbox {
    limits: QueueLimits,
    state: Mutex<State>,
    changed: Condvar,
}

/// How many sequences may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueLimits {
    /// All together.
    pub(super) waiting_max: u32,
    /// One tenant's.
    pub(super) waiting_per_tenant_max: u32,
}

#[derive(Default)]
struct State {
    submissions: VecDeque<Submission>,
    /// Sequences of the submissions.
    submitted: BTreeMap<Tenant, u32>,
    /// Sequences that the thread has taken but does not run.
    scheduled: BTreeMap<Tenant, u32>,
    mode: Mode,
}

/// How far an engine is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Mode {
    /// Requests are accepted.
    #[default]
    Open,
    /// No more are accepted; those accepted are finished.
    Draining,
    /// Nothing runs any more.
    Stopped,
}

impl Inbox {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Queues a request, all of its choices or none.
    pub(super) fn submit(&self, submission: Submission) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if state.mode != Mode::Open {
            return Err(EngineError::Stopped);
        }
        let (n, tenant) = (submission.request.n, &submission.request.tenant);
        let QueueLimits {
            waiting_max,
            waiting_per_tenant_max,
        } = self.limits;
        let waiting = state.waiting();
        if waiting.saturating_add(n) > waiting_max {
            return Err(EngineError::QueueFull {
                waiting,
                waiting_max,
            });
        }
        let waiting = state.waiting_of(tenant);
        if waiting.saturating_add(n) > waiting_per_tenant_max {
            return Err(EngineError::TenantQueueFull {
                waiting,
                waiting_max: waiting_per_tenant_max,
            });
        }
        *state.submitted.entry(tenant.clone()).or_insert(0) += n;
        state.submissions.push_back(submission);
        self.changed.notify_one();
        Ok(())
    }

    /// Sequences that wait.
    pub(super) fn waiting(&self) -> u32 {
        self.state.lock().waiting()
    }

    /// Tenants that have sequences waiting.
    pub(super) fn waiting_tenants(&self) -> usize {
        let state = self.state.lock();
        let scheduled = state.scheduled.keys();
        let others = scheduled.filter(|tenant| !state.submitted.contains_key(*tenant));
        state.submitted.len() + others.count()
    }

    /// How many may.
    pub(super) fn limits(&self) -> QueueLimits {
        self.limits
    }

    /// For the thread: takes the next submission. With nothing else to do it
    /// waits for one, until there is none to come.
    pub(super) fn take(&self, idle: bool) -> Option<Submission> {
        let mut state = self.state.lock();
        while idle && state.submissions.is_empty() && state.mode == Mode::Open {
            self.changed.wait(&mut state);
        }
        let submission = state.submissions.pop_front()?;
        let (n, tenant) = (submission.request.n, &submission.request.tenant);
        if let Some(submitted) = state.submitted.get_mut(tenant) {
            *submitted = submitted.saturating_sub(n);
            if *submitted == 0 {
                state.submitted.remove(tenant);
            }
        }
        *state.scheduled.entry(tenant.clone()).or_insert(0) += n;
        Some(submission)
    }

    /// For the thread: how many sequences of each tenant it has waiting now.
    pub(super) fn set_scheduled(&self, sequences: BTreeMap<Tenant, u32>) {
        self.state.lock().scheduled = sequences;
    }

    pub(super) fn mode(&self) -> Mode {
        self.state.lock().mode
    }

    /// Goes towards the end, never back.
    pub(super) fn close(&self, mode: Mode) {
        let mut state = self.state.lock();
        state.mode = state.mode.max(mode);
        if state.mode == Mode::Stopped {
            for submission in state.submissions.drain(..) {
                // a closed channel needs no answer
                let _ = submission.events.try_send(Err(EngineError::Stopped));
            }
            state.submitted.clear();
            state.scheduled.clear();
        }
        self.changed.notify_all();
    }
}

impl State {
    fn waiting(&self) -> u32 {
        let all = self.submitted.values().chain(self.scheduled.values());
        all.fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn waiting_of(&self, tenant: &Tenant) -> u32 {
        let count = |counts: &BTreeMap<Tenant, u32>| counts.get(tenant).copied().unwrap_or(0);
        count(&self.submitted).saturating_add(count(&self.scheduled))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ids::TenantId;

    use super::*;
    use crate::native::scheduler::tests::submission;

    const LIMITS: QueueLimits = QueueLimits {
        waiting_max: 6,
        waiting_per_tenant_max: 4,
    };

    fn submit(inbox: &Inbox, tenant: &str, n: u32) -> Result<(), EngineError> {
        let tenant = TenantId::new(tenant).ok();
        let mut submission = submission(tenant, 0, 10);
        submission.request.n = n;
        inbox.submit(submission)
    }

    #[test]
    fn places_are_bounded_in_all_and_for_each_tenant() {
        let inbox = Inbox::new(LIMITS);
        submit(&inbox, "a", 1).unwrap();
        // taken by the thread or not, they wait
        assert!(inbox.take(false).is_some());
        for _ in 0..3 {
            submit(&inbox, "a", 1).unwrap();
        }
        let full = EngineError::TenantQueueFull {
            waiting: 4,
            waiting_max: 4,
        };
        assert_eq!(submit(&inbox, "a", 1), Err(full));
        submit(&inbox, "b", 2).unwrap();
        let full = EngineError::QueueFull {
            waiting: 6,
            waiting_max: 6,
        };
        assert_eq!(submit(&inbox, "c", 1), Err(full));
        assert_eq!((inbox.waiting(), inbox.waiting_tenants()), (6, 2));
        while inbox.take(false).is_some() {}
        assert_eq!((inbox.waiting(), inbox.waiting_tenants()), (6, 2));
        let left = BTreeMap::from([(TenantId::new("a").ok(), 1)]);
        inbox.set_scheduled(left);
        assert_eq!((inbox.waiting(), inbox.waiting_tenants()), (1, 1));
        // all completions of a request or none
        assert!(submit(&inbox, "a", 4).is_err());
        submit(&inbox, "a", 3).unwrap();
        inbox.close(Mode::Stopped);
        assert_eq!(inbox.waiting(), 0);
    }
}
