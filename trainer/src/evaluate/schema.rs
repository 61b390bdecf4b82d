//! Whether an answer is JSON of a given shape.
//!
//! The keywords that shapes of answers are made of; a schema with any other is
//! refused when it is read, so that nothing is silently not checked.

use serde_json::{Map, Value};

/// How deep a schema may nest.
const DEPTH_MAX: usize = 32;
const KEYWORDS: [&str; 16] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "anyOf",
    "title",
    "description",
];
const TYPES: [&str; 7] = [
    "object", "array", "string", "number", "integer", "boolean", "null",
];

/// A schema that only has keywords that are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(Value);

impl Schema {
    /// Takes a schema.
    ///
    /// # Errors
    /// What is wrong with it, or not known here.
    pub fn new(schema: &Value) -> Result<Self, String> {
        known(schema, 0)?;
        Ok(Self(schema.clone()))
    }

    /// Whether `answer` is JSON, alone or in a fenced block, of this shape.
    #[must_use]
    pub fn holds(&self, answer: &str) -> bool {
        serde_json::from_str(unfenced(answer)).is_ok_and(|value: Value| valid(&self.0, &value))
    }
}

/// The inside of a fenced code block, where the answer is one.
fn unfenced(answer: &str) -> &str {
    let text = answer.trim();
    let inside = text
        .strip_prefix("```")
        .and_then(|text| text.strip_suffix("```"))
        .and_then(|text| text.split_once('\n'));
    inside.map_or(text, |(_, inside)| inside)
}

fn known(schema: &Value, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("the schema nests deeper than {DEPTH_MAX}"));
    }
    let object = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(object) => object,
        _ => return Err("a schema is an object".to_owned()),
    };
    for (key, value) in object {
        let key = key.as_str();
        if !KEYWORDS.contains(&key) {
            return Err(format!("the schema's keyword {key:?} is not checked here"));
        }
        let fits = match key {
            "type" => types(value).is_some_and(|all| all.iter().all(|t| TYPES.contains(t))),
            "required" => strings(value).is_some(),
            "enum" => value.is_array(),
            "minimum" | "maximum" => value.is_number(),
            "minLength" | "maxLength" | "minItems" | "maxItems" => value.is_u64(),
            _ => true,
        };
        if !fits {
            return Err(format!("the schema's {key:?} is not what it should be"));
        }
        match (key, value) {
            ("properties", Value::Object(all)) => {
                all.values().try_for_each(|one| known(one, depth + 1))?;
            }
            ("anyOf", Value::Array(all)) => {
                all.iter().try_for_each(|one| known(one, depth + 1))?;
            }
            ("items" | "additionalProperties", one) => known(one, depth + 1)?,
            ("properties" | "anyOf", _) => {
                return Err(format!("the schema's {key:?} is not what it should be"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn types(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one.as_str()]),
        other => strings(other),
    }
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

fn valid(schema: &Value, value: &Value) -> bool {
    let object = match schema {
        Value::Bool(all) => return *all,
        Value::Object(object) => object,
        _ => return false,
    };
    object.iter().all(|(key, rule)| match key.as_str() {
        "type" => types(rule).is_some_and(|all| all.iter().any(|t| is_type(value, t))),
        "enum" => rule.as_array().is_some_and(|all| all.contains(value)),
        "const" => rule == value,
        "anyOf" => rule
            .as_array()
            .is_some_and(|all| all.iter().any(|one| valid(one, value))),
        "minimum" => number(value).is_none_or(|n| rule.as_f64().is_some_and(|min| n >= min)),
        "maximum" => number(value).is_none_or(|n| rule.as_f64().is_some_and(|max| n <= max)),
        "minLength" => length(value).is_none_or(|n| rule.as_u64().is_some_and(|min| n >= min)),
        "maxLength" => length(value).is_none_or(|n| rule.as_u64().is_some_and(|max| n <= max)),
        "minItems" => items(value).is_none_or(|n| rule.as_u64().is_some_and(|min| n >= min)),
        "maxItems" => items(value).is_none_or(|n| rule.as_u64().is_some_and(|max| n <= max)),
        "items" => value
            .as_array()
            .is_none_or(|all| all.iter().all(|one| valid(rule, one))),
        "required" => value.as_object().is_none_or(|of| {
            strings(rule).is_some_and(|all| all.iter().all(|key| of.contains_key(*key)))
        }),
        "properties" => value.as_object().is_none_or(|of| {
            rule.as_object().is_some_and(|rules| {
                let mut both = rules
                    .iter()
                    .filter_map(|(key, rule)| Some((rule, of.get(key)?)));
                both.all(|(rule, value)| valid(rule, value))
            })
        }),
        "additionalProperties" => value
            .as_object()
            .is_none_or(|of| others(object, of).all(|value| valid(rule, value))),
        _ => true,
    })
}

/// The values of keys that the schema does not name.
fn others<'a>(
    schema: &'a Map<String, Value>,
    of: &'a Map<String, Value>,
) -> impl Iterator<Item = &'a Value> {
    let named = schema.get("properties").and_then(Value::as_object);
    of.iter()
        .filter(move |(key, _)| named.is_none_or(|named| !named.contains_key(*key)))
        .map(|(_, value)| value)
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

fn items(value: &Value) -> Option<u64> {
    value.as_array().map(|all| all.len() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::Schema;

    #[test]
    fn answers_are_held_against_the_shape() {
        let schema = Schema::new(&json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 2},
                "people": {"type": "integer", "minimum": 0},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
            },
            "required": ["city"],
            "additionalProperties": false,
        }))
        .unwrap();
        for (answer, holds) in [
            (r#"{"city": "Oslo"}"#, true),
            ("```json\n{\"city\": \"Oslo\", \"people\": 7}\n```", true),
            (r#"{"city": "Oslo", "people": 7.5}"#, false),
            (r#"{"city": "Oslo", "people": -1}"#, false),
            (r#"{"city": "O"}"#, false),
            (r#"{"city": "Oslo", "tags": ["a", "b"]}"#, true),
            (r#"{"city": "Oslo", "tags": ["c"]}"#, false),
            (r#"{"city": "Oslo", "tags": ["a", "a", "a"]}"#, false),
            (r#"{"people": 1}"#, false),
            (r#"{"city": "Oslo", "more": 1}"#, false),
            ("Oslo", false),
            (r#"Here: {"city": "Oslo"}"#, false),
        ] {
            assert_eq!(schema.holds(answer), holds, "{answer}");
        }
    }

    #[test]
    fn a_keyword_that_would_not_be_checked_is_refused() {
        for bad in [
            json!({"pattern": "x"}),
            json!({"items": {"pattern": "x"}}),
            json!({"type": "text"}),
            json!([]),
        ] {
            assert!(Schema::new(&bad).is_err(), "{bad}");
        }
    }
}
