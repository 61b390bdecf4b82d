//! Which format a file has, and one line of it as rows.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::row::{Problem, Row};
use super::{openai, others};

/// How rows are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// OpenAI's `{"messages": […]}`.
    OpenaiChat,
    /// OpenAI's `{"input": {"messages"}, "preferred_output", "non_preferred_output"}`.
    OpenaiPreference,
    /// `{"instruction", "input", "output"}`.
    Alpaca,
    /// `{"conversations": [{"from", "value"}]}`.
    Sharegpt,
    /// `{"question", "thinking", "answer"}`.
    Reasoning,
    /// `{"text"}`, or a file of plain text.
    Text,
}

impl Format {
    /// The format that a row's keys are those of.
    fn of_keys(row: &Map<String, Value>) -> Option<Self> {
        let has = |key: &str| row.contains_key(key);
        match () {
            () if has("preferred_output") || has("non_preferred_output") => {
                Some(Self::OpenaiPreference)
            }
            () if has("messages") => Some(Self::OpenaiChat),
            () if has("conversations") => Some(Self::Sharegpt),
            () if has("question") && has("thinking") => Some(Self::Reasoning),
            () if has("instruction") => Some(Self::Alpaca),
            () if has("text") => Some(Self::Text),
            () => None,
        }
    }

    /// Whether the whole file is text, not JSON lines.
    pub(crate) fn is_plain_text(path: &Path) -> bool {
        let extension = path.extension().and_then(|e| e.to_str());
        extension.is_some_and(|e| matches!(e.to_ascii_lowercase().as_str(), "txt" | "md"))
    }
}

/// The rows of one line. A line in another format than the file's first is
/// refused: it is more often a mistake than an intent.
pub(super) fn parse_line(line: &str, format: &mut Option<Format>) -> Result<Vec<Row>, Problem> {
    let value: Value = serde_json::from_str(line).map_err(|error| Problem::Schema {
        detail: format!("no JSON: {error}"),
    })?;
    let Value::Object(row) = value else {
        let detail = "a line is one JSON object".to_owned();
        return Err(Problem::Schema { detail });
    };
    let found = Format::of_keys(&row).ok_or_else(|| Problem::Schema {
        detail: "the keys are those of no known format".to_owned(),
    })?;
    let expected = *format.get_or_insert(found);
    if expected != found {
        let detail = format!("a {found:?} row in a file of {expected:?} rows");
        return Err(Problem::Schema { detail });
    }
    let value = Value::Object(row);
    match found {
        Format::OpenaiChat => openai::chat(value),
        Format::OpenaiPreference => openai::preference(value),
        Format::Alpaca => others::alpaca(value),
        Format::Sharegpt => others::sharegpt(value),
        Format::Reasoning => others::reasoning(value),
        Format::Text => others::text(value),
    }
}

/// What serde says, as a row's problem.
pub(super) fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_json::from_value(value).map_err(|error| Problem::Schema {
        detail: error.to_string(),
    })
}
