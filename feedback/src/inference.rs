//! One answer as it was made: what was asked, what was said, and by which
//! adapter version.

use std::collections::BTreeMap;

use ids::{AdapterDigest, BaseDigest, InferenceId, ModelName, Sha256Digest, UnitId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::FeedbackError;

/// The longest answer with its prompt and metadata, as JSON text.
pub const INFERENCE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` and the like.
    pub role: String,
    /// The text.
    pub content: String,
    /// The images that stood in it. Their bytes are not kept, so that nothing can
    /// be learned of an answer to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<MessageImage>,
}

impl Message {
    /// A message of text alone.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            images: Vec::new(),
        }
    }
}

/// That an image was in a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageImage {
    /// The digest of its bytes as they were sent.
    pub digest: Sha256Digest,
    /// How many they were.
    pub bytes: u64,
    /// For example `image/png`.
    pub media_type: String,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inference {
    /// What votes name.
    pub id: InferenceId,
    /// When it was made.
    pub created: UnixMillis,
    /// The model as the request named it.
    pub model: String,
    /// The rollout that routed it; none where the request pinned a version.
    pub rollout: Option<ModelName>,
    /// `stable` or `canary`; none where the request pinned a version.
    pub arm: Option<String>,
    /// The unit that was assigned.
    pub unit: Option<UnitId>,
    /// The adapter version that answered; none is the bare base.
    pub adapter: Option<AdapterDigest>,
    /// The base model.
    pub base: BaseDigest,
    /// What was asked.
    pub messages: Vec<Message>,
    /// What was said.
    pub answer: String,
    /// Why it ended.
    pub finish_reason: String,
    /// Length of the prompt.
    pub prompt_tokens: u32,
    /// Length of the answer.
    pub completion_tokens: u32,
    /// The sampling seed.
    pub seed: u64,
    /// The request's metadata.
    pub metadata: BTreeMap<String, String>,
}

impl Inference {
    /// Whether an image was in what was asked.
    #[must_use]
    pub fn has_images(&self) -> bool {
        self.messages
            .iter()
            .any(|message| !message.images.is_empty())
    }
}

pub(crate) fn to_text(inference: &Inference) -> Result<String, FeedbackError> {
    let corrupt = |_| FeedbackError::Corrupt {
        what: "inference",
        id: inference.id.to_string(),
    };
    let text = serde_json::to_string(inference).map_err(corrupt)?;
    if text.len() > INFERENCE_BYTES_MAX {
        return Err(FeedbackError::InferenceTooLarge {
            bytes: text.len(),
            bytes_max: INFERENCE_BYTES_MAX,
        });
    }
    Ok(text)
}

pub(crate) fn from_text(id: &InferenceId, text: &str) -> Result<Inference, FeedbackError> {
    serde_json::from_str(text).map_err(|_| FeedbackError::Corrupt {
        what: "inference",
        id: id.to_string(),
    })
}
