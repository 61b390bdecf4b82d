//! From bytes to a checked request. Every refusal names its field.

use std::collections::BTreeMap;

use serde_json::Value;

use super::format::answer_format;
use super::limits;
use super::messages::messages;
use super::tools::tools;
use super::{AdapterSelector, ChatCompletionRequest};
use crate::RequestError;
use crate::fields::{Fields, number_in, text_of, wrong_type, wrong_value};

type Read<T> = Result<T, RequestError>;

impl ChatCompletionRequest {
    /// Reads and checks a request body.
    ///
    /// # Errors
    /// A [`RequestError`] naming the first field that is unknown, not honoured,
    /// of the wrong type or out of range.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::of_body(body)?;
        inert_fields(&mut fields)?;
        let (stream, include_usage) = stream_options(&mut fields)?;
        let request = Self {
            model: model(&mut fields)?,
            messages: messages(fields.required("messages")?)?,
            max_tokens: max_tokens(&mut fields)?,
            n: unsigned(fields.integer("n", 1..=limits::CHOICES_MAX)?).unwrap_or(1),
            seed: seed(&mut fields)?,
            stop: stop(&mut fields)?,
            logit_bias: logit_bias(&mut fields)?,
            top_logprobs: top_logprobs(&mut fields)?,
            frequency_penalty: fields
                .number("frequency_penalty", -2.0..=2.0)?
                .unwrap_or(0.0),
            presence_penalty: fields
                .number("presence_penalty", -2.0..=2.0)?
                .unwrap_or(0.0),
            temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0),
            top_p: above_zero("top_p", fields.number("top_p", 0.0..=1.0)?)?,
            top_k: top_k(&mut fields)?,
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
            repetition_penalty: fields
                .number("repetition_penalty", 0.01..=10.0)?
                .unwrap_or(1.0),
            tools: tools(&mut fields)?,
            format: answer_format(&mut fields)?,
            metadata: metadata(&mut fields)?,
            store: fields.boolean("store")?,
            user: identifier(&mut fields, "user")?,
            safety_identifier: identifier(&mut fields, "safety_identifier")?,
            prompt_cache_key: identifier(&mut fields, "prompt_cache_key")?,
            stream,
            include_usage,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            adapter: fields.take("adapter").map(adapter).transpose()?,
        };
        fields.finish()?;
        if let (Some(_), Some(format)) = (&request.tools, &request.format) {
            let reason = "cannot be combined with tools that may be called";
            return Err(wrong_value(format.param, reason));
        }
        Ok(request)
    }
}

/// Fields of the API that change nothing here at their defaults and are
/// refused at any other value.
fn inert_fields(fields: &mut Fields) -> Read<()> {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let one_of = |value: &Value, all: &[&str]| value.as_str().is_some_and(|v| all.contains(&v));
    fields.inert("functions", empty)?;
    fields.inert("function_call", |v| one_of(v, &["none", "auto"]))?;
    fields.inert("reasoning_effort", |v| one_of(v, &["none"]))?;
    fields.inert("service_tier", |v| one_of(v, &["auto", "default"]))?;
    fields.inert("modalities", |v| *v == serde_json::json!(["text"]))?;
    fields.inert("verbosity", |v| one_of(v, &["medium"]))?;
    fields.inert("audio", |_| false)?;
    fields.inert("prediction", |_| false)?;
    fields.inert("web_search_options", |_| false)
}

fn unsigned(value: Option<i64>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok())
}

fn model(fields: &mut Fields) -> Read<String> {
    let model = text_of("model", fields.required("model")?, limits::MODEL_BYTES_MAX)?;
    if model.is_empty() {
        Err(wrong_value("model", "must not be empty"))
    } else {
        Ok(model)
    }
}

fn max_tokens(fields: &mut Fields) -> Read<Option<u32>> {
    let range = || 1..=i64::from(i32::MAX);
    let new = unsigned(fields.integer("max_completion_tokens", range())?);
    let old = unsigned(fields.integer("max_tokens", range())?);
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        return Err(wrong_value(
            "max_tokens",
            "differs from max_completion_tokens; give one of them",
        ));
    }
    Ok(new.or(old))
}

fn seed(fields: &mut Fields) -> Read<Option<u64>> {
    let Some(value) = fields.take("seed") else {
        return Ok(None);
    };
    let seed = value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.map(Some).ok_or_else(|| match value {
        Value::Number(_) => wrong_value("seed", "must be an integer of at most 64 bits"),
        other => wrong_type("seed", "an integer", &other),
    })
}

fn stop(fields: &mut Fields) -> Read<Vec<String>> {
    let items = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(one @ Value::String(_)) => vec![one],
        Some(Value::Array(items)) => items,
        Some(other) => {
            return Err(wrong_type(
                "stop",
                "a string or an array of strings",
                &other,
            ));
        }
    };
    if items.len() > limits::STOPS_MAX {
        return Err(wrong_value(
            "stop",
            &format!("at most {} texts", limits::STOPS_MAX),
        ));
    }
    let read = |(i, item)| {
        let param = format!("stop[{i}]");
        let text = text_of(&param, item, limits::STOP_BYTES_MAX)?;
        if text.is_empty() {
            Err(wrong_value(&param, "must not be empty"))
        } else {
            Ok(text)
        }
    };
    items.into_iter().enumerate().map(read).collect()
}

fn logit_bias(fields: &mut Fields) -> Read<BTreeMap<u32, f32>> {
    let Some(object) = fields.object("logit_bias")? else {
        return Ok(BTreeMap::new());
    };
    let mut biases = BTreeMap::new();
    for (key, value) in object.entries(limits::LOGIT_BIAS_MAX)? {
        let short: String = key.chars().take(20).collect();
        let param = format!("logit_bias.{short}");
        let token = key
            .parse()
            .map_err(|_| wrong_value(&param, "the key must be a token id"))?;
        biases.insert(token, number_in(&param, &value, -100.0..=100.0)?);
    }
    Ok(biases)
}

fn top_logprobs(fields: &mut Fields) -> Read<Option<u8>> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=limits::TOP_LOGPROBS_MAX)?;
    match (wanted, top.and_then(|top| u8::try_from(top).ok())) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(wrong_value("top_logprobs", "needs logprobs to be true")),
    }
}

fn top_k(fields: &mut Fields) -> Read<u32> {
    // vLLM writes -1 for all, llama.cpp 0.
    Ok(unsigned(fields.integer("top_k", -1..=i64::from(i32::MAX))?).unwrap_or(0))
}

fn above_zero(param: &str, value: Option<f32>) -> Read<f32> {
    match value {
        Some(value) if value <= 0.0 => Err(wrong_value(param, "must be above 0")),
        value => Ok(value.unwrap_or(1.0)),
    }
}

fn metadata(fields: &mut Fields) -> Read<BTreeMap<String, String>> {
    let Some(object) = fields.object("metadata")? else {
        return Ok(BTreeMap::new());
    };
    let mut metadata = BTreeMap::new();
    for (key, value) in object.entries(limits::METADATA_MAX)? {
        if key.len() > limits::METADATA_KEY_BYTES_MAX {
            let reason = format!("a key has at most {} bytes", limits::METADATA_KEY_BYTES_MAX);
            return Err(wrong_value("metadata", &reason));
        }
        let param = format!("metadata.{key}");
        metadata.insert(
            key,
            text_of(&param, value, limits::METADATA_VALUE_BYTES_MAX)?,
        );
    }
    if metadata.get("session_id").is_some_and(String::is_empty) {
        return Err(wrong_value("metadata.session_id", "must not be empty"));
    }
    Ok(metadata)
}

fn identifier(fields: &mut Fields, key: &str) -> Read<Option<String>> {
    match fields.text(key, limits::IDENTIFIER_BYTES_MAX)? {
        Some(text) if text.is_empty() => Err(wrong_value(key, "must not be empty")),
        text => Ok(text),
    }
}

fn stream_options(fields: &mut Fields) -> Read<(bool, bool)> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok((stream, false));
    };
    if !stream {
        return Err(wrong_value(
            "stream_options",
            "is only allowed when stream is true",
        ));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.inert("include_obfuscation", |value| *value == Value::Bool(false))?;
    options.finish()?;
    Ok((stream, include_usage))
}

fn adapter(value: Value) -> Read<AdapterSelector> {
    if let Value::String(alias) = value {
        let alias = alias
            .parse()
            .map_err(|error| wrong_value("adapter", &format!("{error}")))?;
        return Ok(AdapterSelector::Alias(alias));
    }
    if !value.is_object() {
        return Err(wrong_type(
            "adapter",
            "an alias or an object with a digest",
            &value,
        ));
    }
    let mut fields = Fields::of_value("adapter", value)?;
    let digest = text_of("adapter.digest", fields.required("digest")?, 128)?;
    fields.finish()?;
    let digest = digest
        .parse()
        .map_err(|error| wrong_value("adapter.digest", &format!("{error}")))?;
    Ok(AdapterSelector::Digest { digest })
}
