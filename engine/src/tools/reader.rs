//! Calls out of a text that comes in pieces: what is text goes out as text,
//! what is a call as its name and then its arguments, piece by piece.
//!
//! What looks like a call and is none (another form, a function that does not
//! exist) stays text.

use serde_json::Value;

use super::{CLOSE, OPEN, ToolCallDelta, ToolUse};

/// What a piece of text turned out to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCallDelta>,
}

/// Reads the text of one completion.
pub(crate) struct ToolReader {
    names: Vec<String>,
    state: State,
    /// What has come and is not yet told.
    held: String,
    calls: u32,
    /// Whether there may be a second call.
    is_parallel: bool,
}

enum State {
    /// Outside of calls.
    Text,
    /// After the opening mark, up to the arguments.
    Head,
    /// Within the arguments.
    Arguments(Nesting),
    /// After the arguments, up to the closing mark.
    Tail,
    /// Within something that does not begin like a call; it is looked at whole.
    Odd,
}

impl ToolReader {
    pub(crate) fn new(tools: &ToolUse) -> Self {
        Self {
            names: tools.tools.iter().map(|tool| tool.name.clone()).collect(),
            state: State::Text,
            held: String::new(),
            calls: 0,
            is_parallel: tools.is_parallel,
        }
    }

    /// How many calls have begun.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }

    /// Whether nothing may follow: there is one call, and may be only one.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_parallel && self.calls > 0 && matches!(self.state, State::Text)
    }

    /// Takes the next piece of text.
    pub(crate) fn push(&mut self, text: &str) -> Read {
        self.held.push_str(text);
        let mut read = Read::default();
        while !self.is_done() && self.step(&mut read) {}
        read
    }

    /// What is left at the end of the text: half a call is text.
    pub(crate) fn finish(&mut self) -> Read {
        let held = std::mem::take(&mut self.held);
        let text = match self.state {
            State::Text if self.calls > 0 => held.trim_end().to_owned(),
            State::Text => held,
            State::Head | State::Odd => format!("{OPEN}{held}"),
            State::Arguments(_) | State::Tail => String::new(),
        };
        self.state = State::Text;
        let calls = Vec::new();
        Read { text, calls }
    }

    /// Tells what can be told; true if there may be more.
    fn step(&mut self, read: &mut Read) -> bool {
        match &mut self.state {
            State::Text => {
                if let Some((before, after)) = self.held.split_once(OPEN) {
                    read.text.push_str(before.trim_end());
                    self.held = after.to_owned();
                    self.state = State::Head;
                    return true;
                }
                let rest = self.held.split_off(self.held.len() - undecided(&self.held));
                read.text.push_str(&std::mem::replace(&mut self.held, rest));
                false
            }
            State::Head => match head(&self.held) {
                Head::Unfinished => false,
                Head::Call { name, arguments } if self.names.contains(&name) => {
                    self.held.drain(..arguments);
                    self.begin(read, name, String::new());
                    self.state = State::Arguments(Nesting::default());
                    true
                }
                Head::Call { .. } | Head::Other => {
                    self.state = State::Odd;
                    true
                }
            },
            State::Arguments(nesting) => {
                let end = nesting.end(&self.held);
                let piece = match end {
                    Some(end) => self.held.drain(..end).collect(),
                    None => std::mem::take(&mut self.held),
                };
                self.extend(read, piece);
                if end.is_some() {
                    self.state = State::Tail;
                }
                end.is_some()
            }
            State::Tail => self.leave(|_, _, _| {}, read),
            State::Odd => self.leave(Self::odd, read),
        }
    }

    /// Goes on behind the closing mark, once it is there.
    fn leave(&mut self, tell: fn(&mut Self, &mut Read, &str), read: &mut Read) -> bool {
        let Some((inner, after)) = self.held.split_once(CLOSE) else {
            return false;
        };
        let (inner, after) = (inner.to_owned(), after.to_owned());
        tell(self, read, &inner);
        self.held = after;
        self.state = State::Text;
        true
    }

    /// A call with its fields in another order, or text after all.
    fn odd(&mut self, read: &mut Read, inner: &str) {
        let call: Option<Value> = serde_json::from_str(inner.trim()).ok();
        let name = call.as_ref().and_then(|call| call["name"].as_str());
        let arguments = call.as_ref().map(|call| &call["arguments"]);
        match (name, arguments) {
            (Some(name), Some(arguments @ Value::Object(_)))
                if self.names.iter().any(|known| known == name) =>
            {
                self.begin(read, name.to_owned(), arguments.to_string());
            }
            _ => read.text.push_str(&format!("{OPEN}{inner}{CLOSE}")),
        }
    }

    fn begin(&mut self, read: &mut Read, name: String, arguments: String) {
        read.calls.push(ToolCallDelta {
            index: self.calls,
            name: Some(name),
            arguments,
        });
        self.calls += 1;
    }

    fn extend(&self, read: &mut Read, piece: String) {
        let index = self.calls.saturating_sub(1);
        match read.calls.last_mut() {
            _ if piece.is_empty() => {}
            Some(last) if last.index == index => last.arguments.push_str(&piece),
            _ => read.calls.push(ToolCallDelta {
                index,
                name: None,
                arguments: piece,
            }),
        }
    }
}

/// How many bytes at the end may belong to a call that begins: white space, and
/// the beginning of the opening mark.
fn undecided(text: &str) -> usize {
    let mark = (1..OPEN.len())
        .rev()
        .find(|&n| text.ends_with(&OPEN[..n]))
        .unwrap_or(0);
    let before = &text[..text.len() - mark];
    mark + before.len() - before.trim_end().len()
}

/// What follows an opening mark.
enum Head {
    /// It may become a call.
    Unfinished,
    /// A call of this function, whose arguments begin at this byte.
    Call { name: String, arguments: usize },
    /// Something else.
    Other,
}

/// Reads `{"name": "…", "arguments": {`, with any white space.
fn head(text: &str) -> Head {
    let mut rest = text.trim_start();
    for part in ["{", "\"name\"", ":", "\""] {
        match rest.strip_prefix(part) {
            Some(after) => rest = after.trim_start(),
            None if part.starts_with(rest) => return Head::Unfinished,
            None => return Head::Other,
        }
    }
    // Names need no escapes: with one, it is no function of ours.
    let Some((name, mut rest)) = rest.split_once('"') else {
        return Head::Unfinished;
    };
    for part in [",", "\"arguments\"", ":"] {
        rest = rest.trim_start();
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None if part.starts_with(rest) => return Head::Unfinished,
            None => return Head::Other,
        }
    }
    rest = rest.trim_start();
    match rest.chars().next() {
        None => Head::Unfinished,
        Some('{') => Head::Call {
            name: name.to_owned(),
            arguments: text.len() - rest.len(),
        },
        Some(_) => Head::Other,
    }
}

/// How deep in an object a text is.
#[derive(Default)]
struct Nesting {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Goes over `text`; where the object ends, if it does within.
    fn end(&mut self, text: &str) -> Option<usize> {
        for (i, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(i + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Tool, ToolChoice};
    use super::*;

    fn reader() -> ToolReader {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: None,
            parameters: Value::Null,
        };
        ToolReader::new(&ToolUse {
            tools: vec![tool("find"), tool("buy")],
            choice: ToolChoice::Auto,
            is_parallel: true,
        })
    }

    /// The text and the calls of `text`, which comes in pieces of `size` characters.
    fn read(text: &str, size: usize) -> (String, Vec<(String, String)>) {
        let mut reader = reader();
        let characters: Vec<char> = text.chars().collect();
        let mut pieces: Vec<Read> = characters
            .chunks(size)
            .map(|piece| reader.push(&piece.iter().collect::<String>()))
            .collect();
        pieces.push(reader.finish());
        let (mut said, mut calls) = (String::new(), Vec::<(String, String)>::new());
        for piece in pieces {
            said.push_str(&piece.text);
            for delta in piece.calls {
                if let Some(name) = delta.name {
                    calls.push((name, String::new()));
                }
                assert_eq!(delta.index as usize + 1, calls.len());
                if let Some(last) = calls.last_mut() {
                    last.1.push_str(&delta.arguments);
                }
            }
        }
        assert_eq!(calls.len(), reader.calls() as usize);
        (said, calls)
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let braces = r#"{"a": "}\"{", "b": [{}, "é🙂"]}"#;
        let two = format!(
            "Let me see. \n<tool_call>\n{{\"name\": \"find\", \"arguments\": {braces}}}\n</tool_call>\n<tool_call>{{ \"name\":\"buy\" , \"arguments\" : {{}} }}</tool_call>\n"
        );
        let odd = "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"buy\"}</tool_call>";
        let call = |name: &str, arguments: &str| (name.to_owned(), arguments.to_owned());
        for size in 1..20 {
            let (said, calls) = read(&two, size);
            assert_eq!(said, "Let me see.", "{size}");
            assert_eq!(calls, [call("find", braces), call("buy", "{}")], "{size}");
            assert_eq!(
                read(odd, size),
                (String::new(), vec![call("buy", "{\"x\":1}")])
            );
        }
    }

    #[test]
    fn what_is_no_call_stays_text() {
        let texts = [
            "plain text, 1 < 2, <tool, <tool_cal",
            "ends with space \n",
            "<tool_call>{\"name\": \"sell\", \"arguments\": {}}</tool_call> and more",
            "<tool_call>nothing</tool_call>",
            "<tool_call>{\"name\": \"find\", \"arguments\": 5}</tool_call>",
            "<tool_call>\n{\"name\": \"fi",
            "<tool_call>",
        ];
        for text in texts {
            for size in 1..12 {
                assert_eq!(read(text, size), (text.to_owned(), Vec::new()), "{size}");
            }
        }
    }

    #[test]
    fn arguments_are_told_as_they_come() {
        let mut reader = reader();
        let first = reader.push("<tool_call>\n{\"name\": \"find\", \"arguments\": {\"to");
        assert_eq!(first.calls[0].name.as_deref(), Some("find"));
        assert_eq!(first.calls[0].arguments, "{\"to");
        let second = reader.push("wn\": ");
        assert_eq!(second.calls[0].name, None);
        assert_eq!(second.calls[0].arguments, "wn\": ");
        // cut off in the middle, nothing is made up
        assert_eq!(reader.finish(), Read::default());
    }
}
