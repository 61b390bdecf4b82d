//! What a chat completion request holds: as clients write it, for the document
//! ([`ChatCompletionBody`]), and as it is after checking
//! ([`ChatCompletionRequest`]).

use std::collections::BTreeMap;

use ids::{AdapterDigest, AliasName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::format::{AnswerFormat, ResponseFormatBody, StructuredOutputsBody};
use super::images::{ImageUrl, RequestImage};
use super::tools::{MessageToolCall, RequestTools, ToolBody, ToolChoiceBody};

/// Limits of a request.
pub mod limits {
    /// The most messages.
    pub const MESSAGES_MAX: usize = 2048;
    /// The most parts of one message's content.
    pub const PARTS_MAX: usize = 256;
    /// The longest content of one message.
    pub const CONTENT_BYTES_MAX: usize = 1 << 20;
    /// The most images of one request.
    pub const IMAGES_MAX: usize = 8;
    /// The most bytes of one image; the whole body has a limit of its own.
    pub const IMAGE_BYTES_MAX: usize = 8 << 20;
    /// The longest side of an image, in pixels.
    pub const IMAGE_SIDE_MAX: usize = 8192;
    /// The most pixels of an image.
    pub const IMAGE_PIXELS_MAX: usize = 16 << 20;
    /// The longest model name.
    pub const MODEL_BYTES_MAX: usize = 256;
    /// The longest `user`, `safety_identifier` and `prompt_cache_key`.
    pub const IDENTIFIER_BYTES_MAX: usize = 256;
    /// The most stop texts.
    pub const STOPS_MAX: usize = 4;
    /// The longest stop text.
    pub const STOP_BYTES_MAX: usize = 256;
    /// The most completions of one request.
    pub const CHOICES_MAX: i64 = 8;
    /// The most alternatives shown for a token.
    pub const TOP_LOGPROBS_MAX: i64 = 20;
    /// The most tokens in `logit_bias`.
    pub const LOGIT_BIAS_MAX: usize = 1024;
    /// The most functions of a request, and calls of a message.
    pub const TOOLS_MAX: usize = 128;
    /// The longest regular expression or grammar.
    pub const GRAMMAR_BYTES_MAX: usize = 64 << 10;
    /// The longest name of a schema or function.
    pub const FUNCTION_NAME_BYTES_MAX: usize = 64;
    /// The longest description of a schema or function.
    pub const DESCRIPTION_BYTES_MAX: usize = 4096;
    /// The most entries of `metadata`.
    pub const METADATA_MAX: usize = 16;
    /// The longest key in `metadata`.
    pub const METADATA_KEY_BYTES_MAX: usize = 64;
    /// The longest value in `metadata`.
    pub const METADATA_VALUE_BYTES_MAX: usize = 512;
}

/// A chat completion request after checking.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatCompletionRequest {
    /// The public model name, base, alias or digest asked for.
    pub model: String,
    /// The conversation, at least one message.
    pub messages: Vec<RequestMessage>,
    /// At most this many tokens for each completion: `max_completion_tokens`,
    /// or the older `max_tokens`.
    pub max_tokens: Option<u32>,
    /// How many completions.
    pub n: u32,
    /// The seed; a negative one as its two's complement.
    pub seed: Option<u64>,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Added to tokens' logits.
    pub logit_bias: BTreeMap<u32, f32>,
    /// With log-probabilities: how many alternatives are shown.
    pub top_logprobs: Option<u8>,
    /// In [-2, 2].
    pub frequency_penalty: f32,
    /// In [-2, 2].
    pub presence_penalty: f32,
    /// In [0, 2].
    pub temperature: f32,
    /// In (0, 1].
    pub top_p: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// In [0, 1].
    pub min_p: f32,
    /// Above 0; 1 is off.
    pub repetition_penalty: f32,
    /// The functions that may be called.
    pub tools: Option<RequestTools>,
    /// The form that answers are held to; `None` is any text.
    pub format: Option<AnswerFormat>,
    /// The application's own labels; `session_id` can name the rollout's unit.
    pub metadata: BTreeMap<String, String>,
    /// Whether the application asked to keep the answer; `None` where it did
    /// not say.
    pub store: Option<bool>,
    /// The end user.
    pub user: Option<String>,
    /// The end user, by the newer name.
    pub safety_identifier: Option<String>,
    /// A hint of which requests share a prefix.
    pub prompt_cache_key: Option<String>,
    /// Whether the answer comes as a stream.
    pub stream: bool,
    /// Whether the stream ends with the usage.
    pub include_usage: bool,
    /// Goes on past the end of the answer; for benchmarks.
    pub ignore_eos: bool,
    /// The adapter that the request pins.
    pub adapter: Option<AdapterSelector>,
}

/// One turn of the conversation, its parts joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMessage {
    /// Who says it.
    pub role: MessageRole,
    /// What is said; empty where the message only calls.
    pub content: String,
    /// The images of a user's message, in their order.
    pub images: Vec<RequestImage>,
    /// The calls of an assistant's message.
    pub tool_calls: Vec<MessageToolCall>,
    /// The call whose result a tool's message is.
    pub tool_call_id: Option<String>,
}

/// Who says a message. `developer` is the newer name of `system`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageRole {
    /// Instructions of the application.
    #[serde(alias = "developer")]
    System,
    /// The end user.
    User,
    /// The model.
    Assistant,
    /// A function that was called.
    Tool,
}

impl MessageRole {
    /// The name that chat templates use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// Which adapter a request pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum AdapterSelector {
    /// Whatever version the alias names now.
    #[schema(value_type = String)]
    Alias(AliasName),
    /// Exactly this version.
    Digest {
        /// The version.
        #[schema(value_type = String, example = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")]
        digest: AdapterDigest,
    },
}

/// A chat completion request. A field that is not listed, or a listed one with
/// a value that this server does not honour, is a 400 that names it.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatCompletionBody {
    /// A public model name (routed by its rollout), or a base model, an adapter
    /// alias or an adapter digest (pinned).
    pub model: String,
    /// The conversation.
    pub messages: Vec<MessageBody>,
    /// At most this many tokens for each completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// How many completions, 1 to 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 8)]
    pub n: Option<u32>,
    /// The same seed and request give the same tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Up to 4 texts that end a completion and are not part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopBody>,
    /// Token ids with what is added to their logits, -100 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Whether log-probabilities are returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives are shown for each token, 0 to 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u8>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// 0 (greedy) to 2; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Above 0, to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// The most likely tokens kept; 0 or -1 keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub top_k: Option<i32>,
    /// 0 to 1: least probability relative to the most likely token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// 0.01 to 10; 1 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 10)]
    pub repetition_penalty: Option<f32>,
    /// Up to 16 labels; `session_id` can name the rollout's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Accepted; answers are recorded for feedback either way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// The end user; the rollout's unit where `safety_identifier` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub user: Option<String>,
    /// The end user; the rollout's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub safety_identifier: Option<String>,
    /// A hint of which requests share a prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub prompt_cache_key: Option<String>,
    /// `auto` or `default`, which here are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// The form of the answers; without it, any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormatBody>,
    /// vLLM's way to say the form; not together with `response_format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_outputs: Option<StructuredOutputsBody>,
    /// Functions that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 128)]
    pub tools: Option<Vec<ToolBody>>,
    /// Whether one must be called: `auto` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoiceBody>,
    /// Whether an answer may have several calls; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Only `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Only `["text"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modalities: Option<Vec<String>>,
    /// Whether the answer comes as server-sent events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Only together with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Goes on past the end of the answer; for benchmarks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// Pins an adapter: an alias, or a digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSelector>,
}

/// One turn of the conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageBody {
    /// Who says it; `developer` counts as `system`.
    pub role: MessageRole,
    /// What is said; may be absent where the message calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentBody>,
    /// The calls of an assistant's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 128)]
    pub tool_calls: Option<Vec<MessageToolCall>>,
    /// In a tool's message, and only there: the call whose result it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub tool_call_id: Option<String>,
}

/// A message's content: text, or parts, whose texts are joined.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ContentBody {
    /// Text.
    Text(String),
    /// Parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message's content.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image, in a user's message to a model that takes images (see the
    /// `input_modalities` of `/v1/models`). A request has at most 8.
    ImageUrl {
        /// The image.
        image_url: ImageUrl,
    },
}

/// One stop text, or several.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StopBody {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// What a stream carries beside the answer.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Whether one last chunk carries the usage.
    pub include_usage: bool,
}
