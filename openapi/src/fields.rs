//! Reads a JSON object field by field, so that every refusal names its field
//! and nothing that was sent goes unread.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::RequestError;
use crate::error::code;

/// The longest field name repeated in an error.
const NAME_CHARS_MAX: usize = 64;

/// The fields of one object that nobody took yet.
pub(crate) struct Fields {
    prefix: String,
    map: Map<String, Value>,
}

type Read<T> = Result<T, RequestError>;

/// What a JSON value is, for people.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The error about a value of the wrong type.
pub(crate) fn wrong_type(param: &str, wanted: &str, found: &Value) -> RequestError {
    let message = format!("{param}: expected {wanted}, got {}", kind(found));
    RequestError::new(code::TYPE, param, message)
}

/// The error about a value outside its range.
pub(crate) fn wrong_value(param: &str, reason: &str) -> RequestError {
    RequestError::new(code::VALUE, param, format!("{param}: {reason}"))
}

impl Fields {
    /// The fields of a whole body.
    pub(crate) fn of_body(body: &[u8]) -> Read<Self> {
        let invalid = |message: String| RequestError {
            message,
            param: None,
            code: code::INVALID_JSON,
        };
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self {
                prefix: String::new(),
                map,
            }),
            Ok(other) => Err(invalid(format!(
                "the body must be a JSON object, not {}",
                kind(&other)
            ))),
            Err(error) => Err(invalid(format!("the body is not valid JSON: {error}"))),
        }
    }

    /// The fields of `value`, which stands at `param`.
    pub(crate) fn of_value(param: &str, value: Value) -> Read<Self> {
        match value {
            Value::Object(map) => Ok(Self {
                prefix: format!("{param}."),
                map,
            }),
            other => Err(wrong_type(param, "an object", &other)),
        }
    }

    /// The full name of a field.
    pub(crate) fn param(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Takes a field; null counts as absent.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    /// Takes a field that must be there.
    pub(crate) fn required(&mut self, key: &str) -> Read<Value> {
        let param = self.param(key);
        self.take(key).ok_or_else(|| {
            let message = format!("the required field {param} is missing");
            RequestError::new(code::MISSING, param, message)
        })
    }

    pub(crate) fn boolean(&mut self, key: &str) -> Read<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.param(key), "a boolean", &other)),
        }
    }

    pub(crate) fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Read<Option<i64>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let param = self.param(key);
        let Value::Number(number) = &value else {
            return Err(wrong_type(&param, "an integer", &value));
        };
        if number.is_f64() {
            return Err(RequestError::new(
                code::TYPE,
                &param,
                format!("{param}: expected an integer, got a fraction"),
            ));
        }
        let within = number.as_i64().filter(|number| range.contains(number));
        within.map(Some).ok_or_else(|| {
            let reason = match (*range.start(), *range.end()) {
                (start, i64::MAX) => format!("must be at least {start}"),
                (start, end) => format!("must be between {start} and {end}"),
            };
            wrong_value(&param, &reason)
        })
    }

    pub(crate) fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Read<Option<f32>> {
        let param = self.param(key);
        self.take(key)
            .map(|value| number_in(&param, &value, range))
            .transpose()
    }

    /// Text of at most `bytes_max` bytes.
    pub(crate) fn text(&mut self, key: &str, bytes_max: usize) -> Read<Option<String>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        text_of(&self.param(key), value, bytes_max).map(Some)
    }

    pub(crate) fn object(&mut self, key: &str) -> Read<Option<Self>> {
        let param = self.param(key);
        self.take(key)
            .map(|value| Self::of_value(&param, value))
            .transpose()
    }

    /// The entries of an object whose keys are data.
    pub(crate) fn entries(self, max: usize) -> Read<Map<String, Value>> {
        if self.map.len() > max {
            let param = self.prefix.trim_end_matches('.').to_owned();
            return Err(wrong_value(&param, &format!("at most {max} entries")));
        }
        Ok(self.map)
    }

    /// Takes a field that has no effect here: only values that `is_default`
    /// finds to change nothing are let pass.
    pub(crate) fn inert(&mut self, key: &str, is_default: impl Fn(&Value) -> bool) -> Read<()> {
        match self.take(key) {
            Some(value) if !is_default(&value) => {
                let param = self.param(key);
                let message = format!("{param}: this value is not supported by this server");
                Err(RequestError::new(code::UNSUPPORTED, param, message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses whatever nobody took.
    pub(crate) fn finish(self) -> Read<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(key) => {
                let key: String = key.chars().take(NAME_CHARS_MAX).collect();
                let param = self.param(&key);
                let message = format!("unknown field: {param}");
                Err(RequestError::new(code::UNKNOWN, param, message))
            }
        }
    }
}

/// A finite number within `range`.
pub(crate) fn number_in(param: &str, value: &Value, range: RangeInclusive<f64>) -> Read<f32> {
    let number = value
        .as_f64()
        .ok_or_else(|| wrong_type(param, "a number", value))?;
    if !range.contains(&number) {
        let reason = format!("must be between {} and {}", range.start(), range.end());
        return Err(wrong_value(param, &reason));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "sampling runs in f32, and the range is checked"
    )]
    Ok(number as f32)
}

/// Text of at most `bytes_max` bytes.
pub(crate) fn text_of(param: &str, value: Value, bytes_max: usize) -> Read<String> {
    match value {
        Value::String(text) if text.len() <= bytes_max => Ok(text),
        Value::String(_) => Err(wrong_value(param, &format!("at most {bytes_max} bytes"))),
        other => Err(wrong_type(param, "a string", &other)),
    }
}
