//! A conversation, and the functions it may use, as prompt tokens.

use model::{BaseModel, ModelError, TemplateMessage, ToolMarkup};
use serde_json::{Map, Value, json};

use crate::api::{ChatMessage, Role};
use crate::tools::{Tool, ToolUse, flatten};

/// How the model writes calls: as its template does, or as [`flatten`] tells it.
pub(super) fn tool_markup(model: &BaseModel) -> ToolMarkup {
    model.template.tool_markup().unwrap_or(ToolMarkup::Tagged)
}

/// By the model's own template where that knows functions; else they are told
/// in plain messages.
pub(super) fn encode(
    model: &BaseModel,
    messages: &[ChatMessage],
    tools: Option<&ToolUse>,
) -> Result<Vec<u32>, ModelError> {
    let is_plain = |m: &ChatMessage| m.role != Role::Tool && m.tool_calls.is_empty();
    if model.template.tool_markup().is_some() && (tools.is_some() || !messages.iter().all(is_plain))
    {
        let messages: Vec<Value> = messages.iter().map(to_json).collect();
        let tools: Option<Vec<Value>> =
            tools.map(|tools| tools.tools.iter().map(Tool::to_json).collect());
        return model.encode_chat_with_tools(&messages, tools.as_deref());
    }
    let messages = flatten(messages, tools);
    let messages: Vec<TemplateMessage<'_>> = messages
        .iter()
        .map(|m| TemplateMessage {
            role: m.role.as_str(),
            content: &m.content,
        })
        .collect();
    model.encode_chat(&messages, true)
}

/// A message with its calls, as templates expect them.
fn to_json(message: &ChatMessage) -> Value {
    let mut map = Map::new();
    map.insert("role".to_owned(), message.role.as_str().into());
    map.insert("content".to_owned(), message.content.clone().into());
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
