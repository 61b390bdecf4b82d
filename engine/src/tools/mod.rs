//! Functions that a model may call, whatever engine runs it: how they are told
//! to a model whose template does not know them, what a forced call must look
//! like, and how calls are read from the text as it comes.
//!
//! The markup is the model's own where its template shows one that is known
//! ([`model::ToolMarkup`]), else that of Hermes and Qwen. Nothing here runs a
//! function.

mod forced;
mod prompt;
mod reader;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::EngineError;

pub use prompt::flatten;
pub use reader::Read;
pub(crate) use reader::ToolReader;

/// The most functions of one request.
pub const TOOLS_MAX: usize = 128;
/// The longest name of a function.
pub const TOOL_NAME_BYTES_MAX: usize = 64;
/// The most calls of an answer that is held to their schemas.
pub const HELD_CALLS_MAX: u32 = 8;

/// What opens and closes a call in a text.
const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A function that the model may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object.
    pub parameters: Value,
    /// Whether calls that the model makes by itself are held to it too; forced
    /// ones always are.
    pub is_strict: bool,
}

impl Tool {
    /// As OpenAI's API and chat templates write it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut function = serde_json::Map::new();
        function.insert("name".to_owned(), self.name.clone().into());
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), description.clone().into());
        }
        function.insert("parameters".to_owned(), self.parameters.clone());
        serde_json::json!({"type": "function", "function": function})
    }
}

/// Whether the model must call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it sees fit.
    Auto,
    /// At least one function.
    Required,
    /// Exactly this one, once.
    Named(String),
}

/// The functions of a request. A request in which none may be called has none.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// The functions, 1 to [`TOOLS_MAX`], each name once.
    pub tools: Vec<Tool>,
    /// Whether one must be called.
    pub choice: ToolChoice,
    /// Whether an answer may have several calls.
    pub is_parallel: bool,
}

impl ToolUse {
    /// Refuses functions without a name that can be called.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`].
    pub fn check(&self) -> Result<(), EngineError> {
        let refused = |param, reason: String| Err(EngineError::InvalidRequest { param, reason });
        if self.tools.is_empty() || self.tools.len() > TOOLS_MAX {
            return refused("tools", format!("there must be 1 to {TOOLS_MAX}"));
        }
        for (i, tool) in self.tools.iter().enumerate() {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            let name = &tool.name;
            if name.is_empty() || name.len() > TOOL_NAME_BYTES_MAX || !name.chars().all(fits) {
                return refused("tools", format!("the name of number {i} is not allowed"));
            }
            if self.tools[..i].iter().any(|earlier| earlier.name == *name) {
                return refused("tools", format!("there are two functions {name}"));
            }
        }
        match &self.choice {
            ToolChoice::Named(name) if !self.tools.iter().any(|tool| tool.name == *name) => {
                refused("tool_choice", format!("there is no function {name}"))
            }
            _ => Ok(()),
        }
    }
}

/// A call that the model made, with its arguments as it wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names the call within the conversation.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON, as far as the model kept to it.
    pub arguments: String,
}

impl ToolCall {
    /// The arguments, as a value where they are JSON.
    #[must_use]
    pub fn arguments_value(&self) -> Value {
        serde_json::from_str(&self.arguments)
            .unwrap_or_else(|_| Value::String(self.arguments.clone()))
    }
}

/// More of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallDelta {
    /// Which call of the completion, counted from 0.
    pub index: u32,
    /// The function, in the call's first delta.
    pub name: Option<String>,
    /// The arguments' next piece.
    pub arguments: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(names: impl Iterator<Item = String>) -> ToolUse {
        let tool = |name| Tool {
            name,
            description: None,
            parameters: Value::Null,
            is_strict: false,
        };
        ToolUse {
            tools: names.map(tool).collect(),
            choice: ToolChoice::Auto,
            is_parallel: true,
        }
    }

    #[test]
    fn functions_are_taken_up_to_their_limits() {
        let numbered = |count: usize| with((0..count).map(|i| format!("f{i}")));
        numbered(TOOLS_MAX).check().unwrap();
        assert!(numbered(TOOLS_MAX + 1).check().is_err());
        assert!(numbered(0).check().is_err());
        let long = |bytes: usize| with(std::iter::once("n".repeat(bytes)));
        long(TOOL_NAME_BYTES_MAX).check().unwrap();
        assert!(long(TOOL_NAME_BYTES_MAX + 1).check().is_err());
        assert!(long(0).check().is_err());
    }

    #[test]
    fn as_many_schemas_as_a_grammar_can_have_are_held() {
        let mut tools = with(std::iter::once("f".to_owned()));
        tools.choice = ToolChoice::Required;
        let held = |tools: &ToolUse| {
            let constraint = tools.constraint(model::ToolMarkup::Tagged).unwrap();
            constraint.check()
        };
        let described = |bytes: usize| serde_json::json!({"description": "d".repeat(bytes)});
        tools.tools[0].parameters = described(crate::GRAMMAR_BYTES_MAX - 1000);
        held(&tools).unwrap();
        tools.tools[0].parameters = described(crate::GRAMMAR_BYTES_MAX);
        let refused = held(&tools).unwrap_err();
        assert!(
            matches!(refused, EngineError::InvalidRequest { param: "tools", .. }),
            "{refused}"
        );
    }
}
