//! The messages of a request: who says what, calls, and their results.

use std::collections::BTreeSet;

use serde_json::Value;

use super::images::{RequestImage, image};
use super::limits;
use super::tools::{call_id, calls};
use super::{MessageRole, RequestMessage};
use crate::RequestError;
use crate::error::code;
use crate::fields::{Fields, text_of, wrong_type, wrong_value};

type Read<T> = Result<T, RequestError>;

/// Reads `messages`. A result must name a call that came before it.
pub(super) fn messages(value: Value) -> Read<Vec<RequestMessage>> {
    let Value::Array(items) = value else {
        return Err(wrong_type("messages", "an array", &value));
    };
    if items.is_empty() || items.len() > limits::MESSAGES_MAX {
        let reason = format!("must have 1 to {} messages", limits::MESSAGES_MAX);
        return Err(wrong_value("messages", &reason));
    }
    let mut read = Vec::with_capacity(items.len());
    let (mut called, mut images) = (BTreeSet::new(), 0);
    for (i, item) in items.into_iter().enumerate() {
        let message = message(&format!("messages[{i}]"), item)?;
        called.extend(message.tool_calls.iter().map(|call| call.id.clone()));
        if let Some(id) = &message.tool_call_id
            && !called.contains(id)
        {
            let param = format!("messages[{i}].tool_call_id");
            return Err(wrong_value(&param, "names no call of an earlier message"));
        }
        images += message.images.len();
        if images > limits::IMAGES_MAX {
            let reason = format!("a request has at most {} images", limits::IMAGES_MAX);
            return Err(wrong_value(&format!("messages[{i}].content"), &reason));
        }
        read.push(message);
    }
    Ok(read)
}

fn message(param: &str, item: Value) -> Read<RequestMessage> {
    let mut fields = Fields::of_value(param, item)?;
    let role_param = fields.param("role");
    let role = match text_of(&role_param, fields.required("role")?, 64)?.as_str() {
        "system" | "developer" => MessageRole::System,
        "user" => MessageRole::User,
        "assistant" => MessageRole::Assistant,
        "tool" => MessageRole::Tool,
        _ => {
            return Err(wrong_value(
                &role_param,
                "must be system, developer, user, assistant or tool",
            ));
        }
    };
    let calls_param = fields.param("tool_calls");
    let tool_calls = calls(&calls_param, fields.take("tool_calls"))?;
    if role != MessageRole::Assistant && !tool_calls.is_empty() {
        return Err(wrong_value(&calls_param, "only the assistant calls"));
    }
    let tool_call_id = match role {
        MessageRole::Tool => {
            let param = fields.param("tool_call_id");
            Some(call_id(&param, fields.required("tool_call_id")?)?)
        }
        _ => None,
    };
    inert_fields(&mut fields)?;
    let content_param = fields.param("content");
    let (content, images) = match fields.take("content") {
        None if !tool_calls.is_empty() => (String::new(), Vec::new()),
        None => {
            let message = format!("the required field {content_param} is missing");
            return Err(RequestError::new(code::MISSING, content_param, message));
        }
        Some(value) => content(&content_param, value, role)?,
    };
    fields.finish()?;
    Ok(RequestMessage {
        role,
        content,
        images,
        tool_calls,
        tool_call_id,
    })
}

/// Clients send an earlier answer back with its empty fields.
fn inert_fields(fields: &mut Fields) -> Read<()> {
    fields.inert("annotations", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    })?;
    for key in [
        "name",
        "refusal",
        "audio",
        "function_call",
        "reasoning_content",
        "tool_call_id",
    ] {
        fields.inert(key, |_| false)?;
    }
    Ok(())
}

/// The texts of a content, joined, and its images.
fn content(param: &str, value: Value, role: MessageRole) -> Read<(String, Vec<RequestImage>)> {
    let parts = match value {
        Value::Array(parts) => parts,
        Value::String(_) => {
            let text = text_of(param, value, limits::CONTENT_BYTES_MAX)?;
            return Ok((text, Vec::new()));
        }
        other => return Err(wrong_type(param, "a string or an array of parts", &other)),
    };
    if parts.len() > limits::PARTS_MAX {
        return Err(wrong_value(
            param,
            &format!("at most {} parts", limits::PARTS_MAX),
        ));
    }
    let (mut joined, mut images) = (String::new(), Vec::new());
    for (i, part) in parts.into_iter().enumerate() {
        let mut fields = Fields::of_value(&format!("{param}[{i}]"), part)?;
        let kind_param = fields.param("type");
        let unsupported = |reason: &str| {
            let message = format!("{kind_param}: {reason}");
            Err(RequestError::new(code::UNSUPPORTED, &kind_param, message))
        };
        match fields.required("type")?.as_str() {
            Some("text") => {}
            Some("image_url") if role != MessageRole::User => {
                return unsupported("only the user's messages may have images");
            }
            // the next would be decoded for nothing
            Some("image_url") if images.len() == limits::IMAGES_MAX => {
                let reason = format!("a request has at most {} images", limits::IMAGES_MAX);
                return Err(wrong_value(param, &reason));
            }
            Some("image_url") => {
                images.push(image(&mut fields, joined.len())?);
                fields.finish()?;
                continue;
            }
            _ => return unsupported("only parts of type text and image_url are supported"),
        }
        let text_param = fields.param("text");
        joined += &text_of(
            &text_param,
            fields.required("text")?,
            limits::CONTENT_BYTES_MAX,
        )?;
        fields.finish()?;
        if joined.len() > limits::CONTENT_BYTES_MAX {
            return Err(wrong_value(
                param,
                &format!("at most {} bytes", limits::CONTENT_BYTES_MAX),
            ));
        }
    }
    Ok((joined, images))
}
