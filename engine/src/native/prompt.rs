//! A conversation, and the functions it may use, as prompt tokens.

use model::{BaseModel, ChatTemplate, ModelError, ToolMarkup};
use serde_json::{Map, Value, json};

use crate::api::ChatMessage;
use crate::tools::{Tool, ToolUse, flatten};

/// How a model writes calls: as its template does, or as [`flatten`] tells it.
#[must_use]
pub fn tool_markup(template: &ChatTemplate) -> ToolMarkup {
    template.tool_markup().unwrap_or(ToolMarkup::Tagged)
}

/// The prompt of a conversation, up to where the answer begins.
///
/// # Errors
/// As [`BaseModel::encode_chat`].
pub fn encode_chat(
    model: &BaseModel,
    messages: &[ChatMessage],
    tools: Option<&ToolUse>,
) -> Result<Vec<u32>, ModelError> {
    let (messages, tools) = template_json(&model.template, messages, tools);
    model.encode_chat_with_tools(&messages, tools.as_deref())
}

/// Messages and functions as [`ChatTemplate::render_json`] takes them: as they are
/// where the template knows functions, else told in plain messages.
#[must_use]
pub fn template_json(
    template: &ChatTemplate,
    messages: &[ChatMessage],
    tools: Option<&ToolUse>,
) -> (Vec<Value>, Option<Vec<Value>>) {
    if template.tool_markup().is_none() {
        let messages = flatten(messages, tools);
        return (messages.iter().map(to_json).collect(), None);
    }
    let tools = tools.map(|tools| tools.tools.iter().map(Tool::to_json).collect());
    (messages.iter().map(to_json).collect(), tools)
}

/// A message's text; with images its parts, as templates that know images take
/// them.
fn content(message: &ChatMessage) -> Value {
    if message.images.is_empty() {
        return message.content.clone().into();
    }
    let (mut parts, mut begin) = (Vec::new(), 0);
    let text = |text: &str| json!({"type": "text", "text": text});
    for image in &message.images {
        if let Some(before) = message.content.get(begin..image.at)
            && !before.is_empty()
        {
            parts.push(text(before));
        }
        parts.push(json!({"type": "image"}));
        begin = image.at;
    }
    match message.content.get(begin..) {
        Some(rest) if !rest.is_empty() => parts.push(text(rest)),
        _ => {}
    }
    Value::Array(parts)
}

/// A message with its calls, as templates expect them.
fn to_json(message: &ChatMessage) -> Value {
    let mut map = Map::new();
    map.insert("role".to_owned(), message.role.as_str().into());
    map.insert("content".to_owned(), content(message));
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let function = json!({"name": call.name, "arguments": call.arguments_value()});
            json!({"id": call.id, "type": "function", "function": function})
        });
        map.insert("tool_calls".to_owned(), calls.collect());
    }
    if let Some(id) = &message.tool_call_id {
        map.insert("tool_call_id".to_owned(), id.clone().into());
    }
    Value::Object(map)
}
