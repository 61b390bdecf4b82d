//! The engine as the gateway sees it: chat in, a stream of events out.
//!
//! Deliberately knows neither tensors nor token ids, so that an engine may run
//! in this process, in another library or behind a network. What an
//! implementation must keep is held by the conformance suite in
//! `engine::conformance`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ids::{AdapterDigest, BaseDigest, TenantId};
use serde::{Deserialize, Serialize};

use crate::constraint::Constraint;
use crate::image::Image;
use crate::tools::{ToolCall, ToolCallDelta, ToolUse};

/// What an engine can do for the gateway.
///
/// Invariants every implementation keeps:
/// * every event of one [`ChatStream`] is computed with the adapter version
///   named by [`ChatStream::adapter`], whatever is loaded or unloaded meanwhile;
/// * a failed load leaves what was there before;
/// * dropping a [`ChatStream`] frees its sequence within one step.
#[async_trait]
pub trait Engine: Send + Sync {
    /// The base model that is served.
    fn base(&self) -> &BaseInfo;

    /// How many prompt tokens `messages` and the functions make, template and
    /// all. Cheap: it is asked before a request is admitted.
    async fn count_prompt_tokens(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<u32, EngineError>;

    /// Queues a request. Returns as soon as it is accepted, before the first token.
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, EngineError>;

    /// Checks an adapter's files against their digest and the base and makes it
    /// resident, if need be in the place of versions that are not pinned and not in use. Loading a
    /// digest that is resident is no error and changes nothing.
    async fn load_adapter(&self, package: AdapterPackage) -> Result<AdapterInfo, EngineError>;

    /// Says which adapter versions stay resident. An engine may evict any other
    /// that no sequence uses to make room for a load; one that never does needs
    /// no pins.
    fn pin_adapters(&self, _digests: &[AdapterDigest]) {}

    /// Takes an adapter version out of service for new requests at once and
    /// frees its memory when the last sequence that uses it has ended.
    async fn unload_adapter(&self, digest: &AdapterDigest) -> Result<(), EngineError>;

    /// Loads `package`, then unloads `old`; when the load fails, `old` stays.
    async fn replace_adapter(
        &self,
        old: &AdapterDigest,
        package: AdapterPackage,
    ) -> Result<AdapterInfo, EngineError> {
        let new = package.digest;
        let info = self.load_adapter(package).await?;
        if *old != new {
            self.unload_adapter(old).await?;
        }
        Ok(info)
    }

    /// The resident adapter versions, by digest.
    fn adapters(&self) -> Vec<AdapterInfo>;

    /// How full the engine is.
    fn capacity(&self) -> Capacity;

    /// Accepts no more requests, and returns when those accepted have ended.
    async fn shutdown(&self);
}

/// The base model that an engine serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseInfo {
    /// A short name, for example `SmolLM2-135M-Instruct.Q4_1`.
    pub name: String,
    /// The digest of the weights file.
    pub digest: BaseDigest,
    /// The most tokens that prompt and completion may have together.
    pub context_length: u32,
    /// Whether messages may have images; an engine refuses them where not, before
    /// it counts or queues anything.
    pub takes_images: bool,
}

/// Who says a chat message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions of the application.
    System,
    /// The end user.
    User,
    /// The model.
    Assistant,
    /// A function that the model asked for.
    Tool,
}

impl Role {
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

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// The calls of an assistant's message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call whose result a tool's message is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The images in a user's message, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
}

impl ChatMessage {
    /// A message of text alone, which neither calls nor answers a call.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: None,
            images: Vec::new(),
        }
    }
}

/// How the next token is chosen. Values outside their range are refused by
/// [`SamplingParams::check`], never clamped.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; at most 2.
    pub temperature: f32,
    /// Nucleus mass in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// The most likely tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Least probability relative to the most likely token, in [0, 1].
    pub min_p: f32,
    /// In [-2, 2], times the number of earlier occurrences in the completion.
    pub frequency_penalty: f32,
    /// In [-2, 2], once for a token that already occurred in the completion.
    pub presence_penalty: f32,
    /// Divides (or multiplies) logits of seen tokens; above 0, 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logit of a token, each in [-100, 100]; at most 1024 of them.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Same seed, same request: same tokens, whatever else is in the batch.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Greedy decoding.
    #[must_use]
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }
}

/// One request for one or more completions of a conversation.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// The conversation, at least one message.
    pub messages: Vec<ChatMessage>,
    /// Whose request it is. An engine that queues is fair among tenants; `None`
    /// is one tenant like any other.
    pub tenant: Option<TenantId>,
    /// The adapter version to use; `None` is the bare base.
    pub adapter: Option<AdapterDigest>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// At most this many completion tokens; `None` is what the context leaves.
    pub max_tokens: Option<u32>,
    /// Texts that end a completion and are not part of it; at most
    /// [`MAX_STOPS`], none empty.
    pub stop: Vec<String>,
    /// How many completions, 1 to [`MAX_CHOICES`].
    pub n: u32,
    /// With log-probabilities: how many alternatives (0 to 20) beside the token.
    pub top_logprobs: Option<u8>,
    /// Goes on past the end-of-sequence token; for benchmarks.
    pub ignore_eos: bool,
    /// What the completions' texts must be; not together with `tools`.
    pub constraint: Option<Constraint>,
    /// The functions that may be called.
    pub tools: Option<ToolUse>,
}

impl ChatRequest {
    /// One greedy answer to `messages`, with nothing else asked for.
    #[must_use]
    pub fn greedy(messages: Vec<ChatMessage>, max_tokens: u32) -> Self {
        Self {
            messages,
            tenant: None,
            adapter: None,
            sampling: SamplingParams::greedy(),
            max_tokens: Some(max_tokens),
            stop: Vec::new(),
            n: 1,
            top_logprobs: None,
            ignore_eos: false,
            constraint: None,
            tools: None,
        }
    }
}

/// The most stop texts of one request.
pub const MAX_STOPS: usize = 4;
/// The most completions of one request.
pub const MAX_CHOICES: u32 = 8;

/// An accepted request: its events, until [`ChatEvent::Done`] or an error.
/// Dropping it cancels the request.
#[derive(Debug)]
pub struct ChatStream {
    /// The adapter version that makes every token of this stream.
    pub adapter: Option<AdapterDigest>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The events, in order; bounded by the engine.
    pub events: tokio::sync::mpsc::Receiver<Result<ChatEvent, EngineError>>,
}

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// More text of one choice; never half a character.
    Delta {
        /// Which completion.
        choice: u32,
        /// The text, possibly empty when only calls or log-probabilities are new.
        text: String,
        /// More of the calls; their markup is no text.
        tool_calls: Vec<ToolCallDelta>,
        /// The tokens behind the text, where log-probabilities were asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// One choice has ended.
    Finished {
        /// Which completion.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// All choices have ended; nothing follows.
    Done {
        /// What the request cost.
        usage: Usage,
    },
}

/// A token of the answer with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token's text, with invalid UTF-8 replaced.
    pub text: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before sampling parameters.
    pub logprob: f32,
    /// The most likely tokens at this position: text, bytes, log-probability.
    pub top: Vec<(String, Vec<u8>, f32)>,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// The token limit or the context's end was reached.
    Length,
    /// As `Stop`, and functions were called.
    ToolCalls,
}

/// Tokens and times of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of all completions.
    pub completion_tokens: u32,
    /// Prompt tokens that a prefix cache spared.
    pub cached_tokens: u32,
    /// From the request's arrival to its first token.
    pub time_to_first_token: Duration,
}

/// An adapter version on its way into an engine: the two PEFT files.
#[derive(Clone)]
pub struct AdapterPackage {
    /// What the files' digest must be.
    pub digest: AdapterDigest,
    /// `adapter_config.json`.
    pub config_json: Bytes,
    /// `adapter_model.safetensors`.
    pub safetensors: Bytes,
}

impl std::fmt::Debug for AdapterPackage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterPackage")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// A resident adapter version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Which version.
    pub digest: AdapterDigest,
    /// Its largest rank.
    pub rank: u32,
    /// Memory that it holds.
    pub bytes: u64,
    /// Sequences that use it now.
    pub leases: u32,
    /// False once it was unloaded and only waits for its last sequence.
    pub accepts_requests: bool,
}

/// How full an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Capacity {
    /// Sequences in the running batch.
    pub running: u32,
    /// Sequences that wait.
    pub waiting: u32,
    /// The most sequences that may wait.
    pub waiting_max: u32,
    /// The most of them that may be one tenant's.
    pub waiting_per_tenant_max: u32,
    /// Tenants that have sequences waiting.
    pub waiting_tenants: u32,
    /// The most sequences in a batch.
    pub running_max: u32,
    /// Share of the key-value cache in use, 0 to 1.
    pub kv_cache_usage: f64,
    /// Tokens that it holds at most.
    pub kv_tokens_max: u64,
    /// Bytes that it has taken.
    pub kv_bytes: u64,
    /// The most bytes that it takes.
    pub kv_bytes_max: u64,
    /// Prompt tokens looked up in the prefix cache since the start.
    pub prefix_cache_queries_total: u64,
    /// Those of them that were found.
    pub prefix_cache_hits_total: u64,
    /// Sequences that lost their part of the cache to an older one since the
    /// start, and were computed again.
    pub preemptions_total: u64,
    /// Bytes that resident adapters hold.
    pub adapter_bytes: u64,
    /// The most bytes that adapters may hold.
    pub adapter_bytes_max: u64,
    /// Adapter versions that made room for others since the start.
    pub adapter_evictions_total: u64,
    /// Prompt tokens computed since the start.
    pub prompt_tokens_total: u64,
    /// Tokens generated since the start.
    pub generation_tokens_total: u64,
}

/// What a request can wait for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A place in the batch.
    Batch,
    /// Memory for its adapter, which other requests' adapters hold.
    AdapterMemory,
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Batch => "a place in the batch",
            Self::AdapterMemory => "memory for the adapter",
        })
    }
}

/// Why an engine refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The queue is full; try again later.
    #[error("the engine's queue is full: {waiting} of {waiting_max} places are taken")]
    QueueFull {
        /// Sequences that wait.
        waiting: u32,
        /// The most that may.
        waiting_max: u32,
    },
    /// The tenant has its share of the queue; try again later.
    #[error("{waiting} of this tenant's {waiting_max} places in the queue are taken")]
    TenantQueueFull {
        /// Sequences of the tenant that wait.
        waiting: u32,
        /// The most that may.
        waiting_max: u32,
    },
    /// Prompt and completion do not fit.
    #[error(
        "the prompt has {prompt_tokens} tokens and {max_tokens} are asked for, together more than the context of {context_length}"
    )]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Completion tokens asked for.
        max_tokens: u32,
        /// What there is room for.
        context_length: u32,
    },
    /// A parameter is outside its range.
    #[error("{param}: {reason}")]
    InvalidRequest {
        /// The parameter's name in OpenAI's API.
        param: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model does not look at images.
    #[error("the model {0} takes no images")]
    NoImages(String),
    /// No such adapter is resident.
    #[error("the adapter {0} is not loaded")]
    AdapterNotLoaded(AdapterDigest),
    /// The adapter's files are not usable with this base.
    #[error("the adapter cannot be used: {0}")]
    AdapterRejected(String),
    /// Not enough adapter memory is free.
    #[error("the adapter needs {needed} bytes and {free} of {budget} are free")]
    AdapterMemory {
        /// Bytes that the adapter needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The whole budget.
        budget: u64,
    },
    /// The images of others take the memory; try again later.
    #[error("the images need {needed} bytes, and {free} are free")]
    ImageMemory {
        /// Bytes that the request's images need.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The request waited for as long as it may.
    #[error("{wait} was not to be had within {} s", limit.as_secs_f64())]
    TimedOut {
        /// What it waited for.
        wait: Wait,
        /// How long it may.
        limit: Duration,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
    /// A step failed; the detail is for the log.
    #[error("the engine failed: {0}")]
    Failed(String),
}
