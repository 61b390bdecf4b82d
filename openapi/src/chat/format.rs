//! What form an answer must have: `response_format`, and vLLM's
//! `structured_outputs`. Whether a schema or grammar can be kept to is for the
//! engine to say.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::limits;
use crate::RequestError;
use crate::fields::{Fields, text_of, wrong_type, wrong_value};

const RESPONSE_FORMAT: &str = "response_format";
const STRUCTURED_OUTPUTS: &str = "structured_outputs";

/// A form that answers are held to.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerFormat {
    /// The field that asks for it.
    pub param: &'static str,
    /// The form.
    pub kind: AnswerFormatKind,
}

/// The forms that there are beside plain text.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerFormatKind {
    /// Any JSON object.
    JsonObject,
    /// JSON that the schema accepts.
    JsonSchema(Value),
    /// Text that the expression matches as a whole.
    Regex(String),
    /// Text of a Lark grammar.
    Grammar(String),
}

/// Reads both fields; at most one of them may ask for something.
pub(super) fn answer_format(fields: &mut Fields) -> Result<Option<AnswerFormat>, RequestError> {
    let standard = fields
        .object(RESPONSE_FORMAT)?
        .map(response_format)
        .transpose()?
        .flatten();
    let ours = fields
        .object(STRUCTURED_OUTPUTS)?
        .map(structured_outputs)
        .transpose()?;
    let (param, kind) = match (standard, ours) {
        (None, None) => return Ok(None),
        (Some(kind), None) => (RESPONSE_FORMAT, kind),
        (None, Some(kind)) => (STRUCTURED_OUTPUTS, kind),
        (Some(_), Some(_)) => {
            let reason = "cannot be combined with a response_format other than text";
            return Err(wrong_value(STRUCTURED_OUTPUTS, reason));
        }
    };
    Ok(Some(AnswerFormat { param, kind }))
}

fn response_format(mut format: Fields) -> Result<Option<AnswerFormatKind>, RequestError> {
    let param = format.param("type");
    let kind = match text_of(&param, format.required("type")?, 64)?.as_str() {
        "text" => None,
        "json_object" => Some(AnswerFormatKind::JsonObject),
        "json_schema" => {
            let schema = Fields::of_value(
                &format.param("json_schema"),
                format.required("json_schema")?,
            )?;
            Some(AnswerFormatKind::JsonSchema(json_schema(schema)?))
        }
        _ => {
            let reason = "must be text, json_object or json_schema";
            return Err(wrong_value(&param, reason));
        }
    };
    format.finish()?;
    Ok(kind)
}

fn json_schema(mut fields: Fields) -> Result<Value, RequestError> {
    let param = fields.param("name");
    function_name(&param, fields.required("name")?)?;
    fields.text("description", limits::DESCRIPTION_BYTES_MAX)?;
    // Not strict would be "try to": what is always kept to is also that.
    fields.boolean("strict")?;
    let schema = schema(&fields.param("schema"), fields.take("schema"))?;
    fields.finish()?;
    Ok(schema)
}

/// A schema's object; none is an object of any kind.
pub(super) fn schema(param: &str, schema: Option<Value>) -> Result<Value, RequestError> {
    match schema {
        None => Ok(serde_json::json!({"type": "object"})),
        Some(schema @ Value::Object(_)) => Ok(schema),
        Some(other) => Err(wrong_type(param, "an object", &other)),
    }
}

/// A name as functions and schemas have it.
pub(super) fn function_name(param: &str, name: Value) -> Result<String, RequestError> {
    let name = text_of(param, name, limits::FUNCTION_NAME_BYTES_MAX)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || !name.chars().all(fits) {
        let reason = "must be letters, digits, underscores and dashes";
        return Err(wrong_value(param, reason));
    }
    Ok(name)
}

fn structured_outputs(mut fields: Fields) -> Result<AnswerFormatKind, RequestError> {
    let json = fields.take("json");
    let regex = fields.text("regex", limits::GRAMMAR_BYTES_MAX)?;
    let grammar = fields.text("grammar", limits::GRAMMAR_BYTES_MAX)?;
    let json_param = fields.param("json");
    fields.finish()?;
    match (json, regex, grammar) {
        (Some(json), None, None) => {
            schema(&json_param, Some(json)).map(AnswerFormatKind::JsonSchema)
        }
        (None, Some(regex), None) => Ok(AnswerFormatKind::Regex(regex)),
        (None, None, Some(grammar)) => Ok(AnswerFormatKind::Grammar(grammar)),
        _ => Err(wrong_value(
            STRUCTURED_OUTPUTS,
            "must have exactly one of json, regex and grammar",
        )),
    }
}

/// The form of the answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormatBody {
    /// Any text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema {
        /// The schema and its name.
        json_schema: JsonSchemaBody,
    },
}

/// A schema with its name.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSchemaBody {
    /// Letters, digits, underscores and dashes.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema, at most 64 KiB. A keyword that cannot be enforced is a 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
    /// Without effect: schemas are always kept to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// vLLM's way to say the form of the answers: exactly one of these.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputsBody {
    /// A JSON schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub json: Option<Map<String, Value>>,
    /// An expression that the whole answer matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// A Lark grammar whose rule `start` is the whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
}
