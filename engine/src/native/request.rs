//! A request inside the engine: where its events go and what it has cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::ToolMarkup;
use tokio::sync::mpsc;

use super::adapters::AdapterLease;
use super::constraint::GrammarState;
use super::sequence::Sequence;
use crate::api::{ChatEvent, ChatRequest, EngineError, FinishReason, TokenLogprob, Usage, Wait};
use crate::tools::Read;

/// Names a request within the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestId(pub(super) u64);

/// The sending end of a request's events. Its channel has a place for every
/// event that the request can make, so sending never waits.
pub(super) type EventSender = mpsc::Sender<Result<ChatEvent, EngineError>>;

/// An accepted request on its way to the engine's thread.
pub(super) struct Submission {
    pub(super) request: ChatRequest,
    pub(super) prompt: Vec<u32>,
    /// The most completion tokens, resolved against the context.
    pub(super) max_tokens: u32,
    pub(super) lease: Option<AdapterLease>,
    /// Where every choice begins in the request's grammar.
    pub(super) grammar: Option<Arc<GrammarState>>,
    /// How calls are written, where the request has functions.
    pub(super) tool_markup: ToolMarkup,
    pub(super) events: EventSender,
    pub(super) arrived: Instant,
}

/// What the engine keeps of a request while one of its choices runs.
pub(super) struct RequestState {
    events: EventSender,
    arrived: Instant,
    choices_left: u32,
    usage: Usage,
    /// Whether one of its choices was ever in the batch.
    pub(super) has_started: bool,
}

impl RequestState {
    pub(super) fn new(submission: &Submission) -> Self {
        let prompt_tokens = u32::try_from(submission.prompt.len()).unwrap_or(u32::MAX);
        Self {
            events: submission.events.clone(),
            arrived: submission.arrived,
            choices_left: submission.request.n,
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
            has_started: false,
        }
    }

    /// Whether nobody listens any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Ends the request if it has waited for its start longer than `limit`;
    /// true if so.
    pub(super) fn expire(&self, limit: Duration) -> bool {
        let expired = !self.has_started && self.arrived.elapsed() > limit;
        if expired {
            let wait = Wait::Batch;
            self.fail(EngineError::TimedOut { wait, limit });
        }
        expired
    }

    /// Counts a completion token.
    pub(super) fn count_token(&mut self) {
        if self.usage.completion_tokens == 0 {
            self.usage.time_to_first_token = self.arrived.elapsed();
        }
        self.usage.completion_tokens += 1;
    }

    /// What the cache spared the first choice; the others share its prompt.
    pub(super) fn set_cached_tokens(&mut self, sequence: &Sequence) {
        if sequence.choice == 0 {
            self.usage.cached_tokens = sequence.cached_tokens.unwrap_or(0);
        }
    }

    pub(super) fn delta(&self, choice: u32, read: Read, logprobs: Vec<TokenLogprob>) {
        let (text, tool_calls) = (read.text, read.calls);
        if !text.is_empty() || !tool_calls.is_empty() || !logprobs.is_empty() {
            self.send(Ok(ChatEvent::Delta {
                choice,
                text,
                tool_calls,
                logprobs,
            }));
        }
    }

    /// Ends a choice; true if it was the last one.
    pub(super) fn finish(&mut self, choice: u32, reason: FinishReason) -> bool {
        self.send(Ok(ChatEvent::Finished { choice, reason }));
        self.choices_left = self.choices_left.saturating_sub(1);
        if self.choices_left == 0 {
            self.send(Ok(ChatEvent::Done { usage: self.usage }));
        }
        self.choices_left == 0
    }

    /// Ends the request with an error.
    pub(super) fn fail(&self, error: EngineError) {
        self.send(Err(error));
    }

    fn send(&self, event: Result<ChatEvent, EngineError>) {
        // a closed channel is a cancelled request, which the next step drops
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            tracing::error!("a request made more events than it can");
        }
    }
}
