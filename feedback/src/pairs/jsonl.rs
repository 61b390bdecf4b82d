//! Pairs as OpenAI's preference JSONL, one pair a line.

use serde::Serialize;

use super::PreferencePair;
use crate::Message;

#[derive(Serialize)]
struct Line<'a> {
    input: Input<'a>,
    preferred_output: [Output<'a>; 1],
    non_preferred_output: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Input<'a> {
    messages: &'a [Message],
}

#[derive(Serialize)]
struct Output<'a> {
    role: &'static str,
    content: &'a str,
}

/// The pairs as lines of JSON; tags and provenance, which the format has no
/// place for, are left out.
///
/// # Errors
/// `serde_json`'s, which plain texts do not cause.
pub fn to_jsonl(pairs: &[PreferencePair]) -> Result<String, serde_json::Error> {
    let mut lines = String::new();
    for pair in pairs {
        let output = |content| {
            [Output {
                role: "assistant",
                content,
            }]
        };
        let line = Line {
            input: Input {
                messages: &pair.prompt,
            },
            preferred_output: output(&pair.chosen),
            non_preferred_output: output(&pair.rejected),
        };
        lines.push_str(&serde_json::to_string(&line)?);
        lines.push('\n');
    }
    Ok(lines)
}
