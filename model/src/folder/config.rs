//! `config.json` as the metadata that a GGUF file of the model would have.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::wrong;
use crate::ModelError;
use crate::architecture::Architecture;
use crate::gguf::{Gguf, Value};

/// Architectures whose published tensors are known here.
const SUPPORTED: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// Keys of `config.json`, and their names in GGUF.
const SIZES: [(&str, &str); 7] = [
    ("num_hidden_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
];

/// What `config.json` says that a GGUF file says elsewhere or not at all.
pub(super) struct FolderConfig {
    /// The same as GGUF metadata.
    pub(super) metadata: Gguf,
    /// Rows of the embedding.
    pub(super) vocab_size: usize,
    /// Whether the head is the embedding.
    pub(super) tied: bool,
    /// How Llama 3 scales RoPE's frequencies.
    pub(super) llama3: Option<Llama3Scaling>,
    pub(super) eos: Option<u32>,
    pub(super) bos: Option<u32>,
}

/// The parameters of `rope_type: llama3`.
pub(super) struct Llama3Scaling {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original_positions: f64,
}

impl Llama3Scaling {
    /// What each frequency is divided by: slow ones by the whole factor, fast
    /// ones by nothing, those between by something between.
    pub(super) fn factors(&self, frequencies: &[f32]) -> Vec<f32> {
        let of = |frequency: &f32| {
            let wavelength = std::f64::consts::TAU / f64::from(*frequency);
            let turns = self.original_positions / wavelength;
            if turns < self.low_freq_factor {
                return self.factor;
            }
            if turns > self.high_freq_factor {
                return 1.0;
            }
            let span = self.high_freq_factor - self.low_freq_factor;
            let smooth = (turns - self.low_freq_factor) / span;
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        };
        #[expect(clippy::cast_possible_truncation, reason = "computed with in f32")]
        frequencies.iter().map(|f| of(f) as f32).collect()
    }
}

pub(super) fn read(json: &Map<String, Json>) -> Result<FolderConfig, ModelError> {
    let kind = json.get("model_type").and_then(Json::as_str).unwrap_or("");
    let kind = if kind == "mistral" { "llama" } else { kind };
    let architecture = Architecture::named(kind).filter(|_| SUPPORTED.contains(&kind));
    let Some(architecture) = architecture else {
        return Err(ModelError::UnsupportedArchitecture(
            kind.chars().take(64).collect(),
        ));
    };
    let prefix = architecture.gguf_name;
    let mut metadata = HashMap::from([(
        "general.architecture".to_owned(),
        Value::String(prefix.into()),
    )]);
    let mut set = |name: &str, value| metadata.insert(format!("{prefix}.{name}"), value);
    for (ours, theirs) in SIZES {
        if let Some(value) = present(json, ours) {
            let size = value.as_u64().ok_or_else(|| wrong(ours, "is no size"))?;
            set(theirs, Value::Unsigned(size));
        }
    }
    let epsilon = number(json, "rms_norm_eps")?;
    set("attention.layer_norm_rms_epsilon", Value::Float(epsilon));
    if uses_window(json) {
        let tokens = present(json, "sliding_window").and_then(Json::as_u64);
        let tokens = tokens.ok_or_else(|| wrong("sliding_window", "is no size"))?;
        set("attention.sliding_window", Value::Unsigned(tokens));
    }
    let rope = rope(json)?;
    set("rope.freq_base", Value::Float(theta(json, rope)?));
    let mut llama3 = None;
    match rope.and_then(|rope| rope_type(rope)) {
        None | Some("default") => {}
        Some("linear") => {
            let factor = number(rope.unwrap_or(json), "factor")?;
            set("rope.scaling.type", Value::String("linear".into()));
            set("rope.scaling.factor", Value::Float(factor));
        }
        Some("llama3") => llama3 = Some(read_llama3(rope.unwrap_or(json))?),
        Some(_) => return Err(wrong("rope_type", "is none of default, linear and llama3")),
    }
    for (key, supported) in [("hidden_act", "silu"), ("quantization_config", "")] {
        if present(json, key).is_some_and(|value| value != supported) {
            return Err(wrong(key, "is not supported"));
        }
    }
    let id = |key: &str| {
        let value = present(json, key)?;
        let id = value.as_array().map_or(Some(value), |ids| ids.first())?;
        u32::try_from(id.as_u64()?).ok()
    };
    let vocab = present(json, "vocab_size").and_then(Json::as_u64);
    Ok(FolderConfig {
        metadata: Gguf::of_metadata(metadata),
        vocab_size: vocab
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| wrong("vocab_size", "is no size"))?,
        tied: present(json, "tie_word_embeddings")
            .and_then(Json::as_bool)
            .unwrap_or(false),
        llama3,
        eos: id("eos_token_id"),
        bos: id("bos_token_id"),
    })
}

/// The value at `key`, unless it is null.
fn present<'a>(map: &'a Map<String, Json>, key: &str) -> Option<&'a Json> {
    map.get(key).filter(|value| !value.is_null())
}

fn number(map: &Map<String, Json>, key: &'static str) -> Result<f64, ModelError> {
    let value = present(map, key).and_then(Json::as_f64);
    value.ok_or_else(|| wrong(key, "is no number"))
}

/// Qwen2's files name a window and say beside it that it is not used.
fn uses_window(json: &Map<String, Json>) -> bool {
    let unused = present(json, "use_sliding_window").and_then(Json::as_bool) == Some(false);
    present(json, "sliding_window").is_some() && !unused
}

/// RoPE's parameters by their new or their old name.
fn rope(json: &Map<String, Json>) -> Result<Option<&Map<String, Json>>, ModelError> {
    let found = present(json, "rope_parameters").or_else(|| present(json, "rope_scaling"));
    let is_object = |value: &'_ Json| value.is_object();
    match found {
        Some(value) if !is_object(value) => Err(wrong("rope_scaling", "is no object")),
        other => Ok(other.and_then(Json::as_object)),
    }
}

fn rope_type(rope: &Map<String, Json>) -> Option<&str> {
    let found = present(rope, "rope_type").or_else(|| present(rope, "type"))?;
    Some(found.as_str().unwrap_or("unknown"))
}

fn theta(json: &Map<String, Json>, rope: Option<&Map<String, Json>>) -> Result<f64, ModelError> {
    let key = "rope_theta";
    match rope.filter(|rope| rope.contains_key(key)) {
        Some(rope) => number(rope, key),
        None if present(json, key).is_none() => Ok(10_000.0),
        None => number(json, key),
    }
}

fn read_llama3(rope: &Map<String, Json>) -> Result<Llama3Scaling, ModelError> {
    let scaling = Llama3Scaling {
        factor: number(rope, "factor")?,
        low_freq_factor: number(rope, "low_freq_factor")?,
        high_freq_factor: number(rope, "high_freq_factor")?,
        original_positions: number(rope, "original_max_position_embeddings")?,
    };
    let fine = scaling.factor >= 1.0
        && scaling.low_freq_factor > 0.0
        && scaling.high_freq_factor > scaling.low_freq_factor
        && scaling.original_positions >= 1.0;
    if fine {
        Ok(scaling)
    } else {
        Err(wrong("rope_scaling", "has values out of range"))
    }
}
