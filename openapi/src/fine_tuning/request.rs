//! `POST /v1/fine_tuning/jobs`: what is asked.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ids::FileId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::job::Hyper;
use crate::RequestError;
use crate::error::code;
use crate::fields::{Fields, text_of, wrong_type, wrong_value};

/// The longest names of models.
const NAME_BYTES_MAX: usize = 512;
/// The longest suffix, as in OpenAI's API.
const SUFFIX_CHARS_MAX: usize = 64;
/// Limits of metadata, as in OpenAI's API.
const METADATA_MAX: usize = 16;
const METADATA_KEY_CHARS_MAX: usize = 64;
const METADATA_VALUE_BYTES_MAX: usize = 512;
/// Limits of hyperparameters; of epochs the trainer's own.
const EPOCHS: RangeInclusive<i64> = 1..=8;
const BATCH: RangeInclusive<i64> = 1..=256;
const MULTIPLIER: RangeInclusive<f64> = 1e-4..=100.0;
const BETA: RangeInclusive<f64> = 1e-3..=2.0;

/// What is learned from the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FineTuningMethodKind {
    /// Answers are imitated.
    Supervised,
    /// One answer is preferred to another.
    Dpo,
}

/// A job that is asked for, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct FineTuningRequest {
    /// The model to tune.
    pub model: String,
    /// What it learns from.
    pub training_file: FileId,
    /// What it is judged by.
    pub validation_file: Option<FileId>,
    /// What is learned.
    pub method: FineTuningMethodKind,
    /// Passes over the data; none is the trainer's choice.
    pub n_epochs: Option<u32>,
    /// Examples of one optimizer step.
    pub batch_size: Option<u32>,
    /// Multiplies the trainer's learning rate.
    pub learning_rate_multiplier: Option<f64>,
    /// DPO's β.
    pub beta: Option<f64>,
    /// Part of the outcome's name.
    pub suffix: Option<String>,
    /// Of the order of the data and of new factors.
    pub seed: Option<u32>,
    /// The owner's notes.
    pub metadata: BTreeMap<String, String>,
}

/// The body, as the document describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningJobBody {
    /// A public name, the base, or an alias or version to go on from.
    pub model: String,
    /// A file of JSON lines: conversations, or preferences for `dpo`.
    pub training_file: String,
    /// The same, for judging; by default a part of the training file.
    pub validation_file: Option<String>,
    /// What is learned, and how; `supervised` by default.
    pub method: Option<FineTuningMethodBody>,
    /// The hyperparameters of a supervised job, in the older place.
    pub hyperparameters: Option<HyperParametersBody>,
    /// Part of the outcome's name: letters, digits, `-`, `_` and `.`.
    #[schema(max_length = 64)]
    pub suffix: Option<String>,
    /// Of the order of the data and of new factors.
    pub seed: Option<u32>,
    /// Notes: at most 16 short texts.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// What is learned, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FineTuningMethodBody {
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: FineTuningMethodKind,
    /// For `supervised`.
    pub supervised: Option<SupervisedMethodBody>,
    /// For `dpo`.
    pub dpo: Option<DpoMethodBody>,
}

/// How answers are imitated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SupervisedMethodBody {
    /// The hyperparameters.
    pub hyperparameters: Option<HyperParametersBody>,
}

/// How preferences are learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DpoMethodBody {
    /// The hyperparameters.
    pub hyperparameters: Option<DpoHyperParametersBody>,
}

/// Hyperparameters; `auto` or absent is the trainer's choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HyperParametersBody {
    /// 1 to 50.
    pub n_epochs: Option<Hyper>,
    /// 1 to 256.
    pub batch_size: Option<Hyper>,
    /// Multiplies the trainer's learning rate; 0.0001 to 100.
    pub learning_rate_multiplier: Option<Hyper>,
}

/// Hyperparameters; `auto` or absent is the trainer's choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DpoHyperParametersBody {
    /// DPO's β; 0.001 to 2.
    pub beta: Option<Hyper>,
    /// 1 to 50.
    pub n_epochs: Option<Hyper>,
    /// 1 to 256.
    pub batch_size: Option<Hyper>,
    /// Multiplies the trainer's learning rate; 0.0001 to 100.
    pub learning_rate_multiplier: Option<Hyper>,
}

type Read<T> = Result<T, RequestError>;

impl FineTuningRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// A [`RequestError`] that names the field.
    pub fn parse(body: &[u8]) -> Read<Self> {
        let mut fields = Fields::of_body(body)?;
        let model = text_of("model", fields.required("model")?, NAME_BYTES_MAX)?;
        let training_file = fields.required("training_file")?;
        let mut request = Self {
            model,
            training_file: file("training_file", training_file)?,
            validation_file: fields
                .take("validation_file")
                .map(|value| file("validation_file", value))
                .transpose()?,
            method: FineTuningMethodKind::Supervised,
            n_epochs: None,
            batch_size: None,
            learning_rate_multiplier: None,
            beta: None,
            suffix: suffix(&mut fields)?,
            seed: fields
                .integer("seed", 0..=i64::from(i32::MAX))?
                .and_then(|seed| u32::try_from(seed).ok()),
            metadata: metadata(&mut fields)?,
        };
        // the older place, which `method` overrides
        if let Some(older) = fields.object("hyperparameters")? {
            request.hyperparameters(older, FineTuningMethodKind::Supervised)?;
        }
        if let Some(method) = fields.object("method")? {
            request.method(method)?;
        }
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        fields.inert("integrations", is_empty)?;
        fields.finish()?;
        Ok(request)
    }

    fn method(&mut self, mut method: Fields) -> Read<()> {
        let kind = text_of("method.type", method.required("type")?, NAME_BYTES_MAX)?;
        let (kind, name) = match kind.as_str() {
            "supervised" => (FineTuningMethodKind::Supervised, "supervised"),
            "dpo" => (FineTuningMethodKind::Dpo, "dpo"),
            _ => {
                let message = "method.type: supervised and dpo are supported";
                return Err(RequestError::new(code::UNSUPPORTED, "method.type", message));
            }
        };
        self.method = kind;
        if let Some(mut inner) = method.object(name)? {
            if let Some(hyper) = inner.object("hyperparameters")? {
                self.hyperparameters(hyper, kind)?;
            }
            inner.finish()?;
        }
        method.finish()
    }

    fn hyperparameters(&mut self, mut fields: Fields, kind: FineTuningMethodKind) -> Read<()> {
        self.n_epochs = count(&mut fields, "n_epochs", EPOCHS)?;
        self.batch_size = count(&mut fields, "batch_size", BATCH)?;
        self.learning_rate_multiplier =
            factor(&mut fields, "learning_rate_multiplier", MULTIPLIER)?;
        if kind == FineTuningMethodKind::Dpo {
            self.beta = factor(&mut fields, "beta", BETA)?;
        }
        fields.finish()
    }
}

fn is_auto(value: &Value) -> bool {
    value == "auto"
}

fn count(fields: &mut Fields, key: &str, range: RangeInclusive<i64>) -> Read<Option<u32>> {
    let param = fields.param(key);
    let Some(value) = fields.take(key).filter(|value| !is_auto(value)) else {
        return Ok(None);
    };
    let number = value
        .as_i64()
        .ok_or_else(|| wrong_type(&param, "an integer or \"auto\"", &value))?;
    let within = Some(number).filter(|number| range.contains(number));
    let within = within.and_then(|number| u32::try_from(number).ok());
    within.map(Some).ok_or_else(|| {
        let reason = format!("must be between {} and {}", range.start(), range.end());
        wrong_value(&param, &reason)
    })
}

fn factor(fields: &mut Fields, key: &str, range: RangeInclusive<f64>) -> Read<Option<f64>> {
    let param = fields.param(key);
    let Some(value) = fields.take(key).filter(|value| !is_auto(value)) else {
        return Ok(None);
    };
    let number = value
        .as_f64()
        .ok_or_else(|| wrong_type(&param, "a number or \"auto\"", &value))?;
    if !range.contains(&number) {
        let reason = format!("must be between {} and {}", range.start(), range.end());
        return Err(wrong_value(&param, &reason));
    }
    Ok(Some(number))
}

fn file(param: &str, value: Value) -> Read<FileId> {
    let text = text_of(param, value, NAME_BYTES_MAX)?;
    FileId::new(text).map_err(|error| wrong_value(param, &error.to_string()))
}

/// It becomes part of an alias, and so it has an alias's alphabet.
fn suffix(fields: &mut Fields) -> Read<Option<String>> {
    let Some(suffix) = fields.text("suffix", NAME_BYTES_MAX)? else {
        return Ok(None);
    };
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if suffix.is_empty() || suffix.len() > SUFFIX_CHARS_MAX || !suffix.chars().all(good) {
        let reason = "1 to 64 letters, digits, '-', '_' and '.' are allowed";
        return Err(wrong_value("suffix", reason));
    }
    Ok(Some(suffix))
}

fn metadata(fields: &mut Fields) -> Read<BTreeMap<String, String>> {
    let Some(metadata) = fields.object("metadata")? else {
        return Ok(BTreeMap::new());
    };
    let entry = |(key, value): (String, Value)| {
        if key.chars().count() > METADATA_KEY_CHARS_MAX {
            return Err(wrong_value("metadata", "a key has at most 64 characters"));
        }
        let param = format!("metadata.{key}");
        Ok((key, text_of(&param, value, METADATA_VALUE_BYTES_MAX)?))
    };
    metadata
        .entries(METADATA_MAX)?
        .into_iter()
        .map(entry)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Read<FineTuningRequest> {
        FineTuningRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn openai_bodies_are_read() {
        let plain = parse(&json!({"model": "m", "training_file": "file-1"})).unwrap();
        assert_eq!(plain.method, FineTuningMethodKind::Supervised);
        assert_eq!((plain.n_epochs, plain.validation_file), (None, None));
        let dpo = parse(&json!({
            "model": "m", "training_file": "file-1", "validation_file": "file-2",
            "suffix": "support-v2", "seed": 7, "integrations": [], "metadata": {"team": "a"},
            "method": {"type": "dpo", "dpo": {"hyperparameters": {
                "beta": 0.2, "n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 2
            }}}
        }))
        .unwrap();
        assert_eq!(dpo.method, FineTuningMethodKind::Dpo);
        assert_eq!(
            (dpo.n_epochs, dpo.batch_size, dpo.seed),
            (Some(3), None, Some(7))
        );
        assert_eq!(dpo.beta, Some(0.2), "as it was written");
        assert_eq!(dpo.metadata["team"], "a");
        let older = json!({"model": "m", "training_file": "f", "hyperparameters": {"n_epochs": 2}});
        assert_eq!(parse(&older).unwrap().n_epochs, Some(2));
    }

    #[test]
    fn every_refusal_names_its_field() {
        let with = |key: &str, value: Value| {
            let mut body = json!({"model": "m", "training_file": "file-1"});
            body[key] = value;
            parse(&body).unwrap_err().param.unwrap()
        };
        let hyper = |hyper: Value| json!({"type": "dpo", "dpo": {"hyperparameters": hyper}});
        assert_eq!(with("model", json!(3)), "model");
        assert_eq!(with("training_file", json!("a b")), "training_file");
        assert_eq!(with("suffix", json!("a/b")), "suffix");
        assert_eq!(with("seed", json!(-1)), "seed");
        assert_eq!(
            with("integrations", json!([{"type": "wandb"}])),
            "integrations"
        );
        assert_eq!(
            with("method", json!({"type": "reinforcement"})),
            "method.type"
        );
        for (field, value) in [
            ("n_epochs", json!(0)),
            ("n_epochs", json!(9)),
            ("n_epochs", json!("some")),
            ("batch_size", json!(1.5)),
            ("beta", json!(9)),
            ("learning_rate_multiplier", json!(-1)),
            ("rank", json!(8)),
        ] {
            let param = format!("method.dpo.hyperparameters.{field}");
            assert_eq!(with("method", hyper(json!({ field: value }))), param);
        }
        assert_eq!(with("colour", json!(1)), "colour");
    }
}
