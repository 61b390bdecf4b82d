//! From a completion's bytes to what its client sees: text up to a stop, and
//! calls. Stop texts are looked for in the text alone, not in calls.

use super::text::TextStream;
use crate::tools::{Read, ToolReader};

/// How one completion is read.
pub(super) struct Reading {
    /// Bytes to characters, and up to a stop where there are no functions.
    text: TextStream,
    tools: Option<Tools>,
    /// A stop text came.
    stopped: bool,
}

struct Tools {
    reader: ToolReader,
    /// The text beside the calls, up to a stop.
    said: TextStream,
}

impl Reading {
    pub(super) fn new(stops: &[String], reader: Option<ToolReader>) -> Self {
        let said = TextStream::new(stops);
        let (text, tools) = match reader {
            None => (said, None),
            Some(reader) => (TextStream::new(&[]), Some(Tools { reader, said })),
        };
        Self {
            text,
            tools,
            stopped: false,
        }
    }

    /// Adds a token's bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Read {
        let visible = self.text.push(bytes);
        let (mut read, tools) = match &mut self.tools {
            None => {
                self.stopped = visible.stopped;
                return plain(visible.text);
            }
            Some(tools) => (tools.reader.push(&visible.text), tools),
        };
        let said = tools.said.push(read.text.as_bytes());
        self.stopped = said.stopped;
        read.text = said.text;
        read
    }

    /// What is left when the completion ends; nothing after a stop text.
    pub(super) fn finish(&mut self) -> Read {
        if self.stopped {
            return Read::default();
        }
        let rest = self.text.finish();
        let Some(tools) = &mut self.tools else {
            return plain(rest);
        };
        let mut read = tools.reader.push(&rest);
        let end = tools.reader.finish();
        read.text.push_str(&end.text);
        read.calls.extend(end.calls);
        let said = tools.said.push(read.text.as_bytes());
        self.stopped = said.stopped;
        read.text = said.text;
        if !self.stopped {
            read.text.push_str(&tools.said.finish());
        }
        read
    }

    /// Whether nothing may follow: a stop text came, or the one call.
    pub(super) fn is_done(&self) -> bool {
        self.stopped || self.tools.as_ref().is_some_and(|t| t.reader.is_done())
    }

    /// Whether a function was called.
    pub(super) fn has_calls(&self) -> bool {
        self.tools.as_ref().is_some_and(|t| t.reader.calls() > 0)
    }
}

fn plain(text: String) -> Read {
    Read {
        text,
        calls: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use model::ToolMarkup;

    use super::*;
    use crate::tools::{Tool, ToolChoice, ToolUse};

    fn reading(stops: &[&str]) -> Reading {
        let tools = ToolUse {
            tools: vec![Tool {
                name: "find".to_owned(),
                description: None,
                parameters: serde_json::Value::Null,
                is_strict: false,
            }],
            choice: ToolChoice::Auto,
            is_parallel: true,
        };
        let stops: Vec<String> = stops.iter().map(|&s| s.to_owned()).collect();
        Reading::new(&stops, Some(ToolReader::new(&tools, ToolMarkup::Tagged)))
    }

    /// Text and arguments of `text`, cut into pieces of `size` bytes.
    fn all(stops: &[&str], text: &str, size: usize) -> (String, String, bool) {
        let mut reading = reading(stops);
        let (mut said, mut arguments) = (String::new(), String::new());
        let mut add = |read: Read| {
            said.push_str(&read.text);
            read.calls
                .iter()
                .for_each(|call| arguments.push_str(&call.arguments));
        };
        for piece in text.as_bytes().chunks(size) {
            add(reading.push(piece));
            if reading.is_done() {
                break;
            }
        }
        add(reading.finish());
        (said, arguments, reading.is_done())
    }

    #[test]
    fn a_stop_text_ends_the_text_and_not_a_call() {
        let call = "Yes.\n<tool_call>\n{\"name\": \"find\", \"arguments\": {\"a\": \"é\\n}\"}}\n</tool_call>";
        for size in 1..9 {
            let arguments = "{\"a\": \"é\\n}\"}".to_owned();
            let expected = ("Yes.".to_owned(), arguments.clone(), false);
            assert_eq!(all(&["\n", "}", "name"], call, size), expected, "{size}");
            let expected = ("Ye".to_owned(), String::new(), true);
            assert_eq!(all(&["s."], call, size), expected, "{size}");
            let after = format!("{call} and é STOP never");
            let expected = ("Yes. and é ".to_owned(), arguments, true);
            assert_eq!(all(&["STOP"], &after, size), expected, "{size}");
        }
    }

    #[test]
    fn a_stop_text_that_only_the_end_shows_is_one() {
        let expected = ("one".to_owned(), String::new(), true);
        assert_eq!(all(&["\n\n"], "one\n\n", 1), expected);
        let expected = ("one\n".to_owned(), String::new(), false);
        assert_eq!(all(&["\n\n"], "one\n", 1), expected);
    }
}
