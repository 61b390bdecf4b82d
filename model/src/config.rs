//! A model's sizes and constants, read from GGUF metadata within limits.

use std::ops::Range;

use crate::ModelError;
use crate::architecture::{Architecture, Window};
use crate::gguf::{Gguf, Value};
use crate::projection::Projection;
use crate::rope::RopeConfig;

const LAYERS_MAX: usize = 1024;
const HIDDEN_SIZE_MAX: usize = 1 << 16;
const FFN_SIZE_MAX: usize = 1 << 18;
const HEADS_MAX: usize = 1024;
/// The most elements of a head.
pub(crate) const HEAD_DIM_MAX: usize = 1024;
const CONTEXT_LENGTH_MAX: usize = 1 << 22;
/// The most tokens in a vocabulary.
pub(crate) const VOCAB_SIZE_MAX: usize = 1 << 20;

/// A model's sizes and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// What kind of model it is.
    pub architecture: &'static Architecture,
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
    /// RoPE, of the layers that see all positions.
    pub rope: RopeConfig,
    /// The layers that see some of the last positions only.
    pub window: Option<SlidingWindow>,
    /// What the scores of keys are multiplied with.
    pub attention_scale: f32,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// Added to the mean square in RMS norms.
    pub rms_eps: f32,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The most positions that the model was made for.
    pub context_length: usize,
}

/// Layers that see some of the last positions only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlidingWindow {
    /// Positions that they see, the current one included.
    pub tokens: usize,
    /// Every so many layers, one sees all positions; none does without.
    pub global_every: Option<usize>,
    /// The base of their RoPE's frequencies, if it is another.
    pub rope_theta: Option<f32>,
}

impl ModelConfig {
    /// Reads the configuration of a file.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] for what is missing or contradicts itself,
    /// [`ModelError::Limit`] for sizes beyond reason.
    pub fn read(gguf: &Gguf) -> Result<Self, ModelError> {
        Self::read_with_vocab(gguf, vocab_size(gguf)?)
    }

    /// The same for metadata without a list of tokens.
    pub(crate) fn read_with_vocab(gguf: &Gguf, vocab_size: usize) -> Result<Self, ModelError> {
        check_vocab_size(vocab_size)?;
        let architecture = Architecture::of(gguf)?;
        let keys = Keys {
            gguf,
            prefix: architecture.gguf_name,
        };
        let hidden_size = keys.size("embedding_length", HIDDEN_SIZE_MAX)?;
        let head_count = keys.size("attention.head_count", HEADS_MAX)?;
        let kv_head_count = keys
            .optional_size("attention.head_count_kv", HEADS_MAX)?
            .unwrap_or(head_count);
        let head_dim = keys
            .optional_size("attention.key_length", HEAD_DIM_MAX)?
            .unwrap_or(hidden_size / head_count);
        let layer_count = keys.size("block_count", LAYERS_MAX)?;
        let hidden_per_head = hidden_size / head_count;
        let scaled = scale_size(architecture, layer_count, hidden_per_head, head_dim);
        let config = Self {
            architecture,
            layer_count,
            hidden_size,
            ffn_size: keys.size("feed_forward_length", FFN_SIZE_MAX)?,
            head_count,
            kv_head_count,
            head_dim,
            rope: rope(&keys, head_dim)?,
            window: window(&keys, architecture)?,
            attention_scale: keys.float("attention.scale", Some(1.0 / scaled.sqrt()))?,
            embedding_scale: if architecture.scales_embedding {
                (hidden_size as f32).sqrt()
            } else {
                1.0
            },
            rms_eps: keys.float("attention.layer_norm_rms_epsilon", None)?,
            vocab_size,
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
        let key = "attention.value_length";
        let size = keys.optional_size(key, HEAD_DIM_MAX)?;
        if size.is_some_and(|size| size != self.head_dim) {
            return Err(keys.wrong(key, "differs from the size of a head"));
        }
        if !self.rope.dims.is_multiple_of(2) || self.rope.dims > self.head_dim {
            return Err(keys.wrong("rope.dimension_count", "is odd or more than a head has"));
        }
        Ok(())
    }

    /// The sliding window of a layer, if it has one.
    #[must_use]
    pub fn window_of(&self, layer: usize) -> Option<&SlidingWindow> {
        let sees_all = |every: usize| (layer + 1).is_multiple_of(every);
        self.window
            .as_ref()
            .filter(|window| !window.global_every.is_some_and(sees_all))
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

    /// Output features of the published module that a projection is, or is a
    /// part of, and which of them are its own.
    #[must_use]
    pub fn rows_in_module(&self, projection: Projection) -> (usize, Range<usize>) {
        let alone = [projection];
        let fused = self.architecture.fused_with(projection);
        let parts = fused.map_or(&alone[..], |fused| fused.parts);
        let (mut start, mut all) = (0, 0);
        for part in parts {
            if *part == projection {
                start = all;
            }
            all += self.projection_shape(*part).0;
        }
        let own = self.projection_shape(projection).0;
        (all, start..start + own)
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

fn rope(keys: &Keys<'_>, head_dim: usize) -> Result<RopeConfig, ModelError> {
    let is_linear = keys
        .gguf
        .value(&keys.key("rope.scaling.type"))
        .and_then(Value::as_str)
        == Some("linear");
    Ok(RopeConfig {
        theta: keys.float("rope.freq_base", Some(10_000.0))?,
        dims: keys
            .optional_size("rope.dimension_count", HEAD_DIM_MAX)?
            .unwrap_or(head_dim),
        linear_factor: if is_linear {
            keys.float("rope.scaling.factor", None)?
        } else {
            1.0
        },
    })
}

fn window(
    keys: &Keys<'_>,
    architecture: &Architecture,
) -> Result<Option<SlidingWindow>, ModelError> {
    let key = "attention.sliding_window";
    // some files say 0 where there is none
    let none = keys.gguf.value(&keys.key(key)).and_then(Value::as_u64) == Some(0);
    let Some(tokens) = (if none {
        None
    } else {
        keys.optional_size(key, CONTEXT_LENGTH_MAX)?
    }) else {
        return Ok(None);
    };
    match architecture.window {
        Window::None => Err(keys.wrong(key, "is not supported for this architecture")),
        Window::EveryLayer => Ok(Some(SlidingWindow {
            tokens,
            global_every: None,
            rope_theta: None,
        })),
        Window::AllButEvery { layers, rope_theta } => Ok(Some(SlidingWindow {
            tokens,
            global_every: Some(
                keys.optional_size("attention.sliding_window_pattern", LAYERS_MAX)?
                    .unwrap_or(layers),
            ),
            rope_theta: Some(keys.float("rope.freq_base_swa", Some(rope_theta))?),
        })),
    }
}

/// What the root in the scale of scores is taken of, where the files do not say the
/// scale: the size of a head, but in
/// Gemma 3 27B, which the files do not say and which its 62 layers tell.
fn scale_size(
    architecture: &Architecture,
    layer_count: usize,
    hidden_per_head: usize,
    head_dim: usize,
) -> f32 {
    let is_gemma_27b = architecture.gguf_name == "gemma3" && layer_count == 62;
    #[expect(clippy::cast_precision_loss, reason = "at most HIDDEN_SIZE_MAX")]
    let size = if is_gemma_27b {
        hidden_per_head
    } else {
        head_dim
    } as f32;
    size
}

/// The vocabulary is as large as its list of tokens; a size that the metadata
/// gives besides must agree.
fn vocab_size(gguf: &Gguf) -> Result<usize, ModelError> {
    let tokens = gguf
        .required("tokenizer.ggml.tokens", Value::as_array)?
        .len();
    check_vocab_size(tokens)?;
    Ok(tokens)
}

fn check_vocab_size(tokens: usize) -> Result<(), ModelError> {
    if tokens == 0 || tokens > VOCAB_SIZE_MAX {
        let (found, max) = (tokens as u64, VOCAB_SIZE_MAX as u64);
        return Err(ModelError::Limit {
            what: "number of tokens in the vocabulary",
            found,
            max,
        });
    }
    Ok(())
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
