//! The wire's objects out of an answer.

use openapi::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta,
    ChoiceLogprobs, FinishReason, TokenLogprob, TopLogprob, Usage,
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
                content: choice.text.clone(),
                refusal: None,
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
    };
    ChatChunkChoice {
        index,
        delta,
        logprobs: None,
        finish_reason: None,
    }
}

pub(super) fn text_delta(
    index: u32,
    text: &str,
    tokens: Option<&[engine::TokenLogprob]>,
) -> ChatChunkChoice {
    ChatChunkChoice {
        index,
        delta: ChatDelta {
            role: None,
            content: Some(text.to_owned()),
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
