//! What a chat completion answers, whole and in pieces.

use ids::{AdapterDigest, InferenceId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tools::{MessageToolCall, ToolCallDelta};

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// The inference id that feedback names.
    #[schema(value_type = String)]
    pub id: InferenceId,
    /// What this object is.
    pub object: ChatCompletionObject,
    /// Seconds since 1970.
    pub created: i64,
    /// The model as the request named it.
    pub model: String,
    /// The completions, by index.
    pub choices: Vec<ChatChoice>,
    /// What the request cost.
    pub usage: Usage,
    /// Names the base weights.
    pub system_fingerprint: Option<String>,
    /// The adapter version that made the answer; null is the bare base.
    #[schema(value_type = Option<String>, required = true)]
    pub adapter_digest: Option<AdapterDigest>,
}

/// The `object` of a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum ChatCompletionObject {
    /// `chat.completion`.
    #[default]
    #[serde(rename = "chat.completion")]
    ChatCompletion,
}

/// One completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// Which completion.
    pub index: u32,
    /// What the model says.
    pub message: AssistantMessage,
    /// Log-probabilities, where they were asked for.
    pub logprobs: Option<ChoiceLogprobs>,
    /// Why the completion ended.
    pub finish_reason: FinishReason,
}

/// What the model says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// Always the assistant.
    pub role: AssistantRole,
    /// The text; null where there are only calls.
    #[schema(required = true)]
    pub content: Option<String>,
    /// Always null; clients look for it.
    pub refusal: Option<String>,
    /// The functions that the model asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<MessageToolCall>>,
}

/// The role of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AssistantRole {
    /// The model.
    #[default]
    Assistant,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// The token limit or the context's end was reached.
    Length,
    /// The model calls functions, and waits for their results.
    ToolCalls,
}

/// A piece of an answer that comes as a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunk {
    /// The inference id that feedback names; the same in every chunk.
    #[schema(value_type = String)]
    pub id: InferenceId,
    /// What this object is.
    pub object: ChatChunkObject,
    /// Seconds since 1970; the same in every chunk.
    pub created: i64,
    /// The model as the request named it.
    pub model: String,
    /// What is new; empty in the chunk that carries the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// Absent where usage was not asked for; else null in every chunk but the
    /// last. The outer level is whether the field is there.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::nullable"
    )]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// Names the base weights.
    pub system_fingerprint: Option<String>,
    /// The adapter version that makes the answer; null is the bare base.
    #[schema(value_type = Option<String>, required = true)]
    pub adapter_digest: Option<AdapterDigest>,
}

/// The `object` of a piece of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum ChatChunkObject {
    /// `chat.completion.chunk`.
    #[default]
    #[serde(rename = "chat.completion.chunk")]
    ChatCompletionChunk,
}

/// What is new of one completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Which completion.
    pub index: u32,
    /// The new text.
    pub delta: ChatDelta,
    /// Log-probabilities, where they were asked for.
    pub logprobs: Option<ChoiceLogprobs>,
    /// Why the completion ended, in its last chunk.
    pub finish_reason: Option<FinishReason>,
}

/// New text: the role once, then pieces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ChatDelta {
    /// In a completion's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<AssistantRole>,
    /// The new text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

/// Log-probabilities of a completion's tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChoiceLogprobs {
    /// The tokens in order.
    pub content: Vec<TokenLogprob>,
    /// Always null; clients look for it.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// One token with its log-probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenLogprob {
    /// The token's text.
    pub token: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most likely tokens at this place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// An alternative to a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopLogprob {
    /// The token's text.
    pub token: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What a request cost, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of all completions.
    pub completion_tokens: u32,
    /// Both together.
    pub total_tokens: u32,
    /// More about the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
    /// More about the completions.
    pub completion_tokens_details: CompletionTokensDetails,
}

impl Usage {
    /// The usage of a request with these counts.
    #[must_use]
    pub fn new(prompt_tokens: u32, completion_tokens: u32, cached_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            completion_tokens_details: CompletionTokensDetails::default(),
        }
    }
}

/// More about a prompt's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens that a prefix cache spared.
    pub cached_tokens: u32,
}

/// More about the completions' tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Tokens spent on reasoning; always 0 here.
    pub reasoning_tokens: u32,
}
