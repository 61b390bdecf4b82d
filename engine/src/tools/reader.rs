//! Calls out of a text that comes in pieces: what is text goes out as text,
//! what is a call as its name and then its arguments, piece by piece.
//!
//! What looks like a call and is none (another form, a function that does not
//! exist) stays text.

use model::ToolMarkup;
use serde_json::Value;

use super::{CLOSE, OPEN, ToolCallDelta, ToolChoice, ToolUse};

/// What a piece of text turned out to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Text.
    pub text: String,
    /// More of the calls.
    pub calls: Vec<ToolCallDelta>,
}

/// Reads the text of one completion.
pub(crate) struct ToolReader {
    names: Vec<String>,
    markup: ToolMarkup,
    state: State,
    /// What has come and is not yet told.
    held: String,
    calls: u32,
    /// Whether there may be a second call.
    is_parallel: bool,
}

enum State {
    /// Nothing but white space so far, where a text that is a call has no mark.
    Start,
    /// Outside of calls.
    Text,
    /// Where a call begins, up to its arguments; the first of its block, or a
    /// further one.
    Head { is_first: bool },
    /// Within the arguments.
    Arguments(Nesting),
    /// After the arguments, up to the end of the call.
    Tail(Nesting),
    /// After a call, within its block.
    Between,
    /// Within a block that goes on with something else.
    Skipped,
    /// Within something that does not begin like a call; it is looked at whole.
    Odd { is_first: bool },
}

impl ToolReader {
    pub(crate) fn new(tools: &ToolUse, markup: ToolMarkup) -> Self {
        Self {
            names: tools.tools.iter().map(|tool| tool.name.clone()).collect(),
            markup,
            state: match markup {
                ToolMarkup::Tagged => State::Text,
                ToolMarkup::Bare => State::Start,
            },
            held: String::new(),
            calls: 0,
            is_parallel: tools.is_parallel && !matches!(tools.choice, ToolChoice::Named(_)),
        }
    }

    /// How many calls have begun.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }

    /// Whether nothing may follow: there is one call, and may be only one.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_parallel && self.calls > 0 && matches!(self.state, State::Text | State::Between)
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
        let mut read = Read::default();
        let held = std::mem::take(&mut self.held);
        match self.state {
            _ if self.is_done() => {}
            State::Text if self.calls > 0 => read.text = held.trim_end().to_owned(),
            State::Start | State::Text => read.text = held,
            State::Head { is_first } | State::Odd { is_first } => {
                self.odd(&mut read, &held, is_first, "");
            }
            State::Arguments(_) | State::Tail(_) | State::Between | State::Skipped => {}
        }
        self.state = State::Text;
        read
    }

    /// Tells what can be told; true if there may be more.
    fn step(&mut self, read: &mut Read) -> bool {
        match &mut self.state {
            State::Start => self.start(),
            State::Text => self.text(read),
            State::Head { is_first } => {
                let is_first = *is_first;
                self.head(read, is_first)
            }
            State::Arguments(nesting) => {
                let end = nesting.end(&self.held);
                let piece = match end {
                    Some(end) => self.held.drain(..end).collect(),
                    None => std::mem::take(&mut self.held),
                };
                self.extend(read, piece);
                if end.is_some() {
                    self.state = State::Tail(Nesting::within_object());
                }
                end.is_some()
            }
            State::Tail(nesting) => {
                let end = nesting.end(&self.held);
                self.held.drain(..end.unwrap_or(self.held.len()));
                if end.is_some() {
                    self.state = State::Between;
                }
                end.is_some()
            }
            State::Between => self.between(),
            State::Skipped => self.leave().is_some(),
            State::Odd { is_first } => {
                let is_first = *is_first;
                let inner = self.leave();
                if let Some(inner) = &inner {
                    self.odd(read, inner, is_first, CLOSE);
                }
                inner.is_some()
            }
        }
    }

    fn start(&mut self) -> bool {
        self.state = match self.held.trim_start().chars().next() {
            None => return false,
            Some('{') => State::Head { is_first: true },
            Some(_) => State::Text,
        };
        true
    }

    fn text(&mut self, read: &mut Read) -> bool {
        if self.markup == ToolMarkup::Bare {
            read.text.push_str(&std::mem::take(&mut self.held));
            return false;
        }
        if let Some((before, after)) = self.held.split_once(OPEN) {
            read.text.push_str(before.trim_end());
            self.held = after.to_owned();
            self.state = State::Head { is_first: true };
            return true;
        }
        let rest = self.held.split_off(self.held.len() - undecided(&self.held));
        read.text.push_str(&std::mem::replace(&mut self.held, rest));
        false
    }

    fn head(&mut self, read: &mut Read, is_first: bool) -> bool {
        match head(&self.held, is_first) {
            Err(NoHead::Unfinished) => return false,
            Ok((name, arguments)) if self.names.contains(&name) => {
                self.held.drain(..arguments);
                self.begin(read, name, String::new());
                self.state = State::Arguments(Nesting::default());
            }
            Ok(_) | Err(NoHead::Other) => self.state = State::Odd { is_first },
        }
        true
    }

    /// After a call: another one, or the end of the block.
    fn between(&mut self) -> bool {
        let rest = self.held.trim_start();
        let at = self.held.len() - rest.len();
        let (used, state) = match rest.chars().next() {
            None => return false,
            Some(',' | ';') => (1, State::Head { is_first: false }),
            Some('{') => (0, State::Head { is_first: false }),
            Some(']') => (1, State::Between),
            Some(_) if self.markup == ToolMarkup::Bare => (0, State::Text),
            Some(_) if rest.starts_with(CLOSE) => (CLOSE.len(), State::Text),
            Some(_) if CLOSE.starts_with(rest) => return false,
            Some(_) => (0, State::Skipped),
        };
        self.held.drain(..at + used);
        self.state = state;
        true
    }

    /// Takes what stands before the closing mark, once that is there, and goes
    /// on behind it. A markup without one is looked at when the text ends.
    fn leave(&mut self) -> Option<String> {
        if self.markup == ToolMarkup::Bare {
            return None;
        }
        let (inner, after) = self.held.split_once(CLOSE)?;
        let (inner, after) = (inner.to_owned(), after.to_owned());
        self.held = after;
        self.state = State::Text;
        Some(inner)
    }

    /// Calls with their fields in another order, or text after all.
    fn odd(&mut self, read: &mut Read, inner: &str, is_first: bool, close: &str) {
        let json = if is_first {
            inner.trim()
        } else {
            inner.trim().trim_end_matches(']')
        };
        let found = serde_json::from_str(json)
            .ok()
            .and_then(|value| self.whole_calls(&value));
        let Some(calls) = found else {
            if is_first && self.markup == ToolMarkup::Tagged {
                read.text.push_str(OPEN);
            }
            read.text.push_str(inner);
            read.text.push_str(close);
            return;
        };
        let count = if self.is_parallel { calls.len() } else { 1 };
        for (name, arguments) in calls.into_iter().take(count) {
            self.begin(read, name, arguments);
        }
    }

    /// The names and arguments of one call or a list of them; none if one of
    /// them cannot be made.
    fn whole_calls(&self, value: &Value) -> Option<Vec<(String, String)>> {
        let one = |call: &Value| {
            let name = call.get("name")?.as_str()?;
            let known = self.names.iter().find(|known| *known == name)?;
            let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
                None => Value::Object(serde_json::Map::new()),
                Some(Value::String(text)) => serde_json::from_str(text).ok()?,
                Some(arguments) => arguments.clone(),
            };
            arguments
                .is_object()
                .then(|| (known.clone(), arguments.to_string()))
        };
        match value {
            Value::Array(items) if !items.is_empty() => items.iter().map(one).collect(),
            other => Some(vec![one(other)?]),
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

/// Why a text is not the head of a call.
enum NoHead {
    /// It may become one.
    Unfinished,
    /// It is something else.
    Other,
}

/// Reads `{"name": "…", "arguments": {` with any white space, after a `[` where
/// a list may begin: the name, and the byte at which the arguments begin.
fn head(text: &str, may_be_list: bool) -> Result<(String, usize), NoHead> {
    let mut rest = text.trim_start();
    if may_be_list {
        rest = rest.strip_prefix('[').unwrap_or(rest);
    }
    for word in ["{", "\"name\"", ":", "\""] {
        rest = eat(rest, &[word])?;
    }
    // Names need no escapes: with one, it is no function of ours.
    let (name, mut rest) = rest.split_once('"').ok_or(NoHead::Unfinished)?;
    for words in [[",", ","], ["\"arguments\"", "\"parameters\""], [":", ":"]] {
        rest = eat(rest, &words)?;
    }
    let rest = rest.trim_start();
    match rest.chars().next() {
        None => Err(NoHead::Unfinished),
        Some('{') => Ok((name.to_owned(), text.len() - rest.len())),
        Some(_) => Err(NoHead::Other),
    }
}

/// What follows one of `words`, and white space before it.
fn eat<'a>(text: &'a str, words: &[&str]) -> Result<&'a str, NoHead> {
    let text = text.trim_start();
    let after = words.iter().find_map(|word| text.strip_prefix(word));
    after.ok_or(if words.iter().any(|word| word.starts_with(text)) {
        NoHead::Unfinished
    } else {
        NoHead::Other
    })
}

/// How deep in an object a text is.
#[derive(Default)]
struct Nesting {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Behind a field of an object.
    fn within_object() -> Self {
        Self {
            depth: 1,
            ..Self::default()
        }
    }

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
mod tests;
