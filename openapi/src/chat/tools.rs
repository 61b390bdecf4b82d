//! Functions that a request offers to the model, the choice among them, and
//! calls as they go over the wire.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::format::{function_name, schema};
use super::limits;
use crate::RequestError;
use crate::error::code;
use crate::fields::{Fields, text_of, wrong_type, wrong_value};

/// The functions of a request, of which some may or must be called.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestTools {
    /// The functions, each name once.
    pub functions: Vec<RequestFunction>,
    /// Whether one must be called.
    pub choice: RequestToolChoice,
    /// Whether an answer may have several calls.
    pub is_parallel: bool,
}

/// A function.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestFunction {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The schema of its arguments.
    pub parameters: Value,
    /// Whether calls that the model makes by itself are held to it too.
    pub is_strict: bool,
}

/// Whether a function must be called. Where none may be, a request has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestToolChoice {
    /// As the model sees fit.
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn tools(fields: &mut Fields) -> Result<Option<RequestTools>, RequestError> {
    let functions = functions(fields.take("tools"))?;
    let choice = choice(fields.take("tool_choice"))?;
    let is_parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let choice = match choice {
        None => RequestToolChoice::Auto,
        Some(None) => return Ok(None),
        Some(Some(choice)) => choice,
    };
    match &choice {
        RequestToolChoice::Auto if functions.is_empty() => return Ok(None),
        RequestToolChoice::Required if functions.is_empty() => {
            return Err(wrong_value("tool_choice", "needs tools"));
        }
        RequestToolChoice::Named(name) if !functions.iter().any(|f| f.name == *name) => {
            let reason = "names a function that is not among the tools";
            return Err(wrong_value("tool_choice", reason));
        }
        _ => {}
    }
    Ok(Some(RequestTools {
        functions,
        choice,
        is_parallel,
    }))
}

fn functions(value: Option<Value>) -> Result<Vec<RequestFunction>, RequestError> {
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("tools", "an array", &other)),
    };
    if items.len() > limits::TOOLS_MAX {
        let reason = format!("at most {} tools", limits::TOOLS_MAX);
        return Err(wrong_value("tools", &reason));
    }
    let mut functions: Vec<RequestFunction> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let function = function(&format!("tools[{i}]"), item)?;
        if functions.iter().any(|f| f.name == function.name) {
            let param = format!("tools[{i}].function.name");
            return Err(wrong_value(&param, "is another function's name too"));
        }
        functions.push(function);
    }
    Ok(functions)
}

fn function(param: &str, item: Value) -> Result<RequestFunction, RequestError> {
    let mut tool = Fields::of_value(param, item)?;
    only_functions(&mut tool)?;
    let mut function = Fields::of_value(&tool.param("function"), tool.required("function")?)?;
    tool.finish()?;
    let name_param = function.param("name");
    let read = RequestFunction {
        name: function_name(&name_param, function.required("name")?)?,
        description: function.text("description", limits::DESCRIPTION_BYTES_MAX)?,
        parameters: schema(&function.param("parameters"), function.take("parameters"))?,
        is_strict: function.boolean("strict")?.unwrap_or(false),
    };
    function.finish()?;
    Ok(read)
}

/// The outer level: whether it was said. The inner one: none may be called.
fn choice(value: Option<Value>) -> Result<Option<Option<RequestToolChoice>>, RequestError> {
    let param = "tool_choice";
    let mut object = match value {
        None => return Ok(None),
        Some(Value::String(mode)) => {
            let choice = match mode.as_str() {
                "none" => None,
                "auto" => Some(RequestToolChoice::Auto),
                "required" => Some(RequestToolChoice::Required),
                _ => {
                    let reason = "must be none, auto, required or a function";
                    return Err(wrong_value(param, reason));
                }
            };
            return Ok(Some(choice));
        }
        Some(object @ Value::Object(_)) => Fields::of_value(param, object)?,
        Some(other) => return Err(wrong_type(param, "a string or an object", &other)),
    };
    only_functions(&mut object)?;
    let mut function = Fields::of_value(&object.param("function"), object.required("function")?)?;
    object.finish()?;
    let name_param = function.param("name");
    let name = function_name(&name_param, function.required("name")?)?;
    function.finish()?;
    Ok(Some(Some(RequestToolChoice::Named(name))))
}

fn only_functions(fields: &mut Fields) -> Result<(), RequestError> {
    let param = fields.param("type");
    if text_of(&param, fields.required("type")?, 64)? == "function" {
        return Ok(());
    }
    let message = format!("{param}: only function is supported");
    Err(RequestError::new(code::UNSUPPORTED, param, message))
}

/// Reads the calls of an earlier answer.
pub(super) fn calls(
    param: &str,
    value: Option<Value>,
) -> Result<Vec<MessageToolCall>, RequestError> {
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type(param, "an array", &other)),
    };
    if items.len() > limits::TOOLS_MAX {
        let reason = format!("at most {} calls", limits::TOOLS_MAX);
        return Err(wrong_value(param, &reason));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| call(&format!("{param}[{i}]"), item))
        .collect()
}

fn call(param: &str, item: Value) -> Result<MessageToolCall, RequestError> {
    let mut call = Fields::of_value(param, item)?;
    only_functions(&mut call)?;
    let id = call_id(&call.param("id"), call.required("id")?)?;
    let mut function = Fields::of_value(&call.param("function"), call.required("function")?)?;
    call.finish()?;
    let (name_param, arguments_param) = (function.param("name"), function.param("arguments"));
    let function_read = CalledFunction {
        name: function_name(&name_param, function.required("name")?)?,
        arguments: text_of(
            &arguments_param,
            function.required("arguments")?,
            limits::CONTENT_BYTES_MAX,
        )?,
    };
    function.finish()?;
    Ok(MessageToolCall {
        id,
        kind: ToolKind::Function,
        function: function_read,
    })
}

/// The id of a call.
pub(super) fn call_id(param: &str, value: Value) -> Result<String, RequestError> {
    match text_of(param, value, limits::IDENTIFIER_BYTES_MAX)? {
        id if id.is_empty() => Err(wrong_value(param, "must not be empty")),
        id => Ok(id),
    }
}

/// What a tool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    /// A function.
    #[default]
    Function,
}

/// A function that the model may ask for.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolBody {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function.
    pub function: FunctionBody,
}

/// A function as requests describe it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionBody {
    /// Letters, digits, underscores and dashes.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Map<String, Value>>,
    /// Whether calls that the model makes by itself are held to the schema;
    /// forced ones always are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether a function is called.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoiceBody {
    /// In general.
    Mode(ToolChoiceMode),
    /// This one.
    Function(ToolChoiceFunction),
}

/// Whether any function is called.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolChoiceMode {
    /// None may be.
    None,
    /// As the model sees fit.
    Auto,
    /// At least one.
    Required,
}

/// A function that must be called.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolChoiceFunction {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function.
    pub function: FunctionName,
}

/// A function by its name.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionName {
    /// The name.
    pub name: String,
}

/// A call that the model made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageToolCall {
    /// What the result names.
    pub id: String,
    /// What is called.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function and its arguments.
    pub function: CalledFunction,
}

/// A function that is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CalledFunction {
    /// The function.
    pub name: String,
    /// Its arguments as JSON, as the model wrote it.
    pub arguments: String,
}

/// More of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call of the completion.
    pub index: u32,
    /// In the call's first piece: what the result names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// In the call's first piece: what is called.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ToolKind>,
    /// The function, and more of its arguments.
    pub function: CalledFunctionDelta,
}

/// More of a call's function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CalledFunctionDelta {
    /// In the call's first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The next piece of the arguments.
    pub arguments: String,
}
