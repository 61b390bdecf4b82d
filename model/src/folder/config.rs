//! `config.json` as the metadata that a GGUF file of the model would have.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::{parse, wrong};
use crate::ModelError;
use crate::architecture::{Activation, Architecture, Window};
use crate::config::HEAD_DIM_MAX;
use crate::gguf::{Gguf, Value};

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

/// Kinds of layers in `layer_types`.
const FULL: &str = "full_attention";
const WINDOWED: &str = "sliding_attention";
/// Where a model that sees pictures too has the values of its text part.
const TEXT_PART: &str = "text_config";
/// What nothing here computes; false and null are fine.
const UNSUPPORTED: [&str; 5] = [
    "quantization_config",
    "use_bidirectional_attention",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "mlp_bias",
];

/// What `config.json` says that a GGUF file says elsewhere or not at all.
pub(super) struct FolderConfig {
    /// The same as GGUF metadata.
    pub(super) metadata: Gguf,
    /// Rows of the embedding.
    pub(super) vocab_size: usize,
    /// Whether the head is the embedding.
    pub(super) tied: bool,
    /// Whether it is the text part of a model that sees pictures too.
    pub(super) is_text_part: bool,
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
    let Some(architecture) = Architecture::of_model_type(kind) else {
        return Err(ModelError::UnsupportedArchitecture(
            kind.chars().take(64).collect(),
        ));
    };
    let is_text_part = json.contains_key(TEXT_PART);
    let json = &with_defaults(json, architecture)?;
    let prefix = architecture.gguf_name;
    let mut metadata = HashMap::from([(
        "general.architecture".to_owned(),
        Value::String(prefix.into()),
    )]);
    let mut set = |name: &str, value| metadata.insert(format!("{prefix}.{name}"), value);
    for (ours, theirs) in SIZES {
        if let Some(size) = size(json, ours)? {
            set(theirs, Value::Unsigned(size));
        }
    }
    let epsilon = number(json, "rms_norm_eps")?;
    set("attention.layer_norm_rms_epsilon", Value::Float(epsilon));
    if present(json, "query_pre_attn_scalar").is_some() {
        let scalar = number(json, "query_pre_attn_scalar")?;
        set("attention.scale", Value::Float(1.0 / scalar.sqrt()));
    }
    if uses_window(json) {
        let tokens = size(json, "sliding_window")?;
        set(
            "attention.sliding_window",
            Value::Unsigned(tokens.unwrap_or(0)),
        );
        if let Window::AllButEvery { .. } = architecture.window
            && let Some(every) = window_pattern(json)?
        {
            set("attention.sliding_window_pattern", Value::Unsigned(every));
        }
    }
    let ropes = Ropes::read(json, architecture)?;
    let rope = ropes.all;
    set(
        "rope.freq_base",
        Value::Float(theta(json, rope, ropes.theta)?),
    );
    if let Window::AllButEvery { rope_theta, .. } = architecture.window {
        let theta = ropes.windowed_theta(json, f64::from(rope_theta))?;
        set("rope.freq_base_swa", Value::Float(theta));
    }
    if let Some(dims) = rotated(json, rope)? {
        set("rope.dimension_count", Value::Unsigned(dims));
    }
    let mut llama3 = None;
    match rope.and_then(|rope| rope_type(rope)) {
        None | Some("default") => {}
        Some("linear") => {
            let factor = number(rope.unwrap_or(json), "factor")?;
            set("rope.scaling.type", Value::String("linear".into()));
            set("rope.scaling.factor", Value::Float(factor));
        }
        Some("llama3") => llama3 = Some(read_llama3(rope.unwrap_or(json))?),
        // Phi-3's first files have its older names
        Some("longrope" | "su") => return Err(wrong("rope_type", "LongRoPE is not supported")),
        Some(_) => return Err(wrong("rope_type", "is none of default, linear and llama3")),
    }
    let activation = match architecture.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    for key in ["hidden_act", "hidden_activation"] {
        if present(json, key).is_some_and(|value| value != activation) {
            return Err(wrong(key, "is not supported"));
        }
    }
    for key in UNSUPPORTED {
        if present(json, key).is_some_and(|value| *value != false) {
            return Err(wrong(key, "is not supported"));
        }
    }
    let id = |key: &str| {
        let value = present(json, key)?;
        let id = value.as_array().map_or(Some(value), |ids| ids.first())?;
        u32::try_from(id.as_u64()?).ok()
    };
    let vocab = size(json, "vocab_size")?;
    Ok(FolderConfig {
        metadata: Gguf::of_metadata(metadata),
        vocab_size: vocab
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| wrong("vocab_size", "is no size"))?,
        tied: present(json, "tie_word_embeddings")
            .and_then(Json::as_bool)
            .unwrap_or(false),
        is_text_part,
        llama3,
        eos: id("eos_token_id"),
        bos: id("bos_token_id"),
    })
}

/// The values, with those that are left out. Where there is a text part, what both
/// have is the text part's.
fn with_defaults(
    json: &Map<String, Json>,
    architecture: &Architecture,
) -> Result<Map<String, Json>, ModelError> {
    let mut values = parse("config.json", architecture.published_defaults.as_bytes())?;
    values.extend(json.clone());
    if let Some(Json::Object(text)) = values.remove(TEXT_PART) {
        values.extend(text);
    }
    Ok(values)
}

/// The value at `key`, unless it is null.
fn present<'a>(map: &'a Map<String, Json>, key: &str) -> Option<&'a Json> {
    map.get(key).filter(|value| !value.is_null())
}

fn size(map: &Map<String, Json>, key: &'static str) -> Result<Option<u64>, ModelError> {
    let read = |value: &Json| value.as_u64().ok_or_else(|| wrong(key, "is no size"));
    present(map, key).map(read).transpose()
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

/// Every so many layers, one sees all positions, where the file says it; the
/// others must all see a window.
fn window_pattern(json: &Map<String, Json>) -> Result<Option<u64>, ModelError> {
    let key = "layer_types";
    let Some(types) = present(json, key) else {
        let older = size(json, "sliding_window_pattern")?;
        return Ok(older.or(size(json, "_sliding_window_pattern")?));
    };
    let types = types.as_array().ok_or_else(|| wrong(key, "is no list"))?;
    let first = types.iter().position(|kind| kind == FULL);
    let every = first.map_or(types.len() + 1, |first| first + 1);
    let expected = |no: usize| match (no + 1).is_multiple_of(every) {
        true => FULL,
        false => WINDOWED,
    };
    let regular = types
        .iter()
        .enumerate()
        .all(|(no, kind)| *kind == expected(no));
    if !regular || size(json, "num_hidden_layers")? != Some(types.len() as u64) {
        return Err(wrong(
            key,
            "is not one of all positions every so many layers",
        ));
    }
    Ok(Some(every as u64))
}

/// RoPE's parameters, of all layers or of both kinds.
struct Ropes<'a> {
    /// Of the layers that see all positions.
    all: Option<&'a Map<String, Json>>,
    /// Of the others, in the newer form.
    windowed: Option<&'a Map<String, Json>>,
    /// The base where the file does not say it.
    theta: f64,
}

impl<'a> Ropes<'a> {
    fn read(json: &'a Map<String, Json>, architecture: &Architecture) -> Result<Self, ModelError> {
        let all = rope(json)?;
        if !matches!(architecture.window, Window::AllButEvery { .. }) {
            return Ok(Self {
                all,
                windowed: None,
                theta: 10_000.0,
            });
        }
        // the older form has the parameters of the layers that see all
        let part = |kind| all.and_then(|all| present(all, kind)).map(Json::as_object);
        let (full, windowed) = (part(FULL), part(WINDOWED));
        if matches!(full, Some(None)) || matches!(windowed, Some(None)) {
            return Err(wrong("rope_parameters", "has a part that is no object"));
        }
        let is_newer = full.is_some() || windowed.is_some();
        Ok(Self {
            all: if is_newer { full.flatten() } else { all },
            windowed: windowed.flatten(),
            theta: 1_000_000.0,
        })
    }

    /// The base of the layers that see a window; they have no scaling.
    fn windowed_theta(&self, json: &Map<String, Json>, default: f64) -> Result<f64, ModelError> {
        let scaling = self.windowed.and_then(rope_type);
        if scaling.is_some_and(|kind| kind != "default") {
            return Err(wrong("rope_type", "of windowed layers is not default"));
        }
        let older = "rope_local_base_freq";
        match self.windowed {
            Some(rope) if rope.contains_key("rope_theta") => number(rope, "rope_theta"),
            _ if present(json, older).is_some() => number(json, older),
            _ => Ok(default),
        }
    }
}

/// How many elements of each head are rotated, where it is a part of them.
fn rotated(
    json: &Map<String, Json>,
    rope: Option<&Map<String, Json>>,
) -> Result<Option<u64>, ModelError> {
    let key = "partial_rotary_factor";
    let map = rope.filter(|rope| rope.contains_key(key)).unwrap_or(json);
    if present(map, key).is_none() {
        return Ok(None);
    }
    let factor = number(map, key)?;
    let (hidden, heads) = (
        size(json, "hidden_size")?,
        size(json, "num_attention_heads")?,
    );
    let by_heads = hidden.zip(heads.filter(|heads| *heads > 0));
    let head = size(json, "head_dim")?.or(by_heads.map(|(hidden, heads)| hidden / heads));
    let head = head.filter(|head| *head <= HEAD_DIM_MAX as u64);
    let Some(head) = head.filter(|_| factor > 0.0 && factor <= 1.0) else {
        return Err(wrong(key, "is not above 0 and at most 1"));
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "as it is published: cut, of a small number"
    )]
    let dims = (head as f64 * factor) as u64;
    Ok(Some(dims))
}

/// RoPE's parameters by their new or their old name.
fn rope(json: &Map<String, Json>) -> Result<Option<&Map<String, Json>>, ModelError> {
    let found = present(json, "rope_parameters").or_else(|| present(json, "rope_scaling"));
    match found {
        Some(value) if !value.is_object() => Err(wrong("rope_scaling", "is no object")),
        other => Ok(other.and_then(Json::as_object)),
    }
}

fn rope_type(rope: &Map<String, Json>) -> Option<&str> {
    let found = present(rope, "rope_type").or_else(|| present(rope, "type"))?;
    Some(found.as_str().unwrap_or("unknown"))
}

fn theta(
    json: &Map<String, Json>,
    rope: Option<&Map<String, Json>>,
    default: f64,
) -> Result<f64, ModelError> {
    let key = "rope_theta";
    match rope.filter(|rope| rope.contains_key(key)) {
        Some(rope) => number(rope, key),
        None if present(json, key).is_none() => Ok(default),
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
