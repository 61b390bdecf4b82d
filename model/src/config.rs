//! A model's sizes and constants, read from GGUF metadata within limits.

use crate::ModelError;
use crate::architecture::Architecture;
use crate::gguf::{Gguf, Value};
use crate::projection::Projection;

const LAYERS_MAX: usize = 1024;
const HIDDEN_SIZE_MAX: usize = 1 << 16;
const FFN_SIZE_MAX: usize = 1 << 18;
const HEADS_MAX: usize = 1024;
const HEAD_DIM_MAX: usize = 1024;
const CONTEXT_LENGTH_MAX: usize = 1 << 22;
/// The most tokens in a vocabulary.
pub(crate) const VOCAB_SIZE_MAX: usize = 1 << 20;

/// A model's sizes and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// What kind of model it is.
    pub architecture: Architecture,
    /// Decoder layers.
    pub layer_count: usize,
    /// Elements of a token's state between layers.
    pub hidden_size: usize,
    /// Elements inside of the feed-forward block.
    pub ffn_size: usize,
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads; divides [`Self::head_count`].
    pub kv_head_count: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Base of RoPE's frequencies.
    pub rope_theta: f32,
    /// Added to the mean square in RMS norms.
    pub rms_eps: f32,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The most positions that the model was made for.
    pub context_length: usize,
}

impl ModelConfig {
    /// Reads the configuration of a file.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] for what is missing or contradicts itself,
    /// [`ModelError::Limit`] for sizes beyond reason.
    pub fn read(gguf: &Gguf) -> Result<Self, ModelError> {
        let architecture = Architecture::of(gguf)?;
        let keys = Keys {
            gguf,
            prefix: architecture.gguf_name(),
        };
        let hidden_size = keys.size("embedding_length", HIDDEN_SIZE_MAX)?;
        let head_count = keys.size("attention.head_count", HEADS_MAX)?;
        let kv_head_count = keys
            .optional_size("attention.head_count_kv", HEADS_MAX)?
            .unwrap_or(head_count);
        let head_dim = keys
            .optional_size("attention.key_length", HEAD_DIM_MAX)?
            .unwrap_or(hidden_size / head_count);
        let config = Self {
            architecture,
            layer_count: keys.size("block_count", LAYERS_MAX)?,
            hidden_size,
            ffn_size: keys.size("feed_forward_length", FFN_SIZE_MAX)?,
            head_count,
            kv_head_count,
            head_dim,
            rope_theta: keys.float("rope.freq_base", Some(10_000.0))?,
            rms_eps: keys.float("attention.layer_norm_rms_epsilon", None)?,
            vocab_size: vocab_size(gguf)?,
            context_length: keys.size("context_length", CONTEXT_LENGTH_MAX)?,
        };
        config.check(&keys)?;
        Ok(config)
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), ModelError> {
        if !self.head_count.is_multiple_of(self.kv_head_count) {
            return Err(keys.wrong("attention.head_count_kv", "does not divide the head count"));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) || self.head_dim > HEAD_DIM_MAX {
            return Err(keys.wrong("attention.key_length", "is odd or out of range"));
        }
        for key in ["attention.value_length", "rope.dimension_count"] {
            let size = keys.optional_size(key, HEAD_DIM_MAX)?;
            if size.is_some_and(|size| size != self.head_dim) {
                return Err(keys.wrong(key, "differs from the size of a head"));
            }
        }
        Ok(())
    }

    /// Elements of all query heads together.
    #[must_use]
    pub fn q_size(&self) -> usize {
        self.head_count * self.head_dim
    }

    /// Elements of all key heads together, and of all value heads.
    #[must_use]
    pub fn kv_size(&self) -> usize {
        self.kv_head_count * self.head_dim
    }

    /// Output and input features of a projection.
    #[must_use]
    pub fn projection_shape(&self, projection: Projection) -> (usize, usize) {
        match projection {
            Projection::Q => (self.q_size(), self.hidden_size),
            Projection::K | Projection::V => (self.kv_size(), self.hidden_size),
            Projection::O => (self.hidden_size, self.q_size()),
            Projection::Gate | Projection::Up => (self.ffn_size, self.hidden_size),
            Projection::Down => (self.hidden_size, self.ffn_size),
        }
    }
}

/// The vocabulary is as large as its list of tokens; a size that the metadata
/// gives besides must agree.
fn vocab_size(gguf: &Gguf) -> Result<usize, ModelError> {
    let tokens = gguf
        .required("tokenizer.ggml.tokens", Value::as_array)?
        .len();
    if tokens == 0 || tokens > VOCAB_SIZE_MAX {
        let (found, max) = (tokens as u64, VOCAB_SIZE_MAX as u64);
        return Err(ModelError::Limit {
            what: "number of tokens in the vocabulary",
            found,
            max,
        });
    }
    Ok(tokens)
}

/// The metadata of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn wrong(&self, name: &str, problem: &'static str) -> ModelError {
        ModelError::Metadata {
            key: self.key(name),
            problem,
        }
    }

    fn size(&self, name: &str, max: usize) -> Result<usize, ModelError> {
        self.optional_size(name, max)?
            .ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn optional_size(&self, name: &str, max: usize) -> Result<Option<usize>, ModelError> {
        let in_range = |value: &Value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            (1..=max).contains(&size).then_some(size)
        };
        self.gguf.optional(&self.key(name), in_range)
    }

    fn float(&self, name: &str, default: Option<f32>) -> Result<f32, ModelError> {
        #[expect(clippy::cast_possible_truncation, reason = "the file has it as f32")]
        let positive =
            |value: &Value| Some(value.as_f64()? as f32).filter(|v| v.is_finite() && *v > 0.0);
        self.gguf
            .optional(&self.key(name), positive)?
            .or(default)
            .ok_or_else(|| self.wrong(name, "is missing"))
    }
}
