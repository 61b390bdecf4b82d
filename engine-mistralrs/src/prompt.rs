//! Conversations to prompt tokens.
//!
//! Special tokens come from the template alone: what looks like one in a message
//! is encoded as text, so that no message can end its own turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::parts::{encode_chat, template_json, tool_markup};
use engine::{ChatMessage, EngineError, ToolUse};
use model::escape::{ESCAPE, escape, escape_json};
use model::{BaseModel, ChatTemplate, ToolMarkup};
use serde_json::Value;

/// Encodes a text; `Err` says why not.
pub(crate) type Encode = Box<dyn Fn(&str) -> Result<Vec<u32>, String> + Send + Sync>;

/// How a model's prompts are made.
pub(crate) enum Prompts {
    /// By our own reader of GGUF files, which knows the tokenizers of its
    /// architectures; mistralrs guesses one way to cut texts for all of them.
    Known(Arc<BaseModel>),
    /// By the tokenizer that mistralrs read.
    Foreign(Box<Foreign>),
}

/// A published template with a tokenizer.
pub(crate) struct Foreign {
    pub(crate) template: ChatTemplate,
    /// Takes special tokens for what they are.
    pub(crate) encode: Encode,
    /// Takes them for text.
    pub(crate) encode_text: Encode,
    /// The texts of special tokens.
    pub(crate) specials: BTreeMap<String, u32>,
}

impl Prompts {
    /// The prompt of a conversation, up to where the answer begins.
    pub(crate) fn encode(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<Vec<u32>, EngineError> {
        let tokens = match self {
            Self::Known(model) => {
                encode_chat(model, messages, tools).map_err(|error| error.to_string())
            }
            Self::Foreign(foreign) => foreign.encode(messages, tools),
        };
        tokens.map_err(|reason| EngineError::InvalidRequest {
            param: "messages",
            reason,
        })
    }

    /// How the model writes calls.
    pub(crate) fn tool_markup(&self) -> ToolMarkup {
        tool_markup(match self {
            Self::Known(model) => &model.template,
            Self::Foreign(foreign) => &foreign.template,
        })
    }
}

impl Foreign {
    fn encode(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<Vec<u32>, String> {
        let (messages, tools) = template_json(&self.template, messages, tools);
        let break_specials = |text: &str| escape(text, self.specials.keys().map(String::as_str));
        let escaped = |values: &[Value]| -> Vec<Value> {
            let values = values.iter();
            values
                .map(|value| escape_json(value, &break_specials))
                .collect()
        };
        let (messages, tools) = (escaped(&messages), tools.as_deref().map(escaped));
        let prompt = self.template.render_json(&messages, tools.as_deref(), true);
        let prompt = prompt.map_err(|error| error.to_string())?;
        if prompt.contains(ESCAPE) {
            self.encode_escaped(&prompt)
        } else {
            (self.encode)(&prompt)
        }
    }

    /// Encodes the special tokens that are whole, and what is between them as
    /// text.
    fn encode_escaped(&self, prompt: &str) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        let mut rest = prompt;
        while !rest.is_empty() {
            let found = self
                .specials
                .iter()
                .filter_map(|(text, id)| Some((rest.find(text)?, text, *id)))
                .min_by_key(|(at, text, _)| (*at, usize::MAX - text.len()));
            let end = found.map_or(rest.len(), |(at, _, _)| at);
            let text = rest[..end].replace(ESCAPE, "");
            if !text.is_empty() {
                tokens.extend((self.encode_text)(&text)?);
            }
            let Some((at, text, id)) = found else { break };
            tokens.push(id);
            rest = &rest[at + text.len()..];
        }
        Ok(tokens)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use engine::Role;

    use super::*;

    /// Special tokens are 1000 and 1001, a byte is its value.
    fn foreign() -> Foreign {
        let bytes = |text: &str| Ok(text.bytes().map(u32::from).collect());
        let source = "{% for m in messages %}<s>{{ m.content }}{% endfor %}<ss>";
        Foreign {
            template: ChatTemplate::new(source, "", "").unwrap(),
            encode: Box::new(|_| Ok(vec![7])),
            encode_text: Box::new(bytes),
            specials: BTreeMap::from([("<s>".to_owned(), 1000), ("<ss>".to_owned(), 1001)]),
        }
    }

    fn encode(content: &str) -> Vec<u32> {
        let messages = [ChatMessage::new(Role::User, content)];
        Prompts::Foreign(Box::new(foreign()))
            .encode(&messages, None)
            .unwrap()
    }

    #[test]
    fn a_message_cannot_have_special_tokens() {
        assert_eq!(encode("hello"), [7], "the whole prompt at once");
        let text = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        let expected = [vec![1000], text("a<s>b<ss>"), vec![1001]].concat();
        assert_eq!(encode("a<s>b<ss>"), expected);
        // an escape of the message's own goes, and cannot hide a token
        assert_eq!(
            encode("<\u{FDD0}s>"),
            [vec![1000], text("<s>"), vec![1001]].concat()
        );
    }
}
