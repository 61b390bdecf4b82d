//! `adapter_config.json` as PEFT reads and writes it.
//!
//! What changes the result and is not computed here is refused by its name;
//! what only concerned the training is ignored.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::pattern::{PATTERNS_MAX, Pattern};
use super::{LoraConfig, LoraError, ModuleId, RANK_MAX};
use crate::config::ModelConfig;
use crate::projection::Projection;

/// Parts of PEFT that change what an adapter computes.
const UNSUPPORTED: [&str; 17] = [
    "alora_invocation_tokens",
    "arrow_config",
    "exclude_modules",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];
/// Initializations that leave the base as it is; others change its weights.
const HARMLESS_INIT: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// A configuration, before it is known which modules the model has.
pub(super) struct PeftConfig {
    pub(super) lora: LoraConfig,
    targets: Targets,
    layers: Option<BTreeSet<u64>>,
}

/// How a configuration names its modules.
enum Targets {
    AllLinear,
    /// By the ends of their paths.
    Ends(HashSet<String>),
    /// By an expression over their paths.
    Pattern(Pattern),
}

fn wrong(key: &'static str, problem: &'static str) -> LoraError {
    LoraError::ConfigValue { key, problem }
}

impl PeftConfig {
    pub(super) fn parse(json: &[u8]) -> Result<Self, LoraError> {
        let map: Map<String, Value> =
            serde_json::from_slice(json).map_err(|e| LoraError::Config(e.to_string()))?;
        check_supported(&map)?;
        let targets = targets(&map)?;
        let layers = layers(&map)?;
        if layers.is_some() && !matches!(targets, Targets::Ends(_)) {
            return Err(wrong(
                "layers_to_transform",
                "goes with a list of target_modules only",
            ));
        }
        let use_rslora = match present(&map, "use_rslora") {
            None => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| wrong("use_rslora", "is no boolean"))?,
        };
        let name = present(&map, "base_model_name_or_path").and_then(Value::as_str);
        let rank = map.get("r").ok_or_else(|| wrong("r", "is missing"))?;
        let alpha = map
            .get("lora_alpha")
            .ok_or_else(|| wrong("lora_alpha", "is missing"))?;
        let lora = LoraConfig {
            rank: read_rank(rank)?,
            alpha: read_float("lora_alpha", alpha)?,
            dropout: match present(&map, "lora_dropout") {
                None => 0.0,
                Some(value) => Some(read_float("lora_dropout", value)?)
                    .filter(|dropout| (0.0..1.0).contains(dropout))
                    .ok_or_else(|| wrong("lora_dropout", "is not from 0 to below 1"))?,
            },
            use_rslora,
            rank_pattern: patterns(&map, "rank_pattern", |_, value| read_rank(value))?,
            alpha_pattern: patterns(&map, "alpha_pattern", read_float)?,
            target: Vec::new(),
            base_model_name_or_path: name.map(str::to_owned),
        };
        Ok(Self {
            lora,
            targets,
            layers,
        })
    }

    /// The modules of `model` that the configuration names.
    pub(super) fn targeted(&self, model: &ModelConfig) -> Result<BTreeSet<ModuleId>, LoraError> {
        let mut found = BTreeSet::new();
        for id in ModuleId::all(model) {
            let in_layer = self
                .layers
                .as_ref()
                .is_none_or(|l| l.contains(&(id.layer as u64)));
            if in_layer && self.targets.name(&id.peft_path(model.architecture))? {
                found.insert(id);
            }
        }
        if found.is_empty() {
            Err(LoraError::NoModule)
        } else {
            Ok(found)
        }
    }
}

impl Targets {
    fn name(&self, path: &str) -> Result<bool, LoraError> {
        match self {
            Self::AllLinear => Ok(true),
            Self::Pattern(pattern) => pattern.matches(path),
            Self::Ends(ends) => {
                let after_dots = path.match_indices('.').map(|(at, _)| &path[at + 1..]);
                Ok(std::iter::once(path)
                    .chain(after_dots)
                    .any(|end| ends.contains(end)))
            }
        }
    }
}

/// The value at `key`, unless it is null.
fn present<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn check_supported(map: &Map<String, Value>) -> Result<(), LoraError> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Number(_) => false,
    };
    if let Some(key) = UNSUPPORTED
        .iter()
        .find(|key| !map.get(**key).is_none_or(empty))
    {
        return Err(LoraError::Unsupported {
            feature: (*key).to_owned(),
        });
    }
    let only = |key: &'static str, fine: bool| match map.get(key) {
        _ if fine => Ok(()),
        Some(Value::String(value)) => {
            let value: String = value.chars().take(64).collect();
            Err(LoraError::Unsupported {
                feature: format!("{key} {value:?}"),
            })
        }
        _ => Err(wrong(key, "is missing or no text")),
    };
    let text = |key: &str| present(map, key).map(|value| value.as_str().unwrap_or_default());
    only("peft_type", text("peft_type") == Some("LORA"))?;
    only(
        "task_type",
        matches!(text("task_type"), None | Some("CAUSAL_LM")),
    )?;
    only("bias", matches!(text("bias"), None | Some("none")))?;
    let init = present(map, "init_lora_weights");
    let harmless = |value: &Value| {
        value.is_boolean() || value.as_str().is_some_and(|v| HARMLESS_INIT.contains(&v))
    };
    only("init_lora_weights", init.is_none_or(harmless))
}

fn targets(map: &Map<String, Value>) -> Result<Targets, LoraError> {
    let key = "target_modules";
    match present(map, key) {
        None => Err(LoraError::NoModule),
        Some(Value::String(all)) if all == "all-linear" => Ok(Targets::AllLinear),
        Some(Value::String(pattern)) => Ok(Targets::Pattern(Pattern::full(key, pattern)?)),
        Some(Value::Array(names)) if names.len() <= PATTERNS_MAX => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            let ends = names.collect::<Option<_>>();
            Ok(Targets::Ends(ends.ok_or_else(|| {
                wrong(key, "has something that is no text")
            })?))
        }
        Some(_) => Err(wrong(
            key,
            "is neither a text nor a list of reasonable length",
        )),
    }
}

fn layers(map: &Map<String, Value>) -> Result<Option<BTreeSet<u64>>, LoraError> {
    let known_pattern = match present(map, "layers_pattern") {
        None => true,
        Some(Value::String(name)) => matches!(name.as_str(), "" | "layers"),
        Some(Value::Array(names)) => names.iter().all(|name| name == "layers"),
        Some(_) => false,
    };
    if !known_pattern {
        return Err(wrong("layers_pattern", "names no layers of this model"));
    }
    let key = "layers_to_transform";
    let problem = "is neither a layer nor a list of layers";
    match present(map, key) {
        None => Ok(None),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(Value::Array(list)) => {
            let layers = list.iter().map(Value::as_u64).collect::<Option<_>>();
            layers.ok_or_else(|| wrong(key, problem)).map(Some)
        }
        Some(value) => {
            let layer = value.as_u64().ok_or_else(|| wrong(key, problem))?;
            Ok(Some(BTreeSet::from([layer])))
        }
    }
}

fn read_rank(value: &Value) -> Result<usize, LoraError> {
    let found = value
        .as_u64()
        .ok_or_else(|| wrong("r", "or a rank_pattern is no whole number"))?;
    match usize::try_from(found) {
        Ok(rank) if (1..=RANK_MAX).contains(&rank) => Ok(rank),
        _ => Err(LoraError::Rank {
            found,
            max: RANK_MAX,
        }),
    }
}

fn read_float(key: &'static str, value: &Value) -> Result<f32, LoraError> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "PEFT computes with f32 too"
    )]
    let float = value.as_f64().map(|value| value as f32);
    float
        .filter(|v| v.is_finite())
        .ok_or_else(|| wrong(key, "is no finite number"))
}

fn patterns<T>(
    map: &Map<String, Value>,
    key: &'static str,
    read: impl Fn(&'static str, &Value) -> Result<T, LoraError>,
) -> Result<Vec<(String, T)>, LoraError> {
    match present(map, key) {
        None => Ok(Vec::new()),
        Some(Value::Object(entries)) => entries
            .iter()
            .map(|(name, value)| Ok((name.clone(), read(key, value)?)))
            .collect(),
        Some(_) => Err(wrong(key, "is no object")),
    }
}

/// What is written, in PEFT's order of keys.
#[derive(Serialize)]
struct PeftConfigFile<'a> {
    alpha_pattern: Map<String, Value>,
    base_model_name_or_path: Option<&'a str>,
    bias: &'static str,
    fan_in_fan_out: bool,
    inference_mode: bool,
    init_lora_weights: bool,
    layers_pattern: Option<&'static str>,
    layers_to_transform: Option<Vec<u64>>,
    lora_alpha: Value,
    lora_dropout: Value,
    modules_to_save: Option<Vec<String>>,
    peft_type: &'static str,
    r: usize,
    rank_pattern: Map<String, Value>,
    target_modules: Vec<String>,
    task_type: &'static str,
    use_dora: bool,
    use_rslora: bool,
}

/// `adapter_config.json` of an adapter with exactly these modules.
pub(super) fn write<'a>(
    config: &LoraConfig,
    modules: impl Iterator<Item = &'a ModuleId>,
    model: &ModelConfig,
) -> Result<Vec<u8>, LoraError> {
    let ranks = config
        .rank_pattern
        .iter()
        .map(|(p, rank)| (p.clone(), Value::from(*rank)));
    let alphas = config
        .alpha_pattern
        .iter()
        .map(|(p, alpha)| (p.clone(), number(*alpha)));
    let file = PeftConfigFile {
        alpha_pattern: alphas.collect(),
        base_model_name_or_path: config.base_model_name_or_path.as_deref(),
        bias: "none",
        fan_in_fan_out: false,
        inference_mode: true,
        init_lora_weights: true,
        layers_pattern: None,
        layers_to_transform: None,
        lora_alpha: number(config.alpha),
        lora_dropout: number(config.dropout),
        modules_to_save: None,
        peft_type: "LORA",
        r: config.rank,
        rank_pattern: ranks.collect(),
        target_modules: target_modules(modules, model),
        task_type: "CAUSAL_LM",
        use_dora: false,
        use_rslora: config.use_rslora,
    };
    let mut json =
        serde_json::to_vec_pretty(&file).map_err(|e| LoraError::Config(e.to_string()))?;
    json.push(b'\n');
    Ok(json)
}

/// The short names where each names its projection in all layers, else the
/// paths of all modules.
fn target_modules<'a>(
    modules: impl Iterator<Item = &'a ModuleId>,
    model: &ModelConfig,
) -> Vec<String> {
    let architecture = model.architecture;
    let modules: BTreeSet<ModuleId> = modules.copied().collect();
    let projections: BTreeSet<Projection> = modules.iter().map(|id| id.projection).collect();
    let mut names: Vec<String> = if modules.len() == projections.len() * model.layer_count {
        let leaves = projections.into_iter().map(|p| architecture.peft_leaf(p));
        leaves.map(str::to_owned).collect()
    } else {
        let paths = modules.into_iter().map(|id| id.peft_path(architecture));
        paths.collect()
    };
    // parts of one module are neighbours
    names.dedup();
    names
}

/// A number as short as it reads back to the same f32; whole ones without a point.
fn number(value: f32) -> Value {
    let shortest = value.to_string();
    let whole = shortest.parse::<i64>().ok().map(Number::from);
    let fraction = || shortest.parse::<f64>().ok().and_then(Number::from_f64);
    whole.or_else(fraction).map_or(Value::Null, Value::Number)
}
