//! One answer from its first to its last event: what is known of it, what was
//! said so far, and what is counted and recorded when it ends.

use std::time::Instant;

use engine::tools::flatten;
use engine::{
    ChatEvent, ChatMessage, ChatStream, EngineError, FinishReason, Role, TokenLogprob, ToolCall,
    ToolCallDelta, Usage,
};
use feedback::Attribution;
use ids::{AdapterDigest, BaseDigest, InferenceId, UnitId, UnixMillis};
use openapi::ChatCompletionRequest;

use super::record::Asked;
use super::{SharedApp, new_id, record};
use crate::routing::{Assigned, Outcome, Route, default_guardrails};

/// One completion so far.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) reason: Option<FinishReason>,
}

impl Choice {
    /// Everything that the model said, calls in their markup.
    pub(super) fn said(&self) -> String {
        let mut message = ChatMessage::new(Role::Assistant, self.text.as_str());
        message.tool_calls.clone_from(&self.calls);
        let flat = flatten(std::slice::from_ref(&message), None);
        flat.iter()
            .map(|message| message.content.as_str())
            .collect()
    }

    fn call(&mut self, delta: &ToolCallDelta) {
        if let Some(name) = &delta.name {
            self.calls.push(ToolCall {
                id: format!("call_{:024x}", rand::random::<u128>() >> 32),
                name: name.clone(),
                arguments: String::new(),
            });
        }
        if let Some(call) = self.calls.last_mut() {
            call.arguments.push_str(&delta.arguments);
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All completions are whole.
    Complete(Usage),
    /// The engine failed.
    Failed,
    /// The engine had no place for it, or stopped: whatever the version.
    Unserved,
    /// The client went away.
    Cancelled,
}

impl End {
    pub(super) fn of_error(error: &EngineError) -> Self {
        match error {
            EngineError::TimedOut { .. } | EngineError::Stopped => Self::Unserved,
            _ => Self::Failed,
        }
    }
}

/// An answer in the making.
pub(super) struct Answer {
    pub(super) app: SharedApp,
    pub(super) id: InferenceId,
    pub(super) created: UnixMillis,
    pub(super) model: String,
    pub(super) base: BaseDigest,
    pub(super) adapter: Option<AdapterDigest>,
    pub(super) assigned: Option<Assigned>,
    pub(super) unit: Option<UnitId>,
    pub(super) asked: Asked,
    pub(super) metadata: std::collections::BTreeMap<String, String>,
    pub(super) prompt_tokens: u32,
    pub(super) wants_logprobs: bool,
    pub(super) choices: Vec<Choice>,
    label: String,
    started: Instant,
    last_text: Option<Instant>,
}

impl Answer {
    pub(super) fn begin(
        app: SharedApp,
        request: &ChatCompletionRequest,
        asked: Asked,
        route: Route,
        unit: Option<UnitId>,
        stream: &ChatStream,
        started: Instant,
    ) -> Self {
        let base = app
            .serving
            .get()
            .map(|serving| serving.engine.base().digest);
        if let Some(assigned) = &route.assigned {
            let arm = assigned.arm.as_str();
            app.metrics
                .assignments
                .with_label_values(&[assigned.model.as_str(), arm])
                .inc();
            if let Some(trial) = &assigned.trial {
                trial.assigned(assigned.arm, assigned.counted);
            }
        }
        Self {
            id: new_id(),
            created: app.clock.now(),
            model: request.model.clone(),
            base: base.unwrap_or(BaseDigest(ids::Sha256Digest::from_bytes([0; 32]))),
            // The engine's word, not the route's: what it names is what it uses.
            adapter: stream.adapter,
            assigned: route.assigned,
            unit,
            asked,
            metadata: request.metadata.clone(),
            prompt_tokens: stream.prompt_tokens,
            wants_logprobs: request.top_logprobs.is_some(),
            choices: (0..request.n).map(|_| Choice::default()).collect(),
            label: app.metrics.label(stream.adapter.as_ref()),
            app,
            started,
            last_text: None,
        }
    }

    /// What the signed token says of this answer.
    pub(super) fn attribution(&self) -> Attribution {
        Attribution {
            inference: self.id.clone(),
            rollout: self
                .assigned
                .as_ref()
                .map(|assigned| assigned.model.clone()),
            arm: self
                .assigned
                .as_ref()
                .map(|assigned| assigned.arm.as_str().to_owned()),
            adapter: self.adapter,
            unit: self.unit.clone(),
        }
    }

    /// Takes an event in; the usage when it was the last.
    pub(super) fn take(&mut self, event: &ChatEvent) -> Option<Usage> {
        match event {
            ChatEvent::Delta {
                choice,
                text,
                tool_calls,
                logprobs,
            } => {
                self.clock_text();
                if let Some(choice) = self.choice(*choice) {
                    choice.text.push_str(text);
                    tool_calls.iter().for_each(|delta| choice.call(delta));
                    choice.logprobs.extend_from_slice(logprobs);
                }
                None
            }
            ChatEvent::Finished { choice, reason } => {
                if let Some(choice) = self.choice(*choice) {
                    choice.reason = Some(*reason);
                }
                None
            }
            ChatEvent::Done { usage } => Some(*usage),
        }
    }

    fn choice(&mut self, index: u32) -> Option<&mut Choice> {
        self.choices.get_mut(usize::try_from(index).ok()?)
    }

    fn clock_text(&mut self) {
        let now = Instant::now();
        match self.last_text.replace(now) {
            None => {
                let seconds = now.duration_since(self.started).as_secs_f64();
                self.app.metrics.first_token(&self.label, seconds);
            }
            Some(last) => {
                let seconds = now.duration_since(last).as_secs_f64();
                self.app.metrics.between_tokens(&self.label, seconds);
            }
        }
    }

    /// Counts and records the answer. Returns once the record is durable, or
    /// once it is clear that it will not be.
    pub(super) async fn end(&mut self, end: End) {
        self.count(end);
        self.judge(end);
        record::write(&self.app, self.inference(end)).await;
    }

    fn count(&self, end: End) {
        let metrics = &self.app.metrics;
        let outcome = match end {
            End::Complete(_) => "complete",
            End::Failed | End::Unserved => "failed",
            End::Cancelled => "cancelled",
        };
        metrics
            .adapter_requests
            .with_label_values(&[&self.label, outcome])
            .inc();
        if let End::Complete(usage) = end {
            let reasons = self.choices.iter().filter_map(|choice| choice.reason);
            let reasons: Vec<&str> = reasons.map(record::reason).collect();
            let seconds = self.started.elapsed().as_secs_f64();
            metrics.answered(&self.label, &usage, &reasons, seconds);
        }
    }

    /// Shows the answer to the guards of its rollout. A guard that fails stops
    /// the canary in memory at once; the abort is written behind it.
    fn judge(&self, end: End) {
        let Some(assigned) = &self.assigned else {
            return;
        };
        let Some(trial) = &assigned.trial else { return };
        let outcome = match end {
            // Half an answer says nothing, and none for want of a place neither.
            End::Cancelled | End::Unserved => return,
            End::Failed => Outcome::Error,
            End::Complete(_) => self
                .choices
                .first()
                .map_or(Outcome::Empty, |choice| Outcome::of_text(&choice.said())),
        };
        let guardrails = self.app.serving.get().and_then(|serving| {
            let table = serving.router.table();
            let model = table.models.get(assigned.model.as_str())?;
            Some(model.rollout.guardrails.clone()).filter(|guardrails| !guardrails.is_empty())
        });
        let guardrails = guardrails.unwrap_or_else(default_guardrails);
        if let Some(reason) = trial.observe(assigned.arm, outcome, &guardrails) {
            tracing::error!(model = %assigned.model, reason, "a guard stops the canary");
            self.app
                .metrics
                .guard_trips
                .with_label_values(&[assigned.model.as_str()])
                .inc();
            let app = self.app.clone();
            let trial = trial.clone();
            self.app
                .tasks
                .spawn(async move { crate::guard::abort(&app, &trial, reason).await });
        }
    }
}
