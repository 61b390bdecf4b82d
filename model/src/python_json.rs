//! JSON as Python's `json.dumps(…, ensure_ascii=False)` writes it: what chat
//! templates were trained with.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// `value` on one line, with a space after each comma and colon.
#[must_use]
pub fn python_json(value: &Value) -> String {
    write(value, OneLine)
}

/// `value` over several lines, each level `indent` spaces deeper.
pub(crate) fn python_json_indented(value: &Value, indent: usize) -> String {
    let indent = " ".repeat(indent);
    write(value, PrettyFormatter::with_indent(indent.as_bytes()))
}

fn write(value: &Value, formatter: impl Formatter) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    // a value has text keys only, and a vector takes every byte
    let _ = value.serialize(&mut serializer);
    String::from_utf8(bytes).unwrap_or_default()
}

struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        separate(out, first)
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        separate(out, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

fn separate<W: Write + ?Sized>(out: &mut W, first: bool) -> io::Result<()> {
    if first { Ok(()) } else { out.write_all(b", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_pythons() {
        let value = json!({"b": [1, 2.5, true, null], "a": {"é": "<x>\n\"'"}, "c": [], "d": {}});
        // json.dumps(value, ensure_ascii=False)
        let dumped = r#"{"b": [1, 2.5, true, null], "a": {"é": "<x>\n\"'"}, "c": [], "d": {}}"#;
        assert_eq!(python_json(&value), dumped);
        // json.dumps(value, ensure_ascii=False, indent=2)
        let dumped = "{\n  \"b\": [\n    1,\n    {}\n  ]\n}";
        assert_eq!(python_json_indented(&json!({"b": [1, {}]}), 2), dumped);
    }
}
