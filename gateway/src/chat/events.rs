//! The wire's objects out of an answer.

use openapi::{
    AssistantMessage, CalledFunction, CalledFunctionDelta, ChatChoice, ChatChunk, ChatChunkChoice,
    ChatCompletion, ChatDelta, ChoiceLogprobs, FinishReason, MessageToolCall, TokenLogprob,
    ToolCallDelta, ToolKind, TopLogprob, Usage,
};

use super::answer::{Answer, Choice};

pub(super) fn usage(usage: &engine::Usage) -> Usage {
    Usage::new(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
    )
}

fn reason(reason: engine::FinishReason) -> FinishReason {
    match reason {
        engine::FinishReason::Stop => FinishReason::Stop,
        engine::FinishReason::Length => FinishReason::Length,
        engine::FinishReason::ToolCalls => FinishReason::ToolCalls,
    }
}

fn call(call: &engine::ToolCall) -> MessageToolCall {
    MessageToolCall {
        id: call.id.clone(),
        kind: ToolKind::Function,
        function: CalledFunction {
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        },
    }
}

fn logprobs(tokens: &[engine::TokenLogprob]) -> ChoiceLogprobs {
    let one = |token: &engine::TokenLogprob| TokenLogprob {
        token: token.text.clone(),
        bytes: token.bytes.clone(),
        logprob: token.logprob,
        top_logprobs: token
            .top
            .iter()
            .map(|(text, bytes, logprob)| TopLogprob {
                token: text.clone(),
                bytes: bytes.clone(),
                logprob: *logprob,
            })
            .collect(),
    };
    ChoiceLogprobs {
        content: tokens.iter().map(one).collect(),
        refusal: None,
    }
}

impl Answer {
    fn fingerprint(&self) -> Option<String> {
        Some(format!("fp_{}", self.base.short()))
    }

    /// The whole answer.
    pub(super) fn completion(&self, used: &engine::Usage) -> ChatCompletion {
        let choice = |(index, choice): (usize, &Choice)| ChatChoice {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            message: AssistantMessage {
                role: openapi::AssistantRole::Assistant,
                content: (choice.calls.is_empty() || !choice.text.is_empty())
                    .then(|| choice.text.clone()),
                refusal: None,
                tool_calls: (!choice.calls.is_empty())
                    .then(|| choice.calls.iter().map(call).collect()),
            },
            logprobs: self.wants_logprobs.then(|| logprobs(&choice.logprobs)),
            finish_reason: reason(choice.reason.unwrap_or(engine::FinishReason::Stop)),
        };
        ChatCompletion {
            id: self.id.clone(),
            object: openapi::ChatCompletionObject::ChatCompletion,
            created: self.created.seconds(),
            model: self.model.clone(),
            choices: self.choices.iter().enumerate().map(choice).collect(),
            usage: usage(used),
            system_fingerprint: self.fingerprint(),
            adapter_digest: self.adapter,
        }
    }

    /// More of a choice's calls, each with its id where it begins.
    pub(super) fn call_deltas(
        &self,
        choice: u32,
        deltas: &[engine::ToolCallDelta],
    ) -> Option<Vec<ToolCallDelta>> {
        let calls = &self.choices.get(usize::try_from(choice).ok()?)?.calls;
        let one = |delta: &engine::ToolCallDelta| {
            let begins = delta.name.as_ref();
            let known = usize::try_from(delta.index).ok().and_then(|i| calls.get(i));
            ToolCallDelta {
                index: delta.index,
                id: begins.and(known).map(|call| call.id.clone()),
                kind: begins.map(|_| ToolKind::Function),
                function: CalledFunctionDelta {
                    name: delta.name.clone(),
                    arguments: delta.arguments.clone(),
                },
            }
        };
        (!deltas.is_empty()).then(|| deltas.iter().map(one).collect())
    }

    /// A chunk with these choices. `include_usage` puts the field there, null.
    pub(super) fn chunk(&self, choices: Vec<ChatChunkChoice>, include_usage: bool) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: openapi::ChatChunkObject::ChatCompletionChunk,
            created: self.created.seconds(),
            model: self.model.clone(),
            choices,
            usage: include_usage.then_some(None),
            system_fingerprint: self.fingerprint(),
            adapter_digest: self.adapter,
        }
    }
}

/// The first chunk's choice: the role, once.
pub(super) fn role_delta(index: u32) -> ChatChunkChoice {
    let delta = ChatDelta {
        role: Some(openapi::AssistantRole::Assistant),
        content: Some(String::new()),
        tool_calls: None,
    };
    ChatChunkChoice {
        index,
        delta,
        logprobs: None,
        finish_reason: None,
    }
}

pub(super) fn delta(
    index: u32,
    text: &str,
    tool_calls: Option<Vec<ToolCallDelta>>,
    tokens: Option<&[engine::TokenLogprob]>,
) -> ChatChunkChoice {
    ChatChunkChoice {
        index,
        delta: ChatDelta {
            role: None,
            content: (tool_calls.is_none() || !text.is_empty()).then(|| text.to_owned()),
            tool_calls,
        },
        logprobs: tokens.map(logprobs),
        finish_reason: None,
    }
}

pub(super) fn finish_delta(index: u32, why: engine::FinishReason) -> ChatChunkChoice {
    ChatChunkChoice {
        index,
        delta: ChatDelta::default(),
        logprobs: None,
        finish_reason: Some(reason(why)),
    }
}
