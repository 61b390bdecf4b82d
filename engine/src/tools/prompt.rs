//! Functions, calls and results as plain messages, for templates that know
//! nothing of them. The words are those of the Hermes and Qwen templates.

use std::borrow::Cow;

use model::python_json;
use serde_json::json;

use super::{CLOSE, OPEN, ToolUse};
use crate::api::{ChatMessage, Role};

const BEFORE: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>";
const AFTER: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/// The same conversation in the roles system, user and assistant alone: the
/// functions at the end of the system's message, calls as text, and results
/// (neighbours together) as the user's.
#[must_use]
pub fn flatten<'a>(messages: &'a [ChatMessage], tools: Option<&ToolUse>) -> Cow<'a, [ChatMessage]> {
    let is_plain = |m: &ChatMessage| m.role != Role::Tool && m.tool_calls.is_empty();
    if tools.is_none() && messages.iter().all(is_plain) {
        return Cow::Borrowed(messages);
    }
    let mut flat: Vec<ChatMessage> = Vec::with_capacity(messages.len() + 1);
    let mut after_result = false;
    for message in messages {
        let is_result = message.role == Role::Tool;
        match flat.last_mut() {
            Some(last) if is_result && after_result => {
                last.content.push('\n');
                last.content.push_str(&result(message));
            }
            _ if is_result => flat.push(ChatMessage::new(Role::User, result(message))),
            _ => flat.push(ChatMessage {
                images: message.images.clone(),
                ..ChatMessage::new(message.role, with_calls(message))
            }),
        }
        after_result = is_result;
    }
    if let Some(tools) = tools {
        let described = describe(tools);
        match flat.first_mut() {
            Some(first) if first.role == Role::System => {
                first.content = format!("{}\n\n{described}", first.content);
            }
            _ => flat.insert(0, ChatMessage::new(Role::System, described)),
        }
    }
    Cow::Owned(flat)
}

fn describe(tools: &ToolUse) -> String {
    let mut text = BEFORE.to_owned();
    for tool in &tools.tools {
        text.push('\n');
        text.push_str(&python_json(&tool.to_json()));
    }
    text + AFTER
}

fn result(message: &ChatMessage) -> String {
    format!("<tool_response>\n{}\n</tool_response>", message.content)
}

fn with_calls(message: &ChatMessage) -> String {
    let mut text = message.content.clone();
    for call in &message.tool_calls {
        if !text.is_empty() {
            text.push('\n');
        }
        let call = python_json(&json!({"name": call.name, "arguments": call.arguments_value()}));
        text.push_str(&format!("{OPEN}\n{call}\n{CLOSE}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Tool, ToolCall, ToolChoice};
    use super::*;

    #[test]
    fn a_conversation_with_calls_becomes_a_plain_one() {
        let mut asks = ChatMessage::new(Role::Assistant, "I look.");
        asks.tool_calls = ["Rye", "Hythe"]
            .map(|town| ToolCall {
                id: town.to_owned(),
                name: "tide".to_owned(),
                arguments: format!("{{\"town\":\"{town}\"}}"),
            })
            .to_vec();
        let messages = [
            ChatMessage::new(Role::User, "When is high water?"),
            asks,
            ChatMessage::new(Role::Tool, "9:10"),
            ChatMessage::new(Role::Tool, "9:30"),
            ChatMessage::new(Role::User, "Thanks."),
        ];
        let tools = ToolUse {
            tools: vec![Tool {
                name: "tide".to_owned(),
                description: Some("High water".to_owned()),
                parameters: json!({"type": "object"}),
                is_strict: false,
            }],
            choice: ToolChoice::Auto,
            is_parallel: true,
        };
        let flat = flatten(&messages, Some(&tools));
        let flat: Vec<(Role, &str)> = flat.iter().map(|m| (m.role, m.content.as_str())).collect();
        let listed = "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"tide\", \"description\": \"High water\", \"parameters\": {\"type\": \"object\"}}}\n</tools>";
        assert!(
            flat[0].0 == Role::System && flat[0].1.contains(listed),
            "{}",
            flat[0].1
        );
        let calls = "I look.\n<tool_call>\n{\"name\": \"tide\", \"arguments\": {\"town\": \"Rye\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"tide\", \"arguments\": {\"town\": \"Hythe\"}}\n</tool_call>";
        let results =
            "<tool_response>\n9:10\n</tool_response>\n<tool_response>\n9:30\n</tool_response>";
        assert_eq!(
            flat[1..],
            [
                (Role::User, "When is high water?"),
                (Role::Assistant, calls),
                (Role::User, results),
                (Role::User, "Thanks."),
            ]
        );
    }

    #[test]
    fn a_plain_conversation_stays_and_a_system_message_keeps_its_place() {
        let messages = [
            ChatMessage::new(Role::System, "Be brief."),
            ChatMessage::new(Role::User, "Hi"),
        ];
        assert!(matches!(flatten(&messages, None), Cow::Borrowed(_)));
        let tools = ToolUse {
            tools: Vec::new(),
            choice: ToolChoice::Required,
            is_parallel: true,
        };
        let flat = flatten(&messages, Some(&tools));
        assert_eq!(flat.len(), 2);
        assert!(flat[0].content.starts_with("Be brief.\n\n# Tools\n"));
    }
}
