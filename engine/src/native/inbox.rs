//! The bounded queue between the engine's callers and its thread.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

use super::request::Submission;
use crate::api::EngineError;

/// Requests that wait for the engine's thread.
pub(super) struct Inbox {
    waiting_max: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    submissions: VecDeque<Submission>,
    /// Sequences of the submissions.
    submitted: u32,
    /// Sequences that the thread has taken but does not run.
    scheduled: u32,
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
    pub(super) fn new(waiting_max: u32) -> Self {
        Self {
            waiting_max,
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
        let waiting = state.waiting();
        if waiting.saturating_add(submission.request.n) > self.waiting_max {
            return Err(EngineError::QueueFull {
                waiting,
                waiting_max: self.waiting_max,
            });
        }
        state.submitted += submission.request.n;
        state.submissions.push_back(submission);
        self.changed.notify_one();
        Ok(())
    }

    /// Sequences that wait.
    pub(super) fn waiting(&self) -> u32 {
        self.state.lock().waiting()
    }

    /// How many may.
    pub(super) fn waiting_max(&self) -> u32 {
        self.waiting_max
    }

    /// For the thread: takes the next submission. With nothing else to do it
    /// waits for one, until there is none to come.
    pub(super) fn take(&self, idle: bool) -> Option<Submission> {
        let mut state = self.state.lock();
        while idle && state.submissions.is_empty() && state.mode == Mode::Open {
            self.changed.wait(&mut state);
        }
        let submission = state.submissions.pop_front()?;
        state.submitted -= submission.request.n;
        state.scheduled += submission.request.n;
        Some(submission)
    }

    /// For the thread: how many sequences it has waiting now.
    pub(super) fn set_scheduled(&self, sequences: u32) {
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
            (state.submitted, state.scheduled) = (0, 0);
        }
        self.changed.notify_all();
    }
}

impl State {
    fn waiting(&self) -> u32 {
        self.submitted.saturating_add(self.scheduled)
    }
}
