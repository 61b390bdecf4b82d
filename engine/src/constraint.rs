//! What a completion's text must be: a schema, an expression or a grammar.
//! Knows nothing of tokens; each engine compiles it for its own.

use serde_json::{Value, json};

use crate::api::EngineError;

/// The longest grammar, in bytes of its JSON or text.
pub const GRAMMAR_BYTES_MAX: usize = 64 << 10;
/// How deep arrays and objects, or brackets, may nest in a grammar.
pub const GRAMMAR_NESTING_MAX: usize = 100;

/// White space between the parts of JSON: a space, or a new line with its
/// indentation. Small models would fill their answers with more.
const JSON_SPACE: &str = r"[\x20\x09]{1,16}|\x0A[\x20\x09]{0,16}";

/// Holds a completion to a grammar: no other text can come, and the completion
/// ends with [`crate::FinishReason::Stop`] when the grammar does. Where the
/// token limit comes first, the text is a beginning of what the grammar allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    /// The request's field that it comes from, in OpenAI's API: what an error
    /// about it names.
    pub param: &'static str,
    /// What is allowed.
    pub grammar: Grammar,
}

/// What a completion may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that this schema accepts. A keyword that cannot be enforced is
    /// refused, never ignored.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// Text that this expression matches as a whole (the syntax of Rust's
    /// `regex`, without anchors and look-around).
    Regex(String),
    /// Text of the rule `start` of this Lark grammar, as `llguidance` reads it.
    Lark(String),
}

impl Constraint {
    /// The error that says what is wrong with it.
    pub(crate) fn refused(&self, reason: impl Into<String>) -> EngineError {
        EngineError::InvalidRequest {
            param: self.param,
            reason: reason.into(),
        }
    }

    /// Refuses what is too large to be compiled.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`].
    pub fn check(&self) -> Result<(), EngineError> {
        let (bytes, nesting) = match &self.grammar {
            Grammar::JsonObject => (0, 0),
            Grammar::JsonSchema(schema) => {
                if !(schema.is_object() || schema.is_boolean()) {
                    return Err(self.refused("a schema is an object"));
                }
                // Measured before it is written, which is recursive.
                let nesting = json_nesting(schema);
                let bytes = match nesting {
                    0..=GRAMMAR_NESTING_MAX => schema.to_string().len(),
                    _ => 0,
                };
                (bytes, nesting)
            }
            Grammar::Regex(text) | Grammar::Lark(text) => {
                if text.trim().is_empty() {
                    return Err(self.refused("it is empty"));
                }
                (text.len(), bracket_nesting(text))
            }
        };
        if bytes > GRAMMAR_BYTES_MAX {
            return Err(self.refused(format!(
                "it has {bytes} bytes; at most {GRAMMAR_BYTES_MAX} are compiled"
            )));
        }
        if nesting > GRAMMAR_NESTING_MAX {
            return Err(self.refused(format!("it nests deeper than {GRAMMAR_NESTING_MAX} levels")));
        }
        Ok(())
    }
}

/// How deep arrays and objects nest; without recursion, for it may be deep.
fn json_nesting(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => open.extend(map.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    deepest
}

/// How deep brackets nest, wherever they stand: at least as deep as a parser
/// of the text can get.
fn bracket_nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A schema with our white space, whatever it says itself.
pub(crate) fn spaced(mut schema: Value) -> Value {
    if let Value::Object(map) = &mut schema {
        map.insert(
            "x-guidance".to_owned(),
            json!({"whitespace_pattern": JSON_SPACE}),
        );
    }
    schema
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reason(grammar: Grammar) -> Option<String> {
        let param = "response_format";
        match (Constraint { param, grammar }).check() {
            Err(EngineError::InvalidRequest { param: p, reason }) if p == param => Some(reason),
            Err(other) => Some(format!("another error: {other}")),
            Ok(()) => None,
        }
    }

    fn nested(depth: usize) -> Value {
        (0..depth).fold(json!(true), |inner, _| json!({"items": inner}))
    }

    #[test]
    fn grammars_are_taken_up_to_their_limits() {
        let deepest = nested(GRAMMAR_NESTING_MAX);
        assert_eq!(reason(Grammar::JsonSchema(deepest)), None);
        let deeper = nested(GRAMMAR_NESTING_MAX + 1);
        assert!(
            reason(Grammar::JsonSchema(deeper))
                .unwrap()
                .contains("nests")
        );
        let brackets = |depth: usize| "(".repeat(depth) + &")".repeat(depth);
        assert_eq!(reason(Grammar::Regex(brackets(GRAMMAR_NESTING_MAX))), None);
        let deeper = Grammar::Regex(brackets(GRAMMAR_NESTING_MAX + 1));
        assert!(reason(deeper).unwrap().contains("nests"));
        let longest = "a".repeat(GRAMMAR_BYTES_MAX);
        assert_eq!(reason(Grammar::Lark(longest.clone())), None);
        assert!(
            reason(Grammar::Lark(longest + "a"))
                .unwrap()
                .contains("bytes")
        );
        assert!(
            reason(Grammar::Regex(" ".to_owned()))
                .unwrap()
                .contains("empty")
        );
        assert!(
            reason(Grammar::JsonSchema(json!([])))
                .unwrap()
                .contains("object")
        );
        assert_eq!(reason(Grammar::JsonObject), None);
    }
}
